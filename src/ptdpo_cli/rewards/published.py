"""The verdict by each data set's own published rule, weaknesses and all, so that figures can be set beside others'.

It is shown beside the accuracy and never takes its place. Where the published pipeline lets a language model find the
answer in the response, our extraction stands in for it; where one also gives the verdict (MathVerse, MathVision's
judged score), there is none here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from string import ascii_uppercase

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.mathtext import plain, words
from ptdpo_cli.rewards import workers
from ptdpo_cli.rewards.choices import letter_set
from ptdpo_cli.rewards.extract import WAYS, extract
from ptdpo_cli.rewards.format import after_thought
from ptdpo_cli.rewards.verify import expression, number

Ask = Callable[[str, str], bool]        # (found, gold) -> equal by algebra


def published(said: Sequence[tuple[str, Problem]], *, time_limit_s: float = 5.0) -> list[float | None]:
    """Of each response, by the rule of its problem's source: 1.0, 0.0, or None where that has no deterministic rule.

    The rules are gone through twice: what needs algebra is first collected, and asked in one batch.
    """
    asked: dict[tuple, bool] = {}

    def equal(found: str, gold: str) -> bool:
        return asked.setdefault(("equal", expression(found), expression(gold)), False)

    def verdicts() -> list[float | None]:
        rules = [_rule_of(problem.source) for _, problem in said]
        return [rule and float(rule(text, problem, equal)) for rule, (text, problem) in zip(rules, said, strict=True)]

    first = verdicts()
    if not asked:
        return first
    results = workers.ask(list(asked), time_limit_s=time_limit_s)
    asked = {task: result.value is True for task, result in zip(asked, results, strict=True)}
    return verdicts()


def _rule_of(source: str) -> Callable[[str, Problem, Ask], bool] | None:
    return _mathruler if source.startswith("papo-") else _RULES.get(source)


def _mathvista(text: str, problem: Problem, _: Ask) -> bool:
    """A choice: the letter's option, or else the option nearest by edit distance; a number: rounded, then equal.

    Source: MathVista's `normalize_extracted_answer` and `safe_equal`, as lmms-eval has them.
    Weakness: any noise is nearest to some option, so it scores at chance; rounding and comparing text loses "0.50".
    Differs from the source in: 1) our extraction in place of GPT's, a number's unit and LaTeX taken off; 2) numbers
    are compared as numbers; 3) a tie of distances goes to the first option.
    """
    found = _short(text, problem)
    if (gold := _gold_option(problem)) is not None:
        letter = re.search(r"^\(?([A-Z])\)?[.:]?$", found.strip()) or re.search(r"\(([A-Za-z])\)", found)
        index = ord(letter[1].upper()) - ord("A") if letter else len(problem.choices)
        if index < len(problem.choices):
            return problem.choices[index] == gold
        return min(problem.choices, key=lambda choice: edit_distance(found[:500], choice)) == gold
    if problem.answer_type not in ("integer", "float"):
        return found == problem.answer
    value, gold = number(found), number(problem.answer)
    if value is None or gold is None:
        return False
    if problem.answer_type == "integer":
        return int(value) == int(gold)
    decimals = problem.precision if problem.precision is not None else len(problem.answer.partition(".")[2])
    return round(value, decimals) == round(gold, decimals)


def _mathvision(text: str, problem: Problem, equal: Ask) -> bool:
    """The last box, or what follows "answer is", equals the letter or the text of its option.

    Source: MathVision's evaluation in lmms-eval (`mathvision_standard_eval`).
    Weakness: letters beyond E are not cleaned of brackets.
    Differs from the source in: equality by our normal form and math-verify, not by its own `is_equal`.
    """
    found = _short(text, problem, ("boxed", "phrase", "letter"))
    cleaned = re.sub(r"[({]([A-Ea-e])[)}]", r"\1", found).rstrip(".").lstrip(":").strip()
    golds = [problem.answer]
    if (option := _gold_option(problem)) is not None:
        golds.append(option)
    return any(_equal(cleaned, gold, equal) for gold in golds)


def _mmmu(text: str, problem: Problem, _: Ask) -> bool:
    """A choice: the last "(B)", else " B ", else "B." of the response, else the last option text in a longer one.
    Open: the reference in lower case occurs inside a key part of the response, or a number of it is equal when both
    are rounded to 2 decimals.

    Source: the authors' `parse_multi_choice_response`, `parse_open_response` and `eval_open`, as lmms-eval has them.
    Weakness: the article "A " is a letter; "no" occurs inside "north", so a long response passes by accident.
    Differs from the source in: 1) where it draws an option at random, because it finds none, this is wrong; 2) a
    response with a box is replaced by what stands in it.
    """
    answer = _boxed_or_all(text)
    if problem.answer_type == "choice":
        return _mmmu_letter(answer, problem.choices) == problem.answer.strip().upper()
    key = _mmmu_key_parts(answer)
    numbers = {round(float(one), 2) for part in key for one in re.findall(_MMMU_NUMBER, part.replace(",", ""))}
    gold = problem.answer.strip().lower()
    with suppress(ValueError):
        return round(float(gold.replace(",", "")), 2) in numbers
    golds = (f" {gold}", f"{gold} ") if len(gold) == 1 else (gold,)
    return any(one in part for one in golds for part in key)


def _mmmu_pro(text: str, problem: Problem, _: Ask) -> bool:
    """The one letter that stands anywhere behind the last "Answer:"; where none does, or several do, MMMU's letter.

    Source: `parse_multi_choice_response` of the authors' evaluator (MMMU-Benchmark/MMMU, mmmu-pro/evaluate.py).
    Weakness: behind "Answer:" the E of "Evidence" is a letter; without it the article "A " is one, as in MMMU.
    Differs from the source in: 1) where it draws an option at random, because it finds none, this is wrong; 2) a
    thought is not read; 3) where "Answer:" does not decide, a response with a box is replaced by what stands in it.
    """
    _, mark, behind = (after_thought(text) or "").rpartition("Answer:")
    named = [letter for letter in ascii_uppercase[: len(problem.choices)] if mark and letter in behind]
    found = named[0] if len(named) == 1 else _mmmu_letter(_boxed_or_all(text), problem.choices)
    return found == problem.answer.strip().upper()


_MMMU_NUMBER = re.compile(r"-?(?:\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})(?:e[+-]?\d{1,3})?")
_MMMU_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


def _mmmu_letter(answer: str, choices: Sequence[str]) -> str | None:
    padded = f" {answer.strip(',.!?;:' + chr(39))} "
    letters = ascii_uppercase[: len(choices)] or "ABCD"
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if named := [letter for letter in letters if form.format(letter) in padded]:
            return max(named, key=lambda letter: padded.rfind(place.format(letter)))
    said = {letter: padded.lower().rfind(text.lower()) for letter, text in zip(letters, choices, strict=False)}
    named = [letter for letter, place in said.items() if place >= 0]
    return max(named, key=said.__getitem__) if named and len(padded.split()) > 5 else None


def _mmmu_key_parts(answer: str) -> list[str]:
    lines = answer.strip().strip(".").lower().split("\n")
    parts = []
    for line in lines:
        keys = (*_MMMU_KEYS, "=") if line is lines[-1] else _MMMU_KEYS
        tails = [line.rpartition(key)[2].strip() for key in keys if key in line]
        if tails and (shortest := min(tails, key=len)) not in ("", *":,.!?;'"):
            parts.append(shortest)
    return parts or ["\n".join(lines)]


def _logicvista(text: str, problem: Problem, _: Ask) -> bool:
    """The letters, in lower case, sorted and joined, are the same.

    Source: VLMEvalKit's `normalize_logicvista_answer`.
    Weakness: an option's text is no answer.
    Differs from the source in: our extraction in place of a language model's, so that a letter said twice counts once.
    """
    found = letter_set(_short(text, problem), ())
    return found is not None and found == letter_set(problem.answer, ())


def _dynamath(text: str, problem: Problem, _: Ask) -> bool:
    """Numbers within 0.001, π read; letters equal; a text is right when it is contained in the reference.

    Source: VLMEvalKit's `DynaMath_auxeval`.
    Weakness: a text of one letter that the reference holds is right.
    Differs from the source in: 1) our extraction in place of JSON or a language model; 2) an empty text is wrong.
    """
    found = _short(text, problem)
    if problem.answer_type in ("float", "integer"):
        value, gold = number(found), number(problem.answer)
        with suppress(ValueError, OverflowError):
            return gold is not None and abs((_with_pi(found) if value is None else value) - gold) <= 0.001
        return False
    if problem.answer_type == "choice":
        named = [letter for letter in "ABCDE" if letter in found.upper()] if len(found) != 1 else [found.upper()]
        return named == [problem.answer.strip().upper()]
    return plain(found).lower() in problem.answer.lower() and bool(found)


def _with_pi(text: str) -> float:
    first = (text.split() or [""])[0]
    return float(first.partition("π")[0]) * (3.141592653589793 if "π" in first else 1.0)


def _mmstar(text: str, problem: Problem, _: Ask) -> bool:
    """The response begins with the letter, "(" and the letter, "option " or "the answer is " and the letter.

    Source: MMStar's `exact_match`, as lmms-eval has it.
    Weakness: "All of them" begins with A; a reasoned or boxed answer is not read at all. So the box is read first.
    Differs from the source in: a response with a box is replaced by what stands in it.
    """
    said, gold = (_boxed_or_all(text)).strip().lower(), problem.answer.strip().lower()
    return any(said.startswith(before + gold) for before in ("", "(", "option ", "the answer is "))


def _hallusionbench(text: str, problem: Problem, _: Ask) -> bool:
    """The response has the word "yes" and not "no", or the other way round, as the reference says.

    Source: VLMEvalKit's `YOrN_Extraction`; the authors and lmms-eval let a language model compare.
    Weakness: "no" as a word of the explanation makes a right "yes" unknown.
    Differs from the source in: a response with a box is replaced by what stands in it.
    """
    words = set(re.findall(r"[a-z]+", _boxed_or_all(text).lower()))
    gold = {"1": "yes", "0": "no"}.get(problem.answer.strip(), problem.answer.strip().lower())
    return words & {"yes", "no"} == {gold}


def _wemath(text: str, problem: Problem, _: Ask) -> bool:
    """The first character after the last "Answer", without `<>:.` and spaces, is the letter.

    Source: We-Math's `load_and_process_data`, as VLMEvalKit has it. Weakness: "(B)" is not read.
    Differs from the source in: a response with a box is replaced by what stands in it.
    """
    last = _boxed_or_all(text).rpartition("Answer")[2]
    return re.sub(r"[<>:.]", "", last).strip()[:1] == problem.answer.strip().upper()


def _mathruler(text: str, problem: Problem, equal: Ask) -> bool:
    """The last box equals the reference in a normal form, or by algebra; of integers only the same one does.

    Source: mathruler's `grade_answer(extract_boxed_content(response), answer)`, with which EasyR1 and PAPO train and
    evaluate. Weakness: the box is read in an unfinished thought too.
    Differs from the source in: 1) algebra by math-verify, not by sympy's own parser; 2) unreduced fractions pass.
    """
    found = extract(text.replace("<think>", " ").replace("</think>", " "), ("boxed",))
    return found is not None and _equal(found[0], problem.answer, equal)


_RULES: dict[str, Callable[[str, Problem, Ask], bool]] = {
    "mathvista": _mathvista,
    "mathvision": _mathvision,
    "mmmu": _mmmu,
    "mmmu-pro": _mmmu_pro,
    "logicvista": _logicvista,
    "dynamath": _dynamath,
    "mmstar": _mmstar,
    "hallusionbench": _hallusionbench,
    "we-math": _wemath,
    "geometry3k": _mathruler,
    "mmk12": _mathruler,
}


def _gold_option(problem: Problem) -> str | None:
    """The text of the right option, where the options are known."""
    index = ord(problem.answer.strip().upper()[:1] or "?") - ord("A")
    is_known = problem.answer_type == "choice" and 0 <= index < len(problem.choices)
    return problem.choices[index] if is_known else None


def _short(text: str, problem: Problem, ways: Sequence[str] = WAYS) -> str:
    """The short answer that a published rule begins with; "" where there is none."""
    found = extract(text, ways, choices=problem.choices, answer_type=problem.answer_type)
    return found[0] if found else (after_thought(text) or "").strip() if len(text) < 200 else ""


def _boxed_or_all(text: str) -> str:
    found = extract(text, ("boxed",))
    return found[0] if found else after_thought(text) or ""


def _equal(found: str, gold: str, equal: Ask) -> bool:
    first, second = words(found), words(gold)
    if first == second or not first:
        return bool(first)
    values = number(found), number(gold)
    if None not in values:
        return values[0] == values[1]
    # No algebra between words: it would read them as products of letters.
    is_algebra = all(len(one) < 200 and re.search(r"[0-9\\^=+*/(]|^.$", one) for one in (first, second))
    return is_algebra and equal(found, gold)


def edit_distance(one: str, other: str) -> int:
    """Levenshtein: the least number of characters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]
