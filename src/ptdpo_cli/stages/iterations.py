"""Which artifacts of a run belong to which iteration: a chain of jobs names them by their number, not by their hash.

    rollouts of iteration N      sampled by the policy after N iterations; that after 0 is the recipe's model
    scores of iteration N        of those rollouts
    policy after N + 1           the one update from both

Only what this recipe, its problems, its seed and its base model lead to counts; two that differ are refused. Whether
something counts is read from manifests alone; `base` is sha256 of the base model's weights, None where no one loads it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

from ptdpo_cli.artifacts.manifest import MANIFEST, Manifest, canonical, read_manifest
from ptdpo_cli.artifacts.parts import Part, describe_parts, is_finished, part_dir
from ptdpo_cli.artifacts.store import Artifact, artifact_paths, indented
from ptdpo_cli.errors import ArtifactError
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.build_hints import plan_build_hints
from ptdpo_cli.stages.evaluate import plan_eval
from ptdpo_cli.stages.rollout import plan_rollout
from ptdpo_cli.stages.train import require_scores, train_section
from ptdpo_cli.stages.workspace import Workspace

Belongs = Callable[[Manifest], bool]


def find_policy(work: Workspace, iteration: int) -> str:
    """Where the policy after `iteration` iterations lies; the loop's and the chain's are the same where both are there.

    Errors: ArtifactError when it is not in the run, or when there are several with other weights.
    """
    return work.recipe.model.path if iteration == 0 else str(_find_policy(work, iteration).path)


def _find_policy(work: Workspace, iteration: int) -> Artifact:
    policies = policies_by_iteration(work.recipe, work.run, work.problems, base=work.base_hashes["weights"])
    what = f"policy after {iteration} {'iteration' if iteration == 1 else 'iterations'}"
    return _only(policies.get(iteration, []), work.run, what, f"train --iteration {iteration - 1}", "--policy DIR")


def find_rollouts(work: Workspace, iteration: int) -> Artifact:
    """The rollouts of an iteration, whatever their `--limit`; ArtifactError as for policies."""
    is_first = iteration == 0
    sampler = work.base_hashes["weights"] if is_first else _find_policy(work, iteration).manifest.extra["weights"]
    belongs = are_rollouts_of(work.recipe, work.run, work.problems, iteration, sampler=sampler)
    what = f"rollouts of iteration {iteration}"
    return _only(finished(work.run, "rollouts", belongs), work.run, what, f"rollout --iteration {iteration}",
                 "--rollouts DIR")


def find_scores(work: Workspace, rollouts: Artifact) -> Artifact | None:
    """The scores of these rollouts that this recipe asks for, None where it asks for none; ArtifactError as above."""
    if not work.recipe.needs_scores:
        return None
    iteration = rollouts.manifest.section["iteration"]
    what = f"scores of the rollouts of iteration {iteration}"
    return _only(finished(work.run, "scores", are_scores_of(work.recipe, rollouts)), work.run, what,
                 f"score-ref --iteration {iteration}", f"--rollouts {rollouts.path} --scores DIR")


# --- what belongs, by manifests ---------------------------------------------------------------------------------------


def finished(run: Path, kind: str, belongs: Belongs = lambda manifest: True) -> list[Artifact]:
    """The finished artifacts of a kind that belong."""
    paths = [path for path in artifact_paths(run / kind) if (path / MANIFEST).is_file()]
    found = (Artifact(path, read_manifest(path)) for path in paths)
    return [artifact for artifact in found if belongs(artifact.manifest)]


def finished_parts(run: Path, kind: str, belongs: Belongs, *, count: int) -> set[int]:
    """The numbers of the finished parts, of `count`, of an artifact that belongs."""
    parts = [(path, Part(count, index)) for path in artifact_paths(run / kind) for index in range(count)]
    there = (part_dir(path, part) for path, part in parts if is_finished(path, part))
    manifests = (manifest for manifest in map(read_manifest, there) if belongs(manifest))
    return {Part.parse(manifest.extra["part"]).index for manifest in manifests}


def are_hints_of(recipe: Recipe, run: Path, problems: Artifact) -> Belongs:
    """Whether hints are what this recipe makes, by whatever model where a model makes them."""

    def belongs(manifest: Manifest) -> bool:
        return plan_build_hints(recipe, run, problems, reference=manifest.model).key == manifest.input_key

    return belongs


def are_rollouts_of(
    recipe: Recipe, run: Path, problems: Artifact, iteration: int, *, sampler: str | None = None
) -> Belongs:
    """Whether rollouts are what this recipe samples in an iteration, with these weights where they are known."""

    def belongs(manifest: Manifest) -> bool:
        if manifest.section.get("iteration") != iteration or sampler not in (None, manifest.policy_hash):
            return False
        limit = manifest.section.get("limit")
        plan = plan_rollout(recipe, run, problems, manifest.model, iteration=iteration, limit=limit)
        return plan.key == manifest.input_key

    return belongs


def are_scores_of(recipe: Recipe, rollouts: Artifact) -> Belongs:
    """Whether scores are of these rollouts, and hold what this recipe's loss needs."""

    def belongs(manifest: Manifest) -> bool:
        if manifest.inputs["rollouts"] != rollouts.content_hash:
            return False
        try:
            require_scores(recipe, rollouts, Artifact(rollouts.path, manifest))
        except ArtifactError:
            return False
        return True

    return belongs


def are_evals_of(recipe: Recipe, run: Path, problems: Artifact, weights: str) -> Belongs:
    """Whether an evaluation is this recipe's, of a policy with these weights."""

    def belongs(manifest: Manifest) -> bool:
        if manifest.policy_hash != weights:
            return False
        plan = plan_eval(recipe, run, problems, manifest.model, limit=manifest.section.get("limit"))
        return plan.key == manifest.input_key

    return belongs


def policies_by_iteration(
    recipe: Recipe, run: Path, problems: Artifact, *, base: str | None = None
) -> dict[int, list[Artifact]]:
    """The policies of this recipe by the iterations they have behind them, one of each that have the same weights."""
    section = json.loads(canonical(train_section(recipe)))
    policies = finished(run, "policy")
    by_weights = {policy.manifest.extra.get("weights"): policy.manifest for policy in policies}
    sampled = {rollouts.content_hash: rollouts.manifest.inputs["problems"] for rollouts in finished(run, "rollouts")}
    found: dict[int, dict[str, Artifact]] = {}
    for policy in policies:
        manifest = policy.manifest
        iteration = manifest.section.get("iteration")
        if (manifest.section, manifest.seed) != (section | {"iteration": iteration}, recipe.seed):
            continue
        its_base, its_problems = _origin(manifest, by_weights, sampled)
        # What is no longer in the run contradicts nothing.
        is_of_base = None in (base, its_base) or base == its_base
        if is_of_base and its_problems in (None, problems.content_hash):
            found.setdefault(iteration, {})[manifest.extra["weights"]] = policy
    return {iteration: list(different.values()) for iteration, different in found.items()}


def _origin(
    manifest: Manifest, by_weights: dict[str, Manifest], sampled: dict[str, str]
) -> tuple[str | None, str | None]:
    """sha256 of the base model's weights and content hash of the problems, as far back as the run says."""
    problems = None
    while "rollouts" in manifest.inputs:        # one update of a chain
        problems = problems or sampled.get(manifest.inputs["rollouts"])
        iteration = manifest.section["iteration"]
        if iteration == 1:
            return manifest.policy_hash, problems
        earlier = by_weights.get(manifest.policy_hash)
        if earlier is None or earlier.section.get("iteration") != iteration - 1:
            return None, problems
        manifest = earlier
    return manifest.model["weights"], problems or manifest.inputs["problems"]       # of the loop


def _only(found: list[Artifact], run: Path, what: str, command: str, option: str) -> Artifact:
    """The one that was found, with its files checked."""
    if len(found) == 1:
        return Artifact.open(found[0].path)
    if found:
        raise ArtifactError(
            f"{run} holds several {what} that differ",
            expected="one",
            found=indented(str(one.path) for one in found),
            hint=f"remove those that are not meant, or name one: `{option}` instead of `--iteration`",
        )
    kind = {"rollout": "rollouts", "score-ref": "scores", "train": "policy"}[command.split()[0]]
    paths = artifact_paths(run / kind)
    unjoined = [path for path in paths if describe_parts(path) and not (path / MANIFEST).is_file()]
    if unjoined:
        raise ArtifactError(
            f"no {what} of this recipe in {run}",
            found=indented(f"{describe_parts(path)} of {path}" for path in unjoined),
            hint=f"if these are its parts, join them: `ptdpo merge {shlex.quote(str(run / kind))}`",
        )
    raise ArtifactError(
        f"no {what} of this recipe in {run}",
        found=f"{len(paths)} others in {run / kind}" if paths else f"no {kind}",
        hint=f"make it with `ptdpo {command} --run {shlex.quote(str(run))}` and the same recipe",
    )
