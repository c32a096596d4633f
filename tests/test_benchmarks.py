"""The GPU benchmark: the same code runs on a CPU at toy size, and without a GPU it says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(*arguments: object) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(GPU.parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, GPU, *map(str, arguments)], env=environment, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    ended = run()
    assert ended.returncode == 1 and "no CUDA device here" in ended.stderr and "--device cpu --small" in ended.stderr


def test_the_same_code_on_a_cpu(tmp_path):
    out = tmp_path / "gpu.json"
    ended = run("--device", "cpu", "--small", "--iterations", 1, "--out", out)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(out.read_text())
    assert result["machine"]["device"] == "cpu"
    for found in result["models"].values():
        assert found["float32"]["against_float32_cpu"]["trainer_max_nats"] == 0
        assert found["float32"]["against_float32_cpu"]["sampler_max_nats"] < 1e-4
        assert 0 < found["bfloat16"]["against_float32_cpu"]["trainer_mean_nats"] < 0.1
        assert all(part["tokens_per_s"] > 0 for part in found["bfloat16"]["stages"].values())
