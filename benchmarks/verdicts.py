"""Seconds of verdicts, easy ones and hostile ones, and of references: writes benchmarks/results/verdicts.json.

    python benchmarks/verdicts.py [--verdicts 50000] [--references 50000] [--limit 1]

Easy: answers of every type as data sets and models write them, each number with its second check; what is remembered
of equal answers counts, so most of them differ. Hostile: each must cost no more than its time limit. References: each
is typed by its form and proves itself (rewards/proof.py), as when data are read; nearly all of them differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections import Counter
from datetime import date
from pathlib import Path

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets.answers import valued
from ptdpo_cli.rewards import Grade, Response, check_answers, grade_all, workers

OUT = Path(__file__).parent / "results" / "verdicts.json"
WAYS = ("boxed", "tag", "phrase", "letter")
# Powers of powers, deep nesting, factorials, long sums, towers of roots: all to an expression that is never equal.
HOSTILE = {
    "a tower of powers": "9^{9^{9^{9^{9}}}}",
    "a power": "9^{9^{9}}",
    "a large factorial": "(10^{7})!",
    "a factorial of a factorial": "((20!)!)!",
    "brackets, 25 deep": "(" * 25 + "x" + ")" * 25,
    "brackets, 400 deep": "(" * 400 + "x" + ")" * 400,
    "fractions, 28 deep": "\\frac{1}{1+" * 28 + "x" + "}" * 28,
    "roots, 28 deep": "\\sqrt{2+" * 28 + "2" + "}" * 28,
    "a product to expand": "(x+y+z+w+1)^{60} - (x+y+z+w+2)^{60}",
    "a long sum": "+".join(f"x^{{{i}}}" for i in range(120)),
    "a sine of a large number": "\\sin(10^{10^{8}})",
    "10,000 digits": "7" * 10_000,
    "an open brace": "\\frac{" * 300,
    "an integral": "\\int_0^1 x^{x^{x}} \\sin(x^{x}) dx",
    "a sum to infinity": "\\sum_{n=1}^{\\infty} \\frac{\\sin(n)}{n^{n}}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=int, default=50_000)
    parser.add_argument("--references", type=int, default=50_000)
    parser.add_argument("--limit", type=float, default=1.0, help="seconds of a hostile answer")
    args = parser.parse_args()
    easy = easy_responses(args.verdicts, random.Random(0))
    started = time.perf_counter()
    grades = grade_all(easy, extraction=WAYS)
    seconds = time.perf_counter() - started
    written = references(args.references, random.Random(0))
    started = time.perf_counter()
    typed = [Problem(str(k), "", (), *_named(valued(text))) for k, text in enumerate(written)]
    unfit = check_answers(typed)
    proof_seconds = time.perf_counter() - started
    hostile = {name: hostile_seconds(text, args.limit) for name, text in HOSTILE.items()}
    agreed = [grade.agreed for grade in grades if grade.agreed is not None]
    result = {
        "easy": {
            "verdicts": len(easy),
            "seconds": seconds,
            "verdicts_per_s": len(easy) / seconds,
            "different_answers": len({(one.problem.answer, one.text) for one in easy}),
            "types": Counter(one.problem.answer_type for one in easy),
            "outcomes": Counter(grade.outcome for grade in grades),
            "second_checks": len(agreed),
            "agreement": sum(agreed) / len(agreed),
        },
        "references": {
            "references": len(written),
            "different": len(set(written)),
            "seconds": proof_seconds,
            "types": Counter(problem.answer_type for problem in typed),
            "unfit": len(unfit),
        },
        "hostile": {"time_limit_s": args.limit, "answers": hostile},
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg(),
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def references(n: int, rng: random.Random) -> list[str]:
    """References as sets of school problems write them; a fifth of them are plain numbers."""
    return [_reference(rng) for _ in range(n)]


def _reference(rng: random.Random) -> str:
    a, b, c = rng.randint(2, 9_999), rng.randint(2, 999), rng.randint(2, 99)
    return rng.choice((
        f"{a}", f"$${a}$$", f"{a / 100:.2f}", f"$\\frac{{{a}}}{{{b}}}$", f"{a}$\\sqrt{{{b}}}$", f"{a}^\\circ",
        f"$${a}$$ $${b}$$", f"{a}\n{b}\n{c}", f"{a} or {b}", f"Area $={a} \\mathrm{{~cm}}^{{2}}$", f"AB = {a}.",
        f"{a / 10} m", f"$({a},-{b})$", f"[{c}, {a + c})", f"${b}:{a}$", f"$y=-{c}x+{a}$", f"{c}n+{a}.",
        f"$\\frac{{{a}\\pi}}{{{b}}}$", f"$\\frac{{{a}}}{{{c}}}x-{b}$", f"$x > {a}$",
    ))


def _named(valued: tuple[str, str]) -> tuple:
    """Answer, category, solution, regions, steps and type, as `Problem` has them."""
    answer, answer_type = valued
    return answer, "", None, (), (), answer_type


def easy_responses(n: int, rng: random.Random) -> list[Response]:
    """Answers of all types; about half of them are right."""
    return [_response(rng) for _ in range(n)]


def _response(rng: random.Random) -> Response:
    a, b = rng.randint(2, 9_999), rng.randint(2, 99)
    off = rng.choice((0, 1))
    kind = rng.choices(("integer", "float", "choice", "text", "list", "set", "expression"), (30, 30, 20, 8, 4, 4, 4))[0]
    choices: tuple[str, ...] = ()
    if kind == "integer":
        answer, n = str(a), a + off
        said = rng.choice((f"{n}", f"{n}", f"{n:,}", f"{n}^\\circ", f"x = {n}"))
    elif kind == "float":
        answer = f"{a / 100:.2f}"
        said = rng.choice((f"{a / 100 + off:.2f}", f"{a / 100 + off:.3f}", f"\\frac{{{a + 100 * off}}}{{100}}"))
    elif kind == "choice":
        choices, answer = tuple(str(a + i) for i in range(4)), rng.choice("ABCD")
        said = rng.choice((answer, f"({answer})", f"{rng.choice('ABCD')}. {a}", choices["ABCD".index(answer)]))
    elif kind == "text":
        answer, said = "isosceles", rng.choice(("\\text{Isosceles}", "scalene"))
    elif kind == "list":
        answer, said = f"[{a}, {b}]", f"{a}, {b + off}"
    elif kind == "set":
        answer, said = "A, C", rng.choice(("AC", "C and A", "B"))
    else:       # as many as a data set of 2,000 problems has
        a = a % 40 + 1
        answer, said = f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{b}}} \\cdot {a + off}"
    problem = Problem("p", "", (), answer, answer_type=kind, choices=choices)
    text = f"<think>{'So the side is known. ' * 20}</think>\nTherefore, the answer is \\boxed{{{said}}}."
    return Response(problem, text, False, 120)


def hostile_seconds(text: str, limit: float) -> dict:
    """The outcome of one hostile answer to an expression and to a float, and its seconds."""
    found: dict[str, dict] = {}
    for answer_type, answer in (("expression", "y + 1"), ("float", "3.14")):
        problem = Problem("p", "", (), answer, answer_type=answer_type)
        workers.pool().run([], time_limit_s=limit)      # the one before may have cost a worker
        started = time.perf_counter()
        (grade,) = grade_all([Response(problem, f"\\boxed{{{text}}}", False, 1)], time_limit_s=limit)
        found[answer_type] = {"outcome": grade.outcome, "seconds": round(time.perf_counter() - started, 3)}
        _require_wrong(grade)
    return found


def _require_wrong(grade: Grade) -> None:
    if grade.accuracy:
        raise SystemExit(f"a hostile answer counts as right: {grade}")


if __name__ == "__main__":
    main()
