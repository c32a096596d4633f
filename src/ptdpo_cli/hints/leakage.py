"""Whether a hint gives the answer away. A hint may say where to look and what to do there, never what comes out.

When in doubt a hint is refused: its problem then trains without a teacher, whereas a leaked answer teaches guessing.
The rules are in `find_leak`, one line each, in the order in which they are tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 2048

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Leak:
    """Why a hint is refused, and the characters of the hint that show it."""

    reason: str
    span: Span


def find_leak(
    hint_text: str,
    answer: str,
    *,
    question: str = "",
    choices: Sequence[str] = (),
    steps_results: Sequence[str] = (),
) -> Leak | None:
    """The first thing in the hint that gives the answer away, or that no hint may be; None if there is none.

    Numbers count by value in any spelling ("12", "twelve", "24/2", "12 %"), whatever their sign, and are allowed where
    the question holds the same value. Ordinals ("first row") and "one" as a pronoun ("each one", "one of") are no
    numbers. `steps_results` are intermediate results of the solution, refused like the answer.

    Source: the quality check of arXiv 2606.07000, section 2.3. Differs from the paper in: its rules are not published.
    """
    if not hint_text.strip():
        return Leak("the hint is empty", (0, 0))
    if len(hint_text) > MAX_CHARACTERS:
        return Leak(f"the hint is longer than {MAX_CHARACTERS} characters", (MAX_CHARACTERS, len(hint_text)))
    answers = [answer, *_choice_meant(answer, choices)]
    known = {value for values, _ in _numbers(question) for value in values}
    checks = (
        ("the hint repeats itself", _repetition(hint_text)),
        ("the hint announces a solution", _match(_SOLUTION_PHRASE, hint_text)),
        ("the hint gives a verdict", _verdict(hint_text, answer)),
        ("the hint names the option", _option_letter(hint_text, answers, question)),
        ("the hint contains the answer", _any_answer(hint_text, answers, known)),
        ("the hint states a result", _stated_result(hint_text, answers, known)),
        ("the hint contains an intermediate result", _any_answer(hint_text, steps_results, known)),
    )
    return next((Leak(reason, span) for reason, span in checks if span), None)


# ---- numbers in any spelling -----------------------------------------------------------------------------------------

_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORD_VALUES = {word: i for i, word in enumerate(_UNITS)} | {word: 10 * (i + 2) for i, word in enumerate(_TENS)}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10
}
_SMALL = rf"(?:(?:{'|'.join(_TENS)})(?:[\s-]+(?:{'|'.join(_UNITS[1:10])})\b)?|{'|'.join(_UNITS)})\b"      # 0…99
_DIGITS = r"[0-9]{1,3}(?:,[0-9]{3})++(?:\.[0-9]++)?|[0-9]++(?:\.[0-9]++)?|\.[0-9]++"
_NUMBER = re.compile(
    rf"""
    \\[dt]?frac\{{(?P<top>[0-9]++)\}}\{{(?P<bottom>[0-9]++)\}}
    | (?<![A-Za-z0-9_]) (?P<digits>{_DIGITS}) (?: \s?/\s? (?P<over>[0-9]++) )? (?! st\b|nd\b|rd\b|th\b|[0-9] )
    | \b (?P<words> (?: {_SMALL} | (?:hundred|thousand)\b )
         (?: [\s-]+ (?:hundred|thousand)\b (?: [\s-]+ (?:and\s+)? {_SMALL} )? )* )
      (?: [\s-]+ (?P<part>{"|".join(sorted(_PARTS, key=len, reverse=True))})s? \b )?
    """,
    re.IGNORECASE | re.VERBOSE,
)
_PERCENT = re.compile(r"\s*(?:\\?%|percent\b|per\s+cent\b)", re.IGNORECASE)
# "one" that counts nothing: "one of", "one by one", "one at a time", "each one", "the other one", "the top one"
_PRONOUN = re.compile(
    r"\bone\s+(?:of|by\s+one|at\s+a\s+time|another|after\s+another)\b"
    r"|\b(?:by|each|every|any|no|this|that|the|which|another|other|first|last|next|right|left|top|bottom|same)\s+ones?\b",
    re.IGNORECASE,
)


def _numbers(text: str) -> Iterator[tuple[set[Fraction], Span]]:
    """Every number in the text: the values it can mean ("50 %" is 50 and 1/2), unsigned, and where it stands."""
    pronouns = [match.span() for match in _PRONOUN.finditer(text)]
    for match in _NUMBER.finditer(text):
        is_pronoun = match.group().lower() == "one" and any(a <= match.start() < b for a, b in pronouns)
        value = None if is_pronoun else _value(match)
        if value is not None:
            percent = _PERCENT.match(text, match.end())
            values, end = ({value, value / 100}, percent.end()) if percent else ({value}, match.end())
            yield values, (match.start(), end)


def _value(match: re.Match) -> Fraction | None:
    if match["words"]:
        return Fraction(_word_value(match["words"]), _PARTS[match["part"].lower()] if match["part"] else 1)
    top, bottom = match["top"] or match["digits"].replace(",", ""), match["bottom"] or match["over"] or "1"
    return Fraction(top) / Fraction(bottom) if int(bottom) else None


def _word_value(words: str) -> int:
    """"two hundred and seven" -> 207"""
    total = group = 0
    for word in re.findall(r"[a-z]+", words.lower()):
        if word == "thousand":
            total, group = total + max(group, 1) * 1000, 0
        elif word == "hundred":
            group = max(group, 1) * 100
        else:
            group += _WORD_VALUES.get(word, 0)      # "and"
    return total + group


# ---- the rules -------------------------------------------------------------------------------------------------------

_SOLUTION_PHRASE = re.compile(
    r"\\boxed|\b(?:final|correct|right)\s+(?:answer|choice|option|result)\b"
    r"|\banswers?\s*(?:is|are|equals?|must\s+be|should\s+be|will\s+be|would\s+be|=|:)"
    r"|\bsolution\s*(?:is|:)|\bwe\s+(?:therefore\s+)?(?:get|obtain|conclude)\b",
    re.IGNORECASE,
)
_RESULT_OF = re.compile(
    r"(?:=|≈|⇒|→|\\approx|\bequals?|\bis\s+equal\s+to|\bgives?|\bmakes?|\byields?|\bbecomes?|\btotals\b"
    r"|\b(?:comes?|works?)\s+(?:out\s+)?(?:to|as|at)|\b(?:sums?|adds?)\s+(?:up\s+)?to"
    r"|\b(?:sum|total|result|product|difference|quotient)\s+is)\s*[-+−$({\\]*\Z",
    re.IGNORECASE,
)
_VERDICTS = ({"yes", "no"}, {"true", "false"})
_AFTER_NUMBER = re.compile(r"[\s$)}\]]*[^\W0-9]*[\s$)}\].]*")     # at most a unit
_LETTER = re.compile(r"\(?([A-Z])[).]?")


def _match(pattern: re.Pattern, text: str) -> Span | None:
    match = pattern.search(text)
    return match.span() if match else None


def _repetition(text: str) -> Span | None:
    """One to eight words four times in a row, or one character sixteen times: a generator that got stuck."""
    words = [(match.group().lower(), match.span()) for match in re.finditer(r"\w+", text)]
    for period in range(1, 9):
        run = 0
        for i in range(period, len(words)):
            run = run + 1 if words[i][0] == words[i - period][0] else 0
            if run == 3 * period:
                return words[i - 4 * period + 1][1][0], words[i][1][1]
    return _match(re.compile(r"(\S)\1{15}"), text)


def _verdict(text: str, answer: str) -> Span | None:
    """Yes or no, true or false, where that is the question; "no" before a noun ("no other cell") is no verdict."""
    words = next((pair for pair in _VERDICTS if _plain(answer) in pair), ())
    for word in words:
        ending = r"(?=\s*(?:[,.;:!\"”]|\Z))" if word == "no" else r"\b"
        if span := _match(re.compile(rf"\b{word}{ending}", re.IGNORECASE), text):
            return span
    return None


def _choice_meant(answer: str, choices: Sequence[str]) -> list[str]:
    """The right choice by its other name: the text of a letter, or the letter of a text."""
    letter = _LETTER.fullmatch(answer.strip())
    position = ord(letter[1]) - ord("A") if letter else -1
    if 0 <= position < len(choices):
        return [choices[position]]
    return [chr(ord("A") + i) for i, choice in enumerate(choices) if _plain(choice) == _plain(answer)]


def _option_letter(text: str, answers: Iterable[str], question: str) -> Span | None:
    """The letter of the right option; alone, it may also be an article, a pronoun or a point in the question."""
    for match in filter(None, (_LETTER.fullmatch(answer.strip()) for answer in answers)):
        letter = match[1]
        marked = rf"\({letter}\)|\b{letter}\)|\b(?i:option|choice|answer)s?\s*\(?{letter}\b"
        alone = rf"(?<![\w'’]){letter}(?![\w'’])"
        is_common = letter in "AI" or re.search(rf"(?<![\w(]){letter}(?![\w).:])", question)
        if span := _match(re.compile(marked if is_common else f"{marked}|{alone}"), text):
            return span
    return None


def _any_answer(text: str, answers: Iterable[str], known: set[Fraction]) -> Span | None:
    """An answer, or any part of one: a number by its value, anything else by its words."""
    for part in filter(None, (part for answer in answers for part in _parts(answer))):
        values = _number_of(part)
        if values is None:
            has_own_rule = len(_plain(part)) < 2 or any(_plain(part) in pair for pair in _VERDICTS)
            if not has_own_rule and (span := _match(_wording(part), text)):
                return span
        elif not values & known:
            for found, span in _numbers(text):
                if found & values:
                    return span
    return None


def _stated_result(text: str, answers: Iterable[str], known: set[Fraction]) -> Span | None:
    """A number right of "=" or of words that mean it; one from the question may stand there, unless it answers."""
    forbidden = {value for answer in answers for part in _parts(answer) for value in _number_of(part) or ()}
    for values, (start, end) in _numbers(text):
        if (not values & known or values & forbidden) and (result := _RESULT_OF.search(text[max(0, start - 32):start])):
            return max(0, start - 32) + result.start(), end
    return None


def _parts(answer: str) -> list[str]:
    """The parts of "3, 4 and 5", the thousands of "1,234" kept together."""
    return [part.strip() for part in re.split(r",(?![0-9]{3}(?![0-9]))|;|&|\band\b|\bor\b", answer)]


def _number_of(part: str) -> set[Fraction] | None:
    """The values of a part that is a number and nothing else but dress, a sign, a name or a unit ("x = 12 cm")."""
    numbers = list(_numbers(part))
    if len(numbers) != 1:
        return None
    values, (start, end) = numbers[0]
    before, after = part[:start], part[end:]
    is_dressed = re.fullmatch(r"(?:\w{1,2}\s*=)?[\s$({\[\\+\-−]*", before) and re.fullmatch(_AFTER_NUMBER, after)
    return values if is_dressed else None


def _plain(text: str) -> str:
    """The words of a text in lower case, LaTeX dress left out."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|left|right)(?![A-Za-z])", " ", text)
    return " ".join(re.findall(r"\w+|[^\w\s${}\\]", text)).strip(" .").lower()


def _wording(text: str) -> re.Pattern:
    """Finds the text whatever its case, spaces and LaTeX dress."""
    words = [re.escape(word) for word in _plain(text).split()]
    between = r"(?:[\s${}]|\\(?:text|textbf|mathrm|mathbf|left|right|[,;! ])?)*"
    return re.compile(rf"(?<!\w){between.join(words)}(?!\w)", re.IGNORECASE)
