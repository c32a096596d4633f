"""regrade: the present rules on text that was sampled before; nothing is sampled again, and what changed is listed.

Reads rollouts or an evaluation, and the problems they were made from; writes an artifact of the same kind beside it,
with the same text and, hard-linked, the same tensors. Regraded rollouts can be scored and trained on by their path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptdpo_cli.artifacts.problems import read_problems
from ptdpo_cli.artifacts.schemas import TABLES, Problem
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import ArtifactError
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.rewards import Response
from ptdpo_cli.stages.evaluate import problem_columns
from ptdpo_cli.stages.grading import columns, grade_by
from ptdpo_cli.stages.judging import NO_COSTS, former_judge, judge_identity, judge_section, judged
from ptdpo_cli.stages.plan import Plan, Progress, no_progress
from ptdpo_cli.stages.quoting import (
    NO_QUOTES,
    costs_of,
    open_quoting,
    reader_identity,
    reader_section,
    reward_section,
)
from ptdpo_cli.stages.show import run_of
from ptdpo_cli.stages.summary import GREEDY, summarise

_KINDS = ("rollouts", "evals")
_SHOWN_CHARACTERS = 40


def open_graded(path: Path) -> Artifact:
    """Rollouts or an evaluation; ArtifactError for any other kind."""
    artifact = Artifact.open(path)
    if artifact.manifest.kind not in _KINDS:
        raise ArtifactError(
            f"{artifact.manifest.kind} have no verdicts: {artifact.path}",
            expected="rollouts or evals",
            found=artifact.manifest.kind,
            hint=f"`ptdpo status {run_of(artifact)}` lists what is there",
        )
    return artifact


def answers_of(problems: Artifact) -> dict[str, str]:
    """problem_id -> reference answer."""
    return {row["problem_id"]: row["answer"] for row in problems.table("problems").to_pylist()}


def with_former_judge(recipe: Recipe, old: Artifact) -> Recipe:
    """The recipe, with the judge of a judged evaluation where it names none: rules must not take a judge's place."""
    judge = recipe.eval.judge or former_judge(old.manifest.section)
    return recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"judge": judge})})


def plan_regrade(recipe: Recipe, old: Artifact) -> Plan:
    """The same artifact under the recipe's reward and extraction, and for an evaluation its judge."""
    manifest, rules = old.manifest, {"reward": reward_section(recipe.reward)}
    if manifest.kind == "evals":
        ways = {"extraction": recipe.eval.extraction, "reads": recipe.eval.reads}
        rules["eval"] = manifest.section["eval"] | ways
        rules["judge"] = judge_section(recipe.eval.judge)
        rules["reader"] = reader_section(recipe.reward, recipe.eval.extraction)
    return Plan(
        run_of(old),
        manifest.kind,
        "regrade",
        manifest.section | rules,
        inputs={manifest.kind: old.content_hash, "problems": manifest.inputs["problems"]},
        seed=manifest.seed,
        model=manifest.model,
        hint_hash=manifest.hint_hash,
        policy_hash=manifest.policy_hash,
    )


def make_regraded(
    recipe: Recipe,
    plan: Plan,
    old: Artifact,
    problems: Artifact,
    *,
    force: bool = False,
    progress: Progress = no_progress,
) -> Artifact:
    """The regraded artifact, shard by shard; of an evaluation also its summary anew."""
    if not force and (done := plan.finished()):
        return done
    kind = plan.kind
    by_id = {problem.problem_id: problem for problem in read_problems(problems)}
    with plan.writer(force=force) as writer:
        for shard in range(old.shards()):
            progress(shard, old.shards(), "grading")
            if writer.needs_shard(shard):
                rows, costs = regraded(recipe, old, by_id, shard)
                if kind == "rollouts":
                    costs |= {"correct": sum(row["accuracy"] == 1 for row in rows)}
                table = pa.Table.from_pylist(rows, schema=TABLES[kind])
                writer.write_shard(shard, tables={kind: table}, counts=costs, same_as=old)
        progress(old.shards(), old.shards(), "grading")
        replaced = {"correct", *NO_COSTS, *NO_QUOTES}
        counts = {name: value for name, value in old.manifest.counts.items() if name not in replaced}
        extra = dict(old.manifest.extra)
        if kind == "evals":
            rows = writer.read_table(kind).to_pylist()
            who = judge_identity(plan.section, rows) | reader_identity(plan.section, rows)
            extra = {"summary": summarise(rows, _summary_recipe(plan)), **who}
        return writer.finish(counts=counts, extra=extra)


def regraded(recipe: Recipe, old: Artifact, problems: Mapping[str, Problem], shard: int) -> tuple[list[dict], dict]:
    """The rows of a shard with new verdicts, and what these cost a reader and a judge."""
    manifest = old.manifest
    rows = old.shard_table(manifest.kind, shard).to_pylist()
    responses = [
        Response(problems[row["problem_id"]], row["text"], row["finish_reason"] == "length", row["response_tokens"])
        for row in rows
    ]
    if manifest.kind == "rollouts":
        limit = manifest.section["rollout"]["max_new_tokens"]
        quoting = open_quoting(recipe.reward, recipe.reward.extraction, run_of(old))
        grades = grade_by(recipe.reward, responses, extraction=recipe.reward.extraction, reads=recipe.reward.reads,
                          quoting=quoting, max_new_tokens=limit)
        verdicts = columns(responses, grades, quoting)
        return [row | verdict for row, verdict in zip(rows, verdicts, strict=True)], costs_of(quoting)
    quoting = open_quoting(recipe.reward, recipe.eval.extraction, run_of(old))
    grades = grade_by(recipe.reward, responses, extraction=recipe.eval.extraction, reads=recipe.eval.reads,
                      quoting=quoting)
    new = [
        row | problem_columns(response.problem) | {"judge": None} | verdict
        for row, response, verdict in zip(rows, responses, columns(responses, grades, quoting), strict=True)
    ]
    rows, costs = judged(new, problems, recipe.eval.judge, run_of(old))
    return rows, costs | costs_of(quoting)


def preview(recipe: Recipe, old: Artifact, problems: Artifact) -> list[dict]:
    """The rows that regrading would write, as they would be read back."""
    by_id = {problem.problem_id: problem for problem in read_problems(problems)}
    rows = [row for shard in range(old.shards()) for row in regraded(recipe, old, by_id, shard)[0]]
    return pa.Table.from_pylist(rows, schema=TABLES[old.manifest.kind]).to_pylist()


def changes(old: Sequence[Mapping], new: Sequence[Mapping], answers: Mapping[str, str]) -> dict:
    """What differs between two gradings of the same rows, as counts and row by row; `answers` by problem_id.

    A verdict is accuracy and outcome. An answer read otherwise, or another reward, with the same verdict is counted
    apart, and a row is listed where its verdict or its extracted answer differs.
    """
    pairs = [(_verdict(before), _verdict(after)) for before, after in zip(old, new, strict=True)]
    accuracies = Counter((before["accuracy"], after["accuracy"]) for before, after in pairs)
    outcomes = Counter((before["outcome"], after["outcome"]) for before, after in pairs)
    listed = [
        {"id": _name(row), "answer": answers[row["problem_id"]], "old": before, "new": after}
        for row, (before, after) in zip(new, pairs, strict=True) if before != after
    ]
    return {
        "rows": len(pairs),
        "changed": sum(_differ(before, after, "accuracy", "outcome") for before, after in pairs),
        "wrong_to_right": accuracies[0.0, 1.0],
        "right_to_wrong": accuracies[1.0, 0.0],
        "outcomes": {f"{was} → {now}": n for (was, now), n in sorted(outcomes.items()) if was != now},
        "extracted_otherwise": sum(_differ(before, after, "extracted") for before, after in pairs),
        "rewards_changed": sum(a.get("reward") != b.get("reward") for a, b in zip(old, new, strict=True)),
        "changes": listed,
    }


def render_changes(found: dict, console: Console, *, limit: int) -> None:
    """The counts, and the first `limit` rows that changed."""
    console.print(f"{found['changed']} verdicts changed of {found['rows']}: "
                  f"{found['wrong_to_right']} wrong → right, {found['right_to_wrong']} right → wrong")
    for change, count in found["outcomes"].items():
        console.print(f"  {count}  {change}", markup=False)
    read, rewarded = found["extracted_otherwise"], found["rewards_changed"]
    if read or rewarded:
        console.print(f"{read} answers read otherwise, {rewarded} rewards changed")
    if not found["changes"]:
        return
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("row", "reference", "read before", "read now", "before", "now"):
        table.add_column(title, overflow="fold")
    for one in found["changes"][:limit]:
        before, after = one["old"], one["new"]
        shown = (one["id"], one["answer"], before["extracted"], after["extracted"], before["outcome"], after["outcome"])
        table.add_row(*(Text(_short(value)) for value in shown))
    console.print(table)
    if (rest := len(found["changes"]) - limit) > 0:
        console.print(f"and {rest} more; `--json` lists all")


def _summary_recipe(plan: Plan) -> Recipe:
    """What a summary reads of a recipe, as the evaluation itself was made."""
    return Recipe.model_validate({"seed": plan.seed, "eval": plan.section["eval"]})


def _verdict(row: Mapping) -> dict:
    return {"extracted": row["extracted"], "outcome": row.get("outcome") or _outcome(row), "accuracy": row["accuracy"]}


def _outcome(row: Mapping) -> str:
    """The outcome of a row from before outcomes were kept."""
    if row["accuracy"] == 1:
        return "right"
    if row["finish_reason"] == "length":
        return "truncated"
    return "no_answer" if row["extracted"] is None else "wrong"


def _differ(before: Mapping, after: Mapping, *names: str) -> bool:
    return any(before[name] != after[name] for name in names)


def _name(row: Mapping) -> str:
    if "rollout_id" in row:
        return row["rollout_id"]
    return f"{row['problem_id']}/{'greedy' if row['sample'] == GREEDY else row['sample']}"


def _short(value: str | None) -> str:
    if value is None:
        return "—"
    text = " ".join(value.split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
