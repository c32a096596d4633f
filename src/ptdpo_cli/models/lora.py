"""LoRA through peft: an adapter on a policy's own model, which with the adapter off is the base again.

Training moves the adapter alone; teacher and reference are the same model under `adapter_off`, so that no second copy
of the weights is held. An adapter folder has peft's layout (`adapter_config.json`, `adapter_model.safetensors`) and
`base.json`, which says by hash on which weights it was trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch

from ptdpo_cli.errors import ArtifactError, UsageError
from ptdpo_cli.models.load import ADAPTER_CONFIG, Policy, digest, weights_hash
from ptdpo_cli.models.support import vision_name

WEIGHTS, BASE = "adapter_model.safetensors", "base.json"


@dataclass(frozen=True)
class AdapterSettings:
    """Shape of an adapter. `modules`: last names of linear layers, None for all of the language model's."""

    rank: int
    alpha: float
    modules: tuple[str, ...] | None = None
    vision: bool = False


@dataclass(frozen=True)
class Base:
    """On which weights an adapter was trained."""

    path: str
    weights: str
    dtype: str


def add_adapter(policy: Policy, settings: AdapterSettings, *, seed: int) -> Policy:
    """The policy with a new adapter, which changes nothing yet (B = 0); the base's weights are frozen.

    Errors: UsageError when peft is not installed or the model has no linear layers of these names.
    """
    peft = _peft()
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=_targets(policy.model, settings),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = peft.get_peft_model(_bare(policy.model), config)
    return replace(policy, model=adapter.get_base_model(), adapter=adapter)


def load_adapter(base: Policy, folder: Path) -> Policy:
    """The base with the adapter of a folder.

    Errors: ArtifactError for an adapter of another base, of other layers, or of a kind that cannot be merged exactly;
    UsageError when peft is not installed.
    """
    peft = _peft()
    _require_base(base, folder)
    try:
        config = peft.LoraConfig.from_pretrained(str(folder))
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"cannot read the adapter {folder}: {error}", hint=f"`ptdpo verify {folder}`") from error
    if config.peft_type != "LORA" or config.use_dora or config.bias != "none" or config.modules_to_save:
        raise ArtifactError(
            f"{folder} is an adapter of another kind", expected="plain LoRA: no DoRA, no biases, no modules_to_save"
        )
    config.inference_mode, config.base_model_name_or_path = False, None  # `base.json` was asked instead
    adapter = peft.get_peft_model(_bare(base.model), config)
    expected = {name: tuple(tensor.shape) for name, tensor in _tensors(adapter).items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ArtifactError(
            f"the adapter {folder} does not fit the base {base.path}",
            expected=f"{odd[0]} {expected.get(odd[0], 'not there')}",
            found=f"{found.get(odd[0], 'not there')}, and {len(odd) - 1} more",
            hint="give the base that it was trained on as model.path",
        )
    peft.set_peft_model_state_dict(adapter, tensors)
    policy = replace(base, model=adapter.get_base_model().eval(), path=str(folder), adapter=adapter)
    return replace(policy, hashes=base.hashes | {"weights": policy_hash(policy)})


def require_shape(policy: Policy, settings: AdapterSettings) -> None:
    """Refuse to go on training an adapter of another shape than the settings'.

    Errors: UsageError with both shapes.
    """
    config = policy.adapter.peft_config["default"]
    found = {"lora.rank": config.r, "lora.alpha": float(config.lora_alpha)}
    expected = {"lora.rank": settings.rank, "lora.alpha": float(settings.alpha)}
    if settings.rank:
        found["layers"], expected["layers"] = config.target_modules, _targets(policy.model, settings)
    if found != expected:
        raise UsageError(
            f"the adapter {policy.path} has another shape than the recipe's lora section",
            expected=expected,
            found=found,
            hint=f"set the section to the adapter's shape, or merge it: `ptdpo merge-adapter {policy.path}`",
        )


def save_adapter(policy: Policy, folder: Path, *, base_path: str) -> None:
    """Write the adapter in peft's layout, and which base it is of; equal adapters give equal bytes."""
    config = policy.adapter.peft_config["default"].to_dict()
    config |= {"inference_mode": True, "base_model_name_or_path": base_path}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, default=sorted) + "\n")
    tensors = {name: tensor.contiguous().cpu() for name, tensor in _tensors(policy.adapter).items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    dtype = str(policy.model.dtype).removeprefix("torch.")
    base = Base(base_path, policy.base_weights, dtype)
    (folder / BASE).write_text(json.dumps(vars(base), indent=2) + "\n")


def read_base(folder: Path) -> Base:
    """The base that an adapter folder names.

    Errors: ArtifactError when it names none.
    """
    try:
        return Base(**json.loads((folder / BASE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"the adapter {folder} does not say which base it belongs to",
            expected=f"{BASE} with path, weights (sha256) and dtype",
            found=error,
            hint="adapters of other tools: merge them with that tool, and give the merged model",
        ) from error


def adapter_off(policy: Policy) -> AbstractContextManager:
    """Within it the policy's model is its base: the teacher and the reference. Nothing changes without an adapter."""
    return nullcontext() if policy.adapter is None else policy.adapter.disable_adapter()


def policy_hash(policy: Policy) -> str:
    """sha256 of the policy's weights as they are now; of an adapter: of its own weights and the base's hash.

    An adapter that changes nothing (every B is 0, as a new one) has its base's hash, because it is its base.
    """
    if policy.adapter is None:
        return weights_hash(policy.model)
    tensors = _tensors(policy.adapter)
    if not any(bool(tensor.any()) for name, tensor in tensors.items() if "lora_B" in name):
        return policy.base_weights
    scales = sorted((name, float(layer.scaling["default"])) for name, layer in _adapted_layers(policy).items())
    return digest(f"{policy.base_weights} {scales}", tensors)


def merged_state_dict(policy: Policy) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight under the base model's own name, with the adapter's share added; tied weights under each name.

    W + (α / r) B A is summed in float32 or wider and rounded once to the base's dtype. For a policy without an adapter
    these are its own tensors, not copies.
    """
    layers = _adapted_layers(policy)
    for name, tensor in policy.model.state_dict().items():
        if ".lora_" in name:
            continue
        owner, _, kind = name.rpartition(".base_layer.")
        if owner and kind == "weight":
            tensor = _merged_weight(layers[owner])
        yield name.replace(".base_layer.", "."), tensor


@torch.no_grad()
def merge(policy: Policy) -> Policy:
    """The same policy as one plain model; the adapter's layers are gone from it afterwards."""
    for layer in _adapted_layers(policy).values():
        layer.base_layer.weight.copy_(_merged_weight(layer))
    model = _bare(policy.model)
    return replace(policy, model=model, adapter=None, base_weights=weights_hash(model))


@torch.no_grad()
def _merged_weight(layer) -> torch.Tensor:
    weight, delta = layer.base_layer.weight, layer.get_delta_weight("default")
    wide = torch.promote_types(torch.promote_types(weight.dtype, delta.dtype), torch.float32)
    return (weight.to(wide) + delta.to(wide)).to(weight.dtype)


def _adapted_layers(policy: Policy) -> dict[str, torch.nn.Module]:
    return {name: module for name, module in policy.model.named_modules() if hasattr(module, "get_delta_weight")}


def _tensors(adapter) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(adapter, save_embedding_layers=False)


def _bare(model: torch.nn.Module) -> torch.nn.Module:
    """The model without the adapter layers that an earlier policy put into it."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "get_delta_weight"):
            model.set_submodule(name, module.base_layer)
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def _targets(model: torch.nn.Module, settings: AdapterSettings) -> str:
    """A pattern over full names: a list would be stored as a set, in another order each time."""
    parts = {"language_model": _linear_names(model, "language_model")}
    if settings.vision:
        name = vision_name(model)
        parts[name] = _linear_names(model, name)
    if settings.modules is not None:
        known = set().union(*parts.values())
        if unknown := set(settings.modules) - known:
            raise UsageError(
                "lora.modules names layers that the model does not have",
                expected=f"some of {', '.join(sorted(known))}",
                found=", ".join(sorted(unknown)),
                hint="leave lora.modules out for all linear layers of the language model",
            )
        parts = {part: names & set(settings.modules) for part, names in parts.items()}
    pieces = [rf"{part}\..*\.(?:{'|'.join(sorted(names))})" for part, names in parts.items() if names]
    return rf"(?:.*\.)?(?:{'|'.join(pieces)})"


def _linear_names(model: torch.nn.Module, part: str) -> set[str]:
    """Last names of the linear layers inside a part of the model."""
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if _is_linear(name, module) and f".{part}." in f".{name}"
    }
    names = {name for name in names if not name.isdigit()}  # places in a list: they would match every block
    if not names:
        raise UsageError(f"the model has no linear layers in {part}", hint="train all weights: `--set lora.rank=0`")
    return names


def _is_linear(name: str, module: torch.nn.Module) -> bool:
    """Also where an adapter is in place already: the adapted layer itself, not its parts."""
    if hasattr(module, "get_delta_weight"):
        return True
    return isinstance(module, torch.nn.Linear) and ".lora_" not in name and not name.endswith(".base_layer")


def _require_base(base: Policy, folder: Path) -> None:
    trained_on, dtype = read_base(folder), str(base.model.dtype).removeprefix("torch.")
    if trained_on.dtype != dtype:
        raise ArtifactError(
            f"the adapter {folder} was trained on its base in another dtype",
            expected=trained_on.dtype,
            found=dtype,
            hint=f"`--set model.dtype={trained_on.dtype}`, or merge it: `ptdpo merge-adapter {folder}`",
        )
    if trained_on.weights != base.base_weights:
        raise ArtifactError(
            f"the adapter {folder} belongs to another base than {base.path}",
            expected=f"base weights sha256 {trained_on.weights[:8]} ({trained_on.path})",
            found=f"base weights sha256 {base.base_weights[:8]}",
            hint=f"load it on its own base: `--set model.path={trained_on.path}`",
        )


def _peft():
    try:
        import peft
    except ImportError as error:
        raise UsageError(
            "LoRA needs peft", found=str(error), hint="pip install 'ptdpo[peft]', or `--set lora.rank=0`"
        ) from error
    return peft
