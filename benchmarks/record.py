"""Where and with what a figure was measured, and how it is stored: the same for all scripts that say so much."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from ptdpo_cli.artifacts import manifest


def load_now() -> float:
    """Of the last minute, before anything is measured: other work on the machine makes every figure worse."""
    return round(os.getloadavg()[0], 2)


def about(load: float, **versions: str) -> dict:
    """Date, machine and versions, with those of other programs."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "load_before": load,
        },
        "versions": manifest.versions() | versions,
    }


def store(result: dict, path: Path) -> None:
    """Prints the result as JSON and writes it to the file."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    print(text)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
