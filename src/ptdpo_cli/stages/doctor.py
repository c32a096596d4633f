"""doctor: everything that makes a training run go wrong without a word, looked at before the run, one line per check.

It loads what the run will load and works with real problems: the one with the smallest picture, the one with the
largest, one with several, one without. A line that cannot be reached, because an earlier one failed, is skipped. The
result lies in RUN/doctor.json, so that two machines, two engines or two models can be compared.

Shapes: T response tokens, S support ids, C = S + 1.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptdpo_cli.artifacts.manifest import MANIFEST
from ptdpo_cli.artifacts.schemas import Hint, Problem
from ptdpo_cli.artifacts.store import Artifact, artifact_paths, replace_synced
from ptdpo_cli.datasets.images import decode_rgb
from ptdpo_cli.engines import Engine, Request, Sampling, draw_seed, open_engine
from ptdpo_cli.errors import PtdpoError
from ptdpo_cli.models import checks
from ptdpo_cli.models.checks import Check, judge
from ptdpo_cli.models.inputs import Prompt, build_batch
from ptdpo_cli.models.load import Policy, require_same_interface, resolve
from ptdpo_cli.models.logprobs import for_each_chunk, token_logprobs
from ptdpo_cli.models.lora import adapter_off
from ptdpo_cli.models.processor import load_processor
from ptdpo_cli.objectives import coarse_logprobs, jensen_shannon
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.rewards import Response, grade_all
from ptdpo_cli.stages import build_hints, problems
from ptdpo_cli.stages.contexts import PromptBook
from ptdpo_cli.stages.estimate import estimate
from ptdpo_cli.stages.rollout import Rollout
from ptdpo_cli.stages.score_ref import require_informed, teacher_scores
from ptdpo_cli.stages.status import readable_size
from ptdpo_cli.stages.workspace import Workspace

RESULT = "doctor.json"
_SCHEMA_VERSION = 1
_LOOKED_AT_PICTURES = 4096      # of a larger data set, evenly spread
_RESPONSE_TOKENS = 64           # of each sample: enough to see a disagreement, seconds even for a large model
_ROLLOUTS = 2                   # per problem
# What two correct implementations of one model differ by, at most, in a sampled token's log-prob: (warn, fail) above.
_AGREEMENT_NATS = {"float32": (1e-4, 1e-3), "bfloat16": (0.3, 2.0)}
_POSITION_NATS = {"float32": 1e-4, "bfloat16": 0.3}
_NO_DIVERGENCE_NATS = 1e-6


def diagnose(recipe: Recipe, run: Path, path: str | None = None) -> dict:
    """All checks of a recipe, with its own model as the policy or with another one at `path`; nothing is trained.

    Errors: none; a check that cannot be made, for whatever reason, is a line that failed.
    """
    work, sheet = Workspace(recipe, run, guard=False), _Sheet()
    sheet.lines += [*versions(recipe), *device(recipe)]

    policy = sheet.have("model", lambda: work.policy(path or recipe.model.path), partial(_about, "model"))
    reference = policy
    if path is not None:
        reference = sheet.have("reference", lambda: work.policy(recipe.model.path), partial(_about, "reference"))
    for name, check in checks.INTERFACE.items():
        sheet.check(name, partial(check, instruction=recipe.prompt.instruction), policy)
    sheet.check("pixel limits", partial(pixel_limits, recipe), policy)
    sheet.check("artifacts in the run", partial(artifacts_fit, run), policy)

    plan = partial(problems.plan_problems, recipe, run)
    seen = sheet.have("data", lambda: look_over(problems.load(recipe, plan())), _describe_problems)
    rows, chosen = (None, None) if seen is None else (seen.rows, seen.chosen)
    sheet.check("grader", grader, rows)
    sheet.check("media tokens in text", media_tokens, policy, rows)
    pictures = sheet.have("data", partial(pictures_of, recipe), None, chosen)
    sheet.check("image tokens", checks.image_tokens, policy, pictures)
    hints = sheet.have("hints", partial(hints_of, recipe, run), None, chosen)
    book = sheet.have("prompts", partial(PromptBook, recipe), None, policy, chosen, hints)
    prompts = sheet.have(
        "prompts", lambda b: b.students(b.fitting(b.problems)), partial(lengths, recipe, policy), book
    )
    sheet.check("picture grids", checks.picture_grids, policy, prompts)

    engine = sheet.have("engine", partial(open_engine, recipe), None, policy)
    rollouts = sheet.have("engine", partial(sample, recipe), _describe_samples, engine, prompts)
    sheet.check("sampler and trainer", partial(agreement, recipe), policy, prompts, rollouts)
    sheet.check("positions", partial(positions, recipe), policy, prompts, rollouts)

    if not recipe.needs_teacher:
        sheet.lines.append(Check("teacher", "skipped", "train.distill_weight is 0: there is none"))
    else:
        theirs = sheet.have("teacher", partial(PromptBook, recipe), None, reference, chosen, hints)
        with nullcontext() if policy is None else adapter_off(policy):  # with LoRA they may be one model
            sheet.check("uniform teacher", uniform, reference, theirs, rollouts)
            sheet.check("teacher = student", partial(itself, recipe), reference, theirs, rollouts)
            sheet.check("blind teacher", partial(blind, recipe), reference, theirs, rollouts)
            sheet.check("hint changes the teacher", partial(hinted, recipe), reference, theirs, rollouts)

    needed = sheet.have("estimate", estimate, None, recipe)
    sheet.check("disk", partial(disk, run), needed)
    sheet.check("memory", memory, needed)
    verdicts = [line.verdict for line in sheet.lines]
    return {
        "schema_version": _SCHEMA_VERSION,
        "verdict": next((worst for worst in ("fail", "warn") if worst in verdicts), "ok"),
        "run": str(run),
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.node()}, {platform.machine()}, {os.cpu_count()} cores",
        "recipe": recipe.model_dump(mode="json"),
        "model": None if policy is None else {"path": policy.path, **policy.hashes},
        "checks": [asdict(line) for line in sheet.lines],
    }


def write(result: dict, run: Path) -> Path:
    """RUN/doctor.json, whole or not at all."""
    run.mkdir(parents=True, exist_ok=True)
    replace_synced(run / RESULT, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    return run / RESULT


def render(result: dict, console: Console) -> None:
    """One row per check; what was expected and what to do, below those that do not hold."""
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in result["checks"]:
        bad = line["verdict"] in ("warn", "fail")
        more = [f"expected: {line['expected']}"] * bool(bad and line["expected"])
        more += [f"hint: {line['hint']}"] * bool(line["hint"] and line["verdict"] != "ok")
        table.add_row(
            Text(line["verdict"], style=colours[line["verdict"]]),
            line["name"],
            Text("\n".join([line["found"], *more])),
        )
    console.print(table)
    counts = {verdict: sum(line["verdict"] == verdict for line in result["checks"]) for verdict in colours}
    console.print(Text(", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)))


class _Sheet:
    """The lines so far. What a line needs and an earlier one could not give is None, and then the line is skipped."""

    def __init__(self):
        self.lines: list[Check] = []

    def check(self, name: str, measure: Callable[..., Check], *needed) -> None:
        """Add the line that `measure(*needed)` gives; an error on the way is a line that failed."""
        if any(one is None for one in needed):
            self.lines.append(Check(name, "skipped", "needs what failed above"))
            return
        try:
            self.lines.append(measure(*needed))
        except Exception as error:  # whatever it is, the lines after it are worth having
            self.lines.append(_failure(name, error))

    def have(self, name: str, make: Callable, describe: Callable | None, *needed):
        """Something that later checks work with, and the line that `describe` gives of it; None if it cannot be had.

        Without `describe` there is a line only when it fails.
        """
        if any(one is None for one in needed):
            if describe is not None:
                self.lines.append(Check(name, "skipped", "needs what failed above"))
            return None
        try:
            made = make(*needed)
        except Exception as error:  # likewise
            self.lines.append(_failure(name, error))
            return None
        if describe is not None:
            self.check(name, describe, made)
        return made


def _failure(name: str, error: Exception) -> Check:
    if isinstance(error, PtdpoError):
        found = error.what if error.found is None else f"{error.what}: {error.found}"
        return Check(name, "fail", found, str(error.expected or ""), error.hint or "")
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return Check(name, "fail", "out of memory", hint="see the line `memory`; lower train.tokens_per_micro_batch")
    text = " ".join(str(error).split())
    hint = f"not a fault that we know of: report it, with RUN/{RESULT}"
    return Check(name, "fail", f"{type(error).__name__}: {text[:300]}", hint=hint)


# --- machine ----------------------------------------------------------------------------------------------------------


def versions(recipe: Recipe) -> list[Check]:
    """Python and the packages whose versions matter, against what this package says it needs."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    about = importlib.metadata.metadata("ptdpo")
    wanted = SpecifierSet(about["Requires-Python"])
    lines = [judge("python", wanted.contains(platform.python_version()), platform.python_version(),
                   expected=str(wanted), hint="make .venv again with another Python")]
    ranges = {r.name: r for r in map(Requirement, importlib.metadata.requires("ptdpo") or [])}
    for name in ("torch", "transformers", "peft", "vllm"):
        lines.append(_version(name, ranges.get(name), is_needed=_needs(recipe, name)))
    return lines


def _version(name: str, wanted, *, is_needed: bool) -> Check:
    found = _installed(name)
    extra = f"pip install 'ptdpo[{name}]'" if wanted is not None and wanted.marker else f"pip install '{wanted}'"
    if found is None:
        return Check(name, "fail" if is_needed else "skipped", "not installed", str(wanted or ""), extra)
    holds = wanted is None or wanted.specifier.contains(found, prereleases=True)
    return judge(name, holds, found, otherwise="fail" if is_needed else "warn",
                 expected=str(wanted.specifier) if wanted else "", hint=extra)


def _installed(name: str) -> str | None:
    """The version of a package; vLLM's build for CPUs goes by another name."""
    for distribution in (name, f"{name}-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _needs(recipe: Recipe, package: str) -> bool:
    return {
        "vllm": recipe.rollout.engine == "vllm",
        "peft": recipe.lora.rank > 0,
    }.get(package, True)


def device(recipe: Recipe) -> list[Check]:
    """The GPU and its memory, and whether it computes in the recipe's dtype."""
    if not torch.cuda.is_available():
        memory_gb = _memory_bytes() / 1e9
        threads = torch.get_num_threads()
        gpu = judge("gpu", recipe.model.device in ("auto", "cpu"),
                    f"no GPU: CPU with {os.cpu_count()} cores, {threads} threads, {memory_gb:.1f} GB",
                    expected=recipe.model.device, hint="`--set model.device=auto`, or a torch built for your GPU")
        return [gpu, Check("dtype", "ok", f"{recipe.model.dtype} on CPU")]
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpu = Check("gpu", "ok", "; ".join(f"{p.name}, {p.total_memory / 1e9:.1f} GB" for p in found))
    bf16 = recipe.model.dtype != "bfloat16" or torch.cuda.is_bf16_supported(including_emulation=False)
    return [gpu, judge("dtype", bf16, f"{recipe.model.dtype} on {found[0].name}", expected="a GPU with bfloat16 "
                       "(compute capability 8.0)", hint="`--set model.dtype=float32`")]


def _memory_bytes() -> int:
    """Of the first GPU, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def disk(run: Path, needed: dict) -> Check:
    """What a run keeps at the worst against what is free."""
    n_bytes, free = needed["disk_bytes"]["total"], shutil.disk_usage(_existing(run)).free
    return judge("disk", n_bytes <= free, f"at most {readable_size(n_bytes)} needed, {readable_size(free)} free",
                 expected=f"{readable_size(n_bytes)} free",
                 hint="another --run, or lower train.keep_iterations and train.keep_checkpoints",
                 needed_bytes=n_bytes, free_bytes=free)


def memory(needed: dict) -> Check:
    """The estimate at the worst against what there is: a fault when what is always held does not fit.

    vLLM's share of a GPU stands beside what is always held, and beside the peak too where it does not sleep.
    """
    found, there = needed["memory_bytes"], _memory_bytes()
    share = found.get("vllm_share", 0.0) * there
    always, peak = found["always"] + share, found["peak"] + (0 if found.get("vllm_sleeps", True) else share)
    worst = max(always, peak)
    vllm = f" (vLLM {readable_size(share)})" if share else ""
    return judge(
        "memory", worst <= there,
        f"{readable_size(always)} always{vllm}, at most {readable_size(worst)}, in {found['peak_of']}; "
        f"{readable_size(there)} there",
        otherwise="fail" if always > there else "warn",
        expected=readable_size(worst),
        hint="`ptdpo estimate` says what takes it; lower train.tokens_per_micro_batch, train.logits_per_chunk or "
        "rollout.problems_per_shard, or use more GPUs",
        needed_bytes=worst, there_bytes=there)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


# --- model and data ---------------------------------------------------------------------------------------------------


def _about(name: str, policy: Policy) -> Check:
    model = policy.model
    n_parameters = sum(p.numel() for p in model.parameters())
    found = (
        f"{policy.path}: {type(model).__name__}, {n_parameters / 1e6:.1f} M parameters, "
        f"{str(model.dtype).removeprefix('torch.')} on {model.device}, weights {policy.hashes['weights'][:8]}"
    )
    return Check(name, "ok", found, numbers={"parameters": n_parameters})


@dataclass(frozen=True)
class _Seen:
    """A data set after one pass: its problems without their pictures, how many each has, and a few with them."""

    rows: list[Problem]
    n_pictures: list[int]
    chosen: list[Problem]


def look_over(loaded: Sequence[Problem]) -> _Seen:
    """Go through the data once, for it is read anew at every pass and may be too large to hold.

    Chosen are the problem with the longest question, those with the smallest and the largest picture, one with most
    pictures, one without; of equals the first.
    """
    step = max(1, len(loaded) // _LOOKED_AT_PICTURES)
    rows, n_pictures, best = [], [], {}
    for number, problem in enumerate(loaded):
        n = len(problem.images)
        rows.append(replace(problem, images=()))
        n_pictures.append(n)
        ranks = {"most pictures": n} if n > 1 else {"no picture": 0} if n == 0 else {}
        if number % step == 0:
            pixels = sum(map(_pixels, problem.images))
            ranks |= {"longest": len(problem.question)} | ({"smallest": -pixels, "largest": pixels} if n else {})
        for name, rank in ranks.items():
            if name not in best or rank > best[name][0]:
                best[name] = rank, problem
    order = ("longest", "smallest", "largest", "most pictures", "no picture")
    chosen = [best[name][1] for name in order if name in best]
    return _Seen(rows, n_pictures, list({problem.problem_id: problem for problem in chosen}.values()))


def _describe_problems(seen: _Seen) -> Check:
    counts = np.bincount(seen.n_pictures)
    pictures = ", ".join(f"{n} with {i} picture{'s' * (i != 1)}" for i, n in enumerate(counts.tolist()) if n)
    return Check("data", "ok", f"{len(seen.rows)} problems: {pictures}", numbers={"problems": len(seen.rows)})


def media_tokens(policy: Policy, rows: list[Problem]) -> Check:
    return checks.media_tokens_in_text(policy, {row.problem_id: row.question for row in rows})


def _pixels(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return image.width * image.height


def pictures_of(recipe: Recipe, rows: list[Problem]) -> list[list[Image.Image]]:
    """The decoded pictures of each problem."""
    limit = recipe.data.max_image_pixels
    return [[decode_rgb(data, where=row.problem_id, max_pixels=limit) for data in row.images] for row in rows]


def hints_of(recipe: Recipe, run: Path, rows: Sequence[Problem]) -> dict[str, Hint]:
    """problem_id -> the hint that build-hints would make, where it makes one without asking a model."""
    made = build_hints.preview_hints(recipe, run, rows) or ()
    return {hint.problem_id: hint for hint in made if hint.text is not None}


def lengths(recipe: Recipe, policy: Policy, prompts: list[Prompt]) -> Check:
    """The longest prompt with a response behind it fits into the positions that the model knows."""
    longest, new = max(map(len, prompts)), recipe.rollout.max_new_tokens
    limit = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    return judge(
        "prompts", limit is None or longest + new <= limit,
        f"{len(prompts)} built, up to {longest} tokens; with {new} new ones {longest + new} of {limit} positions",
        expected=f"at most {limit} tokens", hint="lower rollout.max_new_tokens, or leave long problems out",
        longest=longest)


def pixel_limits(recipe: Recipe, policy: Policy) -> Check:
    """A policy scales pictures as the model that it comes from, which is also its teacher."""
    if policy.path == recipe.model.path:
        return checks.same_pixel_limits(policy, {})
    base = load_processor(resolve(recipe.model.path))
    return checks.same_pixel_limits(policy, {f"model.path = {recipe.model.path}": base})


def artifacts_fit(run: Path, policy: Policy) -> Check:
    """Rollouts, scores and policies that lie in the run were made with this tokenizer, template and processor."""
    name, n = "artifacts in the run", 0
    for kind in ("rollouts", "scores", "policy", "evals"):
        for path in artifact_paths(run / kind):
            if (path / MANIFEST).is_file():
                manifest = Artifact.open(path, kind=kind, check_files=False).manifest
                require_same_interface(policy, manifest.model or {}, what=str(path))
                n += 1
    return Check(name, "ok", f"{n} made with this tokenizer, chat template and processor" if n else "none yet")


def grader(rows: list[Problem]) -> Check:
    """Each gold answer in the asked form is worth 1, and the same answer corrupted is worth 0."""
    step = max(1, len(rows) // 1000)
    boxed = [
        Response(row, f"<think>thought</think>\\boxed{{{answer}}}", False, 0)
        for row in rows[::step]
        for answer in (row.answer, corrupted(row))
    ]
    grades = grade_all(boxed)
    wrong = [
        f"{row.problem_id} ({row.answer!r})"
        for row, right, other in zip(rows[::step], grades[::2], grades[1::2], strict=True)
        if (right.accuracy, right.format, other.accuracy) != (1.0, 1.0, 0.0)
    ]
    return judge(
        "grader", not wrong,
        f"{len(rows[::step])} gold answers are worth 1, corrupted ones 0" if not wrong
        else f"{len(wrong)} answers graded wrongly: {', '.join(wrong[:5])}",
        expected="1 for the gold answer, 0 for a corrupted one",
        hint="write these answers as plain numbers or text, or give them another answer_type")


def corrupted(problem: Problem) -> str:
    """Another answer of the same form: another letter, another number, one item more."""
    answer = problem.answer.strip()
    if problem.answer_type == "choice":
        return "B" if "A" in answer.upper() else "A"
    if problem.answer_type in ("list", "set"):
        return f"{answer.strip('[](){} ')}, 12345"
    if problem.answer_type == "expression":
        return f"{answer} + 12345"
    if problem.answer_type == "float":      # one more decimal would round to the same
        return f"9{answer}"
    return f"{answer}1" if answer[-1:].isdigit() else f"not {answer}"


# --- sampler and trainer ----------------------------------------------------------------------------------------------


def sample(recipe: Recipe, engine: Engine, prompts: list[Prompt]) -> list[Rollout]:
    """A few rollouts per prompt, short ones; an engine that read other ids than the processor's refuses."""
    settings = recipe.rollout
    requests = [Request(prompt, draw_seed(recipe.seed, "doctor", prompt.problem_id, g))
                for prompt in prompts for g in range(_ROLLOUTS)]
    k = recipe.teacher.top_k if recipe.needs_teacher else 0
    sampling = Sampling(min(settings.max_new_tokens, _RESPONSE_TOKENS), settings.temperature, settings.top_p, k)
    samples = engine.sample(requests, sampling)
    engine.release()
    return [
        Rollout(f"{r.prompt.problem_id}/{i % _ROLLOUTS}", r.prompt.problem_id, s.token_ids_T, s.logprobs_T,
                s.top_ids_TK, 0.0, 0.0, s.finish_reason)
        for i, (r, s) in enumerate(zip(requests, samples, strict=True))
    ]


def _describe_samples(rollouts: list[Rollout]) -> Check:
    n_tokens = sum(len(rollout.token_ids_T) for rollout in rollouts)
    return Check("engine", "ok", f"{len(rollouts)} samples, {n_tokens} tokens, after the processor's own prompt ids")


def agreement(recipe: Recipe, policy: Policy, prompts: list[Prompt], rollouts: list[Rollout]) -> Check:
    """log p of the sampled tokens, by the sampler and by the trainer's forward, largest and mean difference.

    Unit: nats; also by number of pictures of the problem, as `numbers`.
    """
    prompt_of = {prompt.problem_id: prompt for prompt in prompts}
    by_pictures: dict[int, list[np.ndarray]] = {}
    for rollout in rollouts:
        prompt = prompt_of[rollout.problem_id]
        trainer_T = trainer_logprobs(recipe, policy, prompt, rollout)
        difference_T = np.abs(trainer_T - rollout.sampler_logprobs_T)
        by_pictures.setdefault(len(prompt.images), []).append(difference_T)
    parts = {n: np.concatenate(found) for n, found in sorted(by_pictures.items())}
    all_N = np.concatenate(list(parts.values()))
    warn, fail = _AGREEMENT_NATS[recipe.model.dtype]
    numbers = {"max_nats": float(all_N.max()), "mean_nats": float(all_N.mean()), "tokens": len(all_N)}
    for n, found_N in parts.items():
        numbers |= {f"max_nats_{n}_pictures": float(found_N.max()), f"mean_nats_{n}_pictures": float(found_N.mean())}
    each = "; ".join(f"{n} pictures: max {v.max():.1e}, mean {v.mean():.1e}" for n, v in parts.items())
    return judge(
        "sampler and trainer", bool(all_N.max() <= warn),
        f"log-probs differ by at most {all_N.max():.1e}, on average {all_N.mean():.1e} nats ({each})",
        otherwise="fail" if not all_N.max() <= fail else "warn",
        expected=f"at most {warn:g} nats in {recipe.model.dtype}, and never above {fail:g}",
        hint="small differences are what train.mismatch_correction is for; large ones mean other weights, positions, "
        "temperature or pictures on one side",
        **numbers)


@torch.no_grad()
def trainer_logprobs(recipe: Recipe, policy: Policy, prompt: Prompt, rollout: Rollout) -> np.ndarray:
    """log p of a rollout's tokens in the trainer's forward -> logprobs_T, in nats, at the recipe's temperature."""
    batch = build_batch(policy.model, [prompt], [rollout.token_ids_T], pad_id=policy.tokenizer.pad_token_id)
    parts: list[torch.Tensor] = []

    def score(logits_NV, where):
        parts.append(token_logprobs(logits_NV, batch.response_ids_N[where]))

    for_each_chunk(policy.model, batch, score, media_ids=policy.media_ids, temperature=recipe.rollout.temperature,
                   logits_per_chunk=recipe.train.logits_per_chunk)
    return torch.cat(parts).float().cpu().numpy()


def positions(recipe: Recipe, policy: Policy, prompts: list[Prompt], rollouts: list[Rollout]) -> Check:
    prompt = max(prompts, key=lambda one: (len(one.images), len(one)))
    rollout = next(r for r in rollouts if r.problem_id == prompt.problem_id)
    return checks.positions(policy, prompt, rollout.token_ids_T, tolerance=_POSITION_NATS[recipe.model.dtype])


# --- teacher ----------------------------------------------------------------------------------------------------------


def uniform(teacher: Policy, book: PromptBook, rollouts: list[Rollout]) -> Check:
    """The teacher prefers some tokens to others."""
    rollout = rollouts[0]
    (prompt,) = book.students([rollout.problem_id])
    logprobs_TV = checks.response_distribution(teacher, prompt, rollout.token_ids_T)
    require_informed(logprobs_TV, teacher.media_ids)
    best = float(logprobs_TV.amax(1).mean())
    return Check("uniform teacher", "ok", f"best token {best:.2f} nats on average, uniform would be "
                 f"{-np.log(logprobs_TV.shape[1] - len(teacher.media_ids)):.2f}", numbers={"best_nats": best})


@torch.no_grad()
def itself(recipe: Recipe, teacher: Policy, book: PromptBook, rollouts: list[Rollout]) -> Check:
    """A teacher without a hint, scored as score-ref does, against the same model as student: the divergence is 0."""
    some = rollouts[::_ROLLOUTS]
    prompts = book.students(r.problem_id for r in some)
    temperature = recipe.rollout.temperature
    scores = teacher_scores(recipe, teacher, prompts, some, temperature=temperature)
    largest = 0.0
    for prompt, rollout, score in zip(prompts, some, scores, strict=True):
        batch = build_batch(teacher.model, [prompt], [rollout.token_ids_T], pad_id=teacher.tokenizer.pad_token_id)

        def compare(logits_NV, where, score=score):
            support_NS = torch.from_numpy(score.support_TS[where]).long().to(logits_NV.device)
            teacher_NC = torch.from_numpy(score.logprobs_TC[where]).to(logits_NV.device)
            nonlocal largest
            divergence_N = jensen_shannon(coarse_logprobs(logits_NV, support_NS), teacher_NC)
            largest = max(largest, float(divergence_N.abs().max()))

        for_each_chunk(teacher.model, batch, compare, media_ids=teacher.media_ids, temperature=temperature,
                       logits_per_chunk=recipe.train.logits_per_chunk)
    bound = _NO_DIVERGENCE_NATS if recipe.model.dtype == "float32" else 1e-2
    return judge("teacher = student", largest < bound, f"divergence of the model from itself: {largest:.1e} nats",
                 expected=f"below {bound:g} nats",
                 hint="scoring and training do not read the same tokens alike; see `positions` and `image tokens`",
                 jsd_nats=largest)


def blind(recipe: Recipe, teacher: Policy, book: PromptBook, rollouts: list[Rollout]) -> Check:
    """The picture reaches the teacher, through the very prompt that it will read."""
    name = "blind teacher"
    if recipe.teacher.context == "blind":
        return Check(name, "skipped", "teacher.context is blind: a control")
    pictured = [r for r in rollouts if book.problems[r.problem_id].images]
    if not pictured:
        return Check(name, "skipped", "no problem has a picture")
    prompts = book.teachers([pictured[0].problem_id])
    return checks.sees_pictures(teacher, prompts[0], pictured[0].token_ids_T)


def hinted(recipe: Recipe, teacher: Policy, book: PromptBook, rollouts: list[Rollout]) -> Check:
    """The hint reaches the teacher."""
    name = "hint changes the teacher"
    if recipe.teacher.context == "none":
        return Check(name, "skipped", "teacher.context is none: a control")
    told = [r for r in rollouts if r.problem_id in book.hints]
    if not told:
        return Check(name, "skipped", "none of these problems has a hint", hint="`ptdpo build-hints --dry-run`")
    (with_hint,), (without,) = book.teachers([told[0].problem_id]), book.students([told[0].problem_id])
    return checks.reads_hint(teacher, with_hint, without, told[0].token_ids_T)
