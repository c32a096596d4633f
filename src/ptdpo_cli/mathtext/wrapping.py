"""What a reference may come in: tags, boxes, an announcement, an environment of lines."""

from __future__ import annotations

import re

from ptdpo_cli.mathtext.braces import closing_brace

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_WRAPPERS = (
    re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL | re.IGNORECASE),
    re.compile(r"\s*####(.*)", re.DOTALL),
    re.compile(
        r"[^$\\{}]{0,60}?\b(?:answer|is|are|be)\b:?\s*(?:\\\[|\\\(|\$+)?\s*(\\boxed\s*\{.*\})\s*(?:\\\]|\\\)|\$+)?\s*\.?",
        re.DOTALL,
    ),
    re.compile(r"\s*(?:\*\*)?(?:final )?answers?(?:\*\*)?\s*[:：](?:\*\*)?\s*(.*)", re.DOTALL | re.IGNORECASE),
)
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$.,;()]|\\[()\[\],]|\\text\s?\{\s?(?:and|or)\s?\}|\b(?:and|or)\b|\\quad|\\(?:begin|end)\{[a-z]{1,20}\*?\}|\\)*"
)


def unwrapped(text: str) -> str:
    """The text inside of `<answer>` tags, or behind "####" or "Answer:"; any other as it is."""
    for pattern in _WRAPPERS:
        if match := pattern.fullmatch(text):
            return match[1].strip()
    return text


def boxed_parts(text: str) -> list[str] | None:
    r"""The contents of the boxes of a text that is nothing but boxes, and dollars, commas and "and" between them."""
    boxes, position = [], 0
    for match in _BOX.finditer(text):
        if match.start() < position:
            continue
        end = closing_brace(text, match.end())
        if end is None or not _BETWEEN_BOXES.fullmatch(text[position:match.start()]):
            return None
        boxes.append(text[match.end():end])
        position = end + 1
    if not boxes or not _BETWEEN_BOXES.fullmatch(text[position:]):
        return None
    return boxes


_LINES = r"(?:cases|aligned|align\*?|gathered|split|array\}\s?\{[lcr]{1,2})"
_ENVIRONMENT = re.compile(rf"\\left\s?\\\{{|\\begin\s?\{{{_LINES}\}}|\\end\s?\{{[a-z*]+\}}|\\right\s?\.")


def lines_of_environment(text: str) -> str | None:
    """The lines of a system of equations, joined by commas; None for any other environment."""
    if re.search(rf"\\begin\s?\{{(?!{_LINES}\}})", text):
        return None
    lines = re.split(r"\\\\|\n", _ENVIRONMENT.sub("", text).replace("&", "").replace("$", ""))
    return ", ".join(line.strip(" ,.") for line in lines if line.strip(" ,."))
