"""Source `steps`: what to do, without what comes out, from how somebody did it.

A solution is undressed (LaTeX, thought, list marks), cut into clauses, and each clause is turned from what came out
into what to do: "The bar for 2010 is 40" into "Read the bar for 2010." A clause that no rule knows is left out, and so
is the last computation: a hint says less rather than too much. The rules are English and take linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.hints.clauses import BOX, Clause, clauses_of, is_english
from ptdpo_cli.hints.leakage import Secret, find_leak, plain, secret_of
from ptdpo_cli.hints.numbers import Value, numbers_in, size
from ptdpo_cli.hints.rewording import Step, reword, reword_list, without_numbers
from ptdpo_cli.hints.sources import Draft

MIN_STEPS = 2
MAX_WORDS = 25


def draft_from_steps(
    problem: Problem, *, read: str = "auto", rollout: str | None = None, max_steps: int = 6
) -> Draft:
    """The data set's own steps as they are, or 2 to `max_steps` imperatives cut from its solution or a right `rollout`.

    `auto` takes the first of these three that gives any.
    """
    if read in ("auto", "steps") and problem.steps:
        return Draft(steps=problem.steps)
    texts = {"the solution": problem.solution, "the rollout": rollout}
    wanted = {"auto": tuple(texts), "steps": (), "solution": ("the solution",), "rollouts": ("the rollout",)}[read]
    faults = []
    for name in wanted:
        if text := texts[name]:
            if not is_english(text):
                faults.append(f"{name} is not in English, which is all that the rules know")
                continue
            steps = steps_from_text(
                text, answer=problem.answer, question=problem.question, choices=problem.choices, max_steps=max_steps
            )
            if len(steps) >= MIN_STEPS:
                return Draft(steps=steps)
            faults.append(f"the rules find {len(steps) or 'no'} sound step{'' if len(steps) == 1 else 's'} in {name}")
    return Draft(fault="; ".join(faults) or _ABSENT[read])


_ABSENT = {
    "auto": "the problem has neither steps nor a solution nor a right rollout",
    "steps": "the problem has no steps of its own",
    "solution": "the problem has no solution",
    "rollouts": "no rollout of the problem is right",
}


def steps_from_text(
    text: str, *, answer: str, question: str = "", choices: Sequence[str] = (), max_steps: int = 6
) -> tuple[str, ...]:
    """At most `max_steps` imperatives that say how the text goes about it, free of what it found; maybe none.

    No number stays that the question does not hold, and nothing in which `find_leak` sees a leak.
    """
    clauses = clauses_of(text)
    steps = reword_list(clauses)
    if not steps:
        steps = _reworded(clauses, secret_of(question, answer, tuple(choices)))
    known = {value for number in numbers_in(question) for value in number.values}
    sound = []
    for step in steps:
        step = step if _is_sound(step.text, known) else replace(step, text=without_numbers(step.text))
        if _is_sound(step.text, known) and len(step.text.split()) <= MAX_WORDS:
            sound.append(step)
    return _free_of_leaks(_fewest(_in_order(sound), max_steps), answer, question, choices)


def _reworded(clauses: Sequence[Clause], secret: Secret) -> list[Step]:
    """What to do for each clause but the last computation and those that hold the answer."""
    holds_answer, is_numeric = _finder(secret)
    facts = "check" if secret.verdict else "use" if is_numeric else "premises"
    results = (i for i in reversed(range(len(clauses))) if clauses[i].states_result and clauses[i].text != BOX)
    final = next(results, len(clauses))
    steps: list[Step] = []
    spoiled: list[tuple[int, Step]] = []        # what would be said of a clause that holds the answer, and its place
    for i, clause in enumerate(clauses):
        is_held = holds_answer(clause.text)
        if is_held and (told := reword(clause, facts=facts)):
            spoiled.append((len(steps), told))
        if step := reword(clause, is_last=is_held or i == final, facts=facts):
            steps.append(step)
    # A number comes out where it is stated last; before, it may stand for something else that is as large.
    return _level(steps, spoiled[:-1] if is_numeric else spoiled, is_numeric)


def _level(steps: list[Step], spoiled: list[tuple[int, Step]], is_numeric: bool) -> list[Step]:
    """Of readings of one form ("Read the bar for …") either all or none, though one of them holds the answer.

    A number that happens to be the answer too is not told by saying where to read it; but to leave out the one thing
    that is the answer, and name the others, would tell it.
    """
    for place, step in reversed(spoiled):
        form = step.text.split()[:3]
        others = [one for one in steps if one.text.split()[:3] == form]
        if others and not is_numeric:
            steps = [one for one in steps if one not in others]
        elif others and form[0] in ("Read", "Count", "Find"):
            steps = [*steps[:place], step, *steps[place:]]
    return steps


def _finder(secret: Secret) -> tuple[Callable[[str], bool], bool]:
    """Whether a clause holds an answer, a number by its value and anything else by its words; whether one is a number.
    """
    values = {size(value) for number in (*secret.numbers, *secret.components) for value in number.values}
    texts = [f" {phrase} " for _, phrase in secret.phrases if len(phrase) > 1]

    def holds_answer(clause: str) -> bool:
        if values:
            result = clause.rpartition("=")[2]      # what stands left of it went into the result
            if any(_value(*digits) in values for digits in _DIGITS.findall(result)):
                return True
        words = f" {plain(clause)} " if texts else ""
        return any(text in words for text in texts)

    return holds_answer, bool(values)


_DIGITS = re.compile(r"(?<![\w.,])((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?)(?:/([0-9]+)(?![\w.]))?")


def _value(digits: str, over: str) -> float | None:
    bottom = int(over) if over else 1
    return float(digits.replace(",", "")) / bottom if bottom else None


# "the two triangles" counts nothing that was to be found, "angle 1" is a name; if it is the answer, `find_leak` says.
_BOTH = re.compile(
    r"\b(?:the|these|those|its|their|both|other|all)\s+(?:two|three|four)\b"
    r"|\b(?:angle|line|figure|image|picture|region|graph|circle|triangle)\s+[1-9]\b(?!\s*[.\d°])",
    re.IGNORECASE,
)


_CONSTANTS: set[Value] = {Fraction(0), ("π", Fraction(1))}


def _is_sound(step: str, known: set[Value]) -> bool:
    """Whether every number in it is one that the question holds, or one that everybody knows."""
    return all(number.values & (known | _CONSTANTS) for number in numbers_in(_BOTH.sub("", step)))


def _in_order(steps: Iterable[Step]) -> list[Step]:
    """Each step once; what is found after an equation for it was set up is solved for."""
    unknowns: set[str] = set()
    seen: dict[str, Step] = {}
    for step in steps:
        if (match := re.fullmatch(r"Set up an equation for (\w+)\.", step.text)):
            unknowns.add(match[1])
        elif (match := re.match(r"Find (\w+)\b", step.text)) and match[1] in unknowns:
            step = Step(f"Solve for {match[1]}.", step.weight)
        seen.setdefault(step.text.lower(), step)
        if " to find " in step.text:        # and needs not be told once more
            seen.setdefault(f"find {step.text.rpartition(' to find ')[2]}".lower(), step)
    return list({id(step): step for step in seen.values()}.values())


def _fewest(steps: list[Step], max_steps: int) -> list[str]:
    """At most `max_steps`: neighbours of one verb joined where there are more, then the least telling left out."""
    while len(steps) > max_steps:
        pairs = [i for i in range(len(steps) - 1) if _joined(steps[i].text, steps[i + 1].text)]
        if pairs:
            i = min(pairs, key=lambda i: len(steps[i].text) + len(steps[i + 1].text))
            both = Step(_joined(steps[i].text, steps[i + 1].text), max(steps[i].weight, steps[i + 1].weight))
            steps = [*steps[:i], both, *steps[i + 2:]]
        else:
            least = min(reversed(range(len(steps))), key=lambda i: steps[i].weight)
            steps = [*steps[:least], *steps[least + 1:]]
    return [step.text for step in steps]


def _joined(first: str, second: str) -> str:
    """"Read A." and "Read B." as "Read A, then B."; empty where they do not go together."""
    verb, _, rest = first.partition(" ")
    other, _, more = second.partition(" ")
    both = f"{verb} {rest.removesuffix('.')}, then {more}"
    return both if verb == other and verb in ("Read", "Find", "Count") and len(both.split()) <= 16 else ""


def _free_of_leaks(steps: list[str], answer: str, question: str, choices: Sequence[str]) -> tuple[str, ...]:
    """The steps but for those in which the leak check, looking at all of them, finds something."""
    while steps:
        leak = find_leak(" ".join(steps), answer, question=question, choices=choices)
        if leak is None:
            break
        start, at = leak.span[0], 0
        for i, step in enumerate(steps):
            at += len(step) + 1
            if start < at:
                steps = [*steps[:i], *steps[i + 1:]]
                break
        else:
            return ()
    return tuple(steps)
