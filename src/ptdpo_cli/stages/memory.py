"""What to say when a device's memory runs out: where, with which batch, and which keys make that batch smaller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ptdpo_cli.engines import Engine, Request, Sample, Sampling
from ptdpo_cli.errors import PtdpoError


@contextmanager
def memory_for(stage: str, *, rows: int, tokens: int, keys: str) -> Iterator[None]:
    """Turn torch's error into one that names the stage, its batch and the recipe keys to lower.

    Errors: PtdpoError; what the stage had finished stays.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError, which only its words tell apart.
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise PtdpoError(
            f"out of memory in {stage}",
            expected=f"room for a batch of {rows} rows × {tokens:,} padded tokens = {rows * tokens:,}",
            found=str(error).strip().splitlines()[0],
            hint=f"lower {keys}, and run the same command again: what is finished stays",
        ) from error


def sample_within_memory(
    engine: Engine, requests: Sequence[Request], sampling: Sampling, *, stage: str, keys: str
) -> list[Sample]:
    """`engine.sample`, with an error that names the batch when the memory runs out."""
    if not requests:
        return []
    longest = max(len(request.prompt) for request in requests)
    with memory_for(stage, rows=len(requests), tokens=longest + sampling.max_new_tokens, keys=keys):
        return engine.sample(requests, sampling)
