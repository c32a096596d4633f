r"""A worked solution as plain clauses: LaTeX, thought tags, list marks and calculator notes removed, sentences cut.

    clauses_of(r"<think>Since $AB \parallel CD$, we get $\angle A = 40^\circ$.</think>\boxed{40}")
    -> [Clause("AB ∥ CD", is_premise=True), Clause("angle A = 40°")]
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ptdpo_cli.hints.words import ENGLISH, JOINING, OTHER_LANGUAGES

# Of one solution; a longer text is a transcript, not a solution, and only its beginning is read.
MAX_CHARACTERS = 20_000

BOX = "□"       # stands where an answer was


@dataclass(frozen=True, slots=True)
class Clause:
    """One statement; a premise is what the solution starts from ("since …"), `means` what it uses ("by the law …")."""

    text: str
    is_premise: bool = False
    means: str = ""

    @property
    def states_result(self) -> bool:
        """Whether it says what something is or comes to."""
        return bool(_RESULT.search(self.text))


_RESULT = re.compile(r"[0-9]|=|□|\b(?:is|are|was|were|makes?|gives?|equals?|has|have)\b")

# ---- dress -----------------------------------------------------------------------------------------------------------

_INNER = r"\{((?:[^{}]++|\{[^{}]*+\})*+)\}"
_ANSWER_DRESS = re.compile(
    rf"\\boxed\s*{_INNER}|<answer>.{0,2000}?</answer>|^\s*####.*$|\\boxed\b", re.DOTALL | re.MULTILINE
)
_MARKDOWN = re.compile(r"\*\*|__(?=\w)|(?<=\w)__|^\s*#{1,6}\s+", re.MULTILINE)
_POWER = re.compile(r"\s?\^\s?(?:\{\s*([23°])\s*\}|([23°])(?!\w))")
_POWERS = {"2": "²", "3": "³", "°": "°"}
_BULLET = re.compile(r"^(\s*)×\s+", re.MULTILINE)
_DOUBLE = re.compile(r"\b([Aa]ngle|[Tt]riangle) (?:angle|triangle) ")
_THOUGHT = re.compile(r"</?(?:think|thinking|reasoning|solution|image|rationale|summary|caption)\b[^>]*>|<<[^<>]*>>")
_GROUP = re.compile(
    rf"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it|sf|bb|cal)|operatorname|overline|overrightarrow|overset\{{[^{{}}]*\}}"
    rf"|underline|widehat|hat|vec|bar|mbox|emph|ce|underbrace)\*?\s*{_INNER}"
)
_FRACTION = re.compile(rf"\\[dtc]?frac\s*{_INNER}\s*{_INNER}")
_SHORT_FRACTION = re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)")
_ROOT = re.compile(rf"\\sqrt\s*(?:\[[^\]]*\])?\s*(?:{_INNER}|(\w))")
_SYMBOLS = {
    "angle": "∠", "measuredangle": "∠", "triangle": "△", "parallel": "∥", "perp": "⊥", "cong": "≅", "sim": "∼",
    "cdot": "×", "times": "×", "div": "÷", "pi": "π", "theta": "θ", "alpha": "α", "beta": "β", "gamma": "γ",
    "delta": "δ", "Delta": "Δ", "phi": "φ", "omega": "ω", "lambda": "λ", "mu": "μ", "rho": "ρ", "sigma": "σ",
    "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥", "neq": "≠", "ne": "≠", "approx": "≈", "pm": "±", "odot": "⊙",
    "circ": "°", "degree": "°", "infty": "∞", "in": "∈", "cap": "∩", "cup": "∪", "sum": "Σ", "ldots": "…", "dots": "…",
    "cdots": "…", "sin": "sin", "cos": "cos", "tan": "tan", "log": "log", "ln": "ln", "therefore": "\ntherefore ",
    "because": "\nsince ", "Rightarrow": "\n", "implies": "\n", "Leftrightarrow": "\n", "iff": "\n",
    "rightarrow": "→", "to": "→", "left": "", "right": "", "quad": " ", "qquad": " ", "displaystyle": "", "big": "",
    "Big": "", "bigl": "", "bigr": "", "star": "", "prime": "'", "square": "square", "Box": "", "newline": "\n",
}
_UNKNOWN = "\\"       # of a macro that is left; no rule takes a clause that holds it
_MACRO = re.compile(r"\\([A-Za-z]+)\*?\s?")
_MARKS = str.maketrans({
    "∵": "\nsince ", "∴": "\ntherefore ", "⇒": "\n", "⟹": "\n", "⟺": "\n", "−": "-", "–": "-", "*": "×", "·": "×",
    "⋅": "×", "•": "×", "‣": "×", "▪": "×", "’": "'", "‘": "'", "“": '"', "”": '"', "~": " ", "`": "", "\u00a0": " ",
    "，": ", ", "。": ". ", "：": ": ", "；": "; ",
})


def undress(text: str) -> str:
    """The words of a solution, one formula or sentence after the other; a box □ stands where an answer was."""
    text = text[:MAX_CHARACTERS]
    if "\\boxed" in text or "####" in text or "<answer>" in text:
        text = _ANSWER_DRESS.sub(f"\n{BOX}\n", text)
    if "<" in text:
        text = _THOUGHT.sub(" ", text)
    if "**" in text or "__" in text or "#" in text:
        text = _MARKDOWN.sub("", text)
    if "\\" in text:
        text = _without_latex(text)
    if "^" in text:
        text = _POWER.sub(lambda match: _POWERS[match[1] or match[2]], text)
    text = text.replace("$", " ").replace("_{", "_").replace("{", "").replace("}", "").translate(_MARKS)
    if "×" in text:
        text = _BULLET.sub(r"\1- ", text)      # a star at the beginning of a line
    if "∠" in text:
        text = _DOUBLE.sub(r"\1 ", re.sub(r"∠\s*", "angle ", text))
    if "△" in text:
        text = _DOUBLE.sub(r"\1 ", re.sub(r"\s*(?:\bRt\s*)?△\s*", _triangle, text))
    return text


def _triangle(match: re.Match) -> str:
    return " right triangle " if "Rt" in match.group() else " triangle "


def _without_latex(text: str) -> str:
    text = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}(?:\{[^{}]*\})?", "\n", text)
    text = re.sub(r"\\\\(?:\[[^\]]*\])?", "\n", text).replace("&", "")
    text = re.sub(r"\\\[|\\\]|\\\(|\\\)|\\[,;:! ]", " ", text)
    text = text.replace("\\%", "%").replace("\\$", " ").replace("\\{", "(").replace("\\}", ")").replace("\\_", "_")
    for _ in range(3):      # they nest
        before = text
        text = _SHORT_FRACTION.sub(r"\1/\2", _GROUP.sub(r"\1", text))
        text = _FRACTION.sub(lambda match: f"{_bracketed(match[1])}/{_bracketed(match[2])}", text)
        text = _ROOT.sub(lambda match: f"√{_bracketed(match[1] or match[2])}", text)
        if text == before:
            break
    return _MACRO.sub(lambda match: f"{_SYMBOLS.get(match[1], _UNKNOWN)} ", text)


def _bracketed(part: str) -> str:
    part = part.strip()
    return f"({part})" if re.search(r"[-+ ×/]", part) else part


_ANNOUNCED = re.compile(
    r"\\boxed|</?answer>|####|\bfinal answer\b"
    r"|\b(?:answers?|(?:correct |right )?(?:options?|choices?))\s*(?:is|are|:|would be|should be|must be)",
    re.IGNORECASE,
)


def without_answer(solution: str) -> str:
    """The reasoning alone: sentences at its end that announce the answer or box it are left out."""
    parts = re.split(r"((?<=[.!?])\s+|\n+)", without_tags(solution))
    while parts and (not parts[-1].strip() or _ANNOUNCED.search(parts[-1])):
        parts.pop()
    return "".join(parts).strip()


def without_tags(solution: str) -> str:
    """The text without thought tags, which are control tokens to some models."""
    return re.sub(r"\s*</think>\s*", "\n", solution.replace("<think>", "")).strip()


# ---- language --------------------------------------------------------------------------------------------------------

def is_english(text: str) -> bool:
    """Whether a text is in English, judged by its letters and its commonest words; formulas alone pass."""
    sample = text[:2000]
    if not sample.isascii() and len(_FOREIGN.findall(sample)) > 0.1 * sum(map(str.isalpha, sample)):
        return False
    words = re.findall(r"[^\W\d_]{2,}", sample.lower())
    english = sum(word in ENGLISH for word in words)
    return sum(word in OTHER_LANGUAGES for word in words) <= max(english, 0.1 * len(words))


_FOREIGN = re.compile(r"[^\W\d_\u0000-\u024fͰ-Ͽ]")       # neither Latin nor the Greek of formulas


# ---- sentences and clauses -------------------------------------------------------------------------------------------

_LIST_MARK = re.compile(
    r"^\s*(?:[-–•>]\s+|(?:solution|proof|explanation|analysis|reasoning)\s*:\s*|\(?\d{1,2}[.)](?!\d)\s*|\(?[ivx]{1,4}\)\s+|step\s+(?:\d+|one|two|three|four|five)\s*[:.)-]?\s*)+",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"\n+|(?<=[.!?])\s+|(?<=[.!?])(?=[A-Z][a-z])|(?<=[a-z]):\s+(?=[A-Z][a-z])|;\s*|\s*→\s*")
_INTRO = re.compile(
    r"(?:so|therefore|thus|hence|then|next|now|finally|first(?:ly)?|second(?:ly)?|third(?:ly)?|lastly|and|but|also|"
    r"similarly|likewise|again|moreover|furthermore|consequently|accordingly|clearly|obviously|in other words|that is|"
    r"i\.e\.|as a result|in total|in conclusion|overall|altogether|afterwards?|after that|subsequently|however|"
    r"meanwhile|to begin(?: with)?|to start|"
    r"(?:we |you )?(?:can )?(?:also )?(?:note|notice|observe|see|know|conclude|deduce|infer)(?: that\b|,|:)|"
    r"that means(?: that)?|"
    r"it follows(?: that)?|this means(?: that)?|which means(?: that)?|this implies(?: that)?|this gives(?: us)?|"
    r"it is (?:given|known|clear|evident) that|we are given(?: that)?|it can be seen that|"
    r"(?:we|you|one) (?:can |will |then |now |also |thus |therefore |must |should |clearly )*"
    r"(?:have|get|obtain|see|know|find that|found|arrive at|are told|end up with|conclude|deduce|derive)(?: that\b|:)?"
    r")\b[\s,:]*",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z.]+")
_PREMISE = re.compile(r"(?:since|because|as|given that|given|knowing that|assuming)\s+(?=\S)", re.IGNORECASE)
MEANS = re.compile(
    r"(?:by|using|from|applying|with|based on|according to|due to|via|looking at|in|on)\s+", re.IGNORECASE
)
# Where one statement ends and what follows from it begins.
_JOINT = re.compile(
    r"(?:,\s*|\s+)(?:and\s+)?(?:so|therefore|thus|hence|which (?:means|gives|implies|makes|equals|is)(?: us)?(?: that)?"
    r"|giving(?: us)?|implying(?: that)?|meaning(?: that)?|we (?:have|get|obtain|know|see)(?: that)?|it follows that"
    r"|then)\b[\s,:]*"
    r"|,\s+(?=(?:from|by|using|according to)\s+the\b)|,\s*(?=(?:\w+\s){0,2}\w*\s?=)"
    r"|,\s+(?:and\s+)?(?:now\s+)?(?=(?:in total|(?:al)?together|(?:the )?(?:sum|total) (?:is|becomes|comes))\s)"
    r"|\s+(?=because\b)|,\s+(?=(?:since|as|because)\b)",
    re.IGNORECASE,
)
_SEEN_THERE = re.compile(
    r"(?:in|on|at)\s+(?:the|each)\s+[^,=\d]{1,60}\s(?:we|i|you)\s+(?:can\s+)?(?:see|have|find|read)\s+(?:an?\s+)?[0-9][0-9.]*"
    r"(?=[,.;]|$)",
    re.IGNORECASE,
)
_SAYS_HOW_MUCH = re.compile(r"\b(?:is|are|was|were|see|read|find)\s+(?:an?\s+)?[0-9][0-9.]*$", re.IGNORECASE)
_DIGIT = re.compile(r"[0-9]")
_LISTED = re.compile(r"\s*(?:,|;|\n|\band\b|\bthen\b)\s*")
_LIST_ITEM = re.compile(
    r"(?:the\s+)?(?!The\s)(?P<label>[A-Za-z][A-Za-z'-]*(?:\s[A-Za-z][A-Za-z'-]*){0,2})\s*(?::|is|has|shows)?\s*(?P<value>\d+)"
    r"(?:\s*(?P<running>makes|gives|totals|sums to|brings it to)\s*\d+)?\.?",
)


def clauses_of(text: str) -> list[Clause]:
    """The statements of a solution in their order."""
    found: list[Clause] = []
    for sentence in _SENTENCE.split(undress(text)):
        sentence = _LIST_MARK.sub("", sentence).strip(" .,:")
        if sentence:
            _cut(sentence, found)
    return found


def _cut(sentence: str, found: list[Clause]) -> None:
    """Appends the clauses of a sentence: premises first, as they stand."""
    if items := list_items(sentence):
        found += [Clause(item) for item in items]
        return
    sentence = _strip_intro(sentence)
    if seen := _SEEN_THERE.match(sentence):     # "At the top we see 3": no joint, though "we see" is one elsewhere
        found.append(Clause(seen.group()))
        _cut(sentence[seen.end():].lstrip(" ,.;"), found)
        return
    premise, means = _PREMISE.match(sentence), MEANS.match(sentence)
    if means:
        first, rest = _split_at_comma(sentence)
        is_place = means.group().strip().lower() in ("in", "on")
        if is_place and (not rest or _SAYS_HOW_MUCH.search(first)):     # "In the top row is 3, …" is no means
            means = None
    if premise:
        first, rest = _split_at_comma(sentence[premise.end():])
        parts = _parts(first)
        found += [Clause(part, is_premise=True) for part in parts]
        if rest:
            _cut(rest, found)
        return
    if means:
        if not rest:
            pieces = _JOINT.split(sentence, maxsplit=1)
            first, rest = pieces[0], pieces[1] if len(pieces) > 1 else ""
        parts = _parts(_strip_intro(rest))
        found.append(Clause(_strip_intro(parts[0]) if parts else "", means=first.strip(" ,.:")))
        for part in parts[1:]:
            _cut(part, found)
        return
    parts = _parts(sentence)
    if len(parts) == 1:
        if text := sentence.strip(" ,.:"):
            found.append(Clause(text))
        return
    for part in parts:
        _cut(part, found)


def _parts(sentence: str) -> list[str]:
    """A sentence cut where something follows from what was said, and between equations."""
    parts = [part.strip(" ,.:") for part in _JOINT.split(sentence)]
    cut = []
    for part in filter(None, parts):
        pieces = re.split(r",?\s+and\s+|,\s+", part) if part.count("=") > 1 else [part]
        cut += pieces if all("=" in piece for piece in pieces) else [part]
    return cut


def _strip_intro(sentence: str) -> str:
    while (word := _WORD.match(sentence)) and word.group().lower() in JOINING:
        match = _INTRO.match(sentence)
        if match is None:
            break
        if not match.group() or match.end() == len(sentence):
            break
        sentence = sentence[match.end():]
    return sentence


def _split_at_comma(text: str) -> tuple[str, str]:
    """Before and after the first comma that separates clauses, not the thousands of a number nor items of a list."""
    match = re.search(r",\s+(?!and\b)", text)
    return (text[: match.start()], text[match.end():]) if match else (text, "")


def list_items(sentence: str) -> list[str]:
    """"top-left 3, center 8 makes 11" as its items; empty for anything else."""
    if not _DIGIT.search(sentence) or "=" in sentence:
        return []
    items = [item for item in _LISTED.split(sentence.strip(" .")) if item]
    return items if len(items) > 1 and all(map(_LIST_ITEM.fullmatch, items)) else []


def list_item(clause: Clause) -> tuple[str, bool] | None:
    """(label, whether a running total follows) of "center 8 makes 11"; None for anything else."""
    match = _LIST_ITEM.fullmatch(clause.text)
    return (match["label"], bool(match["running"])) if match else None
