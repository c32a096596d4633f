"""The stages in the order of the data flow, as data: `ptdpo stages` prints it, `stages/*/README.md` repeat it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ptdpo_cli.artifacts.schemas import SCHEMA_VERSIONS


@dataclass(frozen=True)
class Stage:
    """One command: the kinds of artifact that it reads and writes, and what it needs to run."""

    number: int
    name: str
    does: str
    reads: tuple[str, ...]
    writes: str
    needs: str

    @property
    def schema_version(self) -> int:
        return SCHEMA_VERSIONS[self.writes]

    def to_dict(self) -> dict:
        return asdict(self) | {"schema_version": self.schema_version}


STAGES = (
    Stage(
        0, "sft", "supervised training on worked solutions, from scratch or from a model", (), "policy", "CPU or GPU"
    ),
    Stage(
        1,
        "build-hints",
        "one hint per problem: where to look and how to think, never the answer",
        ("problems",),
        "hints",
        "CPU; by source GPU or endpoint",
    ),
    Stage(
        2,
        "rollout",
        "G samples per problem from the policy, question only",
        ("problems", "policy"),
        "rollouts",
        "CPU or GPU",
    ),
    Stage(
        3,
        "score-ref",
        "the frozen teacher, with the hint, scores the gated rollouts token by token",
        ("rollouts", "hints", "problems"),
        "scores",
        "CPU or GPU",
    ),
    Stage(
        4,
        "train",
        "GRPO + λ·JSD + β·KL: one update from rollouts and scores, or the whole loop",
        ("rollouts", "scores", "problems", "hints", "policy"),
        "policy",
        "CPU or GPU",
    ),
    Stage(
        5,
        "eval",
        "greedy and sampled answers on unseen problems, graded, with intervals",
        ("problems", "policy"),
        "evals",
        "CPU or GPU",
    ),
)


def render_stages(console: Console) -> None:
    """Each stage on two lines: what it reads, writes and needs, and what it does."""
    for stage in STAGES:
        reads = ", ".join(stage.reads) or "a data set"
        head = f"{stage.number} {stage.name:12} {reads} → {stage.writes} v{stage.schema_version}; {stage.needs}"
        console.print(Text(head, style="bold"))
        console.print(Padding(Text(stage.does), (0, 0, 0, 2)))
