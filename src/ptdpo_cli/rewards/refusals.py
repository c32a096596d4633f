"""Whether a response declines to answer, or says that it does not know."""

from __future__ import annotations

import re

from ptdpo_cli.rewards.format import after_thought

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


_UNSURE = re.compile(
    r"\b(?:cannot|can not|can['’]t|unable to|not able to|(?:im|not )possible to|hard to|difficult to)(?: be)?"
    r" (?:determined?|say|said|tell|told|see|seen|known?|make out|calculated?|answer(?:ed)?)\b", re.IGNORECASE,
)


def is_unsure(sentence: str) -> bool:
    """Whether a sentence says that it does not know, or declines."""
    return _UNSURE.search(sentence) is not None or _REFUSAL.search(sentence) is not None
