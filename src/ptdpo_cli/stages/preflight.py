"""`--dry-run`: every check that can be made before work starts, and nothing written."""

from __future__ import annotations

import heapq
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import yaml
from rich.console import Console

from ptdpo_cli.artifacts.schemas import Hint
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.engines.vllm import require_vllm
from ptdpo_cli.errors import ArtifactError, PtdpoError
from ptdpo_cli.models.load import Policy
from ptdpo_cli.recipe import ExpertHints, Judge, Reader, Recipe, reader_of
from ptdpo_cli.stages import (
    build_hints,
    iterations,
    judging,
    keep_helpful,
    problems,
    score_ref,
    sft,
    train,
    train_state,
    workspace,
)
from ptdpo_cli.stages.contexts import PromptBook
from ptdpo_cli.stages.estimate import estimate, worst_lengths
from ptdpo_cli.stages.grading import require_functions
from ptdpo_cli.stages.step_hints import columns_in, require_columns

_SAMPLED_PROMPTS = 32


def preflight(
    stage: str,
    recipe: Recipe,
    run: Path,
    *,
    limit: int | None = None,
    iteration: int | None = None,
    policy: str | None = None,
    rollouts: Path | None = None,
    scores: Path | None = None,
    hints: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict:
    """Load and check what the stage would read, estimate what it would need; raises what the stage would raise.

    `say` is told what the stage would say on the way.
    """
    checked: dict = {"stage": stage, "run": str(run), "recipe": recipe.model_dump(mode="json"), "checks": []}

    def passed(what: str) -> None:
        checked["checks"].append(what)

    _check_folder(run)
    if stage == "sft":
        settings = sft.sft_settings(recipe)
        if recipe.data.name != "digit-grid":
            rows = problems.load(recipe, problems.plan_problems(recipe, run), say=say)
            sft.check_solutions([replace(row, images=()) for row in rows], settings, {})
        passed("recipe")
        return checked
    if recipe.reward.functions and (stage == "rollout" or (stage == "train" and rollouts is None)):
        require_functions(recipe)
        passed(f"reward functions {', '.join(one.function for one in recipe.reward.functions)}")
    plan = problems.plan_eval_problems(recipe, run) if stage == "eval" else problems.plan_problems(recipe, run)
    if stage != "eval":
        problems.warn_of_test_data(plan, say)
    rows = problems.load(recipe, plan, say=say)
    passed(f"{len(rows)} problems from {plan.section['name']}, split {plan.section['split']}")
    texts = {}
    reads_hints = recipe.needs_teacher and recipe.teacher.context != "none"
    is_loop = stage == "train" and rollouts is None and iteration is None
    if stage == "build-hints" or (is_loop and reads_hints):
        texts = _check_hints(recipe, run, list(islice(rows, limit)), is_needed=stage == "train", passed=passed)
    if stage == "build-hints":
        return checked
    work = _Finished(recipe, run, say=passed)
    if is_loop and reads_hints and recipe.hints.min_gain is not None:
        work.hints()    # what they are worth was measured, or the loop will not begin
    if iteration is not None:
        if policy is None and stage != "score-ref":
            policy = work.policy_after(iteration)
        if stage in ("score-ref", "train"):
            rollouts = work.rollouts_of(iteration)
        if stage == "train" and (found := iterations.find_scores(work, Artifact.open(rollouts))):
            scores = found.path
    elif stage == "eval" and policy is None:
        policy = work.final_policy()
    if stage == "eval" and (judge := recipe.eval.judge):
        judging.judge_section(judge)
        passed(f"judge {_named(judge)} (it was not asked)")
    samples = stage in ("rollout", "eval") or (stage == "train" and rollouts is None)
    extraction = (recipe.eval if stage == "eval" else recipe.reward).extraction
    if samples and (reader := reader_of(recipe.reward, extraction)):
        passed(f"reader {_named(reader)} (it was not asked)")
    if recipe.rollout.engine == "vllm" and samples:
        require_vllm()
        passed("the engine vllm is installed")
    model = work.policy(policy or recipe.model.path)
    if stage == "train":
        train_state.with_adapter(recipe, model)
    size = sum(p.numel() for p in model.model.parameters()) / 1e6
    passed(f"model {model.path}, {size:.1f} M parameters on {model.model.device}")
    is_blind = stage == "eval" and recipe.eval.blind
    longest = _check_prompts(recipe, model, islice(rows, limit), texts, blind=is_blind)
    looked_at = min(len(rows), limit or len(rows), _SAMPLED_PROMPTS)
    images = "no image tokens" if is_blind else "image tokens = image features"
    passed(f"prompts up to {longest} tokens (of {looked_at} looked at), {images}")
    _check_inputs(work, model, stage, rollouts, scores, hints, passed)
    disk = shutil.disk_usage(_existing(run)).free
    checked["estimate"] = needs(recipe, longest) | {"disk_free_bytes": disk}
    if stage == "train" and checked["estimate"]["disk_bytes"] > disk:
        raise PtdpoError(
            "the disk is too small for this run",
            expected=f"{checked['estimate']['disk_bytes'] / 1e9:.2f} GB",
            found=f"{disk / 1e9:.2f} GB free",
            hint="lower train.keep_iterations or train.keep_checkpoints, or use another --run",
        )
    passed("disk space")
    return checked


class _Finished(workspace.Workspace):
    """The same run, of which only what is finished is opened, and nothing made."""

    @cached_property
    def has_problems(self) -> bool:
        return problems.plan_problems(self.recipe, self.run).finished() is not None

    def require_same_problems(self, artifact: Artifact) -> None:
        """Problems that are yet to be made cannot be compared without making them; the stage itself will."""
        if self.has_problems:
            workspace.require_same_problems(artifact, self.problems)

    def hints(self, path: Path | None = None, *, make: bool = False) -> Artifact | None:
        if self.has_problems or not self.recipe.needs_teacher or self.recipe.teacher.context == "none":
            return super().hints(path)
        if path is None:
            raise workspace.no_hints(self.run)
        return Artifact.open(path, kind="hints")

    def helpful(self, hints: Artifact) -> Artifact:
        """Hints yet to be made have no content; the key of what will be made stands for it: nothing is of it yet."""
        min_gain, total = self.recipe.hints.min_gain, hints.manifest.counts["hints"]
        utility = keep_helpful.find_utility(self.recipe, hints, self.reference.hashes)
        plan = keep_helpful.plan_keep_helpful(self.recipe, hints, utility)
        dropped = len(keep_helpful.unhelpful(utility, min_gain))
        keep_helpful.require_helpful({"hints": total - dropped, "dropped": dropped}, min_gain)
        self.say(f"hints were measured; {dropped} of {total} are dropped: they do not help")
        to_come = replace(hints, manifest=hints.manifest.model_copy(update={"content_hash": plan.key}))
        return plan.finished() or to_come

    def final_policy(self) -> Path:
        self._require_problems("policy", "train")
        return train.final_policy(self)

    def policy_after(self, iteration: int) -> str:
        if iteration:
            self._require_problems("policy", "train")
        return iterations.find_policy(self, iteration)

    def rollouts_of(self, iteration: int) -> Path:
        self._require_problems("rollouts", "rollout")
        return iterations.find_rollouts(self, iteration).path

    def _require_problems(self, kind: str, command: str) -> None:
        if not self.has_problems:
            raise ArtifactError(
                f"the {kind} of this recipe {'is' if kind == 'policy' else 'are'} not finished in {self.run}",
                found="no problems yet",
                hint=f"make it with `ptdpo {command}`, or name another with `--{kind} DIR`",
            )


def _named(endpoint: Judge | Reader | ExpertHints) -> str:
    """Who would be asked, and whether there is a key for it."""
    has_key = "its key" if os.environ.get(endpoint.key_variable) else "no key"
    return f"{endpoint.model} at {endpoint.url}, {has_key} in {endpoint.key_variable}"


def _check_hints(recipe: Recipe, run: Path, rows, *, is_needed: bool, passed) -> dict[str, Hint]:
    """problem_id -> hint, of the hints that rules alone can make; what training needs at least one of."""
    require_columns(recipe, columns_in(rows), say=passed)
    hints = build_hints.preview_hints(recipe, run, rows)
    if hints is None:
        passed(f"hints of {recipe.hints.source} are made by a model (it was not asked)")
        if expert := recipe.hints.expert:
            passed(f"expert {_named(expert)}")
        return {}
    found = {hint.problem_id: hint for hint in hints if hint.text is not None}
    refused = sum(hint.refusal is not None for hint in hints)
    counts = {"hints": len(found), "problems": len(hints), "refused": refused}
    if is_needed:
        build_hints.require_hints(counts, source=recipe.hints.source, max_refused=recipe.hints.max_refused)
    passed(f"{len(found)} hints pass the leak check, {refused} are refused")
    return found


def _check_inputs(work: _Finished, model: Policy, stage, rollouts, scores, hints, passed) -> None:
    recipe, run = work.recipe, work.run
    if stage == "score-ref" or (stage == "train" and rollouts is not None):
        sampled = Artifact.open(rollouts or run, kind="rollouts")
        work.require_same_problems(sampled)
        if stage == "train":
            train.plan_update(recipe, run, model, sampled, Artifact.open(scores, kind="scores") if scores else None)
            passed("rollouts and scores belong to this policy")
        else:
            score_ref.plan_score_ref(recipe, run, sampled, work.hints(hints), model)
            passed("rollouts and hints belong together")
    elif stage == "train":
        n_problems = recipe.rollout.problems_per_iteration
        if recipe.train.updates_per_iteration > n_problems:
            raise train.too_many_updates(n_problems, recipe.train.updates_per_iteration)


def _check_prompts(recipe: Recipe, model: Policy, rows, hints: dict[str, Hint], *, blind: bool = False) -> int:
    """Build real prompts of some problems, the longest questions first; their longest length in tokens."""
    chosen = heapq.nlargest(_SAMPLED_PROMPTS, rows, key=lambda p: len(p.question))
    book = PromptBook(recipe, model, chosen, hints, blind=blind)
    prompts = book.students(book.fitting(p.problem_id for p in chosen))
    if hints:
        hinted = book.fitting([p.problem_id for p in chosen if p.problem_id in hints], teacher=True)
        prompts += book.teachers(hinted)
    return max((len(prompt) for prompt in prompts), default=0)


def needs(recipe: Recipe, prompt_tokens: int) -> dict[str, int]:
    """Bytes of memory and disk at the worst: every response at full length, every rollout gated."""
    found = estimate(recipe, lengths=worst_lengths(recipe, prompt_tokens))
    return {"memory_bytes": found["memory_bytes"]["peak"], "disk_bytes": found["disk_bytes"]["total"]}


def _check_folder(run: Path) -> None:
    existing = _existing(run)
    if not existing.is_dir():
        raise PtdpoError(f"{existing} is in the way: not a folder", hint="give another folder with --run")
    if not os.access(existing, os.W_OK):
        raise PtdpoError(f"cannot write {existing}", hint="give another folder with --run")


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def render_preflight(checked: dict, console: Console) -> None:
    """The resolved recipe, what was checked, and the estimate."""
    console.print(yaml.safe_dump(checked["recipe"], sort_keys=False, allow_unicode=True), markup=False)
    for line in checked["checks"]:
        console.print(f"ok  {line}", markup=False)
    if found := checked.get("estimate"):
        console.print(
            f"training needs at most about {found['memory_bytes'] / 1e9:.2f} GB of memory "
            f"and {found['disk_bytes'] / 1e9:.2f} GB of disk"
        )
    console.print(f"dry run: nothing was written in {checked['run']}", markup=False)
