"""The final answer of a response, looked for in several ways, after the thought; and what is a refusal.

Every pattern has bounded repetitions, so that any text takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from string import ascii_uppercase

from ptdpo_cli.braces import closing_brace
from ptdpo_cli.rewards.verify import LETTERS

WAYS = ("boxed", "tag", "phrase", "letter")

_BOX = re.compile(r"\\boxed\s{0,8}\{")
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_EMPHASIS = re.compile(r"\*\*|__(?!_)|`")
_NAME = r"(?:(?:final|correct|right|best|most likely) )?(?:answers?|options?|choices?)"
_PHRASE = re.compile(
    rf"\b{_NAME}(?: (?:to|of|for) [^.:\n]{{1,80}}?)? ?(?:is|are|would be|should be|must be)\b ?:? ?"
    rf"|\b{_NAME} ?[:=] ?"
    r"|(?:答案|选项)(?:是|为)? ?[:：]? ?",
    re.IGNORECASE,
)
# A sentence ends at a full stop that is followed by a space, at the line's end, or where it begins to explain.
_END = re.compile(r"[.!?](?=\s|$)|[。！？\n]|,? (?:because|since|as|so|which|where)\b", re.IGNORECASE)
_MATH = re.compile(
    r"\$\$?([^$\n]{1,500})\$\$?|\\\(((?:(?!\\\)).){1,500})\\\)|\\\[((?:(?!\\\]).){1,500})\\\]", re.DOTALL
)
_LINE = re.compile(
    r"(?:option |choice |answer )?(?:\\text(?:bf)?\{|[(\[])? ?([A-Z]) ?(?:[)\]}](?:[.:]| |$)|[.:](?: |$)|$)"
    r"(?! ?(?:or|and|/|,) ?\(?[A-Z]\b)",
    re.IGNORECASE,
)
_MARKED = re.compile(r"\(([A-Z])\)|\*\*\(?([A-Z])[).]?\*\*|\\text(?:bf)?\{\(?([A-Z])\)?\}|\b[Oo]ption ([A-Z])\b")
_LETTERS = re.compile(r"[(\[]?[A-Z][)\]]?(?:(?:[,;、&]| and|, and)? ?[(\[]?[A-Z][)\]]?){1,9}\.?")


def extract(
    text: str, ways: Sequence[str] = ("boxed",), *, choices: Sequence[str] = (), answer_type: str = "text",
    reads: str = "answer",
) -> tuple[str, str] | None:
    r"""The answer and the way it was found, by the first way of `ways` that finds one; None where none does.

    boxed    the last `\boxed{…}`, nested braces included
    tag      the last `<answer>…</answer>`, or the box in it
    phrase   after the last "the answer is", "final answer:", "the correct option is": to the end of the sentence or
             line; or the formula, if it begins with one, or the box in it
    letter   choice and set alone: a letter that stands as a line's beginning or as its whole, or that alone is
             marked as in "(B)"; a list of all options is no answer, and neither is the article in "A triangle has …"

    Only what follows the thought counts, and a thought that never ends gives None; with reads="text" all of the text
    counts. A box that never closes gives no box.
    """
    answer = text if reads == "text" else after_thought(text)
    if answer is None:
        return None
    finders = {"boxed": _boxed, "tag": _tagged, "phrase": _stated}
    for way in ways:
        if way != "letter":
            found = finders[way](answer) if way in finders else None
        elif answer_type in ("choice", "set"):
            found = _lettered(answer, len(choices), several=answer_type == "set")
        else:
            found = None
        if found is not None:
            return found, way
    return None


def extract_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` after the thought, nested braces included; None where there is none.

    A box inside the thought is no answer. A thought that never ends, or a box that never closes, gives None. The
    opening `<think>` may be missing, for some chat templates write it into the prompt.
    """
    found = extract(text, ("boxed",))
    return None if found is None else found[0]


def after_thought(text: str) -> str | None:
    """What a response says after its last thought; None if it is still thinking."""
    answer = text.rpartition("</think>")[2]
    return None if "<think>" in answer else answer


def _boxed(answer: str) -> str | None:
    boxes = list(_BOX.finditer(answer))
    if not boxes:
        return None
    start = boxes[-1].end()
    end = closing_brace(answer, start)
    return None if end is None else answer[start:end].strip()


def _tagged(answer: str) -> str | None:
    tags = list(_TAG.finditer(answer))
    for opening, closing in reversed(list(pairwise(tags))):
        if not opening[1] and closing[1]:
            content = answer[opening.end() : closing.start()].strip()
            box = _boxed(content)
            return content if box is None else box
    return None


def _stated(answer: str) -> str | None:
    plain = _EMPHASIS.sub("", answer)
    phrases = list(_PHRASE.finditer(plain))
    for phrase in reversed(phrases[-3:]):      # "the answer is:" at the very end says nothing yet
        rest = plain[phrase.end() : phrase.end() + 2000].lstrip()
        if _BOX.match(rest.lstrip("$ ")):
            return _boxed(rest[: _first_line(rest)])
        if math := _MATH.match(rest):
            return next(part for part in math.groups() if part is not None).strip()
        end = _END.search(rest)
        span = rest[: end.start() if end else len(rest)].strip().strip("\"'*").rstrip(",;:").strip()
        if span and len(span) <= 300:
            return span
    return None


def _first_line(text: str) -> int:
    return len(text.partition("\n")[0])


def _lettered(answer: str, n_choices: int, *, several: bool) -> str | None:
    known = set(ascii_uppercase[:n_choices] or LETTERS)
    lines = [_EMPHASIS.sub("", line).strip().lstrip("-•> ") for line in answer.strip().splitlines() if line.strip()]
    if not lines:
        return None
    if several and _LETTERS.fullmatch(lines[-1]) and set(re.findall("[A-Z]", lines[-1])) <= known:
        return lines[-1].removesuffix(".")
    found = [match[1].upper() for line in lines if (match := _LINE.match(line)) and match[1].upper() in known]
    at_the_ends = [m for line in (lines[-1], lines[0]) if (m := _LINE.match(line)) and m[1].upper() in known]
    if at_the_ends and len(set(found)) == 1:
        return found[0]
    alone = [m[1].upper() for line in lines[-1:] if (m := re.fullmatch(r"[(\[]?([A-Z])[)\]]?[.:]?", line))]
    if alone and alone[0] in known:     # after a list of the options
        return alone[0]
    marked = {next(filter(None, groups)) for groups in _MARKED.findall(answer)} & known
    return marked.pop() if len(marked) == 1 else None


# --- refusals ---------------------------------------------------------------------------------------------------------

_CANNOT = r"(?:cannot|can not|can['’]t|won['’]t|(?:am|are|['’]m) (?:unable|not able) to)"
_HELP = (
    r"(?:help|assist|answer|comply|fulfil|fulfill|provide|process|view|see|access|open|analy[sz]e|interpret|identify|"
    r"solve|complete|do that|do this|continue|discuss|look at|display|read|perceive)"
)
_REFUSAL = re.compile(
    rf"\b(?:I|we) ?{_CANNOT} (?:directly |actually |really )?{_HELP}\b"
    r"(?! (?:a |any )?(?:simpler|pattern|error|mistake|why|how))"
    r"|\bas an? (?:AI|(?:large )?language model)\b[^.\n]{0,80}\b(?:cannot|can['’]t|not able|unable)"
    r"|\b(?:no|any) image (?:was|is|has been) (?:provided|attached|uploaded)"
    r"|\bplease (?:provide|upload|share|attach) the (?:image|picture|figure|diagram)"
    r"|\bI (?:do not|don't|don’t) see (?:any|an) (?:image|picture|figure|attachment)"
    r"|抱歉.{0,10}(?:无法|不能)|我(?:无法|不能)(?:回答|查看|看到|提供|帮助)",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether a response that gave no answer declines to give one: it cannot help, or cannot see the picture."""
    return _REFUSAL.search(after_thought(text) or "") is not None
