"""Which artifacts of a run belong to which iteration: a chain of jobs names them by their number, not by their hash.

    rollouts of iteration N      sampled by the policy after N iterations; that after 0 is the recipe's model
    scores of iteration N        of those rollouts
    policy after N + 1           the one update from both

Only what this recipe, its problems, its seed and its base model lead to counts; two that differ are refused.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from ptdpo_cli.artifacts.manifest import MANIFEST, Manifest, canonical, read_manifest
from ptdpo_cli.artifacts.parts import describe_parts
from ptdpo_cli.artifacts.store import Artifact, artifact_paths, indented
from ptdpo_cli.errors import ArtifactError
from ptdpo_cli.stages.rollout import plan_rollout
from ptdpo_cli.stages.train import require_scores, train_section
from ptdpo_cli.stages.workspace import Workspace


def find_policy(work: Workspace, iteration: int) -> str:
    """Where the policy after `iteration` iterations lies; the loop's and the chain's are the same where both are there.

    Errors: ArtifactError when it is not in the run, or when there are several with other weights.
    """
    if iteration == 0:
        return work.recipe.model.path
    return str(_policy(work, iteration).path)


def find_rollouts(work: Workspace, iteration: int) -> Artifact:
    """The rollouts of an iteration, whatever their `--limit`; ArtifactError as for policies."""
    sampler = work.base_hashes["weights"] if iteration == 0 else _policy(work, iteration).manifest.extra["weights"]

    def belongs(manifest: Manifest) -> bool:
        limit = manifest.section.get("limit")
        plan = plan_rollout(work.recipe, work.run, work.problems, manifest.model, iteration=iteration, limit=limit)
        return plan.key == manifest.input_key and manifest.policy_hash == sampler

    found = [artifact for artifact in _finished(work.run, "rollouts") if belongs(artifact.manifest)]
    what = f"rollouts of iteration {iteration}"
    return _only(found, work, what, f"rollout --iteration {iteration}", "--rollouts DIR")


def find_scores(work: Workspace, rollouts: Artifact) -> Artifact | None:
    """The scores of these rollouts that this recipe asks for, None where it asks for none; ArtifactError as above."""
    if not work.recipe.needs_scores:
        return None
    made = [one for one in _finished(work.run, "scores") if one.manifest.inputs["rollouts"] == rollouts.content_hash]
    found, refusal = [], None
    for one in made:
        try:
            require_scores(work.recipe, rollouts, one)
        except ArtifactError as error:
            refusal = error
        else:
            found.append(one)
    if refusal is not None and not found:
        raise refusal
    iteration = rollouts.manifest.section["iteration"]
    what = f"scores of the rollouts of iteration {iteration}"
    return _only(found, work, what, f"score-ref --iteration {iteration}", f"--rollouts {rollouts.path} --scores DIR")


def _policy(work: Workspace, iteration: int) -> Artifact:
    policies, rollouts = _finished(work.run, "policy"), _finished(work.run, "rollouts")
    section = json.loads(canonical(train_section(work.recipe) | {"iteration": iteration}))
    found = [p for p in policies if p.manifest.section == section and p.manifest.seed == work.recipe.seed]
    expected = (work.base_hashes["weights"], work.problems.content_hash)
    # What is no longer in the run contradicts nothing.
    found = [
        policy
        for policy in found
        if all(o in (None, e) for o, e in zip(_origin(policy, policies, rollouts), expected, strict=True))
    ]
    different = {policy.manifest.extra["weights"]: policy for policy in found}
    what = f"policy after {iteration} {'iteration' if iteration == 1 else 'iterations'}"
    return _only(list(different.values()), work, what, f"train --iteration {iteration - 1}", "--policy DIR")


def _origin(
    policy: Artifact, policies: list[Artifact], rollouts: list[Artifact]
) -> tuple[str | None, str | None]:
    """sha256 of the base model's weights and content hash of the problems, as far back as the run says."""
    manifest = policy.manifest
    if "rollouts" not in manifest.inputs:       # the loop's
        return manifest.model["weights"], manifest.inputs["problems"]
    problems = next(
        (r.manifest.inputs["problems"] for r in rollouts if r.content_hash == manifest.inputs["rollouts"]), None
    )
    if manifest.section["iteration"] == 1:
        return manifest.policy_hash, problems
    before = (p for p in policies if p.manifest.extra.get("weights") == manifest.policy_hash)
    earlier = next(before, None)
    if earlier is None:
        return None, problems
    base, problems_before = _origin(earlier, policies, rollouts)
    return base, problems or problems_before


def _finished(run: Path, kind: str) -> list[Artifact]:
    """The finished artifacts of a kind by their manifests alone."""
    paths = [path for path in artifact_paths(run / kind) if (path / MANIFEST).is_file()]
    return [Artifact(path, read_manifest(path)) for path in paths]


def _only(found: list[Artifact], work: Workspace, what: str, command: str, option: str) -> Artifact:
    """The one that was found, with its files checked."""
    if len(found) == 1:
        return Artifact.open(found[0].path)
    if found:
        raise ArtifactError(
            f"{work.run} holds several {what} that differ",
            expected="one",
            found=indented(str(one.path) for one in found),
            hint=f"remove those that are not meant, or name one: `{option}` instead of `--iteration`",
        )
    kind = {"rollout": "rollouts", "score-ref": "scores", "train": "policy"}[command.split()[0]]
    paths = artifact_paths(work.run / kind)
    if parts := [f"{path}: {there}" for path in paths if (there := describe_parts(path)) and not _is_whole(path)]:
        raise ArtifactError(f"no {what} of this recipe in {work.run}", found=indented(parts),
                            hint=f"if these are its parts, join them: `ptdpo merge {shlex.quote(str(work.run))}`")
    raise ArtifactError(
        f"no {what} of this recipe in {work.run}",
        found=f"{len(paths)} others in {work.run / kind}" if paths else f"no {kind}",
        hint=f"make it with `ptdpo {command} --run {shlex.quote(str(work.run))}` and the same recipe",
    )


def _is_whole(path: Path) -> bool:
    return (path / MANIFEST).is_file()
