"""The final answer of a response: what stands in the last box after the thought."""

from __future__ import annotations

import re

_BOX = re.compile(r"\\boxed\s*\{")


def extract_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` after the thought, nested braces included; None where there is none.

    A box inside the thought is no answer. A thought that never ends, or a box that never closes, gives None. The
    opening `<think>` may be missing, for some chat templates write it into the prompt.
    """
    answer = text.rpartition("</think>")[2]
    boxes = list(_BOX.finditer(answer))
    if "<think>" in answer or not boxes:
        return None
    start = boxes[-1].end()
    end = _closing_brace(answer, start)
    return None if end is None else answer[start:end].strip()


def _closing_brace(text: str, start: int) -> int | None:
    r"""Where the brace opened just before `start` closes; `\{` and `\}` are characters, not braces."""
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return start + brace.start()
    return None
