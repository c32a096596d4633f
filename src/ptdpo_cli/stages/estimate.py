"""estimate: what a recipe will need, from the model's config alone: memory per GPU by part, disk, tokens and FLOPs.

The model is built on torch's meta device, so its parameters are counted and not modelled; no weight is read or loaded.
Lengths are the worst that the recipe allows, or those of a run that is there already (`lengths_of`).

Activations are what autograd keeps of one micro-batch, counted operation by operation from transformers' Qwen3-VL with
sdpa attention; a test holds them, the FLOPs and the files to what a measured run used.

Symbols: L prompt tokens, T response tokens, H hidden, Q = heads · head_dim, K = kv_heads · head_dim, I intermediate,
V vocabulary, w bytes of a weight.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from ptdpo_cli.artifacts.manifest import MANIFEST
from ptdpo_cli.artifacts.store import Artifact, artifact_paths
from ptdpo_cli.datasets import cards
from ptdpo_cli.datasets.hub import mirror
from ptdpo_cli.errors import UsageError
from ptdpo_cli.models.load import resolve
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.status import readable_size

# Measured on the shipped data and models, see tests/test_estimate.py: Parquet bytes of a response token (its text,
# compressed) and of a row besides; bytes of a digit-grid picture with its row.
_TEXT_BYTES, _ROW_BYTES, _DIGIT_GRID_BYTES = 1.5, 60, 4500
# How many numbers live at once for each logit, measured likewise: in a training chunk with its backward, in a scoring
# chunk, and (bytes) in a step of the sampler, which draws in float64; and for each number of the support.
_LOGIT_COPIES, _SCORING_COPIES, _SAMPLER_BYTES, _SUPPORT_COPIES = 7.5, 3, 36, 45


_TOWERS = ("visual", "vision_tower", "vision_model")


@dataclass(frozen=True)
class Geometry:
    """A model's sizes; `linear` are the weights that multiply every token, patch or merged patch: 2 FLOPs each."""

    parameters: int
    text_parameters: int
    vision_parameters: int
    embedding_parameters: int       # with the head, where that is not tied to it
    layers: int
    hidden: int
    query_dim: int
    kv_dim: int
    intermediate: int
    vocabulary: int
    text_linear: int
    lora_sides: dict[str, int]      # name of a linear layer -> Σ (inputs + outputs): an adapter's weights per rank
    vision_lora_sides: dict[str, int]
    vision_layers: int
    vision_hidden: int
    vision_intermediate: int
    vision_linear: int
    merger_linear: int
    patches_per_token: int
    largest_layer: int              # parameters of the largest block that is gathered at once


@dataclass(frozen=True)
class Lengths:
    """How long things are, on average; `longest_response` is what padding goes up to."""

    prompt_tokens: float
    teacher_prompt_tokens: float
    image_tokens: float
    response_tokens: float
    longest_response: int
    gated_share: float
    support: float
    source: str


# --- what goes in -----------------------------------------------------------------------------------------------------


def geometry(path: str, *, trust_remote_code: bool = False) -> Geometry:
    """Sizes of the model that a folder's or hub id's config.json describes.

    Errors: UsageError when there is no config, or it is not of a dense vision-language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(resolve(path), trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"no config of a vision-language model at {path}",
            found=str(error).strip().splitlines()[0][:200],
            hint=f"a folder with nothing but config.json is enough: `hf download {path} config.json --local-dir DIR`, "
            "then `--set model.path=DIR`",
        ) from None
    return _geometry(model)


def _geometry(model) -> Geometry:
    import torch

    text, vision = model.config.get_text_config(), model.config.vision_config
    visual = next(getattr(model.model, name) for name in _TOWERS if hasattr(model.model, name))
    linears = [m for m in model.model.language_model.modules() if isinstance(m, torch.nn.Linear)]
    in_tower = [(n, m) for n, m in visual.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv3d))]
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    n_parameters = sum(p.numel() for p in model.parameters())
    n_vision = sum(p.numel() for p in visual.parameters())
    n_embedding = embedding.numel() + (0 if head is embedding else head.numel())
    blocks = [*model.model.language_model.layers, *visual.blocks]
    return Geometry(
        parameters=n_parameters,
        text_parameters=n_parameters - n_vision - n_embedding,
        vision_parameters=n_vision,
        embedding_parameters=n_embedding,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        query_dim=text.num_attention_heads * head_dim,
        kv_dim=text.num_key_value_heads * head_dim,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        text_linear=sum(m.weight.numel() for m in linears),
        lora_sides=dict(_sides(model.model.language_model)),
        vision_lora_sides=dict(_sides(visual)),
        vision_layers=vision.depth,
        vision_hidden=vision.hidden_size,
        vision_intermediate=vision.intermediate_size,
        vision_linear=sum(m.weight.numel() for n, m in in_tower if "merger" not in n),
        merger_linear=sum(m.weight.numel() for n, m in in_tower if "merger" in n),
        patches_per_token=vision.spatial_merge_size**2,
        largest_layer=max(n_embedding, *(sum(p.numel() for p in block.parameters()) for block in blocks)),
    )


def _sides(module) -> Counter:
    """Inputs and outputs of the linear layers, summed by their last name."""
    import torch

    sides: Counter[str] = Counter()
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            sides[name.rpartition(".")[2]] += layer.in_features + layer.out_features
    return sides


def worst_lengths(recipe: Recipe, prompt_tokens: int | None = None) -> Lengths:
    """Every prompt and response as long as they may be, every rollout gated, no id in both halves of the support.

    Half of a prompt is counted as image tokens.
    """
    longest, k = prompt_tokens or recipe.prompt.max_prompt_tokens, recipe.teacher.top_k if recipe.needs_teacher else 0
    new = recipe.rollout.max_new_tokens
    return Lengths(longest, longest, longest / 2, new, new, 1.0 if k else 0.0, 2 * k, "the most that the recipe allows")


def lengths_of(run: Path, recipe: Recipe) -> Lengths:
    """Lengths of the rollouts and scores that lie in a run.

    Errors: UsageError when there are no rollouts.
    """
    rollouts = _newest(run, "rollouts")
    if rollouts is None:
        hint = "a few will do: `ptdpo rollout --limit 16`, then `ptdpo score-ref`"
        raise UsageError(f"no rollouts in {run}", expected="lengths of a run like this one", hint=hint)
    rows, worst = rollouts.table("rollouts"), worst_lengths(recipe)

    def mean(table, name: str) -> float:
        values = [value for value in table.column(name).to_pylist() if value is not None]
        return sum(values) / len(values) if values else 0.0

    found = {
        "prompt_tokens": mean(rows, "prompt_tokens"),
        "teacher_prompt_tokens": mean(rows, "prompt_tokens"),
        "image_tokens": mean(rows, "image_tokens"),
        "response_tokens": mean(rows, "response_tokens"),
        "longest_response": max(rows.column("response_tokens").to_pylist()),
        "source": str(rollouts.path),
    }
    scores = _newest(run, "scores")
    if scores is not None and scores.manifest.counts["gated"]:
        ids = sum(len(scores.tensors("scores", shard)["support_ids"]) for shard in range(scores.shards()))
        counts = scores.manifest.counts
        found |= {
            "gated_share": counts["gated"] / counts["rollouts"],
            "support": ids / counts["gated_tokens"],
            "teacher_prompt_tokens": mean(scores.table("scores"), "teacher_prompt_tokens"),
        }
    return Lengths(**asdict(worst) | found)


def _newest(run: Path, kind: str) -> Artifact | None:
    paths = [path for path in artifact_paths(run / kind) if (path / MANIFEST).is_file()]
    return Artifact.open(max(paths, key=lambda p: (p / MANIFEST).stat().st_mtime), kind=kind) if paths else None


# --- what comes out ---------------------------------------------------------------------------------------------------


def estimate(
    recipe: Recipe, *, gpus: int | None = None, lengths: Lengths | None = None, tflops: float | None = None
) -> dict:
    """Bytes of memory per GPU and of disk, tokens and FLOPs of an iteration over all GPUs.

    With `tflops`, what one GPU sustains, also the seconds of an iteration.
    """
    geo = geometry(recipe.model.path, trust_remote_code=recipe.model.trust_remote_code)
    lengths = lengths or worst_lengths(recipe)
    gpus = gpus or recipe.slurm.gpus or 1
    found = {
        "model": {"path": recipe.model.path, "dtype": recipe.model.dtype, **asdict(geo)},
        "gpus": gpus,
        "strategy": strategy(recipe, gpus),
        "lengths": asdict(lengths),
        "memory_bytes": memory(recipe, geo, lengths, gpus),
        "disk_bytes": disk(recipe, geo, lengths),
        "tokens": tokens(recipe, lengths),
        "flops": flops(recipe, geo, lengths),
    }
    if tflops is not None:
        found |= {"tflops": tflops, "seconds": found["flops"]["total"] / (gpus * tflops * 1e12)}
    return found


def strategy(recipe: Recipe, gpus: int) -> str:
    """How the trainer spreads over GPUs; `auto` is DDP among several."""
    asked = recipe.distributed.strategy
    return "none" if gpus == 1 else "ddp" if asked in ("auto", "none") else asked


def has_lora(recipe: Recipe) -> bool:
    return recipe.lora.rank > 0


def has_masters(recipe: Recipe) -> bool:
    """Whether the optimizer keeps float32 weights beside narrower ones; gradients are summed in float32 then."""
    return _width(recipe) < 4 and recipe.train.master_weights


def trainable(recipe: Recipe, geo: Geometry) -> int:
    """Parameters that have a gradient."""
    if not has_lora(recipe):
        return geo.parameters - (geo.vision_parameters if recipe.train.freeze_vision else 0)
    lora = recipe.lora
    sides = Counter(geo.lora_sides) + Counter(geo.vision_lora_sides if lora.vision else {})
    return lora.rank * sum(n for name, n in sides.items() if lora.modules is None or name in lora.modules)


def is_vision_trained(recipe: Recipe) -> bool:
    return recipe.lora.vision if has_lora(recipe) else not recipe.train.freeze_vision


def memory(recipe: Recipe, geo: Geometry, lengths: Lengths, gpus: int = 1) -> dict:
    """Bytes on one GPU: what is always held, what each phase adds, and the largest sum.

    The phases of an iteration follow each other: a phase's own part is free again in the next one. FSDP2 keeps a whole
    copy for sampling beside the parts that are trained; with LoRA the reference is the policy without its adapter.
    """
    width, n_trained, how = _width(recipe), trainable(recipe, geo), strategy(recipe, gpus)
    wide = 4 if has_masters(recipe) else width
    parts = gpus if how == "fsdp2" else 1
    # FSDP2 trains parts beside a whole copy; with master weights the parts are these.
    beside = 1 / parts if parts > 1 and (has_lora(recipe) or not has_masters(recipe)) else 0
    held = {
        "weights": geo.parameters * width * (1 + beside),
        "adapter": n_trained * width if has_lora(recipe) else 0,
        "master_weights": n_trained * 4 / parts if has_masters(recipe) else 0,
        "optimizer": 2 * n_trained * wide / parts,
        "reference": geo.parameters * width if recipe.needs_scores and not has_lora(recipe) else 0,
    }
    gradients = n_trained * wide / parts
    # FSDP2: the widest part whole with its gradient, and that once more as it is summed over peers.
    exchange = {"fsdp2": geo.largest_layer * (2 * width + wide), "ddp": n_trained * width, "none": 0}[how]
    prompts, rows, n_batches = micro_batch(recipe, lengths, _problems_per_update(recipe, gpus), shared=_shares(recipe))
    activations = _activations(recipe, geo, lengths, prompts, rows)
    n_scored = rows * lengths.longest_response
    logits = _logits(recipe, geo, n_scored, _LOGIT_COPIES)
    logits += 4 * _SUPPORT_COPIES * n_scored * lengths.gated_share * lengths.support
    phases = {
        "rollout": _sampling(recipe, geo, lengths) if recipe.rollout.engine == "hf" else 0,
        "score_ref": _scoring(recipe, geo, lengths) if recipe.needs_scores else 0,
        "update": exchange
        + (gradients + activations + logits if n_batches > 1 else max(gradients, activations + logits)),
    }
    always, peak_of = sum(held.values()), max(phases, key=phases.get)
    update = {"gradients": gradients, "activations": activations, "logits": logits, "exchange": exchange}
    sums = {"always": always, **{f"in_{name}": n for name, n in phases.items()}, "peak": always + phases[peak_of]}
    is_vllm = recipe.rollout.engine == "vllm"
    share = {"vllm_share": recipe.vllm.gpu_memory_utilization, "vllm_sleeps": recipe.vllm.sleep} if is_vllm else {}
    n_bytes = {name: round(n) for name, n in (held | update | sums).items()}
    return n_bytes | {"peak_of": peak_of.replace("_", "-")} | share


def micro_batch(
    recipe: Recipe, lengths: Lengths, n_problems: float, *, shared: bool = True
) -> tuple[float, float, float]:
    """(prompts, rows, how many) of one micro-batch out of so many problems, as in_token_batches cuts them.

    A group's rows share their prompt, or with `shared=False` have one each; groups stay together as far as the token
    budget goes.
    """
    budget, group = recipe.train.tokens_per_micro_batch, recipe.rollout.rollouts_per_problem
    if not shared:
        row = lengths.prompt_tokens + lengths.longest_response
        rows = min(n_problems * group, max(1.0, budget // row))
        return rows, rows, n_problems * group / rows
    one_group = lengths.prompt_tokens + group * lengths.longest_response
    if budget >= one_group:
        prompts = min(n_problems, budget // one_group)
        return prompts, prompts * group, n_problems / prompts
    rows = max(1.0, (budget - lengths.prompt_tokens) // lengths.longest_response)
    return 1.0, rows, n_problems * group / rows


def _shares(recipe: Recipe) -> bool:
    """Whether rows share their prompt in training: what is computed again in the backward has one each."""
    return not recipe.train.gradient_checkpointing


def _problems_per_update(recipe: Recipe, gpus: int = 1) -> float:
    return max(1.0, recipe.rollout.problems_per_iteration / recipe.train.updates_per_iteration / gpus)


def _problems_per_shard(recipe: Recipe) -> int:
    return min(recipe.rollout.problems_per_shard, recipe.rollout.problems_per_iteration)


def _width(recipe: Recipe) -> int:
    return {"float32": 4, "bfloat16": 2}[recipe.model.dtype]


def _activations(recipe: Recipe, geo: Geometry, lengths: Lengths, prompts: float, rows: float) -> float:
    """What autograd keeps of a micro-batch's forward until its backward.

        layer and token:  2 norms of H, their outputs, q/k-norms, q, attention's output twice, MLP: 4 I
        layer, attended:  keys and values of every row's prompt and response, repeated to all heads
        checkpointed:     the input of every layer, and one layer at a time as above
    """
    width, shared = _width(recipe), _shares(recipe)
    per_token = (
        2 * (4 + 2 * width) * geo.hidden
        + (4 + width) * (geo.query_dim + geo.kv_dim)
        + 3 * width * geo.query_dim
        + 4 * width * geo.intermediate
    )
    n_tokens = prompts * lengths.prompt_tokens + rows * lengths.longest_response
    attended = n_tokens
    if shared:      # the prompt's keys once for itself, and once for each of its rows
        attended = (prompts + rows) * lengths.prompt_tokens + rows * lengths.longest_response
    layer = per_token * n_tokens + 2 * width * geo.query_dim * attended
    patches = prompts * lengths.image_tokens * geo.patches_per_token if is_vision_trained(recipe) else 0
    block = patches * width * (11 * geo.vision_hidden + 2 * geo.vision_intermediate)
    if shared:
        return layer * geo.layers + block * geo.vision_layers
    inputs = width * (geo.hidden * n_tokens * geo.layers + geo.vision_hidden * patches * geo.vision_layers)
    return inputs + max(layer, block)


def _logits(recipe: Recipe, geo: Geometry, n_tokens: float, copies: int) -> float:
    """Logits of one chunk in float32, with what is made of them."""
    return min(recipe.train.logits_per_chunk, n_tokens * geo.vocabulary) * 4 * copies


def _keys(recipe: Recipe, geo: Geometry, attended: float) -> float:
    """Keys and values of all layers; of the layer at work one copied as it grows, and both repeated to all heads."""
    at_work = geo.kv_dim + (2 * geo.query_dim if geo.query_dim > geo.kv_dim else 0)
    return _width(recipe) * attended * (2 * geo.kv_dim * geo.layers + at_work)


def _sampling(recipe: Recipe, geo: Geometry, lengths: Lengths) -> float:
    """Sampling a shard in this process: all rows at full length."""
    rows = recipe.rollout.rollouts_per_problem * _problems_per_shard(recipe)
    attended = rows * (lengths.prompt_tokens + lengths.longest_response)
    at_rest = 2 * _width(recipe) * attended * geo.kv_dim * geo.layers
    return max(_keys(recipe, geo, attended), at_rest + rows * geo.vocabulary * _SAMPLER_BYTES)


def _scoring(recipe: Recipe, geo: Geometry, lengths: Lengths) -> float:
    """A forward without gradient: keys and values, then one layer's own or a chunk of logits."""
    prompts, rows, _ = micro_batch(recipe, lengths, _problems_per_shard(recipe))
    longest = max(lengths.prompt_tokens, lengths.teacher_prompt_tokens) + lengths.longest_response
    n_tokens = prompts * lengths.prompt_tokens + rows * lengths.longest_response
    layer = _width(recipe) * n_tokens * (3 * geo.intermediate + 4 * geo.hidden)
    logits = _logits(recipe, geo, rows * lengths.longest_response, _SCORING_COPIES)
    return _keys(recipe, geo, rows * longest) + max(layer, logits)


def disk(recipe: Recipe, geo: Geometry, lengths: Lengths) -> dict:
    """Bytes of one artifact of each kind, and of all that a run keeps at once."""
    width, n_tokens = _width(recipe), tokens(recipe, lengths)
    k = recipe.teacher.top_k if recipe.needs_teacher else 0
    n_rollouts = recipe.rollout.problems_per_iteration * recipe.rollout.rollouts_per_problem
    n_trained = trainable(recipe, geo)
    saved = n_trained if has_lora(recipe) else geo.parameters
    trainer = n_trained * (3 * 4 if has_masters(recipe) else 2 * width)     # moments, and master weights
    kept = {
        "rollouts": n_tokens["response"] * (8 + 4 * k + _TEXT_BYTES) + n_rollouts * _ROW_BYTES,
        "scores": n_tokens["gated"] * (8 * lengths.support + 12) + n_rollouts * _ROW_BYTES
        + (4 * n_tokens["response"] if recipe.needs_reference else 0)
        if recipe.needs_scores
        else 0,
        "policy": saved * width + trainer,
        "problems": _data_bytes(recipe),
    }
    train = recipe.train
    total = (
        kept["problems"]
        + (train.keep_iterations + 1) * (kept["rollouts"] + kept["scores"])
        + (train.keep_checkpoints + 1) * kept["policy"]
    )
    return {name: round(n) for name, n in kept.items()} | {"total": round(total)}


def _data_bytes(recipe: Recipe) -> int:
    """Of the problems with their pictures, which are stored once; unknown data counts 0."""
    path = Path(recipe.data.name)
    if recipe.data.name == "digit-grid":
        from ptdpo_cli.datasets.digit_grid import COUNTS

        return (recipe.data.count or COUNTS.get(recipe.data.split or "train", 0)) * _DIGIT_GRID_BYTES
    if recipe.data.root and (card := cards().get(recipe.data.name)):
        root = path = mirror(card, recipe.data.root)
    else:
        root = Path(recipe.data.image_root) if recipe.data.image_root else path.parent if path.is_file() else path
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) if path.exists() else 0


def tokens(recipe: Recipe, lengths: Lengths) -> dict[str, int]:
    """Of one iteration: prompts once each, responses, gated response tokens."""
    n_problems, group = recipe.rollout.problems_per_iteration, recipe.rollout.rollouts_per_problem
    response = n_problems * group * lengths.response_tokens
    return {
        "prompt": round(n_problems * lengths.prompt_tokens),
        "response": round(response),
        "gated": round(response * lengths.gated_share),
    }


def flops(recipe: Recipe, geo: Geometry, lengths: Lengths) -> dict[str, int]:
    """FLOPs of one iteration by phase, two per weight and token and four per query, key and channel of attention.

    The engine in this process steps all rows of a shard to the longest one; a prompt is read once per micro-batch.
    """
    n_problems, group = recipe.rollout.problems_per_iteration, recipe.rollout.rollouts_per_problem
    rows, longest = n_problems * group, lengths.longest_response
    head = 2 * geo.hidden * geo.vocabulary
    prompt = _prompt_flops(geo, lengths.prompt_tokens, lengths.image_tokens)
    sampled = longest if recipe.rollout.engine == "hf" else lengths.response_tokens
    response = _response_flops(geo, lengths.prompt_tokens, sampled) + head * sampled
    phases = {"rollout": n_problems * prompt + rows * response, "score_ref": 0.0}

    def batches(n_problems: float, shared: bool = True) -> tuple[float, float]:
        """How often a prompt is read for all rows, and how long a response is with its pads."""
        prompts_each, rows_each, _ = micro_batch(recipe, lengths, n_problems, shared=shared)
        return rows / rows_each * prompts_each, longest if rows_each >= group else lengths.response_tokens

    readings, padded = batches(_problems_per_shard(recipe))
    if recipe.needs_teacher:
        teacher = _prompt_flops(geo, lengths.teacher_prompt_tokens, lengths.image_tokens)
        told = _response_flops(geo, lengths.teacher_prompt_tokens, padded) + head * padded
        phases["score_ref"] += min(1.0, lengths.gated_share * group) * readings * teacher
        phases["score_ref"] += rows * lengths.gated_share * told
    if recipe.needs_reference:
        phases["score_ref"] += readings * prompt
        phases["score_ref"] += rows * (_response_flops(geo, lengths.prompt_tokens, padded) + head * padded)

    # A backward is two forwards, of frozen weights one; what is checkpointed is done again; and each term but the
    # policy gradient is also differentiated by itself, through the head.
    readings, padded = batches(_problems_per_update(recipe), shared=_shares(recipe))
    times = (2 if has_lora(recipe) else 3) + (not _shares(recipe))
    vision = _vision_flops(geo, lengths.image_tokens)
    vision_times = times if is_vision_trained(recipe) else 1
    rows_each = micro_batch(recipe, lengths, _problems_per_update(recipe), shared=_shares(recipe))[1]
    head_times = 3 + recipe.needs_teacher + recipe.needs_reference
    if rows_each * padded * geo.vocabulary > recipe.train.logits_per_chunk:     # in chunks, the support's on their own
        head_times = 4 + 2 * recipe.needs_reference + 6 * lengths.gated_share * recipe.needs_teacher
    phases["update"] = (
        readings * (times * (prompt - vision) + vision_times * vision)
        + rows * times * _response_flops(geo, lengths.prompt_tokens, padded)
        + rows * head_times * head * padded
    )
    return {name: round(n) for name, n in phases.items()} | {"total": round(sum(phases.values()))}


def _prompt_flops(geo: Geometry, n_tokens: float, n_image: float) -> float:
    text = 2 * geo.text_linear * n_tokens + 4 * geo.layers * geo.query_dim * n_tokens**2
    return text + _vision_flops(geo, n_image)


def _vision_flops(geo: Geometry, n_image: float) -> float:
    """One picture: full attention over all its patches."""
    patches = n_image * geo.patches_per_token
    attention = 4 * geo.vision_layers * geo.vision_hidden * patches**2
    return 2 * geo.vision_linear * patches + 2 * geo.merger_linear * n_image + attention


def _response_flops(geo: Geometry, n_prompt: float, n_response: float) -> float:
    """Response tokens through the layers, each attending to the prompt and the whole padded response."""
    return 2 * geo.text_linear * n_response + 4 * geo.layers * geo.query_dim * n_response * (n_prompt + n_response)


# --- for a reader -----------------------------------------------------------------------------------------------------


def render(found: dict, console: Console) -> None:
    """Memory, disk and work in three short lists."""
    model, lengths, memory = found["model"], found["lengths"], found["memory_bytes"]
    console.print(
        f"{model['path']}: {_short(model['parameters'])} parameters (language {_short(model['text_parameters'])}, "
        f"vision {_short(model['vision_parameters'])}, embeddings {_short(model['embedding_parameters'])}), "
        f"{model['dtype']}, {found['gpus']} GPU{'s' * (found['gpus'] > 1)}, strategy {found['strategy']}",
        markup=False,
    )
    console.print(
        f"lengths: prompt {lengths['prompt_tokens']:.0f} tokens ({lengths['image_tokens']:.0f} of pictures), response "
        f"{lengths['response_tokens']:.0f}, gated {lengths['gated_share']:.0%}: {lengths['source']}",
        markup=False,
    )
    held = [(name.replace("_", " "), memory[name]) for name in _HELD if memory[name]]
    update = [(f"  of these {name}", memory[name]) for name in _UPDATE if memory[name]]
    rows = [*held, ("always", memory["always"])]
    rows += [("in rollout", memory["in_rollout"])] * bool(memory["in_rollout"])
    rows += [("in score-ref", memory["in_score_ref"]), ("in update", memory["in_update"]), *update]
    rows += [(f"peak, in {memory['peak_of']}", memory["peak"])]
    vllm = [("vLLM, of the GPU", f"{memory['vllm_share']:.0%}")] if "vllm_share" in memory else []
    _list(console, "memory per GPU", [(name, readable_size(n)) for name, n in rows] + vllm)
    kept = [(name, n) for name, n in found["disk_bytes"].items() if n]      # unknown data and no scores take no line
    _list(console, "disk", [(name, readable_size(n)) for name, n in kept])
    work = [(f"{name} tokens", _short(n)) for name, n in found["tokens"].items()]
    work += [(name.replace("_", "-"), f"{n / 1e12:.4g} TFLOP") for name, n in found["flops"].items()]
    if "seconds" in found:
        work.append((f"at {found['tflops']:g} TFLOP/s per GPU", f"{found['seconds']:.0f} s"))
    _list(console, "an iteration", work)


_HELD = ("weights", "adapter", "master_weights", "optimizer", "reference")
_UPDATE = ("gradients", "activations", "logits", "exchange")


def _list(console: Console, title: str, rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    console.print(f"\n{title}", markup=False)
    for name, value in rows:
        console.print(f"  {name:<{width}}  {value:>12}", markup=False)


def _short(n: float) -> str:
    """1.24 M, 8.77 B."""
    for scale, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if n >= scale:
            return f"{n / scale:.2f}{unit}"
    return f"{n:.0f}"
