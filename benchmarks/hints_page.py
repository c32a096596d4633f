"""How long 1,000 hints take to become a page, how large it is, and how long a browser takes to show it.

The hints are of digit-grid (tiny pictures, 3 × 3 or 6 × 6 maps), of drawn scenes as JPEG (up to 900 pixels, one to
three a problem) and of problems without a picture; `tests/hint_examples.py` makes them. Opening is from the start of
the navigation to a file:// address, in a headless Chromium with a fresh profile, each time anew. Needs the extra
`browser`, chromium and chromedriver. Prints JSON and stores it in results/.

    python benchmarks/hints_page.py
    python benchmarks/hints_page.py --screenshot docs/results/hints-page.png
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import about, load_now, store

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "browser")]

from chromium import browser  # noqa: E402
from PIL import Image  # noqa: E402

from hint_examples import examples, write_run  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "hints_page.json"
TIMES = 5
WAIT = """
const done = arguments[0], check = () => performance.getEntriesByName("cards painted").length
  && performance.getEntriesByType("navigation")[0].loadEventEnd ? done({
    cards: performance.getEntriesByName("cards painted")[0].startTime,
    all: performance.getEntriesByType("navigation")[0].loadEventEnd }) : setTimeout(check, 20);
check();
"""
FILTER = """
const done = arguments[0], start = performance.now();
document.querySelector("#facets input").click();
requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
"""


def write(run: Path, limit: int) -> dict:
    """`ptdpo hints show` in a process of its own: its result, its seconds, also of the processors, its peak memory."""
    command = [sys.executable, "-m", "ptdpo_cli", "hints", "show", run / "hints", "--limit", str(limit), "--json"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        said = process.stdout.read()
        _, _, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    return json.loads(said) | {
        "seconds": round(seconds, 1), "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_resident_MB": round(usage.ru_maxrss / 1024),
    }


def opened(page: str, profile: Path) -> dict[str, float]:
    """Milliseconds until the first cards are painted, until all is read and their pictures are there, of a filter."""
    with browser(profile) as driver:
        driver.get(f"file://{page}")
        found = driver.execute_async_script(WAIT)
        return found | {"filter": driver.execute_async_script(FILTER)}


def take_screenshot(page: str, profile: Path, out: Path) -> None:
    with browser(profile, width=1280, height=1240) as driver:
        driver.get(f"file://{page}")
        driver.execute_async_script(WAIT)
        driver.save_screenshot(str(out))
    Image.open(out).convert("RGB").save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hints", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--screenshot", type=Path, help="only take this picture of the first hints")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "example"
        write_run(run, examples(options.hints if options.screenshot is None else 40))
        if options.screenshot is not None:
            return take_screenshot(write(run, 40)["page"], Path(folder) / "profile", options.screenshot)
        load = load_now()
        part = write(run, options.hints // 4)
        whole = write(run, options.hints)
        times = [opened(whole["page"], Path(folder) / f"profile-{k}") for k in range(TIMES)]
        seconds = {name: [round(one[name] / 1000, 3) for one in times] for name in times[0]}
        with browser(Path(folder) / "version") as driver:
            version = driver.capabilities["browserVersion"]
    result = {
        **about(load, chromium=version), "seed": 0,
        "hints": whole["hints"], "pictures": whole["pictures"], "page_MB": round(whole["bytes"] / 1e6, 1),
        "write": {
            "seconds": whole["seconds"], "processor_seconds": whole["processor_seconds"],
            "peak_resident_MB": whole["peak_resident_MB"],
            "peak_resident_MB_of_a_quarter": part["peak_resident_MB"],
        },
        "open_seconds": {
            "first cards painted": {"median": statistics.median(seconds["cards"]), "all": seconds["cards"]},
            "all read, their pictures there": {"median": statistics.median(seconds["all"]), "all": seconds["all"]},
        },
        "filter_seconds": {"median": statistics.median(seconds["filter"]), "all": seconds["filter"]},
    }
    store(result, options.out)


if __name__ == "__main__":
    main()
