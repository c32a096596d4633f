"""The boxes of a response, and what stands in them."""

from __future__ import annotations

import re

from ptdpo_cli.mathtext import read
from ptdpo_cli.mathtext.braces import closing_brace
from ptdpo_cli.mathtext.values import Several

BOX = re.compile(r"\\f?boxed?\s{0,8}\{")


def last_box(answer: str, n_values: int = 1) -> str | None:
    """The content of the last box; of the last `n_values` together, where there are as many and the last holds one."""
    boxes = list(BOX.finditer(answer))
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
