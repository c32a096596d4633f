"""Where a brace of LaTeX closes: for the boxes of references and of responses."""

from __future__ import annotations

import re


def closing_brace(text: str, start: int) -> int | None:
    r"""Where the brace opened just before `start` closes; `\{` and `\}` are characters, not braces. None: nowhere."""
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return start + brace.start()
    return None
