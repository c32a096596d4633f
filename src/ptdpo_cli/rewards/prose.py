"""What sentences say that the answer is: after a phrase, at the end of a conclusion, as the only value of a response.

Every pattern has bounded repetitions, so that any text takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from ptdpo_cli.mathtext import plain, read
from ptdpo_cli.mathtext.values import Named, Scalar, Several, Text
from ptdpo_cli.rewards.boxes import BOX, last_box
from ptdpo_cli.rewards.choices import bare_letter, lists_options, mentions, named_options
from ptdpo_cli.rewards.refusals import is_refusal, is_unsure
from ptdpo_cli.rewards.verify import number

MAX_CHARACTERS = 6000       # at a response's end, in which sentences are looked at
EMPHASIS = re.compile(r"\*\*|__(?!_)|`")

_WHICH = r"(?:(?:final|correct|right|best|most likely|closest) )?"
_ASIDE = r"(?: (?:to|of|for|choice|option) [^.:\n]{1,80}?|,[^.:\n]{1,80}?,)?"       # "the answer to question 3 is"
_THEN = (
    r"(?: (?:is|are|would be|should be|must be)\b"
    r"(?: (?:therefore|thus|hence|then|so|consequently|clearly|indeed|likely|probably|simply|most likely))?,?)"
    r" ?:? ?"
)
_PHRASE = re.compile(
    rf"\b(?P<strong>{_WHICH}\bans(?:wers?)?){_ASIDE}{_THEN}"
    rf"|\b{_WHICH}(?:options?|choices?){_ASIDE}{_THEN}"
    rf"|\b(?P<colon>{_WHICH}(?:ans(?:wers?)?|option|choice)) ?[:=：] ?"
    r"|(?P<chinese>答[:：] ?|【?(?:正确)?(?:答案|选项)】?(?:是|为|应该是|应为)? ?[:：]? ?"
    r"|故?(?:应|正确)?选(?:择|项)?(?:是|为)? ?[:：]? ?(?=[(（]?[A-Z]))"
    r"|^\W{0,4}answer (?=\$|\\[(\[])"
    r"|\banswers?(?: [a-z]+){1,3} (?:is|are)\b ?:? ?"
    r"|\bI(?:'d| would| will|'ll)? (?:choose|select|pick|go with) ",
    re.IGNORECASE,
)
# A sentence ends at a full stop that is followed by a space, at the line's end, or where it begins to explain.
_END = re.compile(
    r"(?<!i\.e)(?<!e\.g)[.!?](?=\s|$)|[。！？\n；]|，(?=[^A-Z0-9而])"
    r"|,? (?:because|since|as|so|which|where|rather than|instead of)\b|,? (?:and )?not (?=\(?[A-Z]\b)",
    re.IGNORECASE,
)
_MATH = re.compile(
    r"\$\$?([^$\n]{1,500})\$\$?|\\\(((?:(?!\\\)).){1,500})\\\)|\\\[((?:(?!\\\]).){1,500})\\\]", re.DOTALL
)
_DENIES = re.compile(
    r"不是[^而]*$|not (?:option |choice )?\S{1,30}$"
    r"|(?:incorrect|wrong|unclear|unknown|not (?:applicable|correct|clear|known|given|listed|possible))\b",
    re.IGNORECASE,
)


def stated(answer: str, choices: Sequence[str], answer_type: str) -> str | None:
    """What stands behind the last phrase that announces an answer, else the value that the last sentence concludes."""
    text = EMPHASIS.sub("", answer)
    masked = _without_options(text, tuple(choices))
    phrases = list(_PHRASE.finditer(masked))
    for phrase in reversed(phrases[-3:]):      # "the answer is:" at the very end says nothing yet
        span = _span(text, phrase.end())
        if span is None:
            continue
        is_strong = phrase["strong"] or phrase["colon"] or phrase["chinese"]
        if answer_type == "choice" and not is_strong and named_options(span, choices)[0] is None:
            continue        # "the other options are not applicable"
        start = max(masked.rfind(stop, 0, phrase.start()) for stop in ("\n", ". ")) + 1
        if "would" in phrase[0] and _SUPPOSES.match(text, start):
            continue        # "If they were equal, the answer would be B"
        if _DENIES.match(span) or (answer_type == "choice" and _lists_all(span, tuple(choices))):
            continue
        line = text[phrase.end():].partition("\n")[0].strip()
        if answer_type == "choice" and len(line) < 200 and named_options(line, choices)[1]:
            return line         # "C. 16", where 16 is the text of B
        if answer_type in ("integer", "float") and number(span) is None and (value := _only_number(span, answer_type)):
            return value
        return span
    return None if answer_type in ("choice", "text") else _concluded(text, answer_type)


def _lists_all(span: str, choices: tuple[str, ...]) -> bool:
    """Whether a text only lists what there is to choose from."""
    return len(choices) > 1 and (lists_options(span) or len(mentions(plain(span), choices)) == len(choices))


def _span(text: str, start: int) -> str | None:
    """What a phrase announces, from here to the sentence's end; the next line where this one ends with a colon."""
    rest = text[start : start + 2000].lstrip(" \t")
    if rest.startswith("\n") or rest.startswith("\r"):
        rest = rest.lstrip()
    if BOX.match(rest.lstrip("$ ")):
        return last_box(rest[: _first_line(rest)])
    if (math := _MATH.match(rest)) and not _MORE_FORMULAS.match(rest, math.end()):
        behind = _UNIT_BEHIND.match(rest, math.end())
        return _formula(math) + (behind[0] if behind else "")
    if ends := _END.search(rest):
        span = rest[: ends.start()]
        if ends[0] == "\n" and span.rstrip().endswith(":") and bare_letter(span.strip(" :")) is None:
            following = rest[ends.end():].lstrip().partition("\n")[0].strip()
            span = following if following else span
        if _ONE_LETTER.fullmatch(span.strip()) and (more := _MORE_LETTERS.match(rest, ends.start())):
            span = rest[: more.end()]       # "A. C. C" names several
    else:
        span = rest
    span = _OR_ABOUT.sub(r" \\approx ", span)
    span = _BUT.sub("", span.strip().strip("\"'*“”").rstrip(",;:").strip())
    return span if len(span) <= 300 and re.search(r"\w", span) else None


def _formula(math: re.Match) -> str:
    return next(part for part in math.groups() if part is not None).strip()


_UNIT_BEHIND = re.compile(
    r" ?(?!(?:is|are|and|or|as|so|in|for)\b)[A-Za-z°%]{1,6}(?:\^?[23²³])?(?=[.,;\s]|$)|[π√][^.\s]*"
)
_OR_ABOUT = re.compile(r",? (?:or|which is|i\.e\.,?|that is,?) (?:about|approximately|roughly) (?=[-0-9.$])")
_BUT = re.compile(r"not .{1,80}?(?: but (?:rather )?|[,;] (?:it is|it's|it’s) )|不是.{1,40}?而是")
_MORE_FORMULAS = re.compile(r",? ?(?:or|and) ?(?:\$|\\\()|, ?(?:\$|\\\()")
_ONE_LETTER = re.compile(r"\(?[A-Za-z]\)?")
_MORE_LETTERS = re.compile(r"(?:[.,] ?\(?[A-Za-z]\)?(?![A-Za-z]))+(?=[.,]?\s*$)", re.MULTILINE)


def _first_line(text: str) -> int:
    return len(text.partition("\n")[0])


def _without_options(text: str, choices: tuple[str, ...]) -> str:
    """The text with those options blanked that sound like a phrase: "None of the other answers is correct"."""
    for option in choices:
        if len(option) > 6 and _PHRASE.search(option):
            text = re.sub(re.escape(option), lambda found: "\0" * len(found[0]), text, flags=re.IGNORECASE)
    return text


_SENTENCE = re.compile(r"(?<=[^A-Z][.!?])\s+|(?<=[。！？])|\n+")


@lru_cache(maxsize=512)
def sentences(text: str) -> tuple[str, ...]:
    """The sentences at a text's end; a line's end is the end of one, the point of an initial is none."""
    return tuple(part.strip() for part in _SENTENCE.split(text[-MAX_CHARACTERS:]) if part and part.strip())


_CONCLUDES = re.compile(
    r"(?:^|.*[.$\]] )(?:[-*•] )?(?:therefore|thus|hence|so|in conclusion|consequently|finally|as a result"
    r"|(?<![a-z] )the (?:output|result|final result|total)(?= is))\b|(?:^|.*[。，])(?:所以|因此|综上|故)",
    re.IGNORECASE | re.DOTALL,
)


def _concluded(text: str, answer_type: str) -> str | None:
    """The value at the end of the last sentence, if that sentence draws a conclusion."""
    *_, last = ("", *sentences(text))
    if last.endswith("?") or not (match := _CONCLUDES.match(last)):
        return None
    conclusion = last[match.end():]
    if answer_type in ("integer", "float"):
        return _only_number(conclusion, answer_type)
    return at_the_end(conclusion, (), answer_type)


_MEASURES = re.compile(
    r"\b(?:radius|diameter|circumference|perimeter|area|volume|length|width|height|slope|mean|median|mode)\b",
    re.IGNORECASE,
)
_TO = re.compile(r"(?<![\w.:])[0-9]{1,9}(?:\.[0-9]{1,9})? to [0-9]{1,9}(?:\.[0-9]{1,9})?(?![\w:]|\.[0-9])")
_LAST_IS = re.compile(
    r".{0,600}"
    r"(?:\b(?:is|are|was|were|be|equals?|equal to|gives?|get|gets|shows|reads|of|to|by)"
    r"|[是为]|等于|=|≈|\\approx|\\Rightarrow)"
    r"(?: (?:exactly|approximately|about|around|only|just))? ?:? ?(\S.{0,120}?)[.!。]?\s*",
    re.IGNORECASE | re.DOTALL,
)


def at_the_end(sentence: str, choices: Sequence[str], answer_type: str) -> str | None:
    """What a sentence says that something is, at its end, if that is a value of this type or an option."""
    match = _LAST_IS.fullmatch(sentence)
    if match is None or _UNEQUAL.search(sentence, max(0, match.start(1) - 30), match.start(1)):
        return None
    said = match[1].strip(" $*")
    if answer_type == "named" and (names := _MEASURES.findall(sentence, 0, match.start(1))):
        said = f"{names[-1]} = {said}"      # a radius is no diameter
    if answer_type == "ratio" and (terms := _TO.findall(sentence)):
        return terms[-1]
    if answer_type == "list":
        return said if said[:1] == "[" or _LISTED.fullmatch(said) else None
    if answer_type == "choice":
        return said if choices and named_options(said, choices)[0] is not None else None
    return said if _is_value(said, answer_type) else None


def _is_value(text: str, answer_type: str) -> bool:
    if not text or len(text) > 200:
        return False
    if answer_type in ("integer", "float"):
        return number(text) is not None
    if answer_type == "choice":
        return False
    value = read(text)
    value = value.value if isinstance(value, Named) else value
    if answer_type == "text":       # "432 cm³", and no letter or word
        return isinstance(value, Scalar) and value.is_closed and any(map(str.isdigit, text))
    return not any(isinstance(one, Text) for one in (value.items if isinstance(value, Several) else [value]))


_SUMS_UP = re.compile(
    r"\b(?:there (?:are|is) .{1,60}\b(?:left|remaining)|in total|altogether|together|a total of|makes|gives|leaves)\b",
    re.IGNORECASE,
)


def bare_value(answer: str, answer_type: str) -> str | None:
    """A response that is a value, or whose last line is one; of a single sentence the only formula or number in it."""
    said = answer.strip().strip("*`#").strip()
    if not said or answer_type == "choice":
        return None
    lines = [line.strip() for line in said.split("\n") if line.strip()]
    if answer_type == "list" and (match := _LIST_LAST.search(lines[-1])):
        return match[0]
    if len(lines) > 1:
        return _last_line(lines, answer_type) or (_concluded(said, "text") if answer_type == "text" else None)
    if len(said) > 600:
        return None
    if math := _MATH.fullmatch(said.rstrip(".")):
        return _formula(math)
    if (clauses := _SO.split(said.rstrip(".")))[1:] and _is_value(clauses[-1], answer_type):
        return clauses[-1]
    if _is_value(said, answer_type):
        return said
    if answer_type in ("integer", "float"):
        return _number_of_few(sentences(said), answer_type)
    if len(sentences(said)) != 1:
        return None
    if answer_type == "text":
        return _few_words(EMPHASIS.sub("", said)) or at_the_end(EMPHASIS.sub("", said), (), answer_type)
    formulas = list(_MATH.finditer(said))
    if len(formulas) == 1 and (_is_value(formula := _formula(formulas[0]), answer_type) or "\\begin" in formula):
        return formula
    if (answer_type == "statements" or said[:9].lower() == "statement") and (match := _ARE_RIGHT.match(said)):
        return match[1] if _is_value(match[1], answer_type) else None
    found = at_the_end(EMPHASIS.sub("", said), (), answer_type)
    if found is not None and answer_type in ("blanks", "alternatives") and not isinstance(read(found), Several):
        return None
    return found


_ARE_RIGHT = re.compile(r"(?:statements? )?(.{1,60}?) (?:are|is) (?:the )?(?:correct|true|right)\b", re.IGNORECASE)
_LISTED = re.compile(r"-?[0-9.]{1,20}(?:, ?-?[0-9.]{1,20}){0,30}(?:,| and|, and) -?[0-9.]{1,20}")
_LIST_LAST = re.compile(r"\[[^\[\]]{1,200}\](?=[.`*]{0,3}$)")


def _few_words(sentence: str) -> str | None:
    """A text of a few words, or those that a sentence ends with: "The country with the highest value is Brazil."."""
    if is_refusal(sentence):
        return None
    if len(sentence.split()) <= 6 and not _CONCLUDES.match(sentence) and not re.search(r" (?:is|are) ", sentence):
        return sentence.rstrip(".")
    match = re.fullmatch(r".{1,200} (?:is|are|was|were) ((?:[^\s.]+ ?){1,3})\.?", sentence)
    return match[1] if match else None


def _number_of_few(said: Sequence[str], answer_type: str) -> str | None:
    """The number of a sentence or a few: the only one, the one that begins, the one that the last sentence sums up."""
    first, last = said[0], said[-1]
    if len(said) == 1:
        formulas = list(_MATH.finditer(first))
        if len(formulas) == 1 and _is_value(formula := _formula(formulas[0]), answer_type):
            return formula
        return _only_number(first, answer_type)
    if "=" not in first and _is_value(first.rstrip("."), answer_type):
        return first.rstrip(".")
    if _SUMS_UP.search(last) and (found := _only_number(last, answer_type)):
        return found
    found = {number for sentence in said for _, number in _numbers_of(EMPHASIS.sub("", sentence))}
    is_plain = not any(sentence.endswith("?") or is_unsure(sentence) or _ASKS.search(sentence) for sentence in said)
    return found.pop() if len(found) == 1 and is_plain and not re.search("[*/=+]", "".join(said)) else None


def _last_line(lines: Sequence[str], answer_type: str) -> str | None:
    """The last line, if it alone is a value; of a text, if it has a few words behind a line of more."""
    last, before = (EMPHASIS.sub("", line).strip(" $.") for line in (lines[-1], lines[-2]))
    if answer_type == "text":
        return last if len(last.split()) <= 4 < len(before.split()) and not last.endswith((":", "?")) else None
    return last if _is_value(last, answer_type) and not _is_value(before, answer_type) else None


_NUMBER_WORDS = {"zero": 0, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60} | {
    word: number for number, word in enumerate([
        "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
        "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
    ], 2)
}
_COUNTED = re.compile(
    r"(?:\bthere (?:are|is|were|was|will be|would be) |\ba total of )"
    r"(?:only |exactly |a total of |about |approximately )?"
    r"(?=\S)",
    re.IGNORECASE,
)
_REASON = re.compile(r",? (?:because|since|as (?:it|the|there))\b", re.IGNORECASE)
_SO = re.compile(r"(?:^|[,;.] )(?:and )?(?:so|thus|hence|therefore),? ", re.IGNORECASE)
_SUPPOSES = re.compile(
    r"\W{0,3}(?:if|suppose|supposing|assum(?:e|ing)|had)\b.{0,120}?\b(?:were|was|had|would)\b", re.IGNORECASE
)
_ASKS = re.compile(r"\bquestion (?:asks|is asking)\b|\bwe (?:need|have) to (?:find|determine)\b", re.IGNORECASE)


def _only_number(sentence: str, answer_type: str) -> str | None:
    """The number of a sentence that has one; else the one that is counted ("there are 5 …"), or stands at its end.

    A reason behind it and a premise before "so" are left aside. Number words are read here, for prose is written so.
    """
    if sentence.rstrip().endswith("?") or is_unsure(sentence) or _ASKS.search(sentence) or _SUPPOSES.match(sentence):
        return None
    said = EMPHASIS.sub("", sentence)
    said = said[: reason.start()] if (reason := _REASON.search(said)) and reason.start() > 10 else said
    said = _SO.split(said)[-1]
    if re.search(r"\d[a-zA-Z]|[*/=+|]", said):
        return at_the_end(said, (), answer_type)
    numbers = _numbers_of(said)
    if len(numbers) == 1:
        return numbers[0][1]
    counted = [match.end() for match in _COUNTED.finditer(said)]
    if counted and (first := [number for start, number in numbers if start == counted[-1]]):
        return first[0]
    return at_the_end(said, (), answer_type)


_NUMBER = re.compile(
    r"(?<![\w.,^])[-−]?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,300})(?:\.[0-9]{1,300})?"
    r"(?![\w^]|\.[0-9]|,[0-9])"
    r"|(?<![\w.,^])[-−]?\.[0-9]{1,300}(?!\w)"
)
_UNEQUAL = re.compile(      # before a number: "at least", "is not"
    r"\b(?:(?:less|more|greater|fewer|larger|smaller|higher|lower) than|at least|at most|up to|over|under|above|below)"
    r"(?: or equal to)? [$€£]?$|\b(?:not|never|cannot)(?: be| equal to)? [$€£]?$|n['’]t(?: be| equal to)? [$€£]?$",
    re.IGNORECASE,
)
_SCALED = re.compile(r" (?:dozen|hundred|thousand|million|billion)\b", re.IGNORECASE)     # 3 million is not 3
_MINUS = re.compile(r"(?:\bminus|\bnegative) $", re.IGNORECASE)
_WORDED = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b(?!-)", re.IGNORECASE)


def _numbers_of(text: str) -> list[tuple[int, str]]:
    """Numbers and where they begin, number words as digits."""
    digits = [
        (match.start(), f"-{match[0]}" if _MINUS.search(text, max(0, match.start() - 9), match.start()) else match[0])
        for match in _NUMBER.finditer(text)
        if not _UNEQUAL.search(text, max(0, match.start() - 20), match.start()) and not _SCALED.match(text, match.end())
    ]
    spoken = [(match.start(), str(_NUMBER_WORDS[match[0].lower()])) for match in _WORDED.finditer(text)]
    return sorted(digits + spoken)
