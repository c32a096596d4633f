"""Which option a text names: by its letter, by its own text, by its value; and where the two contradict each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from string import ascii_uppercase

from ptdpo_cli.mathtext import Value, plain, read, same, spelt, squeezed
from ptdpo_cli.mathtext.values import Scalar, Text

LETTERS = "ABCDEFGHIJ"          # those of a problem whose options are not known
_MAX_CHARACTERS = 2000          # no text that names an option is longer

_STATEMENT = re.compile(       # "The correct answer is therefore"
    r"\A(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:(?:final|correct|right|best) )?(?:answers?|options?|choices?)"
    r"(?: (?:is|are))?(?: (?:therefore|thus|hence|consequently|clearly|then))?,? ?:? ",
    re.IGNORECASE,
)
_BARE = re.compile(
    r"(?:(?:option|choice|answer|statement) ?:? ?)?[(\[{<]?[ ]?([A-Za-z])[ ]?[)\]}>]?[.:,;。]?(?:###)?", re.IGNORECASE
)
_LETTERED = re.compile(     # "B. 12", "(B) 12", "B (12)", "B, 12", "B 12"
    r"(?:option |choice )?"
    r"(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])(?:[.:)、,;]| [-–—=](?= )| ?(?=[(\[$\\])| (?=[-+.0-9$€£])))[.:,)]?\s*(\S.*)",
    re.DOTALL | re.IGNORECASE,
)
_LETTER_BEHIND = re.compile(    # "12 (B)", "12, i.e. option B"
    r"(.{1,80}?)[,;]? ?(?:(?:i\.e\.|that is|which is|so|hence|namely),? )?"
    r"(?:\( ?(?:option |choice )?([A-Za-z]) ?\)|\(?(?:option|choice) \(?([A-Za-z])\)?\)?)\.?"
)


def letters_of(choices: Sequence[str]) -> str:
    return ascii_uppercase[: len(choices)] if choices else LETTERS


def bare_letter(text: str) -> str | None:
    r"""The letter of a text that is nothing else: "B", "(b)", "B.", "**B**", "\text{B}", "The answer is option B"."""
    if len(text) > 100:
        return None
    named = _STATEMENT.sub("", _unmarked(text), count=1)
    match = _BARE.fullmatch(named)
    return match[1].upper() if match else None


def _unmarked(text: str) -> str:
    return plain(text).replace("\\", "").strip("*`'\"“” ")


def named_options(text: str, choices: Sequence[str]) -> tuple[str | None, bool]:
    """(the option that a text names, whether it names one by letter and another by text).

    A letter goes before an option's text, where an option is itself a letter.
    """
    letters = letters_of(choices)
    if (letter := bare_letter(text)) is not None and (letter in letters or not choices):
        return (letter if letter in letters else None), False
    if len(text) > _MAX_CHARACTERS:
        return None, False
    options = options_of(tuple(choices))
    if (found := _by_text(text, options)) is not None:
        return letters[found], False
    stated = _STATEMENT.sub("", _unmarked(text), count=1) if len(text) < 600 else ""
    if (behind := _LETTER_BEHIND.fullmatch(stated)) and (said := _meant(behind[1], options)) is not None:
        letter = (behind[2] or behind[3]).upper()
        if letter in letters:
            return (letter, False) if letters[said] == letter else (None, True)
    if match := _LETTERED.fullmatch(stated):
        return _lettered(match, text, options, letters)
    found = _by_value(text, options)
    return (letters[found] if found is not None else None), False


def _lettered(match: re.Match, text: str, options: Sequence[Option], letters: str) -> tuple[str | None, bool]:
    """A letter with more behind it: its own option's text, another's, or none."""
    letter, rest = (match[1] or match[2]).upper(), match[3]
    if letter not in letters:
        return None, False
    if raw := _LETTERED.fullmatch(_STATEMENT.sub("", spelt(text).strip("*`'\"“” "), count=1)):
        rest = raw[3]       # with its LaTeX
    rest = rest[1:-1] if re.fullmatch(r"\([^()]*\)|\[[^\[\]]*\]", rest) else rest
    if options and options[letters.index(letter)].is_said_by(rest):
        return letter, False
    if (other := _meant(rest, options)) is not None:
        return None, letters[other] != letter
    if rest.startswith(("not ", "is not ")):
        return None, False
    begun = [letters[k] for k, one in enumerate(options)
             if (pattern := _mention_of(one.text)) is not None and pattern.match(rest)]
    if begun and letter not in begun:
        return None, True       # "C, 3000 cars", where 3000 is the text of B
    others = set(re.findall(r"(?<![A-Za-z'])[A-Z](?![A-Za-z'])", rest)) & set(letters) - {letter}
    return (None if others and len(rest) < 40 else letter), False


def _meant(text: str, options: Sequence[Option]) -> int | None:
    return found if (found := _by_text(text, options)) is not None else _by_value(text, options)


_COMMAND = re.compile(r"\\[A-Za-z]+")


def _folded(text: str) -> str:
    r"""The text in small letters, its commands as they are: \Delta is no \delta."""
    return re.sub(r"(\\[A-Za-z]+)|[^\\]+", lambda part: part[1] or part[0].casefold(), text)


class Option:
    """An option's text, without its own letter before it, as it is compared."""

    __slots__ = ("exact", "folded", "text", "value")

    def __init__(self, text: str):
        self.text = text
        self.exact = squeezed(text)
        has_words = re.search(r"[^\W\d_]{3}|^(?:no|yes)$", _COMMAND.sub("", self.exact), re.IGNORECASE)
        self.folded = _folded(self.exact) if has_words else None
        self.value: Value = read(text)

    def is_said_by(self, text: str) -> bool:
        exact = squeezed(text)
        if exact == self.exact or (self.folded is not None and _folded(exact) == self.folded):
            return bool(exact)
        return not isinstance(self.value, Text) and same(read(text), self.value)


@lru_cache(maxsize=4096)
def options_of(choices: tuple[str, ...]) -> tuple[Option, ...]:
    """The options of a problem, each as it is compared."""
    pairs = zip(ascii_uppercase, choices, strict=False)
    return tuple(Option(re.sub(rf"^\(?{letter}[).:]\s+", "", text)) for letter, text in pairs)


def _by_text(text: str, options: Sequence[Option]) -> int | None:
    """The option of this text, to the letter's case or, in words, without it; the first of several of one text."""
    exact = squeezed(text)
    if not exact:
        return None
    for index, option in enumerate(options):
        if option.exact == exact:
            return index
    folded = _folded(exact)
    found = [index for index, option in enumerate(options) if option.folded == folded]
    return found[0] if found and len({options[index].exact for index in found}) == 1 else None


def _by_value(text: str, options: Sequence[Option]) -> int | None:
    """The one option of this value; of 1/2 and 0.5 the one that stands there as it is written."""
    value = read(text)
    if isinstance(value, Text):
        return None
    found = [k for k, option in enumerate(options) if not isinstance(option.value, Text) and same(value, option.value)]
    if len(found) > 1:
        found = [k for k in found if isinstance(one := options[k].value, Scalar) and isinstance(value, Scalar)
                 and one.node == value.node]
    return found[0] if len(found) == 1 else None


def letter_set(text: str, choices: Sequence[str]) -> set[str] | None:
    """The options that a text names and nothing else: "A, C", "AC", "(A) and (C)"; None for any other text.

    "A or C" is a doubt and no set.
    """
    if len(text) > _MAX_CHARACTERS:
        return None
    letters = letters_of(choices)
    named = _STATEMENT.sub("", _unmarked(text), count=1).strip().removesuffix(".")
    named = re.sub(r"^[(\[{](.*)[)\]}]$", r"\1", named) if not re.search(r"[)\]}].*[(\[{]", named) else named
    if re.fullmatch(rf"[{letters}]{{1,26}}", named):
        return set(named)
    if re.search(r"\bor\b", named) or len(named) > 200:
        return None
    parts = list(filter(None, re.split(r"(?:[,;、&\s]|\band\b)+", named)))
    found = [re.fullmatch(r"[(\[]?([A-Za-z])[)\].]?", part) for part in parts]
    if not found or None in found or not {one[1].upper() for one in found} <= set(letters):
        return None
    return {one[1].upper() for one in found}


_LABEL = re.compile(r"(?<![A-Za-z0-9])[(（](?: ([a-j]) |([A-Z]))[)）]|(?<![A-Za-z0-9(])([A-Z])[.:)](?= )")


def lists_options(text: str) -> bool:
    """Whether A, B and C stand there as labels: a list of the options, which chooses none."""
    labels = {"".join(groups).upper() for groups in _LABEL.findall(text)}
    return {"A", "B"} <= labels and (len(labels) > 2 or "\n" not in text.strip())


_DENIED = re.compile(
    r"(?:\bnot|n't|\bneither|\bnor|\bno|\bexcept|\bother than|\bincorrect[^.]{0,20}|\bfalse that)(?: [a-z]+){0,2} $",
    re.IGNORECASE,
)
_MAX_SPANS = 200


def mentions(text: str, choices: tuple[str, ...]) -> set[int]:
    """Which options' texts stand in a text as whole words; one that stands inside of a longer one does not count."""
    spans: list[tuple[int, int, int]] = []
    for index, option in enumerate(choices):
        if (pattern := _mention_of(option)) is not None:
            spans += [(match.start(), match.end(), index) for match in pattern.finditer(text)]
    if len(spans) > _MAX_SPANS:
        return set(range(len(choices)))
    longest = [(start, index) for start, end, index in spans
               if not any(a <= start and end <= b and b - a > end - start for a, b, _ in spans)]
    return {index for start, index in longest if not _DENIED.search(text, max(0, start - 40), start)}


@lru_cache(maxsize=4096)
def _mention_of(option: str) -> re.Pattern | None:
    words = plain(option).strip(" .").split()
    if not words or len(words) > 40 or (len(words) == 1 and len(words[0]) < 2):
        return None
    body = r"\s+".join(map(re.escape, words))
    plural = "(?:e?s)?" if words[-1].isalpha() and len(words[-1]) > 2 else ""
    has_words = re.search(r"[^\W\d_]{3}", option) and "\\" not in option      # \Delta is no \delta
    flags = re.IGNORECASE if has_words else re.NOFLAG
    return re.compile(rf"(?<![\w.,$£€-])(?<!\d ){body}{plural}(?![\w%]|[.,:]\d|-\w)", flags)
