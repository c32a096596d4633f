"""Seconds and peak memory of the demo, all its processes together: writes benchmarks/results/demo.json.

    python benchmarks/demo.py

Memory is the proportional set size (a page that two processes share counts half in each), sampled four times a second.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import psutil

OUT = Path(__file__).parent / "results" / "demo.json"


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    started, peak = time.perf_counter(), 0
    demo = subprocess.Popen([sys.executable, "-m", "ptdpo_cli", "demo", "--run", str(folder / "demo")])
    try:
        while demo.poll() is None:
            peak = max(peak, memory(psutil.Process(demo.pid)))
            time.sleep(0.25)
    finally:
        demo.terminate()
        shutil.rmtree(folder)
    result = {
        "seconds": time.perf_counter() - started,
        "peak_bytes": peak,
        "exit_code": demo.returncode,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg(),
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def memory(process: psutil.Process) -> int:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total


if __name__ == "__main__":
    main()
