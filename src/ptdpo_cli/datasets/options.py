"""Options of multiple-choice questions: their texts in letter order, and the letter that is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from ptdpo_cli.datasets.reading import short
from ptdpo_cli.errors import UsageError

LETTERS = ascii_uppercase

# How a label is written, each style with what may stand before it; a question keeps to one style.
_STYLES = (
    re.compile(r"(?<!\w)\(([A-Z])\)[.:]?"),
    re.compile(r"(?<![^\s;,，；。.?!)\]>}：:])([A-Z])[.．、](?![A-Z]\.)"),
    re.compile(r"(?<![^\s;,，；。.?!)\]>}])([A-Z])[:：]"),
    re.compile(r"(?<![^\s;,，；。.?!)\]>}：:])([A-Z])\)"),
)
_ANNOUNCED = re.compile(r"(?:choices?|options?)\s*[:：]|choose from|following options|选项", re.IGNORECASE)
_ONE_LETTER = re.compile(r"[\[(]?([A-Z])[\])]?[.:．]?")


def listed(question: str, choices: Sequence[str]) -> str:
    """The question with its options below it, one a line: "A. the text"; options that are bare letters on one line."""
    if tuple(choices) == tuple(LETTERS[:len(choices)]):
        return f"{question}\nChoices: {', '.join(choices)}" if choices else question
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, "Choices:", *lines])


def options_in(text: str) -> tuple[str, ...]:
    """The texts of the options that a question ends with, in letter order; () where none can be told for certain.

    Labels are "A. ", "A: ", "A) " or "(A) ". They count as options if each begins a line, if they are announced
    ("Choices:", "Options:"), or if there are three or more; else "from A. to B. ..." would be two options.
    """
    for style in _STYLES:
        for run in _runs(style, text):
            begin_lines = all(not text[:label.start()].rpartition("\n")[2].strip() for label in run)
            announced = _ANNOUNCED.search(text[:run[0].start()])
            if len(run) >= 2 and (begin_lines or announced or len(run) >= 3):
                found = _between(run, text, stops_at_line=begin_lines)
                if all(found):
                    return found
    return ()


def options_of(text: str) -> tuple[str, ...]:
    """The texts of the options in a string that holds nothing else, such as "A. 5 cm; B. 6 cm; C. No correct answer".

    Errors: UsageError if it does not begin with A, or an option is empty.
    """
    for style in _STYLES:
        for run in _runs(style, text.strip()):
            found = _between(run, text.strip(), stops_at_line=False)
            if run[0].start() == 0 and all(found):
                return found
    raise UsageError("the options cannot be told apart", expected="a string such as 'A. 5 cm; B. 6 cm'",
                     found=short(text))


def one_letter(text: str) -> str | None:
    """The letter that an answer such as "B", "(B)" or "B." is, else None."""
    match = _ONE_LETTER.fullmatch(text.strip())
    return match[1] if match else None


def lettered(answer: str, choices: Sequence[str]) -> str:
    """The letter of a reference that is a letter. Errors: UsageError if it is none, or beyond the options if any."""
    letter = one_letter(answer.upper())
    last = LETTERS[len(choices) - 1] if choices else LETTERS[-1]
    if letter is None or letter > last:
        raise UsageError("the answer is no letter of an option", expected=f"A to {last}", found=short(answer))
    return letter


def letter_of(answer: str, choices: Sequence[str]) -> str:
    """The letter of the option whose text a reference is, to the character if possible, else but for case and spaces.

    Errors: UsageError if it is the text of none of them.
    """
    for same in (str.strip, _plain):
        for letter, choice in zip(LETTERS, choices, strict=False):
            if same(choice) == same(answer):
                return letter
    raise UsageError("the answer is none of the options", expected="; ".join(choices), found=short(answer))


def _plain(text: str) -> str:
    return re.sub(r"\s+", "", text).casefold()


def _runs(style: re.Pattern, text: str) -> list[list[re.Match]]:
    """Labels A, B, C, … in turn from every A on, labels out of turn passed over; the longest first, then the last."""
    labels = list(style.finditer(text))[-100:]      # options come last, and the search is quadratic
    runs = []
    for first, label in enumerate(labels):
        if label[1] != "A":
            continue
        run = [label]
        for other in labels[first + 1:]:
            if other[1] == LETTERS[len(run) % 26]:
                run.append(other)
        runs.append(run)
    return sorted(reversed(runs), key=len, reverse=True)


def _between(run: Sequence[re.Match], text: str, *, stops_at_line: bool) -> tuple[str, ...]:
    ends = [label.start() for label in run[1:]]
    last = text[run[-1].end():]
    if stops_at_line:       # what follows the last option on a new line is no part of it
        last = last.lstrip().partition("\n")[0]
    bodies = [text[label.end():end] for label, end in zip(run, ends, strict=False)] + [last]
    return tuple(body.strip().rstrip(";,；，").strip() for body in bodies)
