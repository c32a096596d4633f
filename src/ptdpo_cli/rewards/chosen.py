"""Which option a response chooses, where it says so by a letter, by yes or no, or by an option's text.

Every pattern has bounded repetitions, so that any text takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from ptdpo_cli.mathtext import plain
from ptdpo_cli.rewards.choices import LETTERS, bare_letter, lists_options, mentions, named_options
from ptdpo_cli.rewards.prose import EMPHASIS, MAX_CHARACTERS, at_the_end, sentences
from ptdpo_cli.rewards.refusals import is_refusal, is_unsure
from ptdpo_cli.rewards.verify import items

_LINE = re.compile(         # "B", "(B)", "B. 12 cm", "Option B"
    r"(?:option |choice |answer )?(?:\\text(?:bf)?\{|[(\[（])? ?([A-Z]) ?"
    r"(?:[)\]}）](?:[.:。]| |$)|[.:、。](?: |$)|#{0,3}$)"
    r"(?! ?(?:(?:or|and)\b|/|,) ?\(?[A-Z]\b)",
    re.IGNORECASE,
)
_BULLET = re.compile(r"(?:[•>] ?|-(?=[\s(A-Za-z])\s*){1,3}")       # and not the sign of -5
_ALONE = re.compile(r"[(\[]?([A-Z])[)\]]?[.:]?")
_MARKED = re.compile(
    r"\(([A-Z])\)|\*\*\(?([A-Z])[).]?\*\*|\\text(?:bf)?\{\(?([A-Z])\)?\}|\b(?:[Oo]ption|[Cc]hoice) ([A-Z])\b"
    r"|\banswer \(?([A-Z])\)? (?=is|fits|matches)|(?<![A-Za-z] )\b([A-Z]) is (?:the )?(?:correct|right|best)\b"
)
_CLOSES = re.compile(       # "it is B.", "hence C."
    r"(?:(?:\b|['’])(?:is|s|be|are|was|becomes)|\b(?:so|hence|thus|therefore),?) "
    r"(?:option |choice |letter |figure |shape |box )?\(?([A-Z])\)?"
    r"(?:[.!]?\s*$|[.!](?=\s)|,(?! ?(?:and |or )?\(?[A-Z]\b))"
)
_LETTERS = re.compile(r"[(\[]?[A-Z][)\]]?(?:(?:[,;、&]| and|, and)? ?[(\[]?[A-Z][)\]]?){1,9}\.?")
_SEVERAL_OPTIONS = re.compile(
    r"\b(?:options|choices|answers|both|figures)?:? ?"
    r"\(?((?<![A-Za-z])[A-Z]\)?(?:(?:, | and |, and | & )\(?[A-Z]\)?){1,8}) (?:are|is) (?:the )?(?:correct|right)",
    re.IGNORECASE,
)
_CONCLUDED_OPTION = re.compile(
    r"(?:therefore|thus|hence|so),? (?:the )?(?:option|choice|answer) \(?([A-Z])\)? (?:is|has|was|would|fits|matches)\b"
    r"(?! (?:not|incorrect|wrong|false))",
    re.IGNORECASE,
)
_NOT_CHOSEN = re.compile(r"\b(?:is|are) (?:not|incorrect|wrong|false)\b|\bisn['’]t\b|\bcannot be\b", re.IGNORECASE)


_LETTER_FIRST = re.compile(r"\(?[A-Z]\)?[ .,:]{1,2}\(?\S.{0,120}$")
_IS_RIGHT = re.compile(r"\b(?:answer|option|choice) \(?([A-Z])\)? is (?:the )?(?:correct|right|best)\b", re.IGNORECASE)
_NEGATES = re.compile(r"(?:\b(?:not|never|cannot)|n['’]t)(?: possibly)?\s?$", re.IGNORECASE)


def chosen_letter(answer: str, choices: Sequence[str], *, several: bool) -> str | None:
    """The letter that a response gives; where it gives one with another option's text, both."""
    known = set(ascii_uppercase[: len(choices)] or LETTERS)
    lines = [_BULLET.sub("", EMPHASIS.sub("", line).strip()) for line in answer.strip().split("\n") if line.strip()]
    if not lines:
        return None
    if len(lines) == 1 and lines[0] in choices and bare_letter(lines[0]) is None:
        return lines[0]     # "A. Smith" is an option's text, not a letter
    if several and _LETTERS.fullmatch(lines[-1]) and set(re.findall("[A-Z]", lines[-1])) <= known:
        return lines[-1].removesuffix(".")
    if several and (match := _SEVERAL_OPTIONS.search(EMPHASIS.sub("", answer))):
        return match[1]
    if (begun := _begun(lines, choices, known)) is not None:
        return begun
    if (match := _ALONE.fullmatch(lines[-1])) and match[1] in known:        # after a list of the options
        return match[1]
    if not lists_options(answer):
        is_alone = _LETTER_FIRST.match(lines[-1]) and not any(_LETTER_FIRST.match(line) for line in lines[:-1])
        is_alone = is_alone and not _NOT_CHOSEN.search(lines[-1])
        if choices and len(lines) > 1 and is_alone and any(named_options(lines[-1], choices)):
            return lines[-1]        # "A (12 cm)" behind a heading
        return _in_sentences(answer, choices, known)
    *listed, last = ("", *sentences(answer))
    closing = set()
    if any(listed):     # "(A) 3, (B) 4. As it is even, it is (B)."
        closing = _closing([last], known) | ({match[1] for match in _IS_RIGHT.finditer(last)} & known)
    return closing.pop() if len(closing) == 1 else None


def _begun(lines: Sequence[str], choices: Sequence[str], known: set[str]) -> str | None:
    """The letter that lines begin with, if it is one and the first or last line has it."""
    labels = [match and match[1].upper() for match in map(_LINE.match, lines)]
    begun = [(letter, line) for letter, line in zip(labels, lines, strict=True)
             if letter in known and not _NOT_CHOSEN.search(line)]
    chosen = {letter for letter, line in begun if not lists_options(line)}
    if len(chosen) != 1 or not {labels[0], labels[-1]} & known or any(letter not in chosen for letter, _ in begun):
        return None
    said = list(dict.fromkeys(line for _, line in begun))[-50:] if choices else []     # a bound on what is compared
    contradicting = (line for line in said if named_options(line, choices)[1])
    return next(contradicting, chosen.pop())


def _in_sentences(answer: str, choices: Sequence[str], known: set[str]) -> str | None:
    """The one letter that is marked, else the one that the last sentence concludes or that a sentence ends with."""
    marks = [match for match in _MARKED.finditer(answer) if _letter(match) in known]
    marked = set(map(_letter, marks))
    if len(marked) == 1:
        line = answer[marks[-1].start():].partition("\n")[0]
        if choices and line[:1] == "(" and named_options(line, choices)[1]:
            return line
        if choices and (other := _contradicted(marks[-1], answer, choices)):
            return other
        return None if _NOT_CHOSEN.search(line) else marked.pop()
    said = sentences(answer)
    if said and (match := _CONCLUDED_OPTION.match(said[-1])):
        return match[1] if match[1] in known else None
    closing = _closing(said, known)
    return closing.pop() if len(closing) == 1 and not marked else None


def _closing(said: Sequence[str], known: set[str]) -> set[str]:
    """The letters that sentences end with, but for those that they deny."""
    return {match[1] for sentence in said for match in _CLOSES.finditer(sentence)
            if not _NEGATES.search(sentence, 0, match.start())} & known


def _letter(mark: re.Match) -> str:
    return next(filter(None, mark.groups()))


def _contradicted(mark: re.Match, answer: str, choices: Sequence[str]) -> str | None:
    """The letter with the text of another option, where its sentence names that one alone: "it is 72°, option B"."""
    start = max(answer.rfind(stop, 0, mark.start()) for stop in ("\n", ". ")) + 1
    mentioned = mentions(plain(answer[start:mark.start()]), tuple(choices))
    if len(mentioned) != 1 or ascii_uppercase[(index := mentioned.pop())] == _letter(mark):
        return None
    return f"{_letter(mark)}. {choices[index]}"


_YES = re.compile(
    r"[\s*_\"'`]{0,8}(?:(?:so|well|therefore|thus|hence),? )?(yes|no|true|false)[*_\"'`]{0,4}"
    r"(?:(?!\.\.)[.,;:!]|\s*$|\s*\n|\s[-–—]|\s(?:it|they|he|she|there|this|that|the)\b)",
    re.IGNORECASE,
)


def yes_or_no(answer: str, choices: Sequence[str], answer_type: str) -> str | None:
    """Yes, no, true or false, where a response begins with it; of a choice, if an option says so."""
    if not (answer_type == "text" or (answer_type == "choice" and choices)):
        return None
    match = _YES.match(answer)
    if match is None or (choices and named_options(match[1], choices)[0] is None):
        return None
    return None if _TAKES_BACK.search(answer, match.end()) else match[1]


_TAKES_BACK = re.compile(
    r"\b(?:wait|hmm|sorry|correction|on second thought)\b[^.!?\n]{0,80}\b(?:yes|no|true|false)\b", re.IGNORECASE
)


def named_option(answer: str, choices: tuple[str, ...]) -> str | None:
    """The option that a response is, the only one that it or its last sentence speaks of, or that this ends with."""
    if lists_options(answer):
        return None
    said = re.sub(r"^[0-9]{1,2}[.)] +(?=[A-Za-z])", "", answer.strip().strip("*#").strip())
    if len(said) <= 400 and "\n" not in said and bare_letter(said) is None:
        option, is_contradicted = named_options(said, choices)
        if option is not None or is_contradicted:
            return said
    ending = answer[-MAX_CHARACTERS:]
    mentioned = mentions(EMPHASIS.sub("", plain(ending) if len(ending) < 2000 else ending), choices)
    if len(mentioned) == 1:
        option = choices[min(mentioned)]
        if _is_telling(option, is_short=len(answer) < 300) and not is_refusal(answer):
            return option
    all_said = sentences(answer)
    if len(mentioned) < 2 and len(all_said) == 1 and (found := _only_value(answer, choices)):
        return found
    if len(answer) < 800 and all_said and len(named := _named_by(all_said[-1], choices)) == 1:
        return choices[named.pop()]
    if all_said and (is_unsure(all_said[-1]) or _LACKS.search(all_said[-1])) and not is_refusal(answer):
        unsure = [option for option in choices if _UNKNOWN.search(option)]
        return unsure[0] if len(unsure) == 1 else None
    looked_at = [*all_said[-1:], *(all_said[:1] if len(answer) < 1500 else ())]
    found = (at_the_end(EMPHASIS.sub("", sentence), choices, "choice") for sentence in looked_at)
    return next(filter(None, found), None)


_LACKS = re.compile(r"\binsufficient\b|\bnot (?:enough|sufficient) (?:information|data)\b", re.IGNORECASE)
_UNKNOWN = re.compile(       # "Impossible to tell", "Insufficient information"
    r"^\W*(?:(?:it is |it )?(?:impossible|not possible|unable|cannot|can['’]t|can not) (?:to |be )?"
    r"(?:tell|say|know|known|determined?|told)|(?:insufficient|not enough|too little) (?:information|data))\b",
    re.IGNORECASE,
)


def named_options_only(answer: str, choices: tuple[str, ...]) -> str | None:
    """A response that is the texts of options and nothing else: "iron and nickel"."""
    said = answer.strip().strip("*").rstrip(".")
    if len(said) > 300 or "\n" in said or re.search(r"\bor\b", said):
        return None
    return said if all(named_options(item, choices)[0] for item in items(said)) else None


def _named_by(sentence: str, choices: tuple[str, ...]) -> set[int]:
    """The options that a sentence speaks of, unless it asks, declines, or does not know."""
    if sentence.endswith("?") or is_unsure(sentence):
        return set()
    found = mentions(EMPHASIS.sub("", plain(sentence)), choices)
    return found if all(_is_telling(choices[k], is_short=True) for k in found) else set()


_QUANTITY = re.compile(
    r"\([^()]{3,30}\)"
    r"|[$€£]?(?<![\w.])[-−]?[0-9][0-9,]*(?:\.[0-9]+)?(?: ?(?:[a-zA-Z°%²³]{1,12}|\$[^$]{1,40}\$))?"
)


def _only_value(sentence: str, choices: tuple[str, ...]) -> str | None:
    """The one value of a sentence, where it is an option's: "(2,4)" for "(2, 4)", "1150 dollars" for "$1,150"."""
    values = [match[0].strip(" ,.") for match in _QUANTITY.finditer(sentence)]
    if len(values) != 1 or sentence.rstrip().endswith("?"):
        return None
    for said in (values[0], values[0].rpartition(" ")[0]):
        if said and named_options(said, choices)[0] is not None and bare_letter(said) is None:
            return said
    return None


def _is_telling(option: str, *, is_short: bool) -> bool:
    """Whether an option's text is a word or a long number, so that naming it in a short response is no accident."""
    has_word = re.search(rf"(?!and\b|the\b)[^\W\d_]{{{3 if is_short else 4}}}", option) is not None
    is_name = is_short and re.fullmatch("[A-Za-z]{1,3}[- ]?[0-9]{1,3}", option) is not None      # Q4
    return has_word or is_name or len(re.findall("[0-9]", option)) >= 4
