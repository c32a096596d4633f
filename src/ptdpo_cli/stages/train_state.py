"""The policy in training: its parameters, their float32 masters, the optimizer; and how all of it lies on disk.

A policy artifact is a folder in Hugging Face layout (with LoRA: in peft's) plus `trainer.safetensors` (AdamW's moments,
master weights; with FSDP2 in parts below `trainer/`) and `trainer.json` (iterations and updates done). Learning rate,
problem order and every random draw are functions of these counters and the seed: there is no other state, and a
resumed run goes on exactly.
"""

from __future__ import annotations

import json
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from ptdpo_cli.artifacts.store import Artifact, Writer, partial_dir
from ptdpo_cli.engines import draw_seed
from ptdpo_cli.errors import UsageError
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.lora import policy_hash
from ptdpo_cli.models.parallel import ALONE, Ranks, share, strategy_of
from ptdpo_cli.models.support import vision_name
from ptdpo_cli.recipe import Recipe, Train
from ptdpo_cli.stages.plan import Plan
from ptdpo_cli.stages.update import LossModel


@dataclass
class TrainState:
    """The policy in training; `iteration` and `updates` count what is done.

    `masters` is what the optimizer moves, by name: the model's own parameters, or float32 copies of narrower ones.
    """

    policy: Policy  # whole: what samples and is saved
    trained: torch.nn.Module  # whose parameters are in training: the policy's model, or (FSDP2) a copy in parts
    module: torch.nn.Module  # what the loss calls
    optimizer: torch.optim.AdamW
    masters: dict[str, torch.nn.Parameter]
    base_path: str  # with LoRA: what the adapter's folder will name as its base
    ranks: Ranks = ALONE
    iteration: int = 0
    updates: int = 0


def new_state(recipe: Recipe, policy: Policy, ranks: Ranks = ALONE) -> TrainState:
    """A policy with a fresh optimizer."""
    train, policy = recipe.train, with_adapter(recipe, policy)
    model = policy.model
    model.train()
    if train.freeze_vision:
        getattr(model.model, vision_name(model)).requires_grad_(False)
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    strategy = strategy_of(recipe.distributed.strategy, ranks)
    as_module = partial(LossModel, media_ids=policy.media_ids)
    trained, module = share(policy, ranks, strategy, as_module, master_weights=train.master_weights)
    masters = _masters(trainable(trained), train, ranks)
    optimizer = torch.optim.AdamW(
        masters.values(),
        lr=train.learning_rate,
        betas=train.adam_betas,
        eps=train.adam_eps,
        weight_decay=train.weight_decay,
    )
    return TrainState(policy, trained, module, optimizer, masters, recipe.model.path, ranks)


def with_adapter(recipe: Recipe, policy: Policy) -> Policy:
    """The policy as the recipe's `lora` section wants it: as it is, or with an adapter, new or its own.

    Errors: UsageError for an adapter of another shape, or a new one on another model than the reference.
    """
    lora = recipe.lora
    if lora.vision and recipe.train.freeze_vision:
        raise UsageError("lora.vision and train.freeze_vision exclude each other", hint="`--set lora.vision=false`")
    if not lora.rank and policy.adapter is None:
        return policy
    from ptdpo_cli.models.lora import AdapterSettings, add_adapter, require_shape

    modules = None if lora.modules is None else tuple(lora.modules)
    settings = AdapterSettings(lora.rank, lora.alpha, modules, lora.vision)
    if policy.adapter is not None:
        require_shape(policy, settings)
        return policy
    if policy.path != recipe.model.path:
        raise UsageError(
            "a new adapter is trained on the recipe's model, which is its teacher and reference too",
            expected=f"model.path {recipe.model.path}",
            found=policy.path,
            hint=f"`--set model.path={policy.path}`, or give an adapter with `--policy`",
        )
    return add_adapter(policy, settings, seed=draw_seed(recipe.seed, "lora"))


def _masters(
    parameters: dict[str, torch.nn.Parameter], train: Train, ranks: Ranks
) -> dict[str, torch.nn.Parameter]:
    """Float32 copies of the parameters that are narrower, if the recipe wants them; else the parameters themselves."""
    masters = {}
    for name, parameter in parameters.items():
        is_narrow = train.master_weights and torch.finfo(parameter.dtype).bits < 32
        if is_narrow and ranks.world == 1:
            parameter.grad_dtype = torch.float32  # micro-batches are summed in it; DDP wants the model's own
        masters[name] = torch.nn.Parameter(parameter.detach().float()) if is_narrow else parameter
    return masters


def to_masters(state: TrainState) -> None:
    """Hand the gradients of narrow parameters over to their float32 copies."""
    for name, parameter in trainable(state.trained).items():
        master = state.masters[name]
        if master is not parameter and parameter.grad is not None:
            master.grad, parameter.grad = parameter.grad.to(master.dtype), None


@torch.no_grad()
def from_masters(state: TrainState) -> None:
    """Round the float32 copies back into the model."""
    for name, parameter in trainable(state.trained).items():
        if state.masters[name] is not parameter:
            parameter.copy_(state.masters[name])


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters in training by name, in the order in which the optimizer has them."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_policy(plan: Plan, state: TrainState, *, force: bool = False) -> Artifact:
    """Write model, processor and trainer state as one artifact."""
    with open_writer(plan, state.ranks, force) as writer:
        return write_policy(plan, writer, state)


def open_writer(plan: Plan, ranks: Ranks, force: bool):
    """The artifact's one writer, in the first rank; None in the others."""
    return plan.writer(force=force) if ranks.is_first else nullcontext()


def write_policy(plan: Plan, writer: Writer | None, state: TrainState) -> Artifact:
    """The policy as it is; the first rank has the writer, the others add their parts of the optimizer's state."""
    policy, ranks = state.policy, state.ranks
    folder = partial_dir(plan.directory)
    counters = {"iteration": state.iteration, "updates": state.updates}
    if writer:
        _save_model(policy, folder, base_path=state.base_path)
        (folder / "trainer.json").write_text(json.dumps(counters) + "\n")
    ranks.wait("saving a policy")
    tensors = _trainer_tensors(state)
    if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder / "trainer"), save_distributed=True))
    elif writer:
        safetensors.torch.save_file(tensors, folder / "trainer.safetensors")
    ranks.wait("saving the optimizer's state")
    if writer:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            writer.add_file(file.relative_to(folder))
        base = {} if policy.adapter is None else {"base_weights": policy.base_weights}
        writer.finish(counts=counters, extra={"weights": policy_hash(policy)} | base)
    ranks.wait("finishing a policy")
    return plan.finished()


def _save_model(policy: Policy, folder: Path, *, base_path: str) -> None:
    """The weights, or the adapter alone, and the processor."""
    if policy.adapter is None:
        policy.model.save_pretrained(folder)
    else:
        from ptdpo_cli.models.lora import save_adapter

        save_adapter(policy, folder, base_path=base_path)
    policy.tokenizer.backend_tokenizer.no_padding()  # of the last call; no part of the tokenizer
    policy.processor.save_pretrained(folder)


def _trainer_tensors(state: TrainState) -> dict[str, torch.Tensor]:
    """The optimizer's moments by parameter, and the master weights where they are not the model's own."""
    tensors = {
        f"{name}.{part}": value.contiguous()
        for name, master in state.masters.items()
        for part, value in state.optimizer.state[master].items()
    }
    saved = trainable(state.policy.model)
    wider = (name for name, master in state.masters.items() if master.dtype != saved[name].dtype)
    return tensors | {f"{name}.master": state.masters[name].detach() for name in wider}


def load_state(recipe: Recipe, policy: Policy, ranks: Ranks = ALONE) -> TrainState:
    """The training state in the policy's own folder; a fresh one where there is none (a base model).

    What several ranks saved in parts is read by any number of them, and by one alone.
    """
    state = new_state(recipe, policy, ranks)
    folder = Path(policy.path)
    if not (folder / "trainer.json").is_file():
        return state
    counters = json.loads((folder / "trainer.json").read_text())
    folder = folder / "trainer" if (folder / "trainer").is_dir() else folder
    reader = HuggingFaceStorageReader(str(folder))
    known = reader.read_metadata().state_dict_metadata
    packed = {
        index: {"step": torch.zeros(()), "exp_avg": torch.zeros_like(m), "exp_avg_sq": torch.zeros_like(m)}
        for index, (name, m) in enumerate(state.masters.items())
        if f"{name}.step" in known
    }
    names = list(state.masters)
    tensors = {f"{names[i]}.{part}": value for i, parts in packed.items() for part, value in parts.items()}
    tensors |= {f"{n}.master": m.detach() for n, m in state.masters.items() if f"{n}.master" in known}
    if tensors:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process")
            dcp.load(tensors, storage_reader=reader)
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": packed, "param_groups": groups})
    state.iteration, state.updates = counters["iteration"], counters["updates"]
    return state
