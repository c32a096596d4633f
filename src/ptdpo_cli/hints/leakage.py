"""Whether a hint gives the answer away. A hint may say where to look and what to do there, never what comes out.

When in doubt a hint is refused: its problem then trains without a teacher, whereas a leaked answer teaches guessing.
The rules are in `find_leak`, one line each, in the order in which they are tried; docs/hints/audit.md has examples.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from operator import eq

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.hints.numbers import (
    ORDINAL,
    UNITS,
    Number,
    Span,
    Unit,
    Value,
    is_same,
    numbers_in,
    ordinal_value,
    size,
    unit_at,
    words_of_time,
)
from ptdpo_cli.hints.results import decisive_results

MAX_CHARACTERS = 2048
MAX_WORDS = 300


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

    Numbers count by value in any spelling ("12", "twelve", "24/2", "12 %", "0.12 m" for 12 cm), whatever their sign,
    and are allowed where the question holds the same value, its options aside. Options are `choices`, or those that
    the question ends with. `steps_results` are intermediate results of the solution (`hints/results.py`), refused like
    the answer, except small counts of things ("the two bars").

    Source: the quality check of arXiv 2606.07000, section 2.3. Differs from the paper in: its rules are not published.
    """
    if not hint_text.strip():
        return Leak("the hint is empty", (0, 0))
    if len(hint_text) > MAX_CHARACTERS:
        return Leak(f"the hint is longer than {MAX_CHARACTERS} characters", (MAX_CHARACTERS, len(hint_text)))
    secret = secret_of(question, answer, tuple(choices))
    hint = _Hint(hint_text, secret)
    if len(hint.words) > MAX_WORDS:
        return Leak(f"the hint is longer than {MAX_WORDS} words", (hint.word_span(MAX_WORDS)[0], len(hint_text)))
    results = _numeric(tuple(steps_results))
    checks = (
        ("the hint repeats itself", lambda: _repetition(hint)),
        ("the hint says nothing", lambda: _nothing(hint)),
        ("the hint announces a solution", lambda: _announcement(hint)),
        ("the hint gives a verdict", lambda: _verdict(hint, secret)),
        ("the hint names the option", lambda: _option(hint, secret)),
        ("the hint rules out all other options", lambda: _elimination(hint, secret)),
        ("the hint contains the answer", lambda: _answer(hint, secret)),
        ("the hint states a result", lambda: _stated_result(hint, secret)),
        ("the hint contains an intermediate result", lambda: _intermediate(hint, secret, results)),
    )
    return next((Leak(reason, span) for reason, check in checks if (span := check())), None)


def leak_of(hint_text: str, problem: Problem, *, spatial: str = "") -> Leak | None:
    """`find_leak` with all that a problem has: its question, options, and the results of its solution.

    A question that holds the hint, or the part of it that says where to look (`spatial`), shows it to the student.
    """
    leak = find_leak(
        hint_text, problem.answer, question=problem.question, choices=problem.choices,
        steps_results=decisive_results(problem.solution, problem.question),
    )
    shown = next((words for words in (hint_text, spatial) if words and words in problem.question), None)
    if leak is None and shown:
        start = hint_text.index(shown)
        return Leak("the question holds the hint", (start, start + len(shown)))
    return leak


def find_flags(hint_text: str, question: str = "", solution: str | None = None) -> tuple[str, ...]:
    """What a reader may want to look at in a hint that is no leak: numbers shared with the solution, no place named,
    very long, very short.
    """
    flags = []
    if solution:
        known = _known(_stem_and_options(question)[0])
        shared = {v for one in numbers_in(hint_text) for v in one.values} & _known(solution) - known
        if len(shared) >= 3:
            flags.append("shares three or more numbers with the solution")
    words = len(_WORD.findall(hint_text))
    if not _PLACE.search(hint_text):
        flags.append("names no place")
    if words > 150:
        flags.append("longer than 150 words")
    if words < 8:
        flags.append("shorter than 8 words")
    return tuple(flags)


# ---- a text as its words -------------------------------------------------------------------------------------------

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|left|right|displaystyle|dfrac|tfrac)(?![A-Za-z])|\\[,;! ]|[\s${}\\]+"   # dress
    r"|(?P<raised>[⁰¹²³⁴⁵⁶⁷⁸⁹]+)|(?P<word>[^\W⁰¹²³⁴⁵⁶⁷⁸⁹]+)|(?P<sign>.)",
    re.DOTALL,
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


class _Tokens:
    """The words and signs of a text in lower case, LaTeX dress and hyphens left out, joined by spaces, so that a phrase
    is found by its words alone; `span` leads back to the text.
    """

    def __init__(self, text: str):
        parts, spans = [], []
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup
            if kind == "raised":
                parts += ["^", match[0].translate(_RAISED)]
                spans += [match.span()] * 2
            elif kind:
                parts.append(match[0].lower())
                spans.append(match.span())
        kept = [
            i for i, part in enumerate(parts)
            if part not in "-‐‑" or not (0 < i < len(parts) - 1 and parts[i - 1].isalpha() and parts[i + 1].isalpha())
        ]
        self.parts = [parts[i] for i in kept]
        self._spans = [spans[i] for i in kept]
        self.joined = f" {' '.join(self.parts)} "
        self._starts: list[int] = []

    def find(self, phrase: str, *, plural: bool = False) -> Iterator[Span]:
        """Where a phrase of such tokens stands in the text, in turn."""
        at = self.joined.find(f" {phrase}")
        while phrase and at >= 0:
            end = at + 1 + len(phrase)
            for ending in ("", "s", "es") if plural else ("",):
                after = end + len(ending)
                if self.joined[end:after] == ending and self.joined[after] == " " \
                        and not (ending and self.joined[after + 1 : after + 2] in ("'", "’")):
                    yield self._span(at + 1, after)
                    break
            at = self.joined.find(f" {phrase}", at + 1)

    def _span(self, start: int, end: int) -> Span:
        if not self._starts:
            position = 1
            for part in self.parts:
                self._starts.append(position)
                position += len(part) + 1
        first, last = bisect_right(self._starts, start) - 1, bisect_right(self._starts, end - 1) - 1
        return self._spans[first][0], self._spans[last][1]


def plain(text: str) -> str:
    """The tokens of an answer, without what stands around a phrase."""
    return _Tokens(text).joined.strip(" .:;,!?'\"")


_MARKER = re.compile(r"(?:\A|[\n.!?;:])\s*\(?([0-9]{1,2})[.)]\s+(?=\S)")
_LABEL = re.compile(
    r"\b(step|fig(?:ure)?|part|panel|question|hint|rule|case|equation|stage)s?\.?\s+\(?\Z", re.IGNORECASE
)


class _Hint:
    """A hint, with its words and numbers found once.

    `numbers` are those that mean something: not those of a numbered list, nor of "step 2" where no step is asked for.
    """

    def __init__(self, text: str, secret: Secret):
        self.text = text
        self._secret = secret

    @cached_property
    def words(self) -> list[str]:
        return list(map(str.lower, _WORD.findall(self.text)))

    def word_span(self, number: int) -> Span:
        return next(islice(_WORD.finditer(self.text), number, None)).span()

    @cached_property
    def tokens(self) -> _Tokens:
        return _Tokens(self.text)

    @cached_property
    def numbers(self) -> list[Number]:
        found = numbers_in(self.text)
        if not found:
            return []
        markers = list(_MARKER.finditer(self.text))
        in_turn = len(markers) > 1 and [int(one[1]) for one in markers] == list(range(1, len(markers) + 1))
        labels = {one.start(1) for one in markers} if in_turn else set()
        for one in found:
            label = _LABEL.search(self.text[max(0, one.start - 12) : one.start])
            if label and label[1].lower() not in _words_of(self._secret.stem):
                labels.add(one.start)
        return [
            one for one in found
            if one.start not in labels and not (one.terms and all(_is_known(term, self._secret) for term in one.terms))
        ]


@lru_cache(maxsize=64)
def _words_of(text: str) -> frozenset[str]:
    return frozenset(_Tokens(text).parts)


def _is_known(number: Number, secret: Secret) -> bool:
    """Whether the question holds this number, or both numbers that it was calculated from."""
    if number.terms:
        return all(_is_known(term, secret) for term in number.terms)
    return bool(number.values & secret.known) or (
        number.unit is not None and any(is_same(number, other) for other in secret.known_quantities)
    )


# ---- what must not be said, and what may -----------------------------------------------------------------------------

_OPTION_LABEL = re.compile(r"(?:(?<=\s)|\A)(?:\(([A-Z])\)[.:]?|([A-Z])[.:)．、：])(?=\s|\S\S)")
_HEADING = re.compile(r"\s*(?:choices|options)\s*[:：]?\s*\Z", re.IGNORECASE)
_COUNTING = re.compile(
    r"\bhow\s+(?:many|much|far|long|tall|often)\b|\bnumber\s+of\b|\bcount\b|\bdifference\b|\b(?:more|fewer|less)\s+than\b"
    r"|\bratio\b|\btimes\b",
    re.IGNORECASE,
)
_ASKS_WHICH = re.compile(r"\b(?:which|what|whose|where)\b", re.IGNORECASE)
_ASKED_UNIT = re.compile(r"\b(?:in|many|of)\s+(?=[A-Za-z]+)|\bin\s+(?=\S+[?.]?\s*\Z)")
_LETTER = r"[\[(]?([A-Z])[\])]?[.:]?"
_ONE_LETTER = re.compile(_LETTER)
_LETTERS = re.compile(rf"{_LETTER}(?:\s*(?:,|;|&|\band\b)\s*{_LETTER})+")
_VERDICTS = ({"yes", "no"}, {"true", "false"})


@dataclass(frozen=True, slots=True)
class Secret:
    """What a hint must not say: `numbers` and `phrases` are the answer's parts, `letters` those of the right options.

    `known` are the values that the question holds, its options aside.
    """

    stem: str
    known: frozenset[Value]
    known_quantities: tuple[Number, ...]        # of these, those with a unit
    choices: tuple[str, ...]
    letters: tuple[str, ...]
    numbers: tuple[Number, ...]
    components: tuple[Number, ...]      # of an answer with several parts, or factors of one: small ones are common
    phrases: tuple[tuple[str, str], ...]        # as it is spelt, its tokens
    verdict: str | None
    is_counting: bool


@lru_cache(maxsize=64)
def secret_of(question: str, answer: str, choices: tuple[str, ...]) -> Secret:
    """The answer in all that it can be told by: numbers, phrases, letters of options, a verdict."""
    stem, options = _stem_and_options(question)
    choices = choices or options
    letters, texts = _meant(answer, choices)
    is_letter = bool(letters) and bool(_ONE_LETTER.fullmatch(answer.strip()) or _LETTERS.fullmatch(answer.strip()))
    spelt = [*texts, *([] if is_letter else [answer])]
    whole, parts, phrases = [], [], []
    unit = _asked_unit(stem)
    for text in spelt:
        pieces = list(dict.fromkeys([text.strip(), *_parts(text)]))
        for piece in pieces:
            number = number_of(piece)
            if number is None:
                if piece:
                    phrases.append((piece, plain(_without_article(piece))))
                    phrases += [(said, said) for said in _said_time(piece)]
            elif len(pieces) > 1 and piece != text.strip():
                parts.append(number)
            else:
                whole.append(number._replace(unit=number.unit or unit))
                parts += _factors(number)
    whole = [_with_radians(number) for number in whole]
    verdict = next((plain(text) for text in spelt if any(plain(text) in pair for pair in _VERDICTS)), None)
    return Secret(
        stem, _known(stem),
        tuple(number for number in numbers_in(stem) if number.unit), choices, letters, tuple(whole), tuple(parts),
        tuple(dict.fromkeys(phrases)), verdict, bool(_COUNTING.search(stem)) or not stem,
    )


def _stem_and_options(question: str) -> tuple[str, tuple[str, ...]]:
    """The question without the options that it ends with, and their texts: "A. … B. …" or "(A) … (B) …" in turn."""
    run: list[re.Match] = []
    for label in _OPTION_LABEL.finditer(question):
        letter = label[1] or label[2]
        if letter == "A":
            run = [label]
        elif run and letter == chr(ord("A") + len(run)):
            run.append(label)
    if len(run) < 2:
        return question, ()
    ends = [label.start() for label in run[1:]] + [len(question)]
    texts = tuple(question[label.end() : end].strip(" \n\t;,") for label, end in zip(run, ends, strict=True))
    return _HEADING.sub("", question[: run[0].start()]), texts


def _meant(answer: str, choices: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The letters that are right, and the texts that they stand for."""
    answer = answer.strip()
    if match := _ONE_LETTER.fullmatch(answer):
        letters = [match[1]]
    elif _LETTERS.fullmatch(answer):
        letters = re.findall(r"[A-Z]", answer)
    else:
        letters = [chr(ord("A") + i) for i, choice in enumerate(choices) if plain(choice) == plain(answer)]
        return tuple(letters), []
    places = [ord(letter) - ord("A") for letter in letters]
    return tuple(letters), [choices[place] for place in places if place < len(choices) and len(choices[place]) > 1]


def _parts(answer: str) -> list[str]:
    """The parts of "3, 4 and 5" or "(3, -4)", the thousands of "1,234" kept together."""
    inner = re.sub(r"\A[(\[{]|[)\]}]\Z", "", answer.strip()) if "," in answer else answer
    parts = re.split(r",(?![0-9]{3}(?![0-9]))|;|&|\band\b|\bor\b|\bto\b(?=\s*[0-9])|(?<=[0-9]):(?=[0-9])|[≤<]", inner)
    return [part.strip() for part in parts if part.strip()]


def number_of(part: str) -> Number | None:
    """A text that is a number and nothing else but dress, a sign, a name or a unit ("x = 12 cm")."""
    part = re.sub(r"(?<![0-9,])([0-9]+),([0-9]{1,2})(?![0-9,])", r"\1.\2", part)       # 12,50
    numbers = numbers_in(part)
    if len(numbers) == 3 and numbers[2].terms:      # "2 h 15 min"
        numbers = numbers[2:]
    if len(numbers) != 1:
        return None
    (number,) = numbers
    before, after = part[: number.start], part[number.end :]
    if number.unit:
        after = after[unit_at(part, number.end)[1] - number.end :]
    is_dressed = re.fullmatch(r"(?:\\?\w{1,5}\s*=)?[\s$€£({\[\\+\-−≈]*", before) and re.fullmatch(
        r"[\s$)}\]\\]*[^\W0-9]*(?:[\s^{}$)\].]|[0-9](?=\}?\Z)|[²³])*", after
    )
    return number if is_dressed else None


def _factors(number: Number) -> list[Number]:
    """The whole number before π: "36" gives 36π away."""
    factors = [value[1] for value in number.values if isinstance(value, tuple) and value[0] == "π"]
    return [Number(frozenset({factor}), 0, 0) for factor in factors if factor >= 5]


def _with_radians(number: Number) -> Number:
    """An angle in degrees also as its multiple of π."""
    if number.unit is None or number.unit.dimension != "angle":
        return number
    degrees = [value for value in number.values if not isinstance(value, tuple) and value]
    return number._replace(values=number.values | {("π", Fraction(value) / 180) for value in degrees})


def _asked_unit(stem: str) -> Unit | None:
    """The unit that a question asks for: "in cm", "how many degrees"."""
    for match in _ASKED_UNIT.finditer(stem):
        unit, _ = unit_at(stem, match.end())
        if unit and unit.dimension != "count":
            return unit
    return None


def _said_time(piece: str) -> list[str]:
    match = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})(?:\s*[ap]\.?m\.?)?", piece, re.IGNORECASE)
    return list(words_of_time(int(match[1]), int(match[2]))) if match else []


def _without_article(text: str) -> str:
    return re.sub(r"\A\s*(?:an?|the)\s+(?=\S{2})", "", text, flags=re.IGNORECASE)


def _known(text: str) -> frozenset[Value]:
    return frozenset(value for number in numbers_in(text) for value in number.values)


@lru_cache(maxsize=64)
def _numeric(results: tuple[str, ...]) -> tuple[Number, ...]:
    return tuple(number for text in results for number in numbers_in(text)[:1])


# ---- the rules -------------------------------------------------------------------------------------------------------

_FREE_TO_SAY = (
    r"(?!\s+(?:(?:always|usually|also|then)\s+)?(?:not\b|in\b|an?\b|expected|rounded|given|written|expressed|wanted|asked"
    r"|positive|negative|to\s+be|the\s+(?:sum|difference|product|quotient|ratio|number|length|distance|area|name|label"
    r"|letter|value|one|part|share|smaller|larger)\b))"
)
_ANNOUNCES = re.compile(
    r"\\boxed|\b(?:final|correct|right)\s+(?:answer|choice|option|result)(?=\s*(?:is|are|must|should|will|would|=|:|-|—))"
    rf"{_FREE_TO_SAY}"
    r"|\banswers?\s*(?:is|are|equals?|must\s+be|should\s+be|will\s+be|would\s+be|=|:)"
    rf"{_FREE_TO_SAY}"
    r"|\bsolution\s*(?:is|:)|\bwe\s+(?:therefore\s+)?(?:get|obtain|conclude)\b",
    re.IGNORECASE,
)
_BEFORE_VERDICT = re.compile(
    r"(?:\b(?:is|are|be|it'?s|therefore|hence|thus|so|answer|statement|claim|out|verdict)|[:=,;—-])[\s\"“'(]*\Z",
    re.IGNORECASE,
)
_OPEN_QUESTION = re.compile(r"\b(?:if|whether|when|only)\b[^.;!?]*\Z", re.IGNORECASE)
_ENDS_CLAUSE = re.compile(r"\s*(?:[,.;:!?\"”)]|\Z)|\s+[-–—]|[–—]")
_RESULT_OF = re.compile(
    r"(?:[=≈⇒→]|\\approx|\bequals?|\bis\s+equal\s+to|\bgives?|\bmakes?|\byields?|\bbecomes?|\btotals\b|\bgets?|\bobtains?"
    r"|\b(?:arrives?|ends?\s+up)\s+(?:at|with)|\bleaves?|\bturns?\s+out\s+to\s+be"
    r"|\b(?:comes?|works?)\s+(?:out\s+)?(?:to|as|at)|\b(?:sums?|adds?)\s+(?:up\s+)?to"
    r"|\b(?:sum|total|result|product|difference|quotient)\s+is)\s*(?:about|only|exactly|up\s+to)?[\s+−$({\\-]*\Z",
    re.IGNORECASE,
)
_IS = re.compile(r"\b(?:is|are)\s+(?:exactly\s+|only\s+)?[$(\s-]*\Z", re.IGNORECASE)
_ABOUT = re.compile(
    r"(?:\b(?:about|around|roughly|approximately|nearly|almost|close\s+to|near)|[≈~])\s*[$(]*\Z", re.IGNORECASE
)
# Behind a number: it is a factor or a term of a formula, not a result.
_IN_FORMULA = re.compile(
    r"\s?(?:[×*·+/^−(]|\\(?:cdot|times|frac|pi|sqrt)|times\b|plus\b|minus\b|of\b)|\s?-\s|[a-zA-Z](?![a-zA-Z])|\s[a-z]\b"
)
# What everybody knows: angle sums, turns, the whole in per cent; zero and one as sides of an equation.
_CONSTANTS = frozenset({("π", Fraction(1))}) | frozenset(map(Fraction, (0, 1, 90, 100, 180, 360)))
_NEXT_WORDS = re.compile(r"\s+((?:[A-Za-z-]+\s+){0,3}[A-Za-z-]+)")
# Words that end the noun behind a number, many of which only look like a plural; and plurals that look like none.
_STOPS = frozenset({
    "is", "are", "was", "were", "has", "does", "makes", "gives", "equals", "and", "or", "but", "to", "for", "in", "on",
    "at", "by", "than", "with", "from", "will", "can", "then", "which", "that", "this", "as", "its", "thus", "us",
    "plus", "minus", "less", "times", "across", "yes", "always", "perhaps", "towards",
})
_THINGS = frozenset({"people", "children", "vertices", "radii", "dice", "men", "women", "mice"})
_THE = re.compile(r"\b(?:the|these|those|all|any|other|first|last|middle|next|both|given)\s+\Z", re.IGNORECASE)
_EXACTLY = re.compile(r"\b(?:only|exactly|just|precisely)\s+\Z|[=≈]\s*\Z", re.IGNORECASE)
_OWN_NOUNS = frozenset(["steps", "stages", "readings", "passes", "ways", "lists", "things", "numbers", "values"])
_REJECTS = re.compile(
    r"\b(?:not|rules?\s+out|ruled\s+out|eliminate|exclude|discard|dismiss|wrong|incorrect|neither|nor|cross\s+out|cannot"
    r"|can't|isn't|aren't|leave\s+out|drop)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_STATES_BEFORE = re.compile(
    r"\b(?:is|are|it'?s|be|means|answer|namely|called)\s+(?:the\s+|an?\s+)?\Z|[:=]\s*\Z", re.IGNORECASE
)
_STATES_AFTER = re.compile(
    r"\s+(?:\w+\s+)?(?:is|are|has|have|looks?|seems?|reach(?:es)?|wins?)\s+(?:\w+\s+)?(?!other\b)"
    r"(?:\w+(?:er|est)\b|more\b|most\b|less\b|least\b|farther\b|correct\b|right\b)",
    re.IGNORECASE,
)
_ALSO_WORDS = frozenset(["may", "march", "will", "mark", "bill", "grant", "rose", "miles", "hope"])
_GENERAL = re.compile(r"\b(?:an?|each|every|any)\s+(?:\w+\s+)?\w+\s+has\s+\Z", re.IGNORECASE)
_LONE = r"(?<![\w'’]){}(?![\w'’])"
_PLACE = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|above|below|under|over|beside|between|behind|front|cent(?:er|re)|middle"
    r"|corner|edge|side|row|column|axis|axes|inside|outside|near|next\s+to|around|along|across|label(?:s|led)?|region"
    r"|area|picture|image|figure|diagram|graph|chart|table|map|vertical|horizontal|diagonal|line|arrow|cell|where|look)",
    re.IGNORECASE,
)


def _nothing(hint: _Hint) -> Span | None:
    """No letters, or a single word."""
    letters = sum(map(str.isalpha, hint.text))
    is_one_word = len(hint.words) < 2 and hint.text.isascii()
    return (0, len(hint.text)) if letters < 2 or is_one_word else None


def _repetition(hint: _Hint) -> Span | None:
    """One to eight words four times in a row, a sentence three times, or one character sixteen times."""
    words = hint.words
    for period in range(1, 9):
        is_same_as_before = bytes(map(eq, words, words[period:]))
        if (at := is_same_as_before.find(b"\1" * 3 * period)) >= 0:
            return hint.word_span(at)[0], hint.word_span(at + 4 * period - 1)[1]
    if len(set(words)) <= 0.5 * len(words):
        seen: dict[str, int] = {}
        start = 0
        for sentence in _SENTENCE_END.split(hint.text):
            start = hint.text.index(sentence, start)
            key = " ".join(_WORD.findall(sentence.lower()))
            seen[key] = seen.get(key, 0) + 1
            if seen[key] == 3 and key.count(" ") >= 3:
                return start, start + len(sentence)
    return _span(re.search(r"(\S)\1{15}", hint.text))


def _announcement(hint: _Hint) -> Span | None:
    lower = hint.text.lower()
    if not any(word in lower for word in ("boxed", "answer", "solution", "choice", "option", "result", "we ")):
        return None     # most hints: this is quicker than the search
    return _span(_ANNOUNCES.search(hint.text))


def _verdict(hint: _Hint, secret: Secret) -> Span | None:
    """Yes or no, true or false, where that is the question, unless both are named or it stands behind "whether"."""
    pair = next((pair for pair in _VERDICTS if secret.verdict in pair), ())
    if sum(any(True for _ in hint.tokens.find(word)) for word in pair) == 2:
        pair = tuple(word for word in pair if re.search(rf"\A\W*{word}\b[,.!]", hint.text, re.IGNORECASE))
    for word in sorted(pair):
        for start, end in hint.tokens.find(word):
            before = hint.text[max(0, start - 80) : start]
            ends = _ENDS_CLAUSE.match(hint.text, end)
            if word == "yes" or (word == "no" and ends):
                return start, end
            is_stated = ends or _BEFORE_VERDICT.search(before)
            if word in ("true", "false") and is_stated and not _OPEN_QUESTION.search(before):
                return start, end
    return None


def _option(hint: _Hint, secret: Secret) -> Span | None:
    """The letter of the right option, or its place among them ("the second option").

    Alone, a letter may also be an article, a pronoun or a point of the question; where all letters are named, it says
    nothing.
    """
    n = len(secret.choices)
    every = [chr(ord("A") + i) for i in range(n)]
    names_all = n > 1 and all(re.search(_LONE.format(letter), hint.text) for letter in every)
    for letter in () if names_all else secret.letters:
        place = ord(letter) - ord("A") + 1
        either = letter if letter in "AI" else f"[{letter}{letter.lower()}]"
        marked = (
            rf"\({letter}\)|(?<!\w){letter}\)|\b(?i:option|choice|answer|statement|marked|labell?ed|letter|alternative)s?"
            rf"\s*\(?{either}(?![\w'’])|\b(?i:option|choice|answer)\s*\(?{letter.lower()}(?![\w'’])"
            rf"|{_LONE.format(letter)}\s+(?:is|must\s+be)\s+(?:right|correct|true|best|the\s+(?:right|correct|best|answer))"
        )
        is_common = letter in "AI" or re.search(rf"(?<![\w(]){letter}(?![\w).:])", secret.stem)
        pattern = marked if is_common else f"{marked}|{_LONE.format(letter)}"
        if span := _span(_compiled(pattern).search(hint.text)):
            return span
        for match in _OPTION_PLACE.finditer(hint.text) if n else ():
            said = n if match["last"] else ordinal_value(match["place"])
            if said == place:
                return match.span()
    return None


_OPTION_PLACE = re.compile(
    rf"\b(?:(?P<place>{ORDINAL})|(?P<last>last|final))\s+(?:option|choice|answer|alternative|statement)s?\b",
    re.IGNORECASE,
)


@lru_cache(maxsize=128)
def _compiled(pattern: str) -> re.Pattern:
    return re.compile(pattern)


def _elimination(hint: _Hint, secret: Secret) -> Span | None:
    """A sentence that rejects all options but the right one, by letter or by text."""
    n = len(secret.choices)
    if n < 2 or len(secret.letters) != 1 or not _REJECTS.search(hint.text):
        return None
    right = ord(secret.letters[0]) - ord("A")
    for match in re.finditer(r"[^.!?\n]+", hint.text):
        sentence = match[0]
        if not _REJECTS.search(sentence):
            continue
        tokens = _Tokens(sentence)
        by_letter = [bool(re.search(_LONE.format(chr(ord("A") + i)), sentence)) for i in range(n)]
        by_text = [any(True for _ in tokens.find(plain(_without_article(text)))) for text in secret.choices]
        for named in (by_letter, by_text):
            if not named[right] and sum(named) == n - 1:
                return match.span()
    return None


def _answer(hint: _Hint, secret: Secret) -> Span | None:
    """An answer, or any part of one: a number by its value, anything else by its words."""
    numbers = hint.numbers
    if not _names_all(hint, secret):
        for wanted in secret.numbers:
            if span := _number(hint, secret, numbers, wanted):
                return span
        for spelt, phrase in secret.phrases:
            if span := _phrase(hint, secret, spelt, phrase):
                return span
    for wanted in secret.components:
        if not _is_known(wanted, secret):
            for one in numbers:
                if is_same(one, wanted) and one.values != {0} and not _is_small_count(one, hint.text):
                    return one.span
    return _ratio(secret, numbers) or _comparison(hint, secret) or _place(hint, secret)


def _number(hint: _Hint, secret: Secret, numbers: Sequence[Number], wanted: Number) -> Span | None:
    if _is_known(wanted, secret):
        return None
    for one in numbers:
        if is_same(one, wanted):
            if not _is_harmless(one, hint.text, secret):
                return one.span
        elif _ABOUT.search(hint.text, max(0, one.start - 16), one.start) and _is_near(one, wanted):
            return one.span
    if wanted.unit:
        named = _units_named(hint.text, wanted.unit.dimension)
        for one in numbers:
            if not one.unit and any(is_same(one._replace(unit=unit), wanted) for unit in named):
                return one.span
    return None


def _units_named(text: str, dimension: str) -> list[Unit]:
    """Units of this dimension that the hint names apart from a number: "in cents it is 1800"."""
    words = {match[1].lower() for match in re.finditer(r"\b[Ii]n\s+([A-Za-z]{1,11})\b", text)}
    return [UNITS[word] for word in words if word in UNITS and UNITS[word].dimension == dimension]


def _is_near(found: Number, wanted: Number) -> bool:
    return any(abs(size(a) - size(b)) <= 0.05 * size(b) for a in found.values for b in wanted.values)


def _phrase(hint: _Hint, secret: Secret, spelt: str, phrase: str) -> Span | None:
    """The words of an answer; where the question holds them, only if the hint states them."""
    if len(phrase) < 2 or any(phrase in pair for pair in _VERDICTS):
        return None
    is_known = f" {phrase} " in _joined(secret.stem)
    is_known = is_known or _has_siblings(hint, phrase)
    for start, end in hint.tokens.find(phrase, plural=phrase[-1:].isalpha()):
        if phrase in _ALSO_WORDS and spelt[0].isupper() and hint.text[start].islower():
            continue
        if not is_known or _STATES_BEFORE.search(hint.text[max(0, start - 24) : start]) \
                or _STATES_AFTER.match(hint.text, end):
            return start, end
    return None


def _has_siblings(hint: _Hint, phrase: str) -> bool:
    """Whether "graph C" stands among two or more of its kind: "graph A, graph B and graph C"."""
    match = re.fullmatch(r"(\w+) (?:\w|[0-9]{1,2})", phrase)
    return bool(match) and len(set(re.findall(rf" {match[1]} (\w|[0-9]{{1,2}})(?= )", hint.tokens.joined))) >= 3


@lru_cache(maxsize=8)
def _joined(text: str) -> str:
    return _Tokens(text).joined


def _names_all(hint: _Hint, secret: Secret) -> bool:
    """Whether all options are named alike: then none is pointed at."""
    if len(secret.choices) < 2:
        return False
    values = {value for one in hint.numbers for value in one.values}
    for choice in secret.choices:
        number = number_of(choice)
        if number is not None and not number.values & values:
            return False
        if number is None and not any(True for _ in hint.tokens.find(plain(_without_article(choice)), plural=True)):
            return False
    return True


def _ratio(secret: Secret, numbers: Sequence[Number]) -> Span | None:
    """"3 to 4", "6:8" or "three cats for four dogs" where the answer is 3:4."""
    pairs = [re.fullmatch(r"([0-9]{1,9})\s*(?::|\bto\b)\s*([0-9]{1,9})", spelt) for spelt, _ in secret.phrases]
    for above, below in ((int(pair[1]), int(pair[2])) for pair in pairs if pair):
        for one, other in pairwise(numbers):
            if any(a * below == b * above and b for a in one.values for b in other.values
                   if not isinstance(a, tuple) and not isinstance(b, tuple)):
                return one.start, other.end
    return None


_TIMES_AS = (
    (2, re.compile(r"\b(?:twice\s+(?:as|the|that|its)|doubles?\s+(?:the|that|as|its))\b", re.IGNORECASE)),
    (3, re.compile(r"\b(?:thrice|triples?\s+(?:the|that|as|its))\b", re.IGNORECASE)),
)


def _comparison(hint: _Hint, secret: Secret) -> Span | None:
    """"twice as long" where the answer to a question of how many times is 2."""
    for times, pattern in _TIMES_AS:
        if secret.is_counting and any(times in wanted.values for wanted in secret.numbers):
            return _span(pattern.search(hint.text))
    return None


_PLACE_OF = re.compile(rf"\b({ORDINAL})\s+(\w+)", re.IGNORECASE)


def _place(hint: _Hint, secret: Secret) -> Span | None:
    """"the third row" where the question asks which row, and the answer is 3 or III."""
    if not _ASKS_WHICH.search(secret.stem):
        return None
    for match in _PLACE_OF.finditer(hint.text):
        value = Fraction(ordinal_value(match[1]))
        if match[2].lower() in _words_of(secret.stem) and any(value in wanted.values for wanted in secret.numbers):
            return match.span()
    return None


def _stated_result(hint: _Hint, secret: Secret) -> Span | None:
    """A number right of "=" or of words that mean it; one from the question may stand there, unless it answers."""
    text = hint.text
    parts = {value for part in secret.components for value in part.values if value}
    forbidden = parts.union(*(wanted.values for wanted in secret.numbers))
    for one in hint.numbers:
        before = text[max(0, one.start - 32) : one.start]
        answers = bool(one.values & forbidden)
        if _is_known(one, secret) and not answers:
            continue
        result = _RESULT_OF.search(before) or (answers and _IS.search(before))
        if not result:
            continue
        if not answers and (
            one.values & _CONSTANTS or _is_small_count(one, text) or (not one.unit and _IN_FORMULA.match(text, one.end))
        ):
            continue
        if answers and (_is_small_count(one, text) or _is_given(before, text[one.start : one.end], secret)):
            continue
        return one.start - len(before) + result.start(), one.end
    return None


def _is_given(before: str, number: str, secret: Secret) -> bool:
    """Whether the question says it in the same words: "x = 3"."""
    name = re.search(r"(\w+)\s*=\s*\Z", before)
    return bool(name) and f"{name[1]}={number}" in secret.stem.replace(" ", "")


def _intermediate(hint: _Hint, secret: Secret, results: Sequence[Number]) -> Span | None:
    """An intermediate result that the question does not hold; a small count of things is too common to mean one, but
    not two of them where counting is the question.
    """
    numbers = hint.numbers
    counts: list[Number] = []
    for wanted in results:
        if not _is_known(wanted, secret):
            for one in numbers:
                if not is_same(one, wanted) or _is_general(one, hint.text):
                    continue
                if not _is_small_count(one, hint.text):
                    return one.span
                if secret.is_counting and all(one.values != other.values for other in counts):
                    counts.append(one)
    if len(counts) < 2:
        return None
    return min(one.start for one in counts), max(one.end for one in counts)


def _is_general(one: Number, text: str) -> bool:
    """"a cube has six faces": what holds for all of a kind."""
    return bool(_GENERAL.search(text[max(0, one.start - 40) : one.start])) and all(
        not isinstance(value, tuple) and value <= 12 for value in one.values
    )


def _is_harmless(one: Number, text: str, secret: Secret) -> bool:
    """Whether a number, equal to the answer, means something else: "the two triangles" where nothing is counted."""
    if not _is_small_count(one, text):
        return False
    if not secret.is_counting:
        return True
    words = _next_words(text, one.end)
    return any(word in _OWN_NOUNS and word not in _words_of(secret.stem) for word in words)


def _is_small_count(one: Number, text: str) -> bool:
    """Up to four things ("the two bars", "the other three"), however they are spelt."""
    if one.unit or one.is_fraction or not all(not isinstance(value, tuple) and 1 <= value <= 4 for value in one.values):
        return False
    before = text[max(0, one.start - 16) : one.start]
    if _EXACTLY.search(before):
        return False
    words = _next_words(text, one.end)
    if 1 in one.values:
        return bool(words)
    if any(word in _THINGS or (word[-1] == "s" and len(word) > 2) for word in words):
        return True
    return bool(_THE.search(before)) and not text[one.start].isdigit()


def _next_words(text: str, end: int) -> list[str]:
    """Up to four words behind a number, as far as they can belong to it."""
    match = _NEXT_WORDS.match(text, end)
    words = []
    for word in match[1].lower().split() if match else ():
        if word in _STOPS:
            break
        words.append(word)
        if word[-1] == "s":
            break
    return words


def _span(match: re.Match | None) -> Span | None:
    return match.span() if match else None
