"""Several copies of an engine on one machine: one command per copy, each with its own GPUs and its own part."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from ptdpo_cli import signals
from ptdpo_cli.artifacts.parts import Part
from ptdpo_cli.errors import PtdpoError, Terminated, UsageError

_MARK = "PTDPO_COPY"  # in the environment of a copy: it is one, and starts no others


def is_copy() -> bool:
    return _MARK in os.environ


def run_copies(arguments: Sequence[str], copies: int, gpus_each: int, part: Part | None) -> Part | None:
    """`ptdpo ARGUMENTS --shard i/copies` for every i at once; returns when all have ended well.

    A part that is asked for is cut further, and the first piece of it returned; the whole is for `merge` to join.
    Ctrl-C and SIGTERM are handed on, and waited for.
    Errors: PtdpoError when a copy fails, with its own message above on stderr; the other parts are finished first.
    UsageError for more copies than GPUs.
    """
    whole = part or Part(1, 0)
    with signals.held():
        running = [
            _start(arguments, copy, gpus, Part(whole.count * copies, whole.index * copies + copy))
            for copy, gpus in enumerate(gpus_of_copies(copies, gpus_each))
        ]
    try:
        codes = [process.wait() for process in running]
    except (KeyboardInterrupt, Terminated):
        with signals.held():
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait()
        raise
    if failed := [(copy, code) for copy, code in enumerate(codes) if code]:
        raise PtdpoError(
            f"{len(failed)} of {copies} copies of the engine failed",
            found=", ".join(f"copy {copy} with exit code {code}" for copy, code in failed),
            hint="their messages stand above; run the same command again, finished shards stay",
        )
    return Part(part.count * copies, part.index * copies) if part else None


def _start(arguments: Sequence[str], copy: int, gpus: str, part: Part) -> subprocess.Popen:
    """Of the copies the first one alone tells how far it is."""
    quiet = ("-q",) if copy else ()
    return subprocess.Popen(
        [sys.executable, "-m", "ptdpo_cli", *_without_shard(arguments), *quiet, "--shard", str(part)],
        env=os.environ | {_MARK: str(copy), "CUDA_VISIBLE_DEVICES": gpus},
        stdout=subprocess.DEVNULL,
    )


def _without_shard(arguments: Sequence[str]) -> list[str]:
    """The words of the command but for `--shard I/N`."""
    words, kept = iter(arguments), []
    for word in words:
        if word == "--shard":
            next(words, None)
        elif not word.startswith("--shard="):
            kept.append(word)
    return kept


def gpus_of_copies(copies: int, each: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of every copy: `each` of those that this process may see.

    Errors: UsageError when these are too few.
    """
    needed, visible = copies * each, os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(needed)]
    if len(names) < needed:
        raise UsageError(
            f"{copies} copies of the engine with {each} GPUs each are too many",
            expected=f"{needed} GPUs (vllm.data_parallel × vllm.tensor_parallel)",
            found=f"CUDA_VISIBLE_DEVICES={visible}",
            hint="lower vllm.data_parallel, or ask for more GPUs",
        )
    return [",".join(names[copy * each : (copy + 1) * each]) for copy in range(copies)]
