"""From what came out to what to do: one clause of a solution as an imperative, or nothing.

The rules are tried in the order of `reword`; what a rule writes is made of its own words and of names that stand in
the clause (never of a result), so that a number can only come in with a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ptdpo_cli.hints.clauses import BOX, MEANS, Clause, list_item
from ptdpo_cli.hints.words import (
    COMMON,
    DETERMINERS,
    FUNCTION_WORDS,
    METHODS,
    NO_QUANTITY,
    NOUNS_TOO,
    PICTURES,
    READABLE,
    RELATIONS,
    UNITS,
    VERBS,
)


@dataclass(frozen=True, slots=True)
class Step:
    """An imperative, and how much would be missed without it."""

    text: str
    weight: int = 2


def reword(clause: Clause, *, is_last: bool = False, facts: str = "use") -> Step | None:
    """What to do to come to this clause; None where no rule applies, or it speaks of the answer.

    Of the last computation only its means remain ("Use the Pythagorean theorem."). `facts` says what becomes of a
    statement without a number: "use" it, "check" whether it holds, or use "premises" only.
    """
    text = _trim(clause.text)
    if len(text) > _LONGEST or (is_last and not clause.means):
        return None
    if _TALK.search(text) or BOX in text or "\\" in text:
        return None
    if clause.means:
        is_talk = _TALK.search(clause.means) or BOX in clause.means or "\\" in clause.means
        return None if is_talk else _from_means(clause.means, "" if is_last else text)
    for rule in _rules(text):
        if step := rule(text):
            if facts == "check" and step.startswith("use ") and "=" in step:
                step = f"check whether {step.removeprefix('use ')}"
            return Step(sentence(step), _WEIGHTS.get(rule, 2))
    return _fact(text, clause.is_premise, facts)


def reword_list(clauses: Sequence[Clause]) -> list[Step]:
    """A list of readings ("top-left 3, center 8 makes 11") as two steps; empty where the clauses are something else."""
    items = []
    for clause in clauses:
        if item := list_item(clause):
            items.append(item)
        elif clause.text != BOX:
            return []
    if len(items) < 2:
        return []
    is_summed = any(running for _, running in items)
    return [Step(f"Read {', '.join(label for label, _ in items)}."), *([Step("Add them.")] if is_summed else [])]


def sentence(words: str) -> str:
    """First letter a capital, one full stop at the end."""
    words = " ".join(words.split()).replace(" ,", ",").replace(" .", ".").strip(" ,;:.-")
    return f"{words[:1].upper()}{words[1:]}."


_LONGEST = 300      # characters; what is longer is no clause of English

# ---- words -----------------------------------------------------------------------------------------------------------

_DOUBLED = {"set", "plug", "split", "drop", "scan"}


def _gerund(verb: str) -> str:
    return verb + (verb[-1] if verb in _DOUBLED else "") + "ing" if not verb.endswith("e") else verb[:-1] + "ing"


_BASE = {verb: verb for verb in VERBS} | {_gerund(verb): verb for verb in VERBS} | {"recalling": "recall"}
# The student's own talk, and whatever speaks of answers and options: nothing that a hint may quote.
_TALK = re.compile(
    r"\b(?:answers?|options?|choices?|correct(?:ly)?|incorrect|wrong|conclusion|ruled out|eliminate[ds]?|matches"
    r"|hmm+|wait|okay|ok|yes|let me|i think|maybe|perhaps|i'm|i am|double-check)\b|\?",
    re.IGNORECASE,
)
_EMPTY = re.compile(
    r"(?:understand|analyze|analyse|consider|look at|read|examine|identify)\s+(?:the\s+)?"
    r"(?:problem|question|given information|given|image|picture|problem statement|information|task)(?: carefully)?"
    r"|(?:observe|find|note|see|use|consider)\s+the\s+following(?: pattern| steps?)?"
    r"|(?:solve|check|verify|use|find|consider|show|note)"
    r"(?:\s+(?:it|this|that|them|the problem|everything|the result))?"
    r"|(?:solve|find|evaluate|compute|calculate|determine|simplify)\s+(?:the\s+)?(?:final\s+)?(?:result|value|solution)",
    re.IGNORECASE,
)
_METHOD = re.compile(rf"\b(?:{METHODS})\b", re.IGNORECASE)
_SOURCE = re.compile(rf"\b(?:{PICTURES})\b", re.IGNORECASE)
_READ = re.compile(rf"\b(?:{READABLE})\b", re.IGNORECASE)
_RELATION = re.compile(rf"\b(?:{RELATIONS})\b|[∥⊥≅∼]", re.IGNORECASE)
_HOLDS = re.compile(r"\b(?:is|are|has|have|bisects?|intersects?|lies?|shares?|form|forms|divides)\b|[∥⊥≅∼]")
_UNIT = f"(?:{UNITS})"
_QUANTITY = (
    r"(?:about |around |approximately |roughly |exactly |only |equal to |also )*[-+$€£√(]*\d[\d.,/ ×+()√π²³-]*π?\s*"
    rf"(?:{_UNIT}(?![A-Za-z])\.?\s*)*"
)
_IS = (
    r"\b(?:is|are|was|were|equals?|measures?|costs?|weighs?|becomes?|reaches|reads|shows|comes to|amounts to|will be"
    r"|must be|would be|has (?:a )?(?:length|value|measure|area|height) of)"
)
_PRONOUN = re.compile(
    r"(?:its|their)\b|(?:it|this|that|these|those|they|he|she|we|i|you|which|each|both|here|there|what|one|all"
    r"|everything|nothing)\b"
    r"(?!\s+(?:area|angle|side|length|value|number|sum|total|row|column|bar|price|cost|ratio|part|triangle|cell)s?\b)",
    re.IGNORECASE,
)


def _rules(text: str) -> list:
    """The rules that a clause of such signs can meet, in the order in which they are tried."""
    rules = [_instruction]
    if _PASSIVE_VERB.search(text):
        rules.append(_by_way_of)
    if "=" in text or "≈" in text:
        rules += [_count_with_equation, _equation]
    if text[:5].lower() == "there":
        rules.append(_there_are)
    if _DIGIT.search(text):
        rules = [_seen_at, *rules, _value_of, _has_a, _amount]
    return rules


def _trim(text: str) -> str:
    """Without brackets that explain, and without what only joins sentences."""
    if "(" not in text:
        return text.strip(" ,;:.")
    return _ASIDE.sub("", text).strip(" ,;:.")


_ASIDE = re.compile(
    r"\s?\((?:since|because|as|given|by|from|see|i\.e\.|which|where|the|vertical|alternate|corresponding)\b[^()]*\)",
    re.IGNORECASE,
)


_NOUN_DRESS = re.compile(
    r"^(?:(?:and|so|then|that|the value of|value of|now|where|both)\s+)?"
    r"(?:(?:in|on|at|for|from|after|before|during)\s[^,]*,\s+)?|\s\([^()]*\d[^()]*\)$",
    re.IGNORECASE,
)


def _noun(text: str, *, longest: int = 12) -> str:
    """A noun phrase that can follow "Find …": lower-case article first, no pronoun, nothing that is a sentence."""
    text = _NOUN_DRESS.sub("", text.strip(" ,:;.-="))
    words = text.split()
    if not words or len(words) > longest or _PRONOUN.match(text) or words[-1] in FUNCTION_WORDS:
        return ""
    if "=" in text or "," in text.strip(",") or not re.search(r"[A-Za-zα-ωΑ-Ω]", text):
        return ""
    return _lowered(text)


def _lowered(text: str) -> str:
    """The first word in lower case, unless it is a name or a symbol."""
    first = text.split()[0].strip("'s,") if text.strip() else ""
    is_letter = text == "A" or re.match(r"A (?:has|is|was|had|gets|got|\w+ed|\w+s)\b", text)
    if (first.lower() in COMMON and not is_letter) or re.match(r"[A-Z][a-z]+ [A-Z]{1,3}\b", text):
        return text[0].lower() + text[1:]
    return text


# ---- rules: each takes a clause and gives an imperative, or "" -------------------------------------------------------

_OBLIGED = re.compile(
    r"(?:(?:we|you|one|i)\s+(?:(?:first|then|now|next|also|can|could|must|should|need to|have to|want to|will|just"
    r"|simply|would|may|are going to|only|therefore|again|still|'ll|be able to)\s+)*"
    r"|let us\s+|let's\s+(?:first |now |then )?"
    r"|(?:it is )?(?:necessary|enough|useful|important|best) to\s+|(?:now |then |first |next )?(?:the )?(?:first|next"
    r"|last|second|third) (?:step|thing) is to\s+|please\s+|be sure to\s+|remember to\s+|start by\s+|begin by\s+"
    r"|just\s+|carefully\s+|try to\s+)(?=(?P<verb>[a-z-]+))",
    re.IGNORECASE,
)
_PURPOSE = re.compile(r"(?:in order )?to\s+(?P<goal>[^,]+),\s*(?P<rest>.+)", re.IGNORECASE)
# Where an instruction goes on to tell what came of it.
_OUTCOME = re.compile(
    r"\s*(?:[,:]|\b(?:and|to)?\s*(?:get(?:s|ting)?|obtain|giv(?:es?|ing)|yields?|mak(?:es?|ing)|equals|results? in|"
    r"shows?(?: that)?|we|it (?:is|gives|shows|follows)|so|leads? to|produces?|arrive at|tells? us)\b"
    r"|[=≈<>≤≥→]|(?<!\bthat)(?<!\bwhich)(?<!\bwho)\s(?:is|are)\b)"
)
_DANGLING = re.compile(r"(?:\s+(?:and|or|to|of|for|by|with|from|as|at|in|that|the|a|an|into|on|then|is))+$")


def _before_outcome(text: str) -> str:
    cut = _OUTCOME.search(text)
    return text[: cut.start()] if cut else text


def _instruction(text: str) -> str:
    """"We first count the red cells: 4" -> "count the red cells"; also "Adding them gives 12" -> "add them"."""
    if match := _PURPOSE.match(text):
        step = _instruction(match["rest"])
        goal = _instruction(match["goal"])
        return f"{step} to {goal}" if step and goal and len((step + goal).split()) < 20 else step or goal
    if match := _OBLIGED.match(text):
        text = text[match.end():]
    first, _, rest = text.partition(" ")
    verb = _BASE.get(first.lower())
    if verb is None or (first.lower() in NOUNS_TOO and not rest.startswith(DETERMINERS)):
        return ""
    if first[0].isupper() and first.lower() != verb and not rest:
        return ""
    if "equation" in rest and "=" in rest:
        return _equation(rest.partition("equation")[2].lstrip(" :,"))
    takes_formula = verb in ("use", "apply", "write", "recall", "remember")
    is_formula = takes_formula and "=" in rest and not _PLAIN_NUMBER.search(rest)
    if re.match(r"(?:whether|if) ", rest):
        rest = re.split(r"[,:]", rest)[0]
    elif not is_formula:
        rest = _before_outcome(rest)
    rest = _DANGLING.sub("", rest.strip(" ,:;."))
    step = f"{verb} {rest}".strip()
    return "" if not rest or _EMPTY.fullmatch(step) else step


_PASSIVE_VERB = re.compile(r"\b(?:found|calculated|computed|determined|obtained|given|measured|read|worked out)\s")
_PASSIVE = re.compile(
    r"(?P<what>.+?)\s+(?:is|are|can be|could be|was|must be|may be)\s+(?:then\s+)?"
    r"(?:found|calculated|computed|determined|obtained|given|measured|read|worked out)\s+"
    r"(?P<way>by|using|with|from|as|off|through)\s+(?P<how>.+)",
    re.IGNORECASE,
)


def _by_way_of(text: str) -> str:
    """"The mean is found by adding all values" -> "find the mean by adding all values"."""
    match = _PASSIVE.fullmatch(text)
    what = match and _noun(match["what"])
    if not what:
        return ""
    how = _DANGLING.sub("", _before_outcome(match["how"]).strip(" ,:;."))
    way = "from" if match["way"].lower() in ("as", "by") and how.split(" ")[0].lower() not in _BASE else match["way"]
    return f"find {what} {way.lower()} {how}" if how else ""


_COUNTED = re.compile(
    r"(?P<head>[A-Z]?[A-Za-z' -]*?[a-z])\s+(?:a total of |about |only |another |exactly )*"
    r"(?P<expr>[-$€£(]*\d[\d\s.,$€£%()/×÷+xX-]*)=\s*(?P<value>[-$€£]?\s?\d[\d.,/]*\s?%?)\s*(?P<tail>[^=]*)",
)
_STOP = re.compile(
    r"\b(?:in|on|at|of|for|per|from|each|every|after|before|with|to|a|an|by|than|that|left|more|less|and|during|because"
    r"|when|if|among|across|total|altogether|so far|now|away|today|yesterday|tomorrow|since|who|which|remaining"
    r"|together)\b",
    re.IGNORECASE,
)


def _count_with_equation(text: str) -> str:
    """"Natalia sold 48/2 = 24 clips in May" -> "find how many clips Natalia sold in May"."""
    match = _COUNTED.fullmatch(text)
    if not match:
        return ""
    head = match["head"].rpartition(", ")[2].strip()
    return _how_many(head, match["tail"])


def _how_many(head: str, tail: str) -> str:
    """"Tom has" and "apples left" -> "find how many apples Tom has left"; without a noun, "how much"."""
    head = re.sub(r"^(?:so|then|and|that means|means|this means)\s+", "", head, flags=re.IGNORECASE)
    words = head.split()
    if not words or _DIGIT.search(head):
        return ""
    tail = tail.strip(" ,;:.")
    tail = re.split(r",|\bso\b|\bwhich\b|\bbecause\b", tail)[0].strip()
    last = words[-1].lower()
    if last in ("is", "are", "was", "were", "equals", "costs"):
        if words[-2:-1] and words[-2].lower() == "there":
            noun, rest = _noun_and_rest(tail)
            return f"find how many {noun} there are {rest or _lowered(' '.join(words[:-2]) or ' ')}" if noun else ""
        subject = _noun(" ".join(words[:-1]))
        of = re.match(r"(?:of|in|for|per|on|at)\b[^=]*", re.sub(rf"^(?:{_UNIT})\b\s*", "", tail))
        rest = of.group() if of and not _DIGIT.search(of.group()) else ""
        if not subject:
            return ""
        return f"find how much {subject} costs" if last == "costs" else f"find {subject} {rest}"
    if last in FUNCTION_WORDS - {"her"} or len(words) < 2 or len(words) > 10:
        return ""
    subject = _lowered(" ".join(words))
    if re.match(r"(?:it|this|that|which|these)\b", subject):
        return ""
    noun, rest = _noun_and_rest(tail)
    if noun:
        return f"find how many {noun} {subject} {rest}"
    return f"find how much {subject} {rest}" if rest or not tail else ""


_DIGIT = re.compile(r"[0-9]")


def _noun_and_rest(tail: str) -> tuple[str, str]:
    """"clips in May" -> ("clips", "in May")"""
    stop = _STOP.search(tail)
    noun, rest = (tail[: stop.start()].strip(), tail[stop.start():]) if stop else (tail, "")
    return (noun, rest) if len(noun.split()) <= 4 else ("", "")


_NAMES = re.compile(
    r"(?:angle|triangle|arc|segment|side|line|ray|chord|area)\s+(?:of\s+)?(?:triangle\s+)?"
    r"(?:[A-Z]{1,4}\d?|[1-9])\b(?!\s*[.°])"
    r"|[A-Z]{1,4}'?(?:_\w+)?(?![a-z])|(?<![A-Za-z'_])[a-zα-ω](?:_\w+)?(?![A-Za-z'])|[A-Za-z]{3,}(?:\s[A-Za-z]{2,}){0,3}"
)
_OPERATIONS = (("+", "sum"), ("-", "difference"), ("×", "product"), ("÷", "quotient"), ("/", "quotient"))
_OPERAND = re.compile(r"[$€£]?(\d[\d,]*(?:\.\d+)?)\s*(%|°)?")
_PARTS = re.compile(r"\s*(?:=|≈)\s*")


def _equation(text: str) -> str:
    """"AC = √(9 + 16) = 5" -> "find AC"; "A = πr²" -> "use A = πr²"; "2x + 3 = 11" -> "set up an equation for x"."""
    text = re.sub(r"^[A-Z][a-z]+:\s+", "", text)       # "Substitute: x = …"
    if match := _IS_EQUATION.fullmatch(text):
        text = f"{match['what']} = {match['how']}"
    if match := _FORMULA.match(text):
        text = text[match.end():]
    parts = [part.strip(" ,.") for part in _PARTS.split(text)]
    if len(parts) < 2 or not all(parts) or len(text) > 240:
        return ""
    left, right = parts[0], parts[1]
    left = re.sub(r"^(?:where|with|let|if|when|that|is|are)\s+", "", left)
    if _is_name(left):
        name = _noun(left)
        return _found_from(name, parts[1:]) if name else ""
    names = _variables(left)
    if not names or not _is_formula(left):
        return ""
    unknown = list(dict.fromkeys(re.findall(r"(?<![A-Za-z])([a-z])(?![A-Za-z])", f"{left} {right}")))
    has_digits = bool(_PLAIN_NUMBER.search(text))
    if not has_digits and len(parts) == 2 and (len(names) > 1 or _variables(right)):
        return f"use {left} = {right}"
    if len(unknown) == 1 and not re.search(r"[A-Z]{2}|angle", left + right):
        if re.fullmatch(rf"[\d.]+\s*×?\s*{unknown[0]}", left) and not re.search(r"[a-z]", right):
            return f"solve for {unknown[0]}"
        return f"set up an equation for {unknown[0]}"
    if re.fullmatch(r"[^/×÷:-]+(?:\+[^/×÷:-]+)+", left) and len(names) > 1 and not _PLAIN_NUMBER.search(left):
        return f"use the sum of {_listed(names)}"
    if re.fullmatch(r"[^/+×÷-]+:[^/+×÷-]+|[^:+×÷-]+/[^:+×÷-]+", left) and not _PLAIN_NUMBER.search(left):
        return f"use the ratio {left}"
    return ""


_IS_EQUATION = re.compile(
    r"(?P<what>[^=]*[A-Za-z)])\s+(?:is|are|was|were|equals|will be|would be)\s+(?:[A-Za-z]\w{0,2}\s*=\s*)?"
    r"(?P<how>[-($√\dπ][^=]*=.*)"
)
_FORMULA = re.compile(
    r"(?:the |its |a )?(?:formula|equation|relation(?:ship)?|rule)\b[^=]*?(?:\bis|:)\s+(?=[^=]{1,40}=)", re.IGNORECASE
)
_PLAIN_NUMBER = re.compile(r"(?<![A-Za-z_])[0-9]")


def _is_name(left: str) -> bool:
    """Whether the left side of an equation only names something."""
    if re.search(r"[+×÷/<>≤≥:√]|\s-\s|\d\s*[a-z]\b", left):
        return False
    words = left.split()
    return len(words) <= 10 and not (len(words) > 1 and words[-1] in FUNCTION_WORDS)


def _is_formula(text: str) -> bool:
    """Whether a text is made of names, numbers and signs alone."""
    bare = re.sub(r"\b(?:angle|triangle|area|arc|sin|cos|tan|log|of)\b", "", text)
    return not re.search(r"[A-Za-z]{5,}", bare) or not re.search(r"[A-Za-z]{2,}\s[A-Za-z]{2,}\s[A-Za-z]{2,}", bare)


def _variables(side: str) -> list[str]:
    names = [match.group().strip() for match in _NAMES.finditer(side)]
    return [name for name in dict.fromkeys(names) if name.lower() not in NO_QUANTITY]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _found_from(name: str, rights: Sequence[str]) -> str:
    """How a named quantity was come to, from the first right-hand side that tells."""
    right = rights[0]
    names = [one for one in _variables(right) if one.lower() != name.lower()]
    if names and _is_formula_side(right):
        if not _PLAIN_NUMBER.search(right):
            is_plain = len(names) == 1 and right.strip() == names[0]
            return f"use {name} = {right}" if is_plain or len(right.split()) <= 12 else f"find {name}"
        return f"find {name} from {_listed(names)}" if len(names) <= 4 else f"find {name}"
    if re.search(r"[A-Za-z]{4,}", re.sub(rf"\b{_UNIT}\b|sqrt|sin|cos|tan", "", right, flags=re.IGNORECASE)):
        return ""
    used = list(dict.fromkeys(word for sign, word in _OPERATIONS if sign in right.removeprefix("-")))
    operands = [f"{number}{unit}" for number, unit in _OPERAND.findall(right)]
    if len(used) == 1 and len(operands) > 1 and not re.search(r"[(√²³^]", right):
        return f"find {name} from the {used[0]} of {_listed(operands)}"
    return f"find {name}"


def without_numbers(step: str) -> str:
    """"Find x from the difference of 18 and 7." -> "Find x from a difference.", for numbers that may not be told."""
    step = re.sub(r" to find .*\.$", ".", step)
    return re.sub(r" from the (sum|difference|product|quotient) of .*\d.*\.$", r" from a \1.", step)


def _is_formula_side(right: str) -> bool:
    return not re.search(r"\b(?:is|are|because|since|so|when|if|that)\b", right) and len(right) < 80


_THERE_ARE = re.compile(
    r"there (?:is|are|were|was|will be)\s+(?:only |exactly |about |a total of |already )*"
    r"(?:\d[\d,]*|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|twenty|no|one)\s+"
    r"(?P<what>[A-Za-z][^=]*)",
    re.IGNORECASE,
)


def _there_are(text: str) -> str:
    """"There are 4 red cells in the top row" -> "count the red cells in the top row"."""
    match = _THERE_ARE.fullmatch(text)
    if not match or _PLAIN_NUMBER.search(match["what"]):
        return ""
    return f"count the {re.split(r',| and | but ', match['what'])[0]}"


_WHERE = r"(?:in|on|at|inside|under|above|below|beside|next to)\s+(?:the|each|every|its|their)\s+[^,=:\d]+?"
_SEES = r"(?:there is|there's|(?:we|you|i|one) (?:can )?(?:see|read|find|have))"
_SEEN = r"(?:an?\s+|the\s+)?(?:number\s+|digit\s+|value\s+)?\d[\d.,]*"
_SEEN_AT = re.compile(
    rf"(?:{_SEES}|(?:see|read|find))\s+{_SEEN}\s+(?P<after>{_WHERE})|{_SEEN}\s+(?:is|stands)\s+(?P<behind>{_WHERE})"
    rf"|(?P<before>{_WHERE}),?\s+(?:is|stands|{_SEES})\s+{_SEEN}",
    re.IGNORECASE,
)


def _seen_at(text: str) -> str:
    """"There is a 3 in the top row" or "In the top row we see 3" -> "read what is in the top row"."""
    match = _SEEN_AT.fullmatch(text)
    where = match and match[match.lastgroup]
    return f"read what is {where[0].lower()}{where[1:]}" if where else ""


_VALUE = re.compile(rf"(?P<what>[^=]+?)\s*{_IS}\s+(?P<value>{_QUANTITY})(?P<tail>.*)", re.IGNORECASE)
_TAIL = re.compile(
    r"(?:(?:in|on|at|for|of|per|from|during|long|wide|high|tall|deep|each|old|away)\b[^,=]*)?", re.IGNORECASE
)


def _value_of(text: str) -> str:
    """"The bar for May is 40" -> "read the bar for May"; "the triangle's area is 12" -> "find the triangle's area"."""
    match = _VALUE.fullmatch(text)
    if not match:
        return ""
    what = _noun(match["what"])
    tail = match["tail"].strip(" ,.;")
    if not what or re.search(r"[+×÷√]|\s-\s", what):
        return ""
    if re.match(r"the sum of (?:the |all )?(?:\w+ )?angles", what):
        return f"use {what}"
    if tail and not _TAIL.fullmatch(tail):
        return ""
    if re.fullmatch(r"(?:long|wide|high|tall|deep|old|away).*", tail, re.IGNORECASE):
        return f"find how {tail} {what} is" if " " not in tail else ""
    has_sum = re.search(r"\d\s*[+×÷/]\s*\d|\d\s-\s\d", match["value"])
    verb = "read" if _READ.search(what) and "reading" not in what and not has_sum else "find"
    is_year = re.search(r"\b(?:19|20)\d\d\b", tail)
    return f"{verb} {what} {tail}" if is_year or not _PLAIN_NUMBER.search(tail) else f"{verb} {what}"


_HAS_A = re.compile(
    rf"(?P<who>[^=]+?) (?:has|have|had) an? (?P<what>[a-z]+(?: [a-z]+)?) of {_QUANTITY}"
    rf"(?: and an? (?P<more>[a-z]+(?: [a-z]+)?) of {_QUANTITY})?", re.IGNORECASE
)


def _has_a(text: str) -> str:
    """"Car A has a speed of 20 m/s" -> "find the speed of car A"."""
    match = _HAS_A.fullmatch(text)
    who = match and _noun(match["who"])
    more = f" and the {match['more']}" if who and match["more"] else ""
    return f"find the {match['what']}{more} of {who}" if who else ""


_AMOUNT = re.compile(
    r"(?P<head>[A-Za-z][A-Za-z' -]*?[a-z])\s+(?:about |only |another |exactly |a total of )?"
    r"(?P<value>[$€£]?\d[\d.,]*%?)\s*(?P<tail>[A-Za-z][^=,]*)?",
)


def _amount(text: str) -> str:
    """"Tom has 5 apples left" -> "find how many apples Tom has left"."""
    match = _AMOUNT.fullmatch(text)
    if not match:
        return ""
    tail = re.split(r"\s(?:at|for|of) \d", match["tail"] or "")[0]
    if match["value"] == "1":
        tail = re.sub(r"^([A-Za-z]+[^s\W])\b", r"\1s", tail)
    return _how_many(match["head"], tail)


def _fact(text: str, is_premise: bool, facts: str) -> Step | None:
    """A statement without a number: "use that AB is the diameter", or "check whether" where that is the question."""
    if _PLAIN_NUMBER.search(text.replace("²", "")) or _PRONOUN.match(text) or not 2 < len(text.split()) <= 20:
        return None
    if not _RELATION.search(text) or not _HOLDS.search(text):
        return None
    if facts == "check":
        return Step(sentence(f"check whether {_lowered(text)}"), 1)
    if facts == "use" or is_premise:
        return Step(sentence(f"use that {_lowered(text)}"), 1)
    return None


def _from_means(means: str, text: str) -> Step | None:
    """"By the Pythagorean theorem, AC = 5" -> "use the Pythagorean theorem to find AC"."""
    start = MEANS.match(means)
    word, rest = start.group().strip(), means[start.end():]
    rest = re.sub(r"\s*\([^()]*\)$", "", rest).strip()
    first = rest.split(" ")[0].lower() if rest else ""
    if first in _BASE and first.endswith("ing"):
        step = _instruction(rest)
        return Step(sentence(step), 2) if step else None
    rest = _before_outcome(rest)
    named = _goal(text)
    if _SOURCE.search(rest) and len(rest.split()) <= 5 and not _METHOD.search(rest):
        where = f"{'in' if word.lower() == 'in' else 'from'} {_lowered(rest)}"
        if re.match(r"(?:find|read) ", named):
            return Step(sentence(f"read {named.partition(' ')[2]} {where}"), 3)
        return Step(sentence(f"{named} {where}" if re.match("count ", named) else named), 3) if named else None
    is_method = bool(_METHOD.search(rest)) or (word.lower() in ("using", "applying") and rest.startswith("the "))
    if is_method and word.lower() not in ("in", "on") and len(rest.split()) <= 14:
        left = text.partition("=")[0].strip()
        if "=" in text and _is_name(left) and (name := _noun(left)):
            goal = f"find {name}"
        else:
            goal = re.sub(r"^read ", "find ", named) if re.match(r"(?:find|read) [^,]{1,60}$", named) else ""
        return Step(sentence(f"use {_lowered(rest)} to {goal}" if goal else f"use {_lowered(rest)}"), 3)
    if not named:
        return None
    if word.lower() in ("in", "on", "for", "at") and re.match(r"read |count |find ", named) and len(rest.split()) <= 5:
        return Step(sentence(f"{named} {word.lower()} {_lowered(rest)}"), 3)
    return Step(sentence(named), 2)


def _goal(text: str) -> str:
    """What the clause behind its means tells to do, as a bare imperative."""
    if not text:
        return ""
    for rule in _rules(text):
        if step := rule(text):
            return step
    return ""


_WEIGHTS = {_there_are: 3, _seen_at: 3, _value_of: 3, _amount: 1}
