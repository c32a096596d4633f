"""train: the whole loop (rollout → score-ref → update, N iterations), or one update from artifacts of other jobs.

Both roads use the same stage functions and go through the same files, so on CPU in float32 they end in equal bits.

A policy artifact is a folder in Hugging Face layout plus `trainer.safetensors` (AdamW's moments) and `trainer.json`
(iterations and updates done). Learning rate, problem order and every random draw are functions of these counters and
the seed: there is no other state, and a resumed run goes on exactly.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from ptdpo_cli import signals
from ptdpo_cli.artifacts.manifest import MANIFEST
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.engines import Engine
from ptdpo_cli.errors import ArtifactError, PtdpoError, Terminated, UsageError
from ptdpo_cli.models.load import Policy, require_same_interface, weights_hash
from ptdpo_cli.objectives import group_advantages
from ptdpo_cli.recipe import Recipe, Train
from ptdpo_cli.stages.contexts import PromptBook
from ptdpo_cli.stages.plan import Plan, Progress, no_progress
from ptdpo_cli.stages.rollout import Rollout, indices_by_problem, make_rollouts, plan_rollout, read_rollouts
from ptdpo_cli.stages.score_ref import Score, make_scores, plan_score_ref, read_scores
from ptdpo_cli.stages.update import Row, accumulate_gradients
from ptdpo_cli.stages.workspace import Workspace

# What these say does not change the weights after iteration i, so it is no part of a policy's key: a run can be
# made longer, or checkpointed more often, and goes on from where it is.
_NOT_IN_KEY = {"iterations", "checkpoint_every", "keep_checkpoints", "keep_iterations", "trackers"}
_SILENCED_SHARE = 0.2


@dataclass
class TrainState:
    """The policy in training; `iteration` and `updates` count what is done."""

    policy: Policy
    optimizer: torch.optim.AdamW
    iteration: int = 0
    updates: int = 0


def new_state(recipe: Recipe, policy: Policy) -> TrainState:
    """A policy with a fresh optimizer."""
    train, model = recipe.train, policy.model
    model.train()
    if train.freeze_vision:
        model.model.visual.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        trainable(model).values(),
        lr=train.learning_rate,
        betas=train.adam_betas,
        eps=train.adam_eps,
        weight_decay=train.weight_decay,
    )
    return TrainState(policy, optimizer)


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters in training by name, in the order in which the optimizer has them."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def learning_rate(train: Train, update: int) -> float:
    """The rate of the update with this index (from 0): linear warm-up, then constant or a decay to 0."""
    if update < train.warmup_updates:
        return train.learning_rate * (update + 1) / train.warmup_updates
    done = (update - train.warmup_updates) / max(
        1, train.iterations * train.updates_per_iteration - train.warmup_updates
    )
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return train.learning_rate * max(0.0, factor[train.schedule])


def train_iteration(
    recipe: Recipe, state: TrainState, book: PromptBook, rollouts: Artifact, scores: Artifact | None
) -> dict[str, float]:
    """Update the policy on one batch of rollouts, in `updates_per_iteration` optimizer steps; the batch's metrics."""
    groups = list(read_rollouts(rollouts))
    flat = [r for group in groups for r in group]
    flat_scores = [s for group in read_scores(scores, groups) for s in group] if scores else [None] * len(flat)
    rows = iteration_rows(recipe, book, flat, flat_scores)
    temperature = rollouts.manifest.section["rollout"]["temperature"]
    steps = []
    with signals.held():
        for part in _per_update(rows, recipe.train.updates_per_iteration):
            steps.append(_step(recipe, state, part, temperature))
        state.iteration += 1
    metrics = {
        name: float(np.mean([s[name] for s in steps if name in s]))
        for name in dict.fromkeys(k for s in steps for k in s)
    }
    return batch_metrics(flat) | metrics


def _step(recipe: Recipe, state: TrainState, rows: list[Row], temperature: float) -> dict[str, float]:
    rate = learning_rate(recipe.train, state.updates)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    metrics = accumulate_gradients(state.policy, rows, recipe.train, temperature=temperature)
    norm = float(torch.nn.utils.clip_grad_norm_(trainable(state.policy.model).values(), recipe.train.max_grad_norm))
    if not math.isfinite(norm):
        raise PtdpoError("the gradient is not finite", found=norm, hint="lower train.learning_rate")
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.updates += 1
    return metrics | {"grad_norm/total": norm, "learning_rate": rate}


def iteration_rows(
    recipe: Recipe, book: PromptBook, rollouts: list[Rollout], scores: Sequence[Score | None]
) -> list[Row]:
    """Everything the loss needs of each rollout, group by group."""
    by_problem = indices_by_problem(rollouts)
    sizes = {len(members) for members in by_problem.values()}
    if len(sizes) != 1:
        raise ArtifactError("problems have different numbers of rollouts", found=f"{sorted(sizes)} per problem")
    order = [i for members in by_problem.values() for i in members]
    rewards_PG = torch.tensor([[rollouts[i].reward for i in members] for members in by_problem.values()])
    advantages = group_advantages(rewards_PG, scale=recipe.train.advantage_scale).flatten().tolist()
    advantage_of = dict(zip(order, advantages, strict=True))
    gated_problems = {
        r.problem_id for r, s in zip(rollouts, scores, strict=True) if s is not None and s.support_TS is not None
    }
    prompts = book.students(r.problem_id for r in rollouts)
    return [
        Row(prompts[i], rollouts[i], scores[i], advantage_of[i], rollouts[i].problem_id in gated_problems)
        for i in order
    ]


def _per_update(rows: list[Row], n_updates: int) -> list[list[Row]]:
    """Whole groups, in as equal parts as they come."""
    problem_ids = list(dict.fromkeys(row.rollout.problem_id for row in rows))
    if n_updates > len(problem_ids):
        raise too_many_updates(len(problem_ids), n_updates)
    parts = [set(part) for part in np.array_split(np.array(problem_ids, dtype=object), n_updates)]
    return [[row for row in rows if row.rollout.problem_id in part] for part in parts]


def too_many_updates(n_problems: int, n_updates: int) -> PtdpoError:
    return PtdpoError(
        "more updates per iteration than problems",
        expected=f"at most {n_problems}",
        found=n_updates,
        hint="lower train.updates_per_iteration or raise rollout.problems_per_iteration",
    )


def batch_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """What the rollouts themselves say: rewards, kinds of groups, lengths."""
    groups = indices_by_problem(rollouts).values()
    group_accuracy = np.array([np.mean([rollouts[i].accuracy for i in members]) for members in groups])
    lengths = np.array([len(r.token_ids_T) for r in rollouts])
    return {
        "reward": float(np.mean([r.reward for r in rollouts])),
        "accuracy": float(np.mean([r.accuracy for r in rollouts])),
        "groups/all_fail": float((group_accuracy == 0).mean()),
        "groups/all_pass": float((group_accuracy == 1).mean()),
        "groups/informative": float(((group_accuracy > 0) & (group_accuracy < 1)).mean()),
        "response_tokens": float(lengths.mean()),
        "truncated": float(np.mean([r.finish_reason == "length" for r in rollouts])),
        "tokens": float(lengths.sum()),
    }


# --- policies on disk -------------------------------------------------------------------------------------------------


def train_section(recipe: Recipe) -> dict:
    """The part of a recipe that decides the weights after a given iteration."""
    dropped = _NOT_IN_KEY if recipe.train.schedule == "constant" else _NOT_IN_KEY - {"iterations"}
    return {
        "train": {k: v for k, v in recipe.train.model_dump(mode="json").items() if k not in dropped},
        "rollout": recipe.rollout.model_dump(),
        "prompt": recipe.prompt.model_dump(),
        "reward": recipe.reward.model_dump(),
        "teacher": recipe.teacher.model_dump() if recipe.needs_teacher else None,
    }


def plan_policy(
    recipe: Recipe, run: Path, base: dict[str, str], problems: Artifact, hints: Artifact | None, iteration: int
) -> Plan:
    """The policy after `iteration` iterations of the loop from a base model."""
    inputs = {"problems": problems.manifest.content_hash}
    if hints is not None:
        inputs["hints"] = hints.manifest.content_hash
    return Plan(
        run,
        "policy",
        "train",
        train_section(recipe) | {"iteration": iteration},
        inputs=inputs,
        seed=recipe.seed,
        model=base,
        hint_hash=inputs.get("hints"),
    )


def plan_update(recipe: Recipe, run: Path, policy: Policy, rollouts: Artifact, scores: Artifact | None) -> Plan:
    """The policy after one update from artifacts.

    Errors: ArtifactError for rollouts of another policy, scores of other rollouts, or another tokenizer or processor.
    """
    require_policy(policy.hashes, rollouts)
    require_same_interface(policy, rollouts.manifest.model, what=f"rollouts {rollouts.path}")
    inputs = {"rollouts": rollouts.manifest.content_hash}
    if recipe.needs_scores and scores is None:
        raise ArtifactError(
            "this recipe needs scores",
            expected="--scores DIR (train.distill_weight or train.kl_weight is above 0)",
            hint=f"make them with `ptdpo score-ref --rollouts {rollouts.path}`",
        )
    if scores is not None:
        require_scores(recipe, rollouts, scores)
        inputs["scores"] = scores.manifest.content_hash
    section = train_section(recipe) | {"iteration": rollouts.manifest.section["iteration"] + 1}
    return Plan(
        run,
        "policy",
        "train",
        section,
        inputs=inputs,
        seed=recipe.seed,
        model=policy.hashes,
        hint_hash=None if scores is None else scores.manifest.hint_hash,
        policy_hash=policy.hashes["weights"],
    )


def require_policy(hashes: dict[str, str], rollouts: Artifact) -> None:
    """Refuse rollouts that another policy sampled: their log-probs are not the old ones of this update."""
    if rollouts.manifest.policy_hash != hashes["weights"]:
        raise ArtifactError(
            "these rollouts come from another policy than the one to update",
            expected=f"policy weights sha256 {hashes['weights'][:8]}",
            found=f"policy weights sha256 {rollouts.manifest.policy_hash[:8]} in {rollouts.path}",
            hint="sample with this policy: `ptdpo rollout --policy DIR`, or name the rollouts' policy with `--policy`",
        )


def require_scores(recipe: Recipe, rollouts: Artifact, scores: Artifact) -> None:
    """Refuse scores of other rollouts, at another temperature, or without what the recipe's loss needs."""
    made_from = scores.manifest.inputs.get("rollouts")
    if made_from != rollouts.manifest.content_hash:
        raise ArtifactError(
            "these scores were made from other rollouts",
            expected=f"rollouts {rollouts.manifest.content_hash[:8]}",
            found=f"rollouts {str(made_from)[:8]} in {scores.path}",
            hint=f"score these with `ptdpo score-ref --rollouts {rollouts.path}`",
        )
    section = scores.manifest.section
    wanted = {
        "temperature": rollouts.manifest.section["rollout"]["temperature"],
        "teacher": recipe.teacher.model_dump() if recipe.needs_teacher else None,
    }
    for key, value in wanted.items():
        if value is not None and section[key] != value:
            raise ArtifactError(
                f"these scores were made with another {key}",
                expected=value,
                found=section[key],
                hint="make them again with this recipe: `ptdpo score-ref`",
            )
    if recipe.needs_reference and not section["reference_logprobs"]:
        raise ArtifactError(
            "these scores hold no reference log-probs",
            expected="train.kl_weight above 0 when they were made",
            found="train.kl_weight = 0",
            hint="make them again with this recipe: `ptdpo score-ref`",
        )


def save_policy(plan: Plan, state: TrainState, *, force: bool = False) -> Artifact:
    """Write model, processor and trainer state as one artifact."""
    with plan.writer(force=force) as writer:
        return _write_policy(writer, state)


def _write_policy(writer, state: TrainState) -> Artifact:
    model, optimizer = state.policy.model, state.optimizer
    model.save_pretrained(writer.path)
    state.policy.tokenizer.backend_tokenizer.no_padding()  # of the last call; no part of the tokenizer
    state.policy.processor.save_pretrained(writer.path)
    moments = {
        f"{name}.{part}": value.contiguous()
        for name, parameter in trainable(model).items()
        for part, value in optimizer.state[parameter].items()
    }
    safetensors.torch.save_file(moments, writer.path / "trainer.safetensors")
    counters = {"iteration": state.iteration, "updates": state.updates}
    (writer.path / "trainer.json").write_text(json.dumps(counters) + "\n")
    for file in sorted(p for p in writer.path.rglob("*") if p.is_file()):
        writer.add_file(file.relative_to(writer.path))
    return writer.finish(counts=counters, extra={"weights": weights_hash(model)})


def load_state(recipe: Recipe, policy: Policy) -> TrainState:
    """The training state in the policy's own folder; a fresh one where there is none (a base model)."""
    state = new_state(recipe, policy)
    folder = Path(policy.path)
    if not (folder / "trainer.json").is_file():
        return state
    counters = json.loads((folder / "trainer.json").read_text())
    moments = safetensors.torch.load_file(folder / "trainer.safetensors")
    if moments:
        packed = {
            index: {part: moments[f"{name}.{part}"] for part in ("step", "exp_avg", "exp_avg_sq")}
            for index, name in enumerate(trainable(policy.model))
        }
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": packed, "param_groups": groups})
    state.iteration, state.updates = counters["iteration"], counters["updates"]
    return state


def update_once(
    recipe: Recipe,
    plan: Plan,
    book: PromptBook,
    state: TrainState,
    rollouts: Artifact,
    scores: Artifact | None,
    *,
    force: bool = False,
) -> tuple[Artifact, dict[str, float]]:
    """One iteration's update from artifacts, as one policy artifact."""
    with plan.writer(force=force) as writer:
        metrics = train_iteration(recipe, state, book, rollouts, scores)
        return _write_policy(writer, state), metrics


# --- the loop ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loop:
    """What one run of the loop works with."""

    recipe: Recipe
    run: Path
    base: dict[str, str]  # hashes of the initial model
    problems: Artifact
    hints: Artifact | None
    reference: Policy | None
    book: PromptBook

    def plan(self, iteration: int) -> Plan:
        return plan_policy(self.recipe, self.run, self.base, self.problems, self.hints, iteration)


def newest_checkpoint(loop: Loop) -> Artifact | None:
    """The furthest policy of this very loop that is on disk."""
    for iteration in range(loop.recipe.train.iterations, 0, -1):
        if done := loop.plan(iteration).finished():
            return done
    return None


def run_loop(
    work: Workspace, start: str | None, *, force: bool, warn, say, progress: Progress = no_progress
) -> tuple[Artifact, bool]:
    """The final policy of a recipe's loop, and whether it was there already; goes on from the newest checkpoint.

    The loop starts from the recipe's model, which is also its reference, or from another policy (`start`).
    """
    from ptdpo_cli.engines.hf import HfEngine

    recipe = work.recipe
    require_trackers(recipe.train)
    hints = work.hints(make=True)
    base = work.policy(start or recipe.model.path)
    reference = work.reference if recipe.needs_scores else None
    if reference is not None:
        require_same_interface(base, reference.hashes, what=f"the reference {recipe.model.path}")
    loop = Loop(
        recipe,
        work.run,
        base.hashes,
        work.problems,
        hints,
        reference,
        work.book(reference or base, work.problems, hints),
    )
    checkpoint = None if force else newest_checkpoint(loop)
    if checkpoint is not None and checkpoint.manifest.counts["iteration"] == recipe.train.iterations:
        return checkpoint, True
    if checkpoint is not None:
        say(f"going on after iteration {checkpoint.manifest.counts['iteration']} ({checkpoint.path})")
        base = work.policy(checkpoint.path)
    state = load_state(recipe, base) if checkpoint is not None else new_state(recipe, base)
    return train_loop(loop, state, HfEngine, warn=warn, progress=progress, force=force), False


def final_policy(work: Workspace) -> Path:
    """Where the finished policy of this recipe's loop lies.

    Errors: ArtifactError when the loop has not finished, with the policies that there are.
    """
    recipe = work.recipe
    base = work.reference.hashes
    plan = plan_policy(recipe, work.run, base, work.problems, work.hints(make=True), recipe.train.iterations)
    if (done := plan.finished()) is not None:
        return done.path
    there = sorted(str(p.parent) for p in (work.run / "policy").glob(f"*/{MANIFEST}"))
    raise ArtifactError(
        f"the policy of this recipe is not finished in {work.run}",
        expected=plan.directory,
        found=", ".join(there) or "no policy",
        hint="train it with `ptdpo train`, or name another with `--policy DIR`",
    )


def train_loop(
    loop: Loop, state: TrainState, make_engine, *, warn, progress: Progress = no_progress, force: bool = False
) -> Artifact:
    """Iterate from `state` to the recipe's last iteration; the final policy.

    A signal ends it between two steps with a checkpoint of the last whole iteration.
    """
    train, warned = loop.recipe.train, False
    with (
        loop.plan(train.iterations).writer(force=force) as writer,
        MetricsLog(loop.run, loop.recipe, done=state.iteration) as log,
    ):
        recent, engine = deque(log.artifacts), make_engine(state.policy)
        try:
            while state.iteration < train.iterations:
                metrics, artifacts = _iterate(loop, state, engine, log.write)
                warned = warned or _warn_if_silenced(metrics, state.iteration, warn)
                recent.append(artifacts)
                while len(recent) > train.keep_iterations:
                    remove_artifacts(loop.run, recent.popleft())
                progress(state.iteration, train.iterations, _summary(metrics))
                if state.iteration % train.checkpoint_every == 0 and state.iteration < train.iterations:
                    _save_checkpoint(loop, state, force=force)
            with signals.held():
                return _write_policy(writer, state)
        except (KeyboardInterrupt, Terminated):
            if 0 < state.iteration < train.iterations and loop.plan(state.iteration).finished() is None:
                _save_checkpoint(loop, state, force=force)
            raise


def _save_checkpoint(loop: Loop, state: TrainState, *, force: bool) -> None:
    """Save the policy as it is, and forget the oldest checkpoints beyond `keep_checkpoints`."""
    with signals.held():
        save_policy(loop.plan(state.iteration), state, force=force)
        earlier = (loop.plan(iteration).directory for iteration in range(1, state.iteration + 1))
        there = [path for path in earlier if (path / MANIFEST).is_file()]
        for path in there[: -loop.recipe.train.keep_checkpoints]:
            remove_artifact(path)


def _iterate(loop: Loop, state: TrainState, engine: Engine, record) -> tuple[dict[str, float], list[str]]:
    """rollout → score-ref → update, through the same files as the separate commands; `record` keeps the metrics."""
    recipe, policy = loop.recipe, state.policy
    started = time.perf_counter()
    hashes = {**policy.hashes, "weights": weights_hash(policy.model)}
    policy.model.eval()
    rollouts = make_rollouts(
        recipe,
        plan_rollout(recipe, loop.run, loop.problems, hashes, iteration=state.iteration),
        loop.book,
        engine,
        policy,
    )
    sampled = time.perf_counter()
    scores = None
    if loop.reference is not None:
        plan = plan_score_ref(recipe, loop.run, rollouts, loop.hints, loop.reference)
        scores = make_scores(recipe, plan, loop.book, loop.reference, rollouts)
    scored = time.perf_counter()
    policy.model.train()
    artifacts = [str(a.path.relative_to(loop.run)) for a in (rollouts, scores) if a is not None]
    with signals.held():  # an update without its line in the log would never be cleaned up after
        metrics = train_iteration(recipe, state, loop.book, rollouts, scores)
        ended = time.perf_counter()
        metrics |= {
            "seconds/rollout": sampled - started,
            "seconds/score_ref": scored - sampled,
            "seconds/update": ended - scored,
            "seconds/total": ended - started,
            "tokens_per_s": metrics["tokens"] / (ended - started),
        }
        record(state.iteration, metrics, artifacts)
    return metrics, artifacts


def _summary(metrics: dict[str, float]) -> str:
    return f"accuracy {metrics['accuracy']:.2f}, all-fail {metrics['groups/all_fail']:.2f}"


def _warn_if_silenced(metrics: dict[str, float], iteration: int, warn) -> bool:
    """Say it once when the tutoring has no grip; whether it was said."""
    share = metrics.get("distill/share_above_0.6", 0.0)
    if share <= _SILENCED_SHARE:
        return False
    warn(
        f"iteration {iteration}: at {share:.0%} of the gated positions the divergence is near its bound ln 2, "
        "where the student gives the teacher's tokens almost no probability and the gradient vanishes; "
        "a base that is less sure of itself, or a better one, is what helps"
    )
    return True


def remove_artifacts(run: Path, names: list[str]) -> None:
    for name in names:
        remove_artifact(run / name)


def remove_artifact(path: Path) -> None:
    """Manifest first: what is cut short by a kill is unfinished, not corrupt."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


class MetricsLog:
    """`logs/metrics.jsonl`, one line per iteration, and the trackers of the recipe (through accelerate)."""

    def __init__(self, run: Path, recipe: Recipe, *, done: int):
        self.path = metrics_file(run)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [line for line in read_metrics(self.path) if line["iteration"] <= done]
        self.artifacts = [line["artifacts"] for line in lines[-recipe.train.keep_iterations :]]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        os.replace(temporary, self.path)
        self.file = self.path.open("a")
        self.accelerator = _trackers(self.path.parent, recipe)

    def write(self, iteration: int, metrics: dict[str, float], artifacts: list[str]) -> None:
        self.file.write(json.dumps({"iteration": iteration, **metrics, "artifacts": artifacts}) + "\n")
        self.file.flush()
        if self.accelerator:
            self.accelerator.log(metrics, step=iteration)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception) -> None:
        self.file.close()
        if self.accelerator:
            self.accelerator.end_training()


def require_trackers(train: Train) -> None:
    """Refuse a tracker that is not installed, before the first iteration rather than by silence after the last."""
    for name in train.trackers:
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"the tracker {name} is not installed",
                hint=f"pip install 'ptdpo[{name}]', or leave it out: `--set train.trackers=[]`",
            )


def _trackers(folder: Path, recipe: Recipe):
    if not recipe.train.trackers:
        return None
    from accelerate import Accelerator

    accelerator = Accelerator(log_with=list(recipe.train.trackers), project_dir=folder)
    accelerator.init_trackers("ptdpo")
    return accelerator


def metrics_file(run: Path) -> Path:
    return run / "logs" / "metrics.jsonl"


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl; a last line torn by a kill is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines
