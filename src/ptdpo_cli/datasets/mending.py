"""What careless copying did to a text, undone where only one text can have been meant.

A backslash and the letter behind it, read as an escape, became a control character: "\frac" is a form feed and "rac".
UTF-8 read in another encoding became other letters: "35°" is "35掳" by GBK and "35Â°" by Latin-1.
"""

from __future__ import annotations

import re

# The letter that a control character was, and how the commands went on. A tab or a line end may be one, so of those
# only what is no word, and behind a line end only what compares two things.
_COMMANDS = {
    "\a": ("a", r"(?:lpha|ngle|pprox|rc(?:sin|cos|tan)|st)(?![a-zA-Z])"),
    "\b": ("b", r"(?:ar|eta|inom|oxed|oldsymbol|ecause|egin|ot|ullet|ig[lrg]?|igcup|igcap)(?![a-zA-Z])"),
    "\v": ("v", r"(?:ec|ar(?:epsilon|phi|theta|nothing)|ert|ee|dots|artriangle)(?![a-zA-Z])"),
    "\f": ("f", r"(?:rac|box|orall|lat|rown)(?![a-zA-Z])"),
    "\t": ("t", r"(?:ext(?:bf|it|rm|tt)?(?=\s*\{)|imes|heta|riangle(?:q|left|right)?|frac|herefore|ilde)(?![a-zA-Z])"),
    "\r": ("r", r"(?:ight(?:arrow)?|ho)(?![a-zA-Z])"),
    "\n": ("n", r"(?:abla|otin)(?![a-zA-Z])"),
}
_EATEN = re.compile("|".join(f"{mark}(?={rest})" for mark, (_, rest) in _COMMANDS.items()))
_NOT_EQUAL = re.compile(
    r"(?:(?<![a-zA-Z]{2})(?<=[a-zA-Z])|(?<=[0-9)}\]]))( ?)\neq(?=\s?[-\\(0-9]|\s?[a-zA-Z](?![a-zA-Z]))")

_CHINESE = re.compile(r"[\u3400-\u9fff]+")
_SIGNS = frozenset("°²³×÷±√∠≤≥≠≈∥⊥△∵∴∞′″−–—…‘’“”αβγδεθλμπρστφωΔΩ")
_LATIN = re.compile(r"[\u00c2-\u00ef][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
                    r"\u2013-\u2026\u2030\u2039\u203a\u20ac\u2122]{1,2}")


def mended(text: str) -> str:
    """The text with its LaTeX commands and its signs as they were before it was copied; any other text as it is."""
    if _EATEN.search(text) or "\neq" in text:
        text = _NOT_EQUAL.sub(r"\1\\neq", text)
        text = _EATEN.sub(lambda mark: "\\" + _COMMANDS[mark[0]][0], text)
    if text.isascii():
        return text
    text = _LATIN.sub(lambda run: _read_again(run[0], "cp1252") or run[0], text)
    signs = {run: _read_again(run, "gbk") for run in set(_CHINESE.findall(text))}
    # Where one of them is Chinese indeed, so may be the others.
    return _CHINESE.sub(lambda run: signs[run[0]], text) if signs and all(signs.values()) else text


def _read_again(run: str, encoding: str) -> str | None:
    """The mathematical signs that a run of letters is as UTF-8; None where it is not."""
    try:
        signs = run.encode(encoding).decode()
    except UnicodeError:
        return None
    is_sign = not signs.isascii() and all(sign.isascii() or sign in _SIGNS for sign in signs)
    return signs if is_sign else None
