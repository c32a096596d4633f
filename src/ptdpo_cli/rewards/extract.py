r"""The final answer of a response, looked for in several ways, after the thought.

What sentences say stands in `prose`, which option a response chooses in `chosen`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from ptdpo_cli.mathtext import plain, read
from ptdpo_cli.mathtext.values import Text
from ptdpo_cli.rewards.boxes import last_box
from ptdpo_cli.rewards.choices import named_options
from ptdpo_cli.rewards.chosen import chosen_letter, named_option, named_options_only, yes_or_no
from ptdpo_cli.rewards.format import after_thought
from ptdpo_cli.rewards.prose import at_the_end, bare_value, stated
from ptdpo_cli.rewards.refusals import is_refusal

WAYS = ("boxed", "tag", "phrase", "letter", "yes-no", "option-text", "bare")
Reads = Literal["answer", "text"]


def extract(
    text: str,
    ways: Sequence[str] = ("boxed",),
    *,
    choices: Sequence[str] = (),
    answer_type: str = "text",
    n_values: int = 1,
    reads: Reads = "answer",
) -> tuple[str, str] | None:
    r"""The answer and the way it was found, by the first way of `ways` that finds one; None where none does.

    boxed        the last `\boxed{…}` (or `\fbox`), nested braces included; where the reference has several values and
                 there are as many boxes, the last boxes together
    tag          the last `<answer>…</answer>`, or the box in it; else the last "answer" of a JSON object
    phrase       after the last "the answer is", "final answer:", "the correct option is", "故选": to the end of the
                 sentence or line; or the formula, if it begins with one, or the box in it. Else the value at the end
                 of a last sentence that concludes ("Therefore, the area is 5")
    letter       choice and set alone: a letter that stands as a line's beginning or as its whole, that alone is marked
                 as in "(B)", or that a sentence ends with ("is B."); a list of all options is no answer, and neither
                 is the article in "A triangle has …"
    yes-no       "Yes" or "No" as the first word, before a comma or a full stop
    option-text  the option whose text a response is, or the only one that it names; of a set, options and nothing else
    bare         a value that is the whole response or its last line; of a single sentence the only number in it

    `reads` "answer": only what follows the thought counts, and a thought that never ends gives None; "text": a thought
    is text like any other. A box that never closes gives no box.
    """
    answer = after_thought(text) if reads == "answer" else text
    if answer is None:
        return None
    answer = _without_html(answer.replace("\u200b", ""))
    said = _corrected(answer)       # a box or a tag stays what it is
    for way in ways:
        match way:
            case "boxed":
                found = _said_in(last_box(answer, n_values), choices, answer_type)
            case "tag":
                found = _said_in(_tagged(answer), choices, answer_type)
            case "phrase":
                found = stated(said, choices, answer_type)
            case "letter" if answer_type in ("choice", "set"):
                found = chosen_letter(said, choices, several=answer_type == "set")
            case "yes-no":
                found = yes_or_no(said, choices, answer_type)
            case "option-text" if answer_type == "choice" and choices:
                found = named_option(said, tuple(choices))
            case "option-text" if answer_type == "set" and choices:
                found = named_options_only(said, tuple(choices))
            case "bare":
                found = bare_value(said, answer_type)
            case _:
                found = None
        if found is not None:
            return found, way
    return None


_TAKES_BACK = re.compile(
    r"(?<![a-z])(?:wait|hold on|sorry|strike that|scratch that|correction|on second thought|actually)\b[^\n]{0,120}?"
    r"\b(?:no|not|misread|miscounted|mistake|wrong|swapped|fails|should be|must be|it is|it['’]s)\b",
    re.IGNORECASE,
)


def _corrected(answer: str) -> str:
    """What follows the last correction, where that is the end of a response: "It is 5. Wait, no, it is 4."."""
    found = list(_TAKES_BACK.finditer(answer, max(0, len(answer) - 200)))
    return answer[found[-1].start():] if found and not is_refusal(answer) else answer


def extract_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` after the thought, nested braces included; None where there is none.

    A box inside the thought is no answer. A thought that never ends, or a box that never closes, gives None. The
    opening `<think>` may be missing, for some chat templates write it into the prompt.
    """
    found = extract(text, ("boxed",))
    return None if found is None else found[0]


_HTML = re.compile(r"</?(?:b|i|u|strong|em|p|br|span|div|code|li|ul|ol|font|center)(?: [^<>]{0,80})?/?>", re.IGNORECASE)
_RAISED = re.compile(r"<(su[pb])>([^<>]{1,40})</su[pb]>", re.IGNORECASE)


def _without_html(text: str) -> str:
    if "<" not in text:
        return text
    return _HTML.sub("", _RAISED.sub(lambda tag: f"{'^' if tag[1].lower() == 'sup' else '_'}{{{tag[2]}}}", text))


_CHINESE_CLAUSE = re.compile(r"[,，。；;]\s?(?=[\u4e00-\u9fff])")


def _said_in(content: str | None, choices: Sequence[str], answer_type: str) -> str | None:
    """A box's or a tag's content; of a sentence in it what that says: "The area is 8" says 8."""
    if content is None or answer_type in ("text", "set", "list") or len(content) > 400:
        return content
    content = _CHINESE_CLAUSE.split(content)[0] or content
    said = " ".join(plain(content).split())
    if not re.search(r"[A-Za-z]{2} (?:is|are|be|=)|[:：]", said):
        return content
    if answer_type == "choice":
        is_named = named_options(content, choices)[0] is not None
        return content if is_named else stated(content, choices, answer_type) or content
    if isinstance(read(content), Text):
        found = stated(content if "$" in content else said, choices, answer_type) or at_the_end(said, (), answer_type)
        return found or content
    return content


_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_FIELD = re.compile(       # of a JSON object
    r'"(?:final|short|correct)?[ _]?answer"\s{0,4}:\s{0,4}(?:"((?:[^"\\]|\\.){1,300})"|([-0-9.]{1,40}))', re.IGNORECASE
)


def _tagged(answer: str) -> str | None:
    tags = list(_TAG.finditer(answer))
    for opening, closing in reversed(list(pairwise(tags))):
        if not opening[1] and closing[1]:
            content = answer[opening.end() : closing.start()].strip()
            box = last_box(content)
            return content if box is None else box
    fields = _FIELD.findall(answer)
    return (fields[-1][0] or fields[-1][1]).replace("\\\\", "\\").strip() if fields else None
