"""What a stage is about to do, decided before anything is written: its artifact's key, inputs and place.

Every stage has a function that returns a Plan after all its checks (that is `--dry-run`), and one that carries it out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ptdpo_cli.artifacts.manifest import input_key
from ptdpo_cli.artifacts.parts import Part
from ptdpo_cli.artifacts.schemas import SCHEMA_VERSIONS
from ptdpo_cli.artifacts.store import Artifact, Writer, artifact_dir, find_finished
from ptdpo_cli.errors import LockedError

Progress = Callable[[int, int, str], None]      # done, total, what is being done


def no_progress(done: int, total: int, doing: str) -> None:
    """A progress callback that shows nothing."""


# How long one process waits for another to make what all of them need, such as the problems of a job array.
_PATIENCE_S = 1800.0


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

    def finished(self, part: Part | None = None) -> Artifact | None:
        """The artifact when the same work was already done, or the part of it that was asked for."""
        whole = find_finished(self.run, self.kind, self.key)
        return whole or (find_finished(self.run, self.kind, self.key, part) if part else None)

    def writer(self, *, force: bool = False, part: Part | None = None, command: str | None = None) -> Writer:
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
            part=part,
            command=command,
        )


def made_by_one(
    make: Callable[[], Artifact], say: Callable[[str], None], *, patience_s: float = _PATIENCE_S
) -> Artifact:
    """What `make` makes or finds; while another process is making it, waits for that one.

    Errors: the LockedError of the other process, when it takes longer than `patience_s` seconds.
    """
    give_up, pause_s = time.monotonic() + patience_s, 0.1
    while True:
        try:
            return make()
        except LockedError as error:
            if time.monotonic() > give_up:
                raise
            if pause_s == 0.1:
                say(f"waiting: {error.what} ({error.found})")
            time.sleep(pause_s)
            pause_s = min(5.0, 1.5 * pause_s)
