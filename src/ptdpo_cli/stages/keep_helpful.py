"""keep-helpful: the same hints without those that do not help, by what `ptdpo hints score` measured of them.

Reads hints and their `utility`; writes hints in which one of too small a gain is refused, so that its problem gets
plain GRPO. A stage that reads hints sees other hints, of another hash, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from ptdpo_cli.artifacts.manifest import MANIFEST, Manifest, read_manifest
from ptdpo_cli.artifacts.schemas import HINTS
from ptdpo_cli.artifacts.store import Artifact, artifact_paths, indented
from ptdpo_cli.errors import ArtifactError, UsageError
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.plan import Plan
from ptdpo_cli.stages.show import run_of
from ptdpo_cli.stages.utility import PLACEMENT, plan_utility

STAGE = "keep-helpful"


def plan_keep_helpful(recipe: Recipe, hints: Artifact, utility: Artifact) -> Plan:
    """The hints that raise accuracy by `hints.min_gain` or more; beside those that they are taken from."""
    manifest = hints.manifest
    return Plan(
        run_of(hints),
        "hints",
        STAGE,
        manifest.section | {"min_gain": recipe.hints.min_gain},
        inputs={
            "problems": manifest.inputs["problems"], "hints": hints.content_hash, "utility": utility.content_hash,
        },
        seed=manifest.seed,
        model=manifest.model or None,
    )


def is_helpful(hints: Artifact, recipe: Recipe) -> bool:
    """Whether these are hints without those that do not help already, by the recipe's measure."""
    return hints.manifest.stage == STAGE and hints.manifest.section["min_gain"] == recipe.hints.min_gain


def make_helpful(plan: Plan, hints: Artifact, utility: Artifact, *, force: bool = False) -> Artifact:
    """The hints that help, shard by shard; counts `dropped` apart from `refused`, which the leak audit alone fills."""
    if not force and (done := plan.finished()):
        return done
    verdicts = unhelpful(utility, plan.section["min_gain"])
    with plan.writer(force=force) as writer:
        for shard in range(hints.shards()):
            rows = hints.shard_table("hints", shard).to_pylist()
            kept = [_judged(row, verdicts.get(row["problem_id"])) for row in rows]
            table = pa.Table.from_pylist(kept, schema=HINTS)
            writer.write_shard(shard, tables={"hints": table}, same_as=hints)       # maps stay as they are
        dropped = len(verdicts)
        counts = hints.manifest.counts | {"hints": hints.manifest.counts["hints"] - dropped, "dropped": dropped}
        return writer.finish(counts=counts)


def unhelpful(utility: Artifact, min_gain: float) -> dict[str, str]:
    """problem_id -> why its hint is dropped, of the hints whose gain is below `min_gain`."""
    return {
        row["problem_id"]: f"does not help: {row['hinted_correct'] / row['samples']:.2f} with it, "
        f"{row['plain_correct'] / row['samples']:.2f} without"
        for row in utility.table("utility").to_pylist()
        if (row["hinted_correct"] - row["plain_correct"]) / row["samples"] < min_gain
    }


def _judged(row: Mapping, refusal: str | None) -> dict:
    """The row, or in place of its hint the reason why it was dropped, with what it said kept apart."""
    if refusal is None:
        return dict(row)
    return {**row, "hint": None, "spatial": "", "steps": [], "refusal": refusal, "refused": row["hint"]}


def require_helpful(counts: Mapping[str, int], min_gain: float) -> None:
    """Refuse to tutor when no hint helps enough."""
    if not counts["hints"]:
        raise UsageError(
            "no hint helps, so there is nothing to tutor with",
            expected=f"hints that raise accuracy by {min_gain} or more (hints.min_gain)",
            found=f"{counts['dropped']} hints that do not",
            hint="lower hints.min_gain, take another source of hints, or train without a teacher: "
            "`--set train.distill_weight=0`",
        )


def find_utility(recipe: Recipe, hints: Artifact, reference: dict[str, str]) -> Artifact:
    """What was measured of these hints, all of them, with the recipe's sampling and prompts, by this reference.

    A hint of which a prompt is too long was looked at, too: no teacher reads it.
    Errors: ArtifactError when they were not measured, only some were, or there are several such measurements.
    """
    folder, command = run_of(hints) / "utility", f"`ptdpo hints score {hints.path}`"
    there = [path for path in artifact_paths(folder) if (path / MANIFEST).is_file()]
    manifests = {path: read_manifest(path) for path in there}
    of_these = {path: one for path, one in manifests.items() if _measures(one, recipe, hints, reference)}
    n_hints = hints.manifest.counts["hints"]
    measured = {path: one.counts["problems"] + one.counts["skipped"] for path, one in of_these.items()}
    whole = [path for path, n in measured.items() if n == n_hints]
    if len(whole) == 1:
        return Artifact.open(whole[0], kind="utility")
    if whole:
        raise ArtifactError(
            f"{folder} holds several measurements of these hints",
            expected="one, for hints.min_gain to go by",
            found=indented(f"{path}: {of_these[path].section['samples']} samples" for path in whole),
            hint="remove those that are not meant",
        )
    if of_these:
        raise ArtifactError(
            "some of these hints were not measured, and hints.min_gain neither keeps nor drops such a hint",
            expected=f"{n_hints} of {hints.path}",
            found=f"{max(measured.values())} (made with --limit)",
            hint=f"measure all of them with {command}",
        )
    raise ArtifactError(
        "these hints were not measured, so hints.min_gain cannot say which of them help",
        expected=f"a measurement of {hints.path} by this recipe's model, sampling and prompts",
        found=f"{len(there)} of other hints or settings in {folder}" if there else f"none in {folder}",
        hint=f"measure them with {command} and the same recipe",
    )


def _measures(manifest: Manifest, recipe: Recipe, hints: Artifact, reference: dict[str, str]) -> bool:
    """Whether a `utility` is of these hints and what this recipe would measure, however the work was placed."""
    section = manifest.section
    placed = recipe.rollout.model_copy(update={name: section["rollout"][name] for name in PLACEMENT})
    plan = plan_utility(
        recipe.model_copy(update={"rollout": placed}), run_of(hints), hints, reference,
        samples=section["samples"], limit=section["limit"],
    )
    return plan.key == manifest.input_key
