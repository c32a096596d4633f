"""What artifacts cost: verifying, listing, and writing a small one. Prints JSON and stores it in results/.

Files are read from the page cache, where they have just been written: a cold disk may be slower than the hashing.

    python benchmarks/artifacts.py
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from record import about, load_now, store

from ptdpo_cli.artifacts.manifest import input_key
from ptdpo_cli.artifacts.schemas import ROLLOUTS
from ptdpo_cli.artifacts.store import Artifact, Writer, find_finished
from ptdpo_cli.artifacts.tensors import offsets_of
from ptdpo_cli.stages.status import status
from ptdpo_cli.stages.verify import verify

RESULTS = Path(__file__).parent / "results" / "artifacts.json"
ROWS, SHARDS = 128, 782  # 782 shards of 128 rows: 100,096 rollouts
SMALL_TOKENS, SMALL_TOP = 390, 18  # per rollout; with K = 18 sampler ids a shard of 128 is 4 MB
LARGE_TOKENS, LARGE_TOP = 64, 8  # shorter, so that the 100,096 fit a small disk (0.3 GB)


def shard(rows: int, tokens: int, top: int, rng: np.random.Generator) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """One shard of rollouts, all of the same length."""
    table = pa.Table.from_pylist(
        [
            {
                "rollout_id": f"p{i // 8}/{i % 8}",
                "problem_id": f"p{i // 8}",
                "rollout": i % 8,
                "text": " ".join(map(str, rng.integers(0, 100, 40))),
                "finish_reason": "stop",
                "prompt_tokens": 300,
                "image_tokens": 256,
                "response_tokens": tokens,
                "extracted": "7",
                "accuracy": 1.0,
                "format": 1.0,
                "reward": 1.0,
            }
            for i in range(rows)
        ],
        schema=ROLLOUTS,
    )
    return table, {
        "offsets": offsets_of([tokens] * rows),
        "token_ids": rng.integers(0, 150_000, rows * tokens, dtype=np.int32),
        "sampler_logprobs": rng.random(rows * tokens, dtype=np.float32),
        "sampler_top_ids": rng.integers(0, 150_000, (rows * tokens, top), dtype=np.int32),
    }


def write(run: Path, number: int, shards: list[tuple[pa.Table, dict[str, np.ndarray]]]) -> Artifact:
    """What a stage does: look for a finished one, take the lock, write, finish."""
    section = {"iteration": number}
    key = input_key(stage="rollout", schema_version=1, section=section, inputs={})
    assert find_finished(run, "rollouts", key) is None
    with Writer(run, "rollouts", key=key, stage="rollout", section=section, inputs={}) as writer:
        for index, (table, tensors) in enumerate(shards):
            writer.write_shard(
                index, tables={"rollouts": table}, tensors={"rollouts": tensors}, counts={"rollouts": ROWS}
            )
        return writer.finish()


def seconds(work, times: int) -> list[float]:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return sorted(taken)


def main() -> None:
    load = load_now()
    rng = np.random.default_rng(0)
    folder = Path(tempfile.mkdtemp(dir=Path(__file__).parent))  # on the disk where runs live, not in memory
    try:
        small = [shard(ROWS, SMALL_TOKENS, SMALL_TOP, rng)]
        write(folder / "warm", 0, small)  # imports, versions, git commit: once per process
        numbers = iter(range(1000))
        small_s = seconds(lambda: write(folder / "small", next(numbers), small), 30)
        hashed = sum(record.bytes for record in Artifact.open(folder / "warm", kind="rollouts").manifest.files)
        start = time.perf_counter()
        large = write(folder / "large", 0, [shard(ROWS, LARGE_TOKENS, LARGE_TOP, rng)] * SHARDS)
        large_s = time.perf_counter() - start
        verified = verify(large.path)
        result = {
            **about(load),
            "small_artifact": {
                "bytes": hashed,
                "median_ms": round(1e3 * statistics.median(small_s), 1),
                "fastest_ms": round(1e3 * small_s[0], 1),
                "slowest_ms": round(1e3 * small_s[-1], 1),
            },
            "large_artifact": {
                "rollouts": ROWS * SHARDS,
                "files": verified["files"],
                "bytes": verified["bytes"],
                "write_s": round(large_s, 2),
                "verify_MB_per_s": round(verified["bytes"] / 1e6 / seconds(lambda: verify(large.path), 3)[1]),
                "status_s": round(seconds(lambda: status(folder / "large"), 5)[2], 3),
                "open_s": round(seconds(lambda: Artifact.open(large.path), 5)[2], 3),
            },
        }
    finally:
        shutil.rmtree(folder)
    store(result, RESULTS)


if __name__ == "__main__":
    main()
