"""One artifact made by all the processes that torchrun started, each a part."""

from __future__ import annotations

from collections.abc import Callable

from ptdpo_cli.artifacts.parts import Part, parts_dir
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.models.parallel import Ranks
from ptdpo_cli.stages.merge import merge
from ptdpo_cli.stages.plan import Plan


def made_together(
    ranks: Ranks, plan: Plan, make: Callable[[Part | None], Artifact], part: Part | None = None
) -> Artifact:
    """What `make` makes: by one process whole, or the part asked for; by several each a part, which the first joins.

    Several processes that are asked for a part together cut it further, and leave the joining to `merge`.
    """
    if ranks.world == 1:
        return make(part)
    if part is not None:
        return make(Part(part.count * ranks.world, part.index * ranks.world + ranks.rank))
    make(Part(ranks.world, ranks.rank))
    ranks.wait(plan.stage)
    with ranks.one_after_first(f"joining {plan.kind}"):
        if ranks.is_first:
            join_parts(plan)
    return plan.finished()


def join_parts(plan: Plan) -> None:
    """Make the artifact of the parts that lie there; nothing where it is whole already."""
    if parts_dir(plan.directory).is_dir():
        merge(plan.directory)
