"""What a stage is about to do, decided before anything is written: its artifact's key, inputs and place.

Every stage has a function that returns a Plan after all its checks (that is `--dry-run`), and one that carries it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ptdpo_cli.artifacts.manifest import input_key
from ptdpo_cli.artifacts.schemas import SCHEMA_VERSIONS
from ptdpo_cli.artifacts.store import Artifact, Writer, artifact_dir, find_finished

Progress = Callable[[int, int, str], None]      # done, total, what is being done


def no_progress(done: int, total: int, doing: str) -> None:
    """A progress callback that shows nothing."""


@dataclass(frozen=True)
class Plan:
    """One artifact to be made, and everything its manifest will say about where it comes from."""

    run: Path
    kind: str
    stage: str
    section: dict
    inputs: dict[str, str] = field(default_factory=dict)      # name -> content hash
    seed: int | None = None
    model: dict[str, str] | None = None
    hint_hash: str | None = None
    policy_hash: str | None = None

    @property
    def key(self) -> str:
        return input_key(
            stage=self.stage,
            schema_version=SCHEMA_VERSIONS[self.kind],
            section=self.section | {"seed": self.seed},
            inputs=self.inputs,
            model=self.model,
        )

    @property
    def directory(self) -> Path:
        return artifact_dir(self.run, self.kind, self.key)

    def finished(self) -> Artifact | None:
        """The artifact, when the same work was already done."""
        return find_finished(self.run, self.kind, self.key)

    def writer(self, *, force: bool = False) -> Writer:
        return Writer(
            self.run,
            self.kind,
            key=self.key,
            stage=self.stage,
            section=self.section,
            inputs=self.inputs,
            seed=self.seed,
            model=self.model,
            hint_hash=self.hint_hash,
            policy_hash=self.policy_hash,
            force=force,
        )
