"""What the shipped base can and cannot do: writes benchmarks/results/base.json.

    python benchmarks/base.py [--policy tiny-base] [--problems 400]

On validation problems: accuracy with the hint in the prompt (greedy), question only (greedy, and 8 samples, T = 1),
the share of groups of 8 that fail throughout, and on failed rollouts of untaught kinds how sure of itself the base is:
a base that gives the teacher's tokens no probability cannot be tutored, for the divergence has no gradient there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections import defaultdict
from datetime import date
from pathlib import Path

import numpy as np

from ptdpo_cli.cli import _quiet_libraries
from ptdpo_cli.datasets.digit_grid import KINDS
from ptdpo_cli.engines import Request, Sampling, draw_seed
from ptdpo_cli.engines.hf import HfEngine
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.rewards import grade
from ptdpo_cli.stages.rollout import make_rollouts, plan_rollout, read_rollouts
from ptdpo_cli.stages.score_ref import make_scores, plan_score_ref, read_scores
from ptdpo_cli.stages.train import iteration_rows
from ptdpo_cli.stages.update import accumulate_gradients
from ptdpo_cli.stages.workspace import Workspace

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="tiny-base")
    parser.add_argument("--problems", type=int, default=400)
    args = parser.parse_args()
    _quiet_libraries()
    settings = [f"model.path={args.policy}", "data.split=validation", f"data.count={args.problems}"]
    settings += [f"rollout.problems_per_iteration={args.problems}"]
    with tempfile.TemporaryDirectory() as folder:
        work = Workspace(load_recipe(ROOT / "recipes/tiny.yaml", settings), Path(folder))
        result = measure(work)
    result |= {
        "policy": args.policy,
        "weights": work.reference.hashes["weights"],
        "problems": args.problems,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    out = ROOT / "benchmarks" / "results" / "base.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(work: Workspace) -> dict:
    recipe, base = work.recipe, work.reference
    hints = work.hints(make=True)
    book = work.book(base, work.problems, hints)
    engine = HfEngine(base)
    accuracy = {
        "hinted_greedy": greedy(book, engine, base, hinted=True),
        "greedy": greedy(book, engine, base, hinted=False),
    }
    rollouts = make_rollouts(recipe, plan_rollout(recipe, work.run, work.problems, base.hashes), book, engine, base)
    groups: dict[str, list[float]] = defaultdict(list)
    for rollout in (r for shard in read_rollouts(rollouts) for r in shard):
        groups[rollout.problem_id].append(rollout.accuracy)
    accuracy["sampled"] = {p: float(np.mean(group)) for p, group in groups.items()}
    accuracy["all_fail_groups"] = {p: float(max(group) == 0) for p, group in groups.items()}

    scores = make_scores(recipe, plan_score_ref(recipe, work.run, rollouts, hints, base), book, base, rollouts)
    shards = list(read_rollouts(rollouts))
    rows = iteration_rows(
        recipe, book, [r for s in shards for r in s], [s for g in read_scores(scores, shards) for s in g]
    )
    base.model.requires_grad_(True)
    untaught = [r for r in rows if not KINDS[book.problems[r.rollout.problem_id].category].taught and r.is_gated]
    metrics = accumulate_gradients(base, untaught, recipe.train, temperature=1.0)
    return {
        "by_group": {
            name: {which: share(values, book, chosen) for which, values in accuracy.items()}
            for name, chosen in {
                "taught": lambda kind: kind.taught,
                "untaught": lambda kind: not kind.taught,
                "taught, needs the picture": lambda kind: kind.taught and kind.visual,
                "untaught, needs the picture": lambda kind: not kind.taught and kind.visual,
            }.items()
        },
        "by_kind": {
            name: {w: share(values, book, lambda kind, name=name: kind.name == name) for w, values in accuracy.items()}
            for name in sorted({book.problems[p].category for p in groups})
        },
        "failed_rollouts_of_untaught_kinds": {
            key: metrics[key]
            for key in (
                "entropy", "distill/jsd", "distill/share_above_0.6", "distill/disagreement",
                "distill/student_on_teacher_top_where_they_disagree",
            )
        },
    }  # fmt: skip


def greedy(book, engine, base, *, hinted: bool) -> dict[str, float]:
    found = {}
    ids = list(book.problems)
    for start in range(0, len(ids), 128):
        part = ids[start : start + 128]
        prompts = book.teachers(part) if hinted else book.students(part)
        requests = [Request(prompt, draw_seed("greedy", prompt.problem_id)) for prompt in prompts]
        for problem_id, sample in zip(part, engine.sample(requests, Sampling(64, temperature=0.0)), strict=True):
            text = base.tokenizer.decode(sample.token_ids_T, skip_special_tokens=True)
            answer = book.problems[problem_id].answer
            found[problem_id] = grade(text, answer, truncated=sample.finish_reason == "length").accuracy
    return found


def share(values: dict[str, float], book, chosen) -> float:
    return float(np.mean([v for p, v in values.items() if chosen(KINDS[book.problems[p].category])]))


if __name__ == "__main__":
    main()
