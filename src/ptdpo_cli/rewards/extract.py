r"""The final answer of a response, looked for in several ways, after the thought; and what is a refusal.

Every pattern has bounded repetitions, so that any text takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from string import ascii_uppercase
from typing import Literal

from ptdpo_cli.mathtext import plain, read
from ptdpo_cli.mathtext.braces import closing_brace
from ptdpo_cli.mathtext.values import Named, Several, Text
from ptdpo_cli.rewards.choices import LETTERS, bare_letter, named_options
from ptdpo_cli.rewards.verify import number

WAYS = ("boxed", "tag", "phrase", "letter", "yes-no", "option-text", "bare")
Reads = Literal["answer", "text"]

_MAX_PROSE = 6000       # characters at a response's end in which sentences are looked at
_BOX = re.compile(r"\\f?boxed?\s{0,8}\{")
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_FIELD = re.compile(r'"(?:final|short|correct)?[ _]?answer"\s{0,4}:\s{0,4}(?:"((?:[^"\\]|\\.){1,300})"|([-0-9.]{1,40}))', re.IGNORECASE)
_EMPHASIS = re.compile(r"\*\*|__(?!_)|`")
_NAME = r"(?:(?:final|correct|right|best|most likely|closest) )?(?:answers?|options?|choices?)"
_THEN = r"(?: (?:is|are|would be|should be|must be)\b(?: (?:therefore|thus|hence|then|clearly|indeed|likely|probably|simply|most likely))?,?)"
_PHRASE = re.compile(
    rf"\b(?P<strong>(?:final|correct|right|best|most likely|closest)? ?\banswers?)(?: (?:to|of|for|choice|option) [^.:\n]{{1,80}}?|,[^.:\n]{{1,80}}?,)?{_THEN} ?:? ?"
    rf"|\b{_NAME}(?: (?:to|of|for) [^.:\n]{{1,80}}?|,[^.:\n]{{1,80}}?,)?{_THEN} ?:? ?"
    rf"|\b(?P<colon>(?:(?:final|correct|right|best|most likely|closest) )?(?:answers?|option|choice)) ?[:=：] ?"
    r"|(?P<chinese>【?(?:正确)?(?:答案|选项)】?(?:是|为|应该是|应为)? ?[:：]? ?|故?(?:应|正确)?选(?:择|项)?(?:是|为)? ?[:：]? ?(?=[(（]?[A-Z]))"
    r"|^\W{0,4}answer (?=\$|\\[(\[])"
    r"|\bI(?:'d| would| will|'ll)? (?:choose|select|pick|go with) ",
    re.IGNORECASE,
)
# A sentence ends at a full stop that is followed by a space, at the line's end, or where it begins to explain.
_END = re.compile(
    r"(?<!i\.e)(?<!e\.g)[.!?](?=\s|$)|[。！？\n；]|，(?=[^A-Z0-9])|,? (?:because|since|as|so|which|where|rather than|instead of)\b|,? (?:and )?not (?=\(?[A-Z]\b)",
    re.IGNORECASE,
)
_MATH = re.compile(
    r"\$\$?([^$\n]{1,500})\$\$?|\\\(((?:(?!\\\)).){1,500})\\\)|\\\[((?:(?!\\\]).){1,500})\\\]", re.DOTALL
)
_LINE = re.compile(
    r"(?:option |choice |answer )?(?:\\text(?:bf)?\{|[(\[（])? ?([A-Z]) ?(?:[)\]}）](?:[.:。]| |$)|[.:、。](?: |$)|#{0,3}$)"
    r"(?! ?(?:(?:or|and)\b|/|,) ?\(?[A-Z]\b)",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?<![A-Za-z0-9])[(（]([A-Z])[)）]|(?<![A-Za-z0-9(])([A-Z])[.:)](?= )")
_MARKED = re.compile(
    r"\(([A-Z])\)|\*\*\(?([A-Z])[).]?\*\*|\\text(?:bf)?\{\(?([A-Z])\)?\}|\b[Oo]ption ([A-Z])\b"
    r"|(?<![A-Za-z] )\b([A-Z]) is (?:the )?(?:correct|right|best)\b"
)
_CLOSES = re.compile(r"(?:\b|['’])(?:is|s|be|are|was|becomes) (?:option |choice |letter |figure |shape |box )?\(?([A-Z])\)?(?:[.!]?\s*$|[.!](?=\s)|,(?! ?(?:and |or )?\(?[A-Z]\b))")
_LETTERS = re.compile(r"[(\[]?[A-Z][)\]]?(?:(?:[,;、&]| and|, and)? ?[(\[]?[A-Z][)\]]?){1,9}\.?")


def extract(
    text: str,
    ways: Sequence[str] = ("boxed",),
    *,
    choices: Sequence[str] = (),
    answer_type: str = "text",
    n_values: int = 1,
    reads: Reads = "answer",
) -> tuple[str, str] | None:
    r"""The answer and the way it was found, by the first way of `ways` that finds one; None where none does.

    boxed        the last `\boxed{…}` (or `\fbox`), nested braces included; where the reference has several values and
                 there are as many boxes, the last boxes together
    tag          the last `<answer>…</answer>`, or the box in it; else the last "answer" of a JSON object
    phrase       after the last "the answer is", "final answer:", "the correct option is", "故选": to the end of the
                 sentence or line; or the formula, if it begins with one, or the box in it. Else the value at the end
                 of a last sentence that concludes ("Therefore, the area is 5")
    letter       choice and set alone: a letter that stands as a line's beginning or as its whole, that alone is marked
                 as in "(B)", or that a sentence ends with ("is B."); a list of all options is no answer, and neither
                 is the article in "A triangle has …"
    yes-no       "Yes" or "No" as the first word, before a comma or a full stop
    option-text  choice alone: the one option whose text the response is, or names
    bare         a value that is the whole response or its last line; of a single sentence the only number in it

    `reads` "answer": only what follows the thought counts, and a thought that never ends gives None; "text": a thought
    is text like any other. A box that never closes gives no box.
    """
    answer = after_thought(text) if reads == "answer" else text
    if answer is None:
        return None
    answer = _without_html(answer.replace("\u200b", ""))
    for way in ways:
        match way:
            case "boxed":
                found = _said_in(_boxed(answer, n_values), choices, answer_type)
            case "tag":
                found = _said_in(_tagged(answer), choices, answer_type)
            case "phrase":
                found = _stated(answer, choices, answer_type)
            case "letter" if answer_type in ("choice", "set"):
                found = _lettered(answer, choices, several=answer_type == "set")
            case "yes-no":
                found = _yes_or_no(answer, choices, answer_type)
            case "option-text" if answer_type == "choice" and choices:
                found = _option_named(answer, tuple(choices))
            case "bare":
                found = _bare(answer, answer_type)
            case _:
                found = None
        if found is not None:
            return found, way
    return None


def extract_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` after the thought, nested braces included; None where there is none.

    A box inside the thought is no answer. A thought that never ends, or a box that never closes, gives None. The
    opening `<think>` may be missing, for some chat templates write it into the prompt.
    """
    found = extract(text, ("boxed",))
    return None if found is None else found[0]


def after_thought(text: str) -> str | None:
    """What a response says after its last thought; None if it is still thinking."""
    answer = text.rpartition("</think>")[2]
    return None if "<think>" in answer else answer


_HTML = re.compile(r"</?(?:b|i|u|strong|em|p|br|span|div|code|li|ul|ol|font|center)(?: [^<>]{0,80})?/?>", re.IGNORECASE)
_RAISED = re.compile(r"<(su[pb])>([^<>]{1,40})</su[pb]>", re.IGNORECASE)


def _without_html(text: str) -> str:
    if "<" not in text:
        return text
    return _HTML.sub("", _RAISED.sub(lambda tag: f"{'^' if tag[1].lower() == 'sup' else '_'}{{{tag[2]}}}", text))


_CHINESE_CLAUSE = re.compile(r"[,，。；;]\s?(?=[\u4e00-\u9fff])")


def _said_in(content: str | None, choices: Sequence[str], answer_type: str) -> str | None:
    """A box's or a tag's content; of a sentence in it what that says: "The area is 8" says 8."""
    if content is None or answer_type in ("text", "set", "list") or len(content) > 400:
        return content
    content = _CHINESE_CLAUSE.split(content)[0] or content
    said = " ".join(plain(content).split())
    if not re.search(r"[A-Za-z]{2} (?:is|are|be|=)|[:：]", said):
        return content
    if answer_type == "choice":
        is_named = named_options(content, choices)[0] is not None
        return content if is_named else _stated(content, choices, answer_type) or content
    if isinstance(read(content), Text):
        return _stated(content if "$" in content else said, choices, answer_type) or _at_the_end(said, (), answer_type) or content
    return content


# --- boxes and tags ---------------------------------------------------------------------------------------------------


def _boxed(answer: str, n_values: int = 1) -> str | None:
    boxes = list(_BOX.finditer(answer))
    if not boxes:
        return None
    last = _content(answer, boxes[-1])
    if n_values > 1 and len(boxes) > 1 and last is not None:
        together = [_content(answer, box) for box in boxes[-n_values:]]
        if len(together) == n_values and None not in together and not isinstance(read(last), Several):
            return "; ".join(together)
    return last


def _content(answer: str, box: re.Match) -> str | None:
    end = closing_brace(answer, box.end())
    return None if end is None else answer[box.end():end].strip()


def _tagged(answer: str) -> str | None:
    tags = list(_TAG.finditer(answer))
    for opening, closing in reversed(list(pairwise(tags))):
        if not opening[1] and closing[1]:
            content = answer[opening.end() : closing.start()].strip()
            box = _boxed(content)
            return content if box is None else box
    fields = _FIELD.findall(answer)
    return (fields[-1][0] or fields[-1][1]).replace("\\\\", "\\").strip() if fields else None


# --- sentences --------------------------------------------------------------------------------------------------------


_DENIES = re.compile(r"not (?:option |choice )?\S{1,30}$|(?:incorrect|wrong|unclear|unknown|not (?:applicable|correct|clear|known|given|listed|possible))\b", re.IGNORECASE)


def _stated(answer: str, choices: Sequence[str], answer_type: str) -> str | None:
    text = _EMPHASIS.sub("", answer)
    masked = _without_options(text, tuple(choices))
    phrases = list(_PHRASE.finditer(masked))
    for phrase in reversed(phrases[-3:]):      # "the answer is:" at the very end says nothing yet
        span = _span(text, phrase.end())
        if span is None:
            continue
        is_strong = phrase["strong"] or phrase["colon"] or phrase["chinese"]
        if answer_type == "choice" and not is_strong and named_options(span, choices)[0] is None:
            continue        # "the other options are not applicable"
        if _DENIES.match(span) or (answer_type == "choice" and _lists_all(span, tuple(choices))):
            continue
        if answer_type in ("integer", "float") and number(span) is None and (value := _only_number(span, answer_type)):
            return value
        return span
    return None if answer_type == "choice" else _concluded(text, answer_type)


def _lists_all(span: str, choices: tuple[str, ...]) -> bool:
    """Whether a text only lists what there is to choose from."""
    return len(choices) > 1 and (_lists_options(span) or len(_mentions(plain(span), choices)) == len(choices))


def _span(text: str, start: int) -> str | None:
    """What a phrase announces, from here to the sentence's end; the next line where this one ends with a colon."""
    rest = text[start : start + 2000].lstrip(" \t")
    if rest.startswith("\n") or rest.startswith("\r"):
        rest = rest.lstrip()
    if _BOX.match(rest.lstrip("$ ")):
        return _boxed(rest[: _first_line(rest)])
    if math := _MATH.match(rest):
        formula = next(part for part in math.groups() if part is not None).strip()
        behind = re.match(r" ?(?:[A-Za-z°%]{1,6}(?:\^?[23²³])?(?=[.,;\s]|$)|(?:π|√)[^.\s]*)", rest[math.end():])
        return formula + behind[0] if behind and not re.match(r" (?:is|are|and|or|as|so|in|for)\b", behind[0]) else formula
    if ends := _END.search(rest):
        span = rest[: ends.start()]
        if ends[0] == "\n" and span.rstrip().endswith(":") and bare_letter(span.strip(" :")) is None:
            following = rest[ends.end():].lstrip().partition("\n")[0].strip()
            span = following if following else span
        if _ONE_LETTER.fullmatch(span.strip()) and (more := _MORE_LETTERS.match(rest, ends.start())):
            span = rest[: more.end()]       # "A. C. C" names several
    else:
        span = rest
    span = _BUT.sub("", span.strip().strip("\"'*“”").rstrip(",;:").strip())
    return span if span and len(span) <= 300 else None


_BUT = re.compile(r"not .{1,80}? but (?:rather )?")
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
_CONCLUDES = re.compile(
    r"(?:^|.*[.$\]] )(?:[-*•] )?(?:therefore|thus|hence|so|in conclusion|consequently|finally|as a result"
    r"|(?<![a-z] )the (?:output|result|final result|total)(?= is))\b",
    re.IGNORECASE | re.DOTALL,
)
_LAST_IS = re.compile(
    r".{0,600}(?:\b(?:is|are|was|were|be|equals?|equal to|gives?|get|gets|of|to|by)|=|≈|\\approx|\\Rightarrow)(?: (?:exactly|approximately|about|around|only|just))? ?[:]? ?(\S.{0,120}?)[.!]?\s*",
    re.IGNORECASE | re.DOTALL,
)


@lru_cache(maxsize=512)
def _sentences(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in _SENTENCE.split(text[-_MAX_PROSE:]) if part and part.strip())


def _concluded(text: str, answer_type: str) -> str | None:
    """The value at the end of the last sentence, if that sentence draws a conclusion."""
    sentences = _sentences(text)
    if not sentences or sentences[-1].endswith("?") or not (match := _CONCLUDES.match(sentences[-1])):
        return None
    conclusion = sentences[-1][match.end():]
    if answer_type in ("integer", "float"):
        return _only_number(conclusion, answer_type)
    return _at_the_end(conclusion, (), answer_type)


def _at_the_end(sentence: str, choices: Sequence[str], answer_type: str) -> str | None:
    match = _LAST_IS.fullmatch(sentence)
    if match is None:
        return None
    said = match[1].strip(" $*")
    if answer_type == "list":
        return said if said[:1] == "[" else None
    if answer_type == "choice":
        return said if choices and named_options(said, choices)[0] is not None else None
    return said if _is_value(said, answer_type) else None


def _is_value(text: str, answer_type: str) -> bool:
    if not text or len(text) > 200:
        return False
    if answer_type in ("integer", "float"):
        return number(text) is not None
    if answer_type in ("choice", "text"):
        return False
    value = read(text)
    value = value.value if isinstance(value, Named) else value
    return not isinstance(value, Text) and not (isinstance(value, Several) and any(isinstance(one, Text) for one in value.items))


# --- letters ----------------------------------------------------------------------------------------------------------


def _lettered(answer: str, choices: Sequence[str], *, several: bool) -> str | None:
    known = set(ascii_uppercase[: len(choices)] or LETTERS)
    lines = [_EMPHASIS.sub("", line).strip().lstrip("-•> ") for line in answer.strip().splitlines() if line.strip()]
    if not lines:
        return None
    if len(lines) == 1 and lines[0] in choices and bare_letter(lines[0]) is None:
        return lines[0]     # "A. Smith" is an option's text, not a letter
    if several and _LETTERS.fullmatch(lines[-1]) and set(re.findall("[A-Z]", lines[-1])) <= known:
        return lines[-1].removesuffix(".")
    begun = [(match[1].upper(), line) for line in lines if (match := _LINE.match(line)) and match[1].upper() in known
             and not _NOT_CHOSEN.search(line)]
    found = {letter for letter, line in begun if not _lists_options(line)}
    at_the_ends = any((m := _LINE.match(line)) and m[1].upper() in known for line in (lines[-1], lines[0]))
    if at_the_ends and len(found) == 1 and len(begun) == sum(letter in found for letter, _ in begun):
        (letter,) = found
        said = list(dict.fromkeys(line for _, line in begun))[-50:] if choices else []
        contradicted = next((line for line in said if named_options(line, choices)[1]), None)
        return contradicted or letter
    alone = [m[1].upper() for line in lines[-1:] if (m := re.fullmatch(r"[(\[]?([A-Z])[)\]]?[.:]?", line))]
    if alone and alone[0] in known:     # after a list of the options
        return alone[0]
    if _lists_options(answer):
        return None
    marks = [match for match in _MARKED.finditer(answer) if next(filter(None, match.groups())) in known]
    marked = {next(filter(None, match.groups())) for match in marks}
    if len(marked) == 1:
        line = answer[marks[-1].start():].partition("\n")[0]
        if choices and line[:1] == "(" and named_options(line, choices)[1]:
            return line
        return None if _NOT_CHOSEN.search(line) else marked.pop()
    if concluded := _CONCLUDED_OPTION.match(_sentences(answer)[-1] if _sentences(answer) else ""):
        return concluded[1] if concluded[1] in known else None
    closing = {letter for sentence in _sentences(answer) for letter in _CLOSES.findall(sentence)} & known if not marked else set()
    return closing.pop() if len(closing) == 1 else None


_NOT_CHOSEN = re.compile(r"\b(?:is|are) (?:not|incorrect|wrong|false)\b|\bisn['’]t\b|\bcannot be\b", re.IGNORECASE)
_CONCLUDED_OPTION = re.compile(
    r"(?:therefore|thus|hence|so),? (?:the )?(?:option|choice|answer) \(?([A-Z])\)? (?:is|has|was|would|fits|matches)\b(?! (?:not|incorrect|wrong|false))",
    re.IGNORECASE,
)


def _lists_options(text: str) -> bool:
    """Whether A, B and C stand there as labels: a list of the options, which chooses none."""
    labels = {one or other for one, other in _LABEL.findall(text)}
    return {"A", "B"} <= labels and (len(labels) > 2 or "\n" not in text.strip())


# --- words ------------------------------------------------------------------------------------------------------------

_YES = re.compile(r"[\s*_\"'`]{0,8}(yes|no|true|false)[*_\"'`]{0,4}(?:[.,;:!]|\s*$|\s*\n|\s[-–—]|\s(?:it|they|he|she|there|this|that|the)\b)", re.IGNORECASE)


def _yes_or_no(answer: str, choices: Sequence[str], answer_type: str) -> str | None:
    if answer_type not in ("text", "choice"):
        return None
    match = _YES.match(answer)
    if match is None or (choices and named_options(match[1], choices)[0] is None):
        return None
    return match[1] if choices or answer_type == "text" else None


def _option_named(answer: str, choices: tuple[str, ...]) -> str | None:
    """The option that a response is, or the only one that it speaks of."""
    said = answer.strip().strip("*#").strip()
    said = re.sub(r"^\d{1,2}[.)] +(?=[A-Za-z])", "", said)
    if len(said) <= 400 and "\n" not in said and bare_letter(said) is None:
        option, is_contradicted = named_options(said, choices)
        if option is not None or is_contradicted:
            return said
    if _lists_options(answer):
        return None
    mentioned = _mentions(_EMPHASIS.sub("", plain(answer[-_MAX_PROSE:]) if len(answer) < 2000 else answer[-_MAX_PROSE:]), choices)
    if len(mentioned) == 1:
        (index,) = mentioned
        is_short = len(answer) < 300 and re.search(r"(?!and\b|the\b)[^\W\d_]{3}", choices[index])
        if (_is_telling(choices[index]) or is_short) and not is_refusal(answer):
            return choices[index]
    if not mentioned and len(_sentences(answer)) == 1 and (found := _only_value(answer, choices)):
        return found
    for sentence in (_sentences(answer)[-1:] + _sentences(answer)[:1]) if len(answer) < 1500 else _sentences(answer)[-1:]:
        if found := _at_the_end(_EMPHASIS.sub("", sentence), choices, "choice"):
            return found
    return None


_QUANTITY = re.compile(r"\([^()]{3,30}\)|[$€£]?(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?(?: ?(?:[a-zA-Z°%²³]{1,12}|\$[^$]+\$))?")


def _only_value(sentence: str, choices: tuple[str, ...]) -> str | None:
    """The one value of a sentence, where it is an option's: "(2,4)" for "(2, 4)", "1150 dollars" for "$1,150"."""
    values = [match[0].strip(" ,.") for match in _QUANTITY.finditer(sentence)]
    if len(values) != 1 or sentence.rstrip().endswith("?"):
        return None
    for said in (values[0], values[0].rpartition(" ")[0]):
        if said and named_options(said, choices)[0] is not None and bare_letter(said) is None:
            return said
    return None


def _is_telling(option: str) -> bool:
    """Whether an option's text is a word or a long number, so that a mention of it is no accident."""
    return re.search(r"[^\W\d_]{4}", option) is not None or len(re.findall("[0-9]", option)) >= 4


_DENIED = re.compile(r"(?:\bnot|n't|\bneither|\bnor|\bno|\bexcept|\bother than|\bincorrect[^.]{0,20}|\bfalse that)(?: [a-z]+){0,2} $", re.IGNORECASE)


def _mentions(text: str, choices: tuple[str, ...]) -> set[int]:
    """Which options' texts stand in a text as whole words; one that stands inside of a longer one does not count."""
    spans: list[tuple[int, int, int]] = []
    for index, option in enumerate(choices):
        pattern = _mention_of(option)
        if pattern is not None:
            spans += [(match.start(), match.end(), index) for match in pattern.finditer(text)]
    longest = [
        one for one in spans
        if not any(other[0] <= one[0] and one[1] <= other[1] and other[1] - other[0] > one[1] - one[0] for other in spans)
    ] if len(spans) <= 200 else []
    return {index for start, _, index in longest if not _DENIED.search(text, max(0, start - 40), start)}


@lru_cache(maxsize=4096)
def _mention_of(option: str) -> re.Pattern | None:
    words = plain(option).strip(" .").split()
    if not words or len(words) > 40 or (len(words) == 1 and len(words[0]) < 2):
        return None
    body, plural = r"\s+".join(map(re.escape, words)), "(?:e?s)?" if words[-1].isalpha() and len(words[-1]) > 2 else ""
    has_words = re.search(r"[^\W\d_]{3}", option) and "\\" not in option      # \Delta is no \delta
    flags = re.IGNORECASE if has_words else re.NOFLAG
    return re.compile(rf"(?<![\w.,$£€-])(?<!\d ){body}{plural}(?![\w%]|[.,:]\d|-\w)", flags)


# --- bare values ------------------------------------------------------------------------------------------------------

_LEFT = re.compile(r"\bthere (?:are|is) .{1,60}\b(?:left|remaining|in total|altogether)\b", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.,^])[-−]?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?![\w^]|\.\d|,\d)|(?<![\w.,^])[-−]?\.\d+(?!\w)")


def _bare(answer: str, answer_type: str) -> str | None:
    said = answer.strip().strip("*`#").strip()
    if not said or answer_type == "choice":
        return None
    if len(said) <= 300 and "\n" not in said:
        if math := _MATH.fullmatch(said.rstrip(".")):
            return next(part for part in math.groups() if part is not None).strip()
        if _is_value(said, answer_type):
            return said
        if answer_type == "text":
            return said.rstrip(".") if len(said.split()) <= 6 and not _CONCLUDES.match(said) else None
        if answer_type == "list":
            return _at_the_end(said, (), answer_type)
        if len(_sentences(said)) == 1:
            formulas = list(_MATH.finditer(said))
            if len(formulas) == 1:
                formula = next(part for part in formulas[0].groups() if part is not None).strip()
                if _is_value(formula, answer_type) or "\\begin" in formula:
                    return formula
            return _only_number(said, answer_type) if answer_type in ("integer", "float") else None
        if answer_type in ("integer", "float") and _LEFT.search(last := _sentences(said)[-1]):
            return _only_number(last, answer_type)
        return None
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if answer_type == "text" and len(lines) > 1:
        is_short = len(lines[-1].split()) <= 4 and not lines[-1].endswith((":", "?")) and len(lines[-2].split()) > 4
        return _EMPHASIS.sub("", lines[-1]).rstrip(".") if is_short else None
    if len(lines) < 2:
        return None
    last, before = (_EMPHASIS.sub("", line).strip(" $.") for line in (lines[-1], lines[-2]))
    return last if _is_value(last, answer_type) and not _is_value(before, answer_type) else None


_NUMBER_WORDS = dict(zip(
    ["zero", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty", "sixty"], (0, *range(2, 21), 30, 40, 50, 60), strict=True,
))
_COUNTED = re.compile(r"\bthere (?:are|is|were|was|will be|would be) (?:only |exactly |a total of |about |approximately )?(?=\S)", re.IGNORECASE)
_REASON = re.compile(r",? (?:because|since|as (?:it|the|there))\b", re.IGNORECASE)
_SO = re.compile(r"(?:^|[,;.] )(?:and )?(?:so|thus|hence|therefore),? ", re.IGNORECASE)


def _only_number(sentence: str, answer_type: str) -> str | None:
    """The number of a sentence that has one; else the one that is counted ("there are 5 years …"), or stands at its end.

    A reason behind it and a premise before "so" are left aside. Number words are read here, for prose is written so.
    """
    if sentence.rstrip().endswith("?") or is_refusal(sentence) or _ASKS.search(sentence):
        return None
    said = _EMPHASIS.sub("", sentence)
    said = said[: reason.start()] if (reason := _REASON.search(said)) and reason.start() > 10 else said
    said = _SO.split(said)[-1]
    if re.search(r"\d[a-zA-Z]|[*/=+]", said):
        return _at_the_end(said, (), answer_type)
    numbers = _numbers_of(said)
    if len(numbers) == 1:
        return numbers[0][1]
    counted = [match.end() for match in _COUNTED.finditer(said)]
    if counted and (first := [number for start, number in numbers if start == counted[-1]]):
        return first[0]
    return _at_the_end(said, (), answer_type)


_ASKS = re.compile(r"\bquestion (?:asks|is asking)\b|\bwe (?:need|have) to (?:find|determine)\b", re.IGNORECASE)
_WORDED = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b(?!-)", re.IGNORECASE)


def _numbers_of(text: str) -> list[tuple[int, str]]:
    """Numbers and where they begin, number words as digits."""
    digits = [(match.start(), match[0]) for match in _NUMBER.finditer(text)]
    spoken = [(match.start(), str(_NUMBER_WORDS[match[0].lower()])) for match in _WORDED.finditer(text)]
    return sorted(digits + spoken)


# --- refusals ---------------------------------------------------------------------------------------------------------

_CANNOT = r"(?:cannot|can not|can['’]t|won['’]t|(?:am|are|['’]m) (?:unable|not able) to)"
_HELP = (
    r"(?:help|assist|answer|comply|fulfil|fulfill|provide|process|view|see|access|open|analy[sz]e|interpret|identify|"
    r"solve|complete|say|tell|make out|do that|do this|continue|discuss|look at|display|read|perceive|determine|evaluate|comment)"
)
_REFUSAL = re.compile(
    rf"\b(?:I|we) ?{_CANNOT} (?:directly |actually |really )?{_HELP}\b"
    r"(?! (?:a |any )?(?:simpler|pattern|error|mistake|why|how))"
    r"|\bas an? (?:AI|(?:large )?language model)\b[^.\n]{0,80}\b(?:cannot|can['’]t|not able|unable)"
    r"|\b(?:no|any) image (?:was|is|has been) (?:provided|attached|uploaded)"
    r"|\bplease (?:provide|upload|share|attach) the (?:image|picture|figure|diagram)"
    r"|\bI (?:do not|don't|don’t) see (?:any|an) (?:image|picture|figure|attachment)"
    r"|抱歉.{0,10}(?:无法|不能)|我(?:无法|不能)(?:回答|查看|看到|提供|帮助)",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether a response that gave no answer declines to give one: it cannot help, or cannot see the picture."""
    return _REFUSAL.search(after_thought(text) or "") is not None
