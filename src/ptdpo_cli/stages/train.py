"""train: the whole loop (rollout → score-ref → update, N iterations), or one update from artifacts of other jobs.

Both roads use the same stage functions and go through the same files, so on CPU in float32 they end in equal bits.
What a policy consists of, in memory and on disk: `stages/train_state.py`.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ptdpo_cli import signals
from ptdpo_cli.artifacts.manifest import MANIFEST
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.engines import Engine, open_engine
from ptdpo_cli.errors import ArtifactError, PtdpoError, Terminated, UsageError
from ptdpo_cli.models.load import Policy, require_same_interface
from ptdpo_cli.models.lora import adapter_off, policy_hash
from ptdpo_cli.models.parallel import collect, strategy_of, whole
from ptdpo_cli.objectives import group_advantages
from ptdpo_cli.recipe import Recipe, Train
from ptdpo_cli.stages.contexts import PromptBook
from ptdpo_cli.stages.grading import require_functions
from ptdpo_cli.stages.metrics import MetricsLog, require_trackers
from ptdpo_cli.stages.mismatch import correct_mismatch
from ptdpo_cli.stages.plan import Plan, Progress, no_progress
from ptdpo_cli.stages.quoting import reward_section
from ptdpo_cli.stages.rollout import Rollout, indices_by_problem, make_rollouts, plan_rollout, read_rollouts
from ptdpo_cli.stages.score_ref import Score, make_scores, plan_score_ref, read_scores
from ptdpo_cli.stages.together import made_together
from ptdpo_cli.stages.train_state import (
    TrainState,
    from_masters,
    load_state,
    new_state,
    open_writer,
    save_policy,
    to_masters,
    write_policy,
)
from ptdpo_cli.stages.update import Row, accumulate_gradients
from ptdpo_cli.stages.workspace import Workspace

# What these say does not change the weights after iteration i, so it is no part of a policy's key: a run can be
# made longer, or checkpointed more often, and goes on from where it is.
_NOT_IN_KEY = {"iterations", "checkpoint_every", "keep_checkpoints", "keep_iterations", "trackers"}
_SILENCED_SHARE = 0.2


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
    shares = problem_shares(rollouts.table("rollouts"), recipe.train.updates_per_iteration, state.ranks.world)
    mine = {problem_id for update in shares for problem_id in update[state.ranks.rank]}
    blanks = {update[0][0] for update in shares} if state.ranks.world > 1 else set()
    flat, flat_scores = _read(rollouts, scores, mine | blanks)
    rows = iteration_rows(recipe, book, flat, flat_scores, mine | blanks)
    blank_of = {row.rollout.problem_id: row.ungated() for row in rows if row.rollout.problem_id in blanks}
    rows = [row for row in rows if row.rollout.problem_id in mine]
    sampled = rollouts.manifest.section["rollout"]
    temperature = sampled["temperature"]
    steps = []
    with signals.held():
        rows, mismatch = correct_mismatch(
            recipe, state.policy, rows, engine=sampled["engine"], temperature=temperature, ranks=state.ranks
        )
        for update in shares:
            own = set(update[state.ranks.rank])
            part = [row for row in rows if row.rollout.problem_id in own]
            steps.append(_step(recipe, state, part, temperature, blank_of.get(update[0][0])))
        collect(state.trained, state.policy)
        state.iteration += 1
    metrics = {
        name: float(np.mean([s[name] for s in steps if name in s]))
        for name in dict.fromkeys(k for s in steps for k in s)
    }
    counts, rare = rollouts.manifest.counts, {}
    if skipped := counts.get("skipped", 0):
        rare["prompts_skipped"] = skipped
    if counts.get("reader_asked"):
        rare |= {f"reader/{name}": counts[f"reader_{name}"] / len(flat) for name in ("quoted", "failed")}
    return batch_metrics(flat) | metrics | mismatch | rare


def _step(
    recipe: Recipe, state: TrainState, rows: list[Row], temperature: float, blank: Row | None
) -> dict[str, float]:
    rate = learning_rate(recipe.train, state.updates)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    metrics = accumulate_gradients(
        state.policy,
        rows,
        recipe.train,
        temperature=temperature,
        module=state.module,
        ranks=state.ranks,
        blank=blank,
    )
    to_masters(state)
    for master in state.masters.values():
        if master.grad is None:  # an update without pictures: AdamW would pass over it, but not among several ranks
            master.grad = torch.zeros_like(master)
    norm = float(whole(torch.nn.utils.clip_grad_norm_(state.masters.values(), recipe.train.max_grad_norm)))
    if not math.isfinite(norm):
        raise PtdpoError("the gradient is not finite", found=norm, hint="lower train.learning_rate")
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    from_masters(state)
    state.updates += 1
    return metrics | {"grad_norm/total": norm, "learning_rate": rate}


def problem_shares(rollouts: pa.Table, n_updates: int, n_ranks: int) -> list[list[list[str]]]:
    """Problems of each update and, within it, of each rank: whole groups, in as equal parts as they come.

    Updates get equally many problems, in order; ranks get about equally many tokens.
    """
    tokens: dict[str, int] = {}
    for problem_id, n in zip(rollouts["problem_id"].to_pylist(), rollouts["response_tokens"].to_pylist(), strict=True):
        tokens[problem_id] = tokens.get(problem_id, 0) + n
    if not tokens:
        raise UsageError(
            "there is nothing to train on: every prompt of this iteration was too long",
            hint="raise prompt.max_prompt_tokens, or leave long problems out of the data",
        )
    if n_updates > len(tokens):
        raise too_many_updates(len(tokens), n_updates)
    shares = []
    for update in np.array_split(np.array(list(tokens), dtype=object), n_updates):
        ranks: list[list[str]] = [[] for _ in range(n_ranks)]
        load = [0] * n_ranks
        for problem_id in sorted(update, key=lambda one: -tokens[one]) if n_ranks > 1 else update:
            lightest = load.index(min(load))
            ranks[lightest].append(problem_id)
            load[lightest] += tokens[problem_id]
        shares.append(ranks)
    return shares


def _read(
    rollouts: Artifact, scores: Artifact | None, wanted: set[str]
) -> tuple[list[Rollout], list[Score | None]]:
    """All rollouts, and scores of the problems wanted; of the other problems the bulky parts are let go at once."""
    flat: list[Rollout] = []
    flat_scores: list[Score | None] = []
    groups, again = tee(read_rollouts(rollouts))
    scored = read_scores(scores, again) if scores else ([None] * len(group) for group in again)
    for group, found in zip(groups, scored, strict=True):
        for index, rollout in enumerate(group):
            is_wanted = rollout.problem_id in wanted
            flat.append(rollout if is_wanted else replace(rollout, sampler_top_ids_TK=None, sampler_logprobs_T=None))
            flat_scores.append(found[index] if is_wanted else None)
    return flat, flat_scores


def iteration_rows(
    recipe: Recipe,
    book: PromptBook,
    rollouts: list[Rollout],
    scores: Sequence[Score | None],
    wanted: set[str] | None = None,
) -> list[Row]:
    """Everything the loss needs of each rollout (or of those of the problems wanted), group by group."""
    by_problem = indices_by_problem(rollouts)
    sizes = {len(members) for members in by_problem.values()}
    if len(sizes) != 1:
        raise ArtifactError("problems have different numbers of rollouts", found=f"{sorted(sizes)} per problem")
    rewards_PG = torch.tensor([[rollouts[i].reward for i in members] for members in by_problem.values()])
    advantages_PG = group_advantages(rewards_PG, scale=recipe.train.advantage_scale).tolist()
    gated_problems = {
        r.problem_id for r, s in zip(rollouts, scores, strict=True) if s is not None and s.support_TS is not None
    }
    chosen = [
        (i, advantage)
        for (problem_id, members), advantages in zip(by_problem.items(), advantages_PG, strict=True)
        for i, advantage in zip(members, advantages, strict=True)
        if wanted is None or problem_id in wanted
    ]
    prompts = book.students(rollouts[i].problem_id for i, _ in chosen)
    return [
        Row(prompt, rollouts[i], scores[i], advantage, rollouts[i].problem_id in gated_problems)
        for prompt, (i, advantage) in zip(prompts, chosen, strict=True)
    ]


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
    checked = [r.agreed for r in rollouts if r.agreed is not None]
    timeouts = sum(r.outcome == "timeout" for r in rollouts)
    rare = {"verifier/agreement": float(np.mean(checked))} if checked else {}
    rare |= {"outcome/timeout": timeouts / len(rollouts)} if timeouts else {}
    return {
        "reward": float(np.mean([r.reward for r in rollouts])),
        "accuracy": float(np.mean([r.accuracy for r in rollouts])),
        "groups/all_fail": float((group_accuracy == 0).mean()),
        "groups/all_pass": float((group_accuracy == 1).mean()),
        "groups/informative": float(((group_accuracy > 0) & (group_accuracy < 1)).mean()),
        "response_tokens": float(lengths.mean()),
        "truncated": float(np.mean([r.finish_reason == "length" for r in rollouts])),
        "tokens": float(lengths.sum()),
    } | rare


# --- what an update belongs to ----------------------------------------------------------------------------------------


def train_section(recipe: Recipe) -> dict:
    """The part of a recipe that decides the weights after a given iteration."""
    dropped = _NOT_IN_KEY if recipe.train.schedule == "constant" else _NOT_IN_KEY - {"iterations"}
    return {
        "train": {k: v for k, v in recipe.train.model_dump(mode="json").items() if k not in dropped},
        "lora": recipe.lora.model_dump() if recipe.lora.rank else None,
        "rollout": recipe.rollout.model_dump(),
        "prompt": recipe.prompt.model_dump(),
        "reward": reward_section(recipe.reward),
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
    with open_writer(plan, state.ranks, force) as writer:
        metrics = train_iteration(recipe, state, book, rollouts, scores)
        return write_policy(plan, writer, state), metrics


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
    recipe, ranks = work.recipe, work.ranks
    require_trackers(recipe.train)
    require_functions(recipe)
    strategy_of(recipe.distributed.strategy, ranks)
    if recipe.rollout.engine == "vllm" and recipe.vllm.data_parallel > 1 and ranks.world == 1:
        raise UsageError(
            "in `train` every process has an engine of its own, and there is one process",
            expected=f"{recipe.vllm.data_parallel} processes (vllm.data_parallel)",
            hint="`torchrun --standalone --nproc-per-node N -m -- ptdpo_cli train …`, or `--set vllm.data_parallel=1`",
        )
    with ranks.one_after_first("making problems and hints"):
        hints = work.hints(make=True)
        problems = work.problems
    base = work.policy(start or recipe.model.path)
    reference = work.reference if recipe.needs_scores else None
    if reference is not None:
        require_same_interface(base, reference.hashes, what=f"the reference {recipe.model.path}")
    loop = Loop(
        recipe,
        work.run,
        base.hashes,
        problems,
        hints,
        reference,
        work.book(reference or base, problems, hints),
    )
    checkpoint = None if force else newest_checkpoint(loop)
    if checkpoint is not None and checkpoint.manifest.counts["iteration"] == recipe.train.iterations:
        return checkpoint, True
    if checkpoint is not None:
        say(f"going on after iteration {checkpoint.manifest.counts['iteration']} ({checkpoint.path})")
        base = work.policy(checkpoint.path)
    state = (load_state if checkpoint is not None else new_state)(recipe, base, ranks)
    return train_loop(loop, state, partial(open_engine, recipe), warn=warn, progress=progress, force=force), False


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
    train, ranks, warned = loop.recipe.train, state.ranks, False
    plan = loop.plan(train.iterations)
    with (
        open_writer(plan, ranks, force) as writer,
        MetricsLog(loop.run, loop.recipe, done=state.iteration) if ranks.is_first else nullcontext() as log,
    ):
        recent, engine = deque(log.artifacts if log else ()), make_engine(state.policy)
        try:
            while state.iteration < train.iterations:
                metrics, artifacts = _iterate(loop, state, engine, log)
                if ranks.is_first:
                    warned = warned or _warn_if_silenced(metrics, state.iteration, warn)
                    recent.append(artifacts)
                    while len(recent) > train.keep_iterations:
                        remove_artifacts(loop.run, recent.popleft())
                    progress(state.iteration, train.iterations, _summary(metrics))
                if state.iteration % train.checkpoint_every == 0 and state.iteration < train.iterations:
                    _save_checkpoint(loop, state, force=force)
            with signals.held():
                return write_policy(plan, writer, state)
        except (KeyboardInterrupt, Terminated) as ended:
            is_new = 0 < state.iteration < train.iterations and loop.plan(state.iteration).finished() is None
            if ranks.stop(ended) and is_new:
                _save_checkpoint(loop, state, force=force)
            raise


def _save_checkpoint(loop: Loop, state: TrainState, *, force: bool) -> None:
    """Save the policy as it is, and forget the oldest checkpoints beyond `keep_checkpoints`."""
    with signals.held():
        save_policy(loop.plan(state.iteration), state, force=force)
        if state.ranks.is_first:
            earlier = (loop.plan(iteration).directory for iteration in range(1, state.iteration + 1))
            there = [path for path in earlier if (path / MANIFEST).is_file()]
            for path in there[: -loop.recipe.train.keep_checkpoints]:
                remove_artifact(path)


def _iterate(
    loop: Loop, state: TrainState, engine: Engine, log: MetricsLog | None
) -> tuple[dict[str, float], list[str]]:
    """rollout → score-ref → update, through the same files as the separate commands; `log` keeps the metrics."""
    recipe, policy, ranks = loop.recipe, state.policy, state.ranks
    started = time.perf_counter()
    hashes = {**policy.hashes, "weights": policy_hash(policy)}
    policy.model.eval()
    sampling = plan_rollout(recipe, loop.run, loop.problems, hashes, iteration=state.iteration)
    rollouts = made_together(
        ranks, sampling, lambda part: make_rollouts(recipe, sampling, loop.book, engine, policy, part=part)
    )
    engine.release()
    sampled = time.perf_counter()
    scores = None
    if loop.reference is not None:
        scoring = plan_score_ref(recipe, loop.run, rollouts, loop.hints, loop.reference)
        with adapter_off(policy):  # with LoRA the reference is the policy's own model
            scores = made_together(
                ranks,
                scoring,
                lambda part: make_scores(recipe, scoring, loop.book, loop.reference, rollouts, part=part),
            )
    scored = time.perf_counter()
    state.trained.train()
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
        if log:
            log.write(state.iteration, metrics, artifacts)
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
