"""merge-adapter: an adapter and its base as one plain model, for whatever knows no adapters.

Reads a policy that LoRA trained and the base that it names; writes a policy in Hugging Face layout.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ptdpo_cli.artifacts.manifest import MANIFEST
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import UsageError
from ptdpo_cli.models.load import Policy, is_adapter, load_policy, weights_hash
from ptdpo_cli.models.lora import load_adapter, merge, read_base
from ptdpo_cli.stages.plan import Plan


def open_adapter(path: Path, base: str | None = None) -> Policy:
    """The policy of an adapter folder (or of RUN/policy with one in it), on the base that it names or on another path.

    Errors: UsageError for what is no adapter; ArtifactError when the base is another than it was trained on.
    """
    if path.name == "policy" and path.is_dir():
        path = Artifact.open(path, kind="policy").path
    if not is_adapter(path):
        raise UsageError(
            f"{path} is not an adapter",
            expected="a folder with adapter_config.json, as training with lora.rank above 0 writes it",
            hint="a full model needs no merging",
        )
    if (path / MANIFEST).is_file():
        Artifact.open(path, kind="policy")  # a missing or cut file is found here, with what mends it
    trained_on = read_base(path)
    return load_adapter(load_policy(base or trained_on.path, dtype=trained_on.dtype, device="cpu"), path)


def plan_merge(policy: Policy, run: Path, dtype: str | None) -> Plan:
    """One full model from an adapter; `dtype` of its weights, None for the base's."""
    dtype = dtype or str(policy.model.dtype).removeprefix("torch.")
    return Plan(
        run,
        "policy",
        "merge-adapter",
        {"dtype": dtype},
        inputs={"adapter": policy.hashes["weights"], "base": policy.base_weights},
        model=policy.hashes,
        policy_hash=policy.hashes["weights"],
    )


def make_merged(plan: Plan, policy: Policy, *, force: bool = False) -> Artifact:
    """Merge in the base's dtype (the sum in float32), then cast; the adapter's layers are gone from `policy` after."""
    if not force and (done := plan.finished()):
        return done
    with plan.writer(force=force) as writer:
        model = merge(policy).model.to(getattr(torch, plan.section["dtype"]))
        model.save_pretrained(writer.path)
        policy.processor.save_pretrained(writer.path)
        for file in sorted(p for p in writer.path.rglob("*") if p.is_file()):
            writer.add_file(file.relative_to(writer.path))
        tensors = len(model.state_dict())
        return writer.finish(counts={"tensors": tensors}, extra={"weights": weights_hash(model)})
