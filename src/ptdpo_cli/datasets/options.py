"""Options of multiple-choice questions: their texts in letter order, and the letter or letters that are right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from ptdpo_cli.datasets.reading import LeftOut, short

LETTERS = ascii_uppercase

# How a label is written, each style with what may stand before it; a question keeps to one style.
_STYLES = (
    re.compile(r"(?<![^\W\d])\(([A-Z])\)[.:]?"),          # "(D)9,230(E)36,900", but not f(A)
    re.compile(r"(?<![^\s;,，；。.?!)\]>}：:])([A-Z])[.．、](?![A-Z]\.)"),
    re.compile(r"(?<![^\s;,，；。.?!)\]>}])([A-Z])[:：]"),
    re.compile(r"(?<![^\s;,，；。.?!)\]>}：:])([A-Z])\)"),
)
_ANNOUNCED = re.compile(r"(?:choices?|options?)\s*[:：]|choose from|following options|选项", re.IGNORECASE)
_ONE_LETTER = re.compile(r"[\[(（]?([A-Z])[\])）]?[.:．、]?")
_BRACED = r"[\[(（]?[A-Z][\])）]?"
_SEVERAL = re.compile(rf"{_BRACED}(?:(?:\s*[,;&，；、/]\s*(?:and\s+)?|\s+and\s+|\s+){_BRACED})+\.?")
_ANNOUNCEMENT = re.compile(r"(?:answer|option|choice)\s*[:：]?\s*(?=[\[(]?[A-Z]\b)", re.IGNORECASE)
_LABELLED = re.compile(r"[\[(（]?([A-Z])(?:[\])）][.:]?|[.:．、：]|(?=\s))\s*(.+)", re.DOTALL)
_LABEL = re.compile(r"\s*(?:[\[(（]([A-Z])[\])）]|([A-Z])[.．:：、)])\s*\S")
# A label where nothing but options can be: its dot may lack, or what parts it from the option before.
_LOOSE = r"(?:^|[;；,，]\s*|\s+|(?<=[0-9)）°]))[(（]?{letter}(?:[)）.．、:：]+\s*|\s+)"


def listed(question: str, choices: Sequence[str]) -> str:
    """The question with its options below it, one a line: "A. the text"; options that are bare letters on one line."""
    if tuple(choices) == tuple(LETTERS[:len(choices)]):
        return f"{question}\nChoices: {', '.join(choices)}" if choices else question
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, "Choices:", *lines])


def unlabelled(choices: Sequence[str]) -> tuple[str, ...]:
    """Options without their own letters, "A. 5 cm" or "(A)", where each of them has it; of "(A)" the letter stays."""
    bodies = []
    for letter, choice in zip(LETTERS, choices, strict=False):
        label = re.match(rf"(?:\({letter}\)|{letter}[).:])\s*", choice)
        if label is None:
            return tuple(choices)
        bodies.append(choice[label.end():] or letter)
    return tuple(bodies)


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

    An option may itself hold a semicolon, and one may lack the semicolon before it, or the dot behind its letter.
    Errors: LeftOut if it does not begin with A, an option is empty, or the letters are out of turn.
    """
    text = text.strip()
    for run in [*(run for style in _STYLES for run in _runs(style, text)), _loose_run(text)]:
        if len(run) >= 2 and run[0].start() == 0:
            found = _between(run, text, stops_at_line=False)
            if all(found) and not _misses_a_label(run, found):
                return found
    raise LeftOut("the options cannot be told apart", expected="a string such as 'A. 5 cm; B. 6 cm'",
                  found=short(text))


def _loose_run(text: str) -> list[re.Match]:
    """The labels A, B, C, … as far as they follow each other."""
    run: list[re.Match] = []
    for letter in LETTERS:
        label = re.compile(_LOOSE.format(letter=letter)).search(text, run[-1].end() if run else 0)
        if label is None:
            break
        run.append(label)
    return run


def _misses_a_label(run: Sequence[re.Match], found: Sequence[str]) -> bool:
    """Whether an option holds a label behind a semicolon: one out of turn, or the next one without its dot."""
    dot = re.escape(run[0][0].strip()[-1])
    follows = re.compile(rf"[;；]\s*(?:[(（]?[A-Z]{dot}|{LETTERS[len(run) % 26]}\b)")
    return any(map(follows.search, found))


def one_letter(text: str) -> str | None:
    """The letter that an answer such as "B", "(B)" or "B." is, else None."""
    match = _ONE_LETTER.fullmatch(text.strip())
    return match[1] if match else None


def chosen(answer: str, choices: Sequence[str]) -> tuple[str, str]:
    """The letter that a reference is and the type `choice`, or its letters in order and `set`.

    A reference may be a letter ("B", "(B)", "Option B"), letters ("A, C", "A and C", one a line), an option's text, or
    letter and text ("B. 50°"). Without `choices` every letter may be one.
    Errors: LeftOut if it is none of these, names a letter beyond the options, or one letter with another's text.
    """
    letters = _letters(answer)
    last = LETTERS[len(choices) - 1] if choices else LETTERS[-1]
    if not letters or letters[-1] > last:
        letter = _by_text(answer, choices) or one_letter(_undressed(answer).upper())
        letters = letters if letter is None else [letter]
    if not letters and (label := _LABEL.match(answer)) and _by_text(answer[label.end() - 1:], choices) is None:
        letters = [label[1] or label[2]]                    # with a text that is no other option's
    if choices and not letters:
        raise LeftOut("the answer is none of the options", expected="; ".join(choices), found=short(answer))
    if not letters or letters[-1] > last:
        raise LeftOut("the answer is no letter of an option", expected=f"A to {last}", found=short(answer))
    return ", ".join(letters), "choice" if len(letters) == 1 else "set"


def chosen_inside(answer: str, question: str) -> tuple[str, str, tuple[str, ...]]:
    """`chosen`, and the options that the question ends with: none where the answer is a letter beyond them.

    For a question may list things by letter while its options are in the picture. Errors: as for `chosen`.
    """
    choices = options_in(question)
    letters = _letters(answer)
    if letters and choices and letters[-1] > LETTERS[len(choices) - 1] and _by_text(answer, choices) is None:
        choices = ()
    return *chosen(answer, choices), choices


def _letters(answer: str) -> list[str]:
    """The letters, in order, of a reference that is nothing else."""
    bare = _undressed(answer)
    if (said := _ANNOUNCEMENT.match(bare)) is not None:
        bare = bare[said.end():]
    if (letter := one_letter(bare)) is not None:
        return [letter]
    return sorted(set(re.findall(r"\b[A-Z]\b", bare))) if _SEVERAL.fullmatch(bare) else []


def letter_of(answer: str, choices: Sequence[str]) -> str:
    """The letter of the option whose text a reference is, its own letter before it or not.

    To the character if possible, else but for case, spaces and dollars, if that is one option alone.
    Errors: LeftOut if it is the text of none of them.
    """
    if (letter := _by_text(answer, choices)) is None:
        raise LeftOut("the answer is none of the options", expected="; ".join(choices), found=short(answer))
    return letter


def _by_text(answer: str, choices: Sequence[str]) -> str | None:
    for same in (str.strip, _plain):
        found = [letter for letter, choice in zip(LETTERS, choices, strict=False) if same(choice) == same(answer)]
        if found and (same is str.strip or len(found) == 1):
            return found[0]
    labelled = _LABELLED.fullmatch(answer.strip())
    number = LETTERS.index(labelled[1]) if labelled else len(choices)
    return labelled[1] if number < len(choices) and _plain(labelled[2]) == _plain(choices[number]) else None


def _undressed(text: str) -> str:
    """A letter without the LaTeX, dollars and asterisks around it."""
    return re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", text).replace("$", "").strip("* \n\t")


def _plain(text: str) -> str:
    return re.sub(r"[\s$]+", "", text).casefold().rstrip(".")


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
