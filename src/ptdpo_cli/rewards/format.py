"""Whether a response has the shape that was asked for: a thought that ends, then a box."""

from __future__ import annotations

import re


def format_reward(text: str) -> float:
    r"""1.0 if the response, spaces around `<`, `>` and `/` removed, fully matches `.*</think>.*\boxed{.*}.*`, else 0.0.

    Source: the reward of arXiv 2606.07000 (Table 3), as its code has it. The three parts are looked for in turn, which
    is the same as the match (each at its first place, the dots take the rest) and takes linear time.
    """
    text = "".join(part.strip() for part in re.split(r"([<>/])", text))
    position = 0
    for part in ("</think>", "\\boxed{", "}"):
        position = text.find(part, position) + len(part)
        if position < len(part):
            return 0.0
    return 1.0



def after_thought(text: str) -> str | None:
    """What a response says after its last thought; None if it is still thinking."""
    answer = text.rpartition("</think>")[2]
    return None if "<think>" in answer else answer
