"""What steps and the leak audit cost: 39,000 problems, as many as ViRL39K has.

steps: cut from worked solutions of about 100 words, joined to hints and audited, as build-hints does it.
audit: hints of about 100 words, one in ten of which gives its answer away: results of the solution, rules, flags.
Steps are made by two processes, half of the problems each, as two tasks with `--shard` would; the audit by one.
Texts are put together from sentences like those that models write. Prints JSON and stores it in results/.

    python benchmarks/hints.py
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from record import about, load_now, store

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.hints.leakage import find_flags, leak_of
from ptdpo_cli.hints.steps import draft_from_steps
from ptdpo_cli.stages.build_hints import each, hints_of

RESULTS = Path(__file__).parent / "results" / "hints.json"
HINTS, WORDS, SEED = 39_000, 100, 0
PROCESSES = 2

SENTENCES = (
    "Start at the {place} of the figure and find the side that is marked with a tick.",
    "Read the value at the {place}, then compare it with the {b} that the question gives.",
    "Use that the angles of a triangle add up to 180 degrees before you turn to the {place}.",
    "Look for the two {thing} that lie next to each other; they have the same height.",
    "Ignore the {thing} at the {place}: they are there to distract.",
    "Work from left to right and keep a running total of what each row holds.",
    "The scale on the {place} axis has one mark for every step, so count them with care.",
    "Set up a proportion between the small and the large triangle, and solve it for the unknown side.",
    "Check whether the line through the {place} is parallel to the base; the marks on both sides tell.",
    "Convert all lengths to the same unit before you add them, and round at the end only.",
    "Each of the {thing} counts once; do not forget those that are partly hidden at the {place}.",
    "Think of how the area changes when both sides are doubled, and write this as a factor.",
)
GIVES_AWAY = (
    "You should find {answer} in the end.", "There the total comes to {answer}.", "Expect about {answer} of them.",
)
PLACES = ("top", "left edge", "lower right corner", "centre", "upper half", "vertical", "bottom row", "second column")
THINGS = ("bars", "triangles", "cells", "circles", "labels", "segments", "arrows", "points")
QUESTIONS = (
    "In the figure, AB is {a} cm long and CD is {b} cm long. What is the area of the shaded region?",
    "How many more {thing} does the {place} of the chart show than the {b} that were there before?",
    "Which value is largest?\nChoices:\nA. {a}\nB. {b}\nC. {c}\nD. {answer}",
)
SOLUTION = (
    "From the figure, the first part is {p} and the second part is {q}. Then {p} + {q} = {r}. "
    "Multiplying by the factor gives {r} × {b} = {s}. So the total is {s} - {c} = {answer}."
)
LONG_SOLUTION = (
    "To find the shaded area, we first look at the large triangle at the {place}. Its base is marked with {a} cm and its "
    "height with {b} cm. Using the area formula, the area of the large triangle is \\frac{{1}}{{2}} \\cdot {a} \\cdot {b} = {r}. "
    "Next, the two {thing} beside it are congruent, because their sides are parallel. Since each of them has an area of {p}, "
    "together they have {q}. Therefore, the remaining part is {r} - {q} = {s}. Finally, we subtract the small square in the "
    "middle, whose side is {c}, so the shaded area is {s} - {c} = {answer}. Hence the answer is {answer}."
)


def make(rng: np.random.Generator, number: int) -> tuple[str, Problem]:
    """A hint of about 100 words and its problem."""
    values = {name: int(rng.integers(10, 1000)) for name in "abcpqrs"} | {"answer": int(rng.integers(1000, 10_000))}
    words = {"place": str(rng.choice(PLACES)), "thing": str(rng.choice(THINGS))}
    hint: list[str] = []
    for sentence in rng.permutation(SENTENCES).tolist():
        if sum(done.count(" ") + 1 for done in hint) >= WORDS:
            break
        hint.append(sentence.format(place=rng.choice(PLACES), thing=rng.choice(THINGS), **values))
    if number % 10 == 0:
        hint.insert(len(hint) // 2, GIVES_AWAY[int(rng.integers(len(GIVES_AWAY)))].format(**values))
    question = QUESTIONS[int(rng.integers(len(QUESTIONS)))].format(**values, **words)
    answer = "D" if "Choices" in question else str(values["answer"])
    return " ".join(hint), Problem(str(number), question, (), answer, solution=SOLUTION.format(**values))


def worked(rng: np.random.Generator, number: int) -> Problem:
    """A problem with a solution of about 100 words."""
    values = {name: int(rng.integers(10, 1000)) for name in "abcpqrs"} | {"answer": int(rng.integers(1000, 10_000))}
    values |= {"place": str(rng.choice(PLACES)), "thing": str(rng.choice(THINGS))}
    solution = LONG_SOLUTION.format(**values)
    return Problem(str(number), QUESTIONS[0].format(**values), (), str(values["answer"]), solution=solution)


def make_steps(numbers: range) -> dict:
    """Seconds of one process that makes hints of these problems' solutions, as build-hints does."""
    problems = [worked(np.random.default_rng([SEED, number]), number) for number in numbers]
    start, processor_start = time.perf_counter(), time.process_time()
    made = hints_of(problems, {"steps": each(partial(draft_from_steps, read="solution", max_steps=6))}, audit=True)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": time.process_time() - processor_start,
        "words": round(float(np.mean([one.solution.count(" ") + 1 for one in problems])), 1),
        "hints": sum(hint.text is not None for hint in made),
        "refused": sum(hint.refusal is not None for hint in made),
        "example": made[0].text,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hints", type=int, default=HINTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    rows = [make(rng, number) for number in range(options.hints)]
    load = load_now()
    reasons, flags = Counter(), 0
    start, processor_start = time.perf_counter(), time.process_time()
    for text, problem in rows:
        leak = leak_of(text, problem)
        reasons[leak.reason if leak else "passed"] += 1
        if leak is None:
            flags += bool(find_flags(text, problem.question, problem.solution))
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    halves = [range(part, options.hints, PROCESSES) for part in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES) as pool:
        parts = list(pool.map(make_steps, halves))
    steps = {
        "processes": PROCESSES,
        "seconds": max(part["seconds"] for part in parts),
        "processor_seconds": round(sum(part["processor_seconds"] for part in parts), 1),
        "words_per_solution": parts[0]["words"],
        "hints": sum(part["hints"] for part in parts),
        "refused": sum(part["refused"] for part in parts),
        "example": parts[0]["example"],
    }
    result = {
        **about(load),
        "seed": SEED,
        "hints": len(rows),
        "steps_and_audit": steps,
        "words_per_hint": round(float(np.mean([text.count(" ") + 1 for text, _ in rows])), 1),
        "audit": {
            "seconds": round(seconds, 1),
            "processor_seconds": round(processor_seconds, 1),
            "processor_microseconds_per_hint": round(1e6 * processor_seconds / len(rows)),
            "found": dict(reasons.most_common()),
            "flagged": flags,
        },
    }
    store(result, options.out)


if __name__ == "__main__":
    main()
