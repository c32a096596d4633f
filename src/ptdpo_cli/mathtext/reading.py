"""From a text to the value that it states; every rule of reading stands here, in the order in which it is tried."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from ptdpo_cli.mathtext import expression
from ptdpo_cli.mathtext.expression import Node, Unreadable
from ptdpo_cli.mathtext.spelling import CIRCLED, MAX_CHARACTERS, spelt
from ptdpo_cli.mathtext.units import LETTERS, Unit, unit_of
from ptdpo_cli.mathtext.values import (
    Bracketed,
    Named,
    Ratio,
    Relation,
    Scalar,
    Several,
    Statements,
    Text,
    Union,
    Value,
    is_closed,
)
from ptdpo_cli.mathtext.wrapping import boxed_parts, lines_of_environment, unwrapped


class At(NamedTuple):
    """Where a text stands that is read: how deep inside of others, and whether it is one formula in dollars."""

    depth: int = 0
    is_formula: bool = False

    def deeper(self) -> At:
        return self._replace(depth=self.depth + 1)


_MAX_ITEMS = 60
_MAX_DEPTH = 30
_FORMULA = re.compile(r"\$[^$]*\$")
_ALL_WORDS = re.compile(r"\\text\{([^{}]*)\}")
_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,300}(?:\.[0-9]{1,300})?")
_JOINING = re.compile(r"\\text\{\s?((?:,? ?(?:and|or|,|;|或|和|与|且)) ?)\}")
_INSIDE = re.compile(r"\\text\{([^{}]{0,60}?[^\s{}:])(\s(?:and|or)\s?|\s?:\s?)\}")     # \text{ cm and }
_BEGINS = re.compile(r"\\text\{\s?(and|or)\s([^{}]{1,60})\}")      # \text{ and range: }
_FINAL = re.compile(r"[\s.,;?。，；]+(?:\$+[\s.,;?]*)?$|(?<=[^\\])[\s.,;?]+\$$")
_ANY_ONE = re.compile(r"\s*[\[(](?:choose|any|either|pick|select) (?:any )?(?:one|is fine)[^()\[\]]{0,40}[\])]\s*$"
                      r"|\s*[\[(]?答案不唯一[^()\[\]]{0,20}[\])]?\s*$", re.IGNORECASE)
_LEADING = re.compile(
    r"(?:\\approx|=|\\therefore|(?:approximately|about|around|roughly|approx\.?|equals?|is|~)(?=[\s$\\0-9-]))\s*",
    re.IGNORECASE,
)
_CHAIN = re.compile(r"(\\(?:leq|geq|neq|approx|in|parallel|perp|cong|sim|backsim)(?![A-Za-z])|<=|>=|!=|==|[=<>≈])")
_OPENING, _CLOSING = "([{", ")]}"


def read(text: str) -> Value:
    r"""The value that an answer states.

    By hand: "$$7$$ $$10$$" is Several((7, 10), order=True), "Area $=5 \mathrm{~cm}^2$" is Named("Area", 5 cm²),
    "4$\sqrt{3}$" is one Scalar, "It rises" a Text. Text in a `\boxed{…}`, in `<answer>` or behind "####" is read as if
    it stood alone; several boxes are several values.
    """
    text = text.strip()
    if _PLAIN_NUMBER.fullmatch(text):
        return Scalar(expression.parse(text), text=text)
    if len(text) > MAX_CHARACTERS:
        return Text(text)
    return _read(text)


@lru_cache(maxsize=20_000)
def _read(text: str) -> Value:
    original = text = unwrapped(text)
    if (boxes := boxed_parts(text)) is not None:
        if len(boxes) == 1:
            return read(boxes[0])
        return Several(tuple(read(box) for box in boxes), order=re.search(r"\b(?:and|or)\b", text) is None)
    if too_deep(text) or ("\\begin" in text and (text := lines_of_environment(text)) is None):
        return Text(original)
    spelling = _INSIDE.sub(r"\\text{\1}\2 ", _BEGINS.sub(r" \1 \\text{\2}", spelt(text)))
    spelling = _JOINING.sub(r" \1 ", spelling)
    if wording := _ALL_WORDS.fullmatch(spelling):
        spelling = wording[1]
    return _whole(spelling, At())


def too_deep(text: str) -> bool:
    """Whether brackets are nested deeper than any answer has them."""
    depth = 0
    for sign in text:
        depth += (sign in _OPENING) - (sign in _CLOSING)
        if depth > _MAX_DEPTH:
            return True
    return False


def without_final_stop(text: str) -> str:
    """The text without what ends a sentence behind it; "…" stays."""
    if text.endswith((r"\ldots", "...")):
        return text
    return _FINAL.sub(lambda end: "$" if "$" in end[0] and text.count("$") % 2 == 0 else "", text)


def _whole(text: str, at: At) -> Value:
    """The value of a text in the spelling of this package."""
    text = without_final_stop(text.strip()).strip()
    if at.depth > 8 or not text:
        return Text(text)
    any_one = _ANY_ONE.search(text)
    if any_one:
        text = text[:any_one.start()]
    if text[:1] in "{$" and encloses(inner := text.strip("$ ")) and inner[:1] == "{":
        text = inner[1:-1].strip()
    for split in (_lines, _statements, _labelled, _semicolons, _formulas, _spaced, _alternatives, _commas):
        found = split(text, at)
        if found is not None:
            if any_one and isinstance(found, Several):
                return Several(found.items, order=False, any_one=True)
            return found
    if _is_currency(text):
        return _single(text, at)
    if "$" in text and not _FORMULA.fullmatch(text):
        text = _upright_outside(text)
    return _single(text.replace("$", " ").strip(), at._replace(is_formula=_FORMULA.fullmatch(text) is not None))


_SHORT_WORD = re.compile(r"(?<![\\A-Za-z{])([A-Za-z]{1,3})(?![A-Za-z}])")


def _upright_outside(text: str) -> str:
    """$4$ J: letters outside of dollars are upright."""
    pieces = text.split("$")
    return "$".join(piece if index % 2 else _SHORT_WORD.sub(r"\\text{\1}", piece) for index, piece in enumerate(pieces))


def _single(text: str, at: At) -> Value:
    text = without_final_stop(text)
    if leading := _LEADING.match(text):
        text = text[leading.end():]
    text = _without_braces(text)
    for reader in (
        _conditional, _signs, _point, _related, _united, _bracketed, _ratio, _of_minutes, _measured, _scalar,
    ):
        found = reader(text, at)
        if found is not None:
            return found
    return Text(text)


# --- several values ---------------------------------------------------------------------------------------------------


def _several(texts: list[str], at: At, *, order: bool) -> Several | None:
    if len(texts) < 2 or len(texts) > _MAX_ITEMS or not all(one.strip(" $") for one in texts):
        return None
    return Several(tuple(_whole(one, at.deeper()) for one in texts), order)


def _lines(text: str, at: At) -> Value | None:
    lines = [line.strip() for line in text.split("\n") if line.strip(" $")] if "\n" in text else []
    if len(lines) > 1 and sum(line.count("$") % 2 for line in lines) == 0:
        labels = [_LABEL.match(line) for line in lines]
        if all(labels) and [_label_number(label) for label in labels] == list(range(1, len(lines) + 1)):
            lines = [line[label.end():] for line, label in zip(lines, labels, strict=True)]
        return _several(lines, at, order=True)
    return _whole(" ".join(lines), at.deeper()) if "\n" in text and lines else None


_LABEL = re.compile(r"\s*(?:\(([0-9]{1,2})\)|([①-⑳])|([0-9]{1,2})[、.](?![0-9])|\(([a-z])\))\s*(?=\S)")
_LABELS = re.compile(r"\(([0-9]{1,2})\)|([①-⑳])")
_DOTTED = re.compile(r"(?:[1-9]\.){2,}|(?:[1-9]\.){2,}[1-9]")
_CIRCLES = re.compile(r"(?:(?:[①-⑳]|\([1-9]\))(?:[.,;、\s]|and|\$)*){1,20}")


def _label_number(label: re.Match) -> int:
    number = label[1] or label[3]
    return int(number) if number else CIRCLED[label[2]] if label[2] else ord(label[4]) - ord("a") + 1


def _statements(text: str, at: At) -> Value | None:
    """①③④, (1)(3)(4) and 1.3.4.: numbers of statements and nothing else."""
    bare = text.replace("$", "").strip()
    if _CIRCLES.fullmatch(bare) and (len(_LABELS.findall(bare)) > 1 or bare[0] in CIRCLED):
        return Statements(frozenset(int(n) if n else CIRCLED[c] for n, c in _LABELS.findall(bare)), bare)
    if _DOTTED.fullmatch(bare + ".") and bare.count(".") > 1:
        return Statements(frozenset(map(int, re.findall("[0-9]", bare))), bare)
    return None


def _labelled(text: str, at: At) -> Value | None:
    """(1) … (2) …: the parts of an answer, each with its number before it."""
    if not (text.startswith("(1)") or text.startswith("①")):
        return None
    labels = [label for label in _LABELS.finditer(text) if _depth_at(text, label.start()) == 0]
    numbers = [int(label[1]) if label[1] else CIRCLED[label[2]] for label in labels]
    if numbers != list(range(1, len(numbers) + 1)) or len(numbers) < 2:
        return None
    ends = [label.start() for label in labels[1:]] + [len(text)]
    parts = [text[label.end():end].strip().rstrip(";,.。").strip() for label, end in zip(labels, ends, strict=True)]
    return _several(parts, at, order=True)


def _depth_at(text: str, position: int) -> int:
    before = text[:position]
    return sum(map(before.count, _OPENING)) - sum(map(before.count, _CLOSING))


def _semicolons(text: str, at: At) -> Value | None:
    return _several(split_at(text, ";"), at, order=True) if ";" in text else None


def _formulas(text: str, at: At) -> Value | None:
    """$7$ $10$ and $7$, $10$: formulas with spaces or commas alone between them are values in their order."""
    if text.count("$") < 4 or text.count("$") % 2:
        return None
    pieces = text.split("$")
    between = [piece.strip() for piece in pieces[2:-1:2]]
    if not pieces[0].strip() and _names_blanks([*between, pieces[-1].strip(" .")]):
        return _several([piece for piece in pieces if piece.strip(" .")], at, order=True)
    if pieces[0].strip() or pieces[-1].strip(" .") or any(one not in ("", ",") for one in between):
        return None
    if not any(between) and any(piece == "" for piece in pieces[2:-1:2]):
        return None
    return _several(pieces[1::2], at, order=True)


def _names_blanks(words: list[str]) -> bool:
    """$4$ rational $-2$ irrational: words between formulas that are answers themselves, and no units."""
    said = [word for word in words if word]
    return len(said) >= len(words) - 1 and all(
        re.fullmatch(r"[A-Za-z]{3,}(?: [A-Za-z]+){0,2}", word) and unit_of(word) is None
        and not re.search(r"\b(?:and|or|when|if|where|is|are|for)\b", word) for word in said
    )


_SPACED = re.compile(r"-?[0-9.]{1,20}(?:\s+-?[0-9.]{1,20}){1,20}")


def _spaced(text: str, at: At) -> Value | None:
    """16 12.5: numbers with spaces alone between them, unless these group digits."""
    if not _SPACED.fullmatch(text) or re.fullmatch(r"-?[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]+)?", text):
        return None
    return _several(text.split(), at, order=True)


_OR = re.compile(r",?\s+or\s+|\s*或者?\s*|(?<=[0-9)\]$}])or(?=[-\\$A-Za-z0-9])|\\lor")
_AND = re.compile(r",?\s+and\s+|\s*[和与且]\s*|\\land")


def _alternatives(text: str, at: At) -> Value | None:
    if "or" not in text and "或" not in text:
        return None
    parts = [part.strip().strip(",") for part in split_at(text, _OR)]
    if len(parts) < 2:
        return None
    return _flat(_several(parts, at, order=False), "or")


def _commas(text: str, at: At) -> Value | None:
    if "," not in text and "and" not in text and not _AND.search(text):
        return None
    parts = [one for part in split_at(text, ",") for one in split_at(part, _AND)]
    parts = [part for part in parts if part.strip()]
    if any(part.strip().startswith("and ") for part in parts):
        parts = [part.strip().removeprefix("and ") for part in parts]
    goes_on = r"\ldots" in text     # a sequence, whose order is its meaning
    found = _flat(_several(parts, at, order=goes_on), "" if "," in text else "and")
    return found and _with_one_name(found)


def _flat(found: Several | None, word: str) -> Several | None:
    """`a, b or c` is three values."""
    if found is None:
        return None
    items = [one for item in found.items for one in
             (item.items if isinstance(item, Several) and not item.order else (item,))]
    return Several(tuple(items), found.order, found.any_one, word)


def _with_one_name(found: Several) -> Value:
    """x = 1, 2 names both."""
    first, *rest = found.items
    if isinstance(first, Named) and isinstance(first.value, Scalar) and all(isinstance(one, Scalar) for one in rest):
        return Named(first.name, Several((first.value, *rest), order=False))
    return found


def split_at(text: str, separator: str | re.Pattern) -> list[str]:
    """The parts of a text between separators that stand outside of all brackets; a comma in 1,234 separates nothing."""
    parts, depth, start, position = [], 0, 0, 0
    is_pattern = not isinstance(separator, str)
    while position < len(text):
        sign = text[position]
        if sign in _OPENING:
            depth += 1
        elif sign in _CLOSING:
            depth -= 1
        elif depth == 0 and (match := separator.match(text, position) if is_pattern else sign == separator):
            width = match.end() - position if is_pattern else 1
            if sign != "," or is_pattern or not _is_thousands(text, position):
                parts.append(text[start:position])
                position = start = position + width
                continue
        position += 1
    return [*parts, text[start:]]


_GROUP_BEFORE = re.compile(r"(?<![0-9.])(?:[1-9][0-9]{0,2})(?:,[0-9]{3})*$")
_GROUP_AFTER = re.compile(r",[0-9]{3}(?![0-9])")


def _is_thousands(text: str, comma: int) -> bool:
    return _GROUP_AFTER.match(text, comma) is not None \
        and _GROUP_BEFORE.search(text[max(0, comma - 40):comma]) is not None


# --- signs, names and relations ---------------------------------------------------------------------------------------

_SIGNED = re.compile(r"\\(pm|mp)(?![A-Za-z])|\+/-|\+-")


def _signs(text: str, at: At) -> Value | None:
    r"""\pm 3 is 3 and −3, (\pm 3, 0) two points, y = \pm 2x two lines; x = \pm 3 stays a name and its values."""
    if not _SIGNED.search(text):
        return None
    both = (("+", "-"), ("-", "+"))
    texts = [_SIGNED.sub(lambda sign, pair=pair: pair[sign[1] == "mp"], text) for pair in both]
    items = tuple(_single(one, at.deeper()) for one in texts)
    kind = Relation if _CHAIN.search(text) else Bracketed if text[:1] == "(" and encloses(text) else Scalar
    return Several(items, order=False) if all(isinstance(one, kind) for one in items) else None


_CONDITION = re.compile(r"(.*\S)\s*\(([^()]*(?:[<>]|\\[lg]eq|\\neq)[^()]*)\)")


def _conditional(text: str, at: At) -> Value | None:
    """y = 2x (0 < x < 5): an equation and where it holds."""
    match = _CONDITION.fullmatch(text) if text.endswith(")") else None
    if match is None or "=" not in match[1]:
        return None
    return _several([match[1], match[2]], at, order=False)


_POINT = re.compile(r"([A-Z](?:'{1,2}|_\{?[0-9]\}?)?) ?(\([^()]{0,80},[^()]{0,80}\))")


def _point(text: str, at: At) -> Value | None:
    """A'(-3, 2): a point with its name."""
    match = _POINT.fullmatch(text)
    return match and Named(_name(match[1]) or match[1], _single(match[2], at.deeper()))


_SIGN_OF = {"\\leq": "≤", "\\geq": "≥", "\\neq": "≠", "\\approx": "=", "\\in": "∈", "\\parallel": "∥", "\\perp": "⊥",
            "\\cong": "≅", "\\sim": "∼", "\\backsim": "∼", "<=": "≤", ">=": "≥", "!=": "≠", "==": "=",
            "≈": "="}
_WORDS_NAME = re.compile(r"[A-Za-z][A-Za-z.'’]*(?: [A-Za-z.'’]+){0,7}")
_COLON_NAME = re.compile(r"([A-Za-z]{3,20}(?: [A-Za-z]{1,20}){0,4}|\\text\{[^{}]{3,60}?\}) ?: ?(.+)")


def _related(text: str, at: At) -> Value | None:
    pieces = split_at_signs(text)
    if len(pieces) == 1:
        if match := _COLON_NAME.fullmatch(text):
            return Named(_worded(match[1]).rstrip(":"), _whole(match[2], at.deeper()))
        return None
    sides, signs = [piece.strip() for piece in pieces[::2]], [_SIGN_OF.get(sign, sign) for sign in pieces[1::2]]
    if not all(sides) or len(sides) > 8:
        return None
    if signs == ["∈"]:
        inner = _single(sides[1], at.deeper())
        return Named(_name(sides[0]) or sides[0], inner) if isinstance(inner, Bracketed | Union) else None
    if "∈" in signs:
        return None
    if set(signs) == {"="}:
        name, value = _name(sides[0]), _single(sides[-1], at.deeper())
        if name is None and isinstance(value, Bracketed | Union) and not re.search(r"[0-9]", sides[0]):
            name = _worded(sides[0])        # A \cap B = {1}
        also = None
        if pieces[-2] in ("\\approx", "≈") and is_closed(before := _single(sides[-2], at.deeper())):
            also = before
        is_worded = isinstance(name, str) and name[:1] != "(" and isinstance(value, Scalar)     # Area = 2x
        if name is not None and (is_closed(value) or is_worded):
            return Named(name, value, also)
        if all(isinstance(one := _single(side, at.deeper()), Scalar) and one.is_closed for side in sides):
            return Named("", value, also)      # 24 * 24 = 576
    try:
        nodes = tuple(expression.parse(side) for side in sides)
    except Unreadable:
        return None
    return Relation(nodes, tuple(signs), tuple(sides))


def split_at_signs(text: str) -> list[str]:
    """Sides and signs in turn, of a relation outside of all brackets."""
    found, depth, start = [], 0, 0
    for match in re.finditer(rf"{_CHAIN.pattern}|[()\[\]{{}}]", text):
        sign = match[0]
        if sign in _OPENING:
            depth += 1
        elif sign in _CLOSING:
            depth -= 1
        elif depth == 0:
            found += [text[start:match.start()], sign]
            start = match.end()
    return [*found, text[start:]]


def _worded(text: str) -> str:
    return " ".join(re.sub(r"\\text\{([^{}]*)\}", r"\1 ", text).split())


def _name(text: str) -> Node | str | None:
    """What a side of an equation is if it only names something: x, AB, |AB|, f(2), V_1:V_2, (x, y), "Area"."""
    text = text.strip()
    words = _worded(text)
    try:
        node = expression.parse(text)
    except Unreadable:
        node = None
    if node is not None:
        return node if _is_name(node) else None
    if _WORDS_NAME.fullmatch(words):
        return words
    if (terms := split_at(text, ":"))[1:] and all(names := [_name(term) for term in terms]):
        return ("/", *names) if len(names) == 2 and all(isinstance(name, tuple) for name in names) else words
    if text[:1] == "(" and text[-1:] == ")" and all(isinstance(_name(one), tuple) for one in split_at(text[1:-1], ",")):
        return words
    return None


_FIGURE = re.compile(r"[A-Z]|(?:angle|triangle|vec|overline|odot) |m$")     # AB, m∠A: names of figures, no factors


def _is_name(node: Node) -> bool:
    kind = node[0]
    if kind in ("symbol", "call", "e"):
        return True
    if kind == "·":
        return all(_FIGURE.match(one[1]) if one[0] == "symbol" else one[0] == "·" and _is_name(one) for one in node[1:])
    if kind in ("abs", "/") or kind.startswith("call "):
        return all(_is_name(one) for one in node[1:])
    return False


# --- brackets, ratios, quantities -------------------------------------------------------------------------------------


def _united(text: str, at: At) -> Value | None:
    parts = re.split(r"\\cup(?![A-Za-z])|(?<=[)\]}]) ?U ?(?=[(\[{\\])", text)
    if len(parts) == 1:
        return None
    values = tuple(_single(part.strip(), at.deeper()) for part in parts)
    return Union(values) if all(isinstance(one, Bracketed) for one in values) else None


_CONDITIONED = re.compile(r"\s*\(?[A-Za-z](?:, ?[A-Za-z])?\)?\s*(?:\\in [A-Z]\s*)?[|:]\s*(.+)")      # {x | x > 1}


def _bracketed(text: str, at: At) -> Value | None:
    if text == "\\emptyset":
        return Bracketed("{", (), "}")
    left, right = ("{" if text.startswith("\\{") else text[:1]), ("}" if text.endswith("\\}") else text[-1:])
    if left not in ("(", "[", "{") or right not in (")", "]", "}") or len(text) < 3:
        return None
    is_set = text.startswith("\\{")
    if is_set and not text[2:-2].strip() and text.endswith("\\}"):
        return Bracketed("{", (), "}")
    if is_set != text.endswith("\\}") or (left == "{") != (right == "}") or not encloses(text):
        return None
    inner = text[2:-2] if is_set else text[1:-1]
    if is_set and (condition := _CONDITIONED.fullmatch(inner)):
        return _whole(condition[1], at.deeper())
    texts = _items(inner)
    if len(texts) == 1 and left != "{" and (left, right) != ("[", "]"):
        return None     # brackets around an expression
    if len(texts) > _MAX_ITEMS or not all(one.strip() for one in texts):
        return None
    items = tuple(_single(one.strip().replace("$", " "), at.deeper()) for one in texts)
    if left == "{" and len(items) == 1 and isinstance(items[0], Several):
        items = items[0].items
    return Bracketed(left, items, right)


def _items(text: str) -> list[str]:
    """In brackets every comma separates."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"[()\[\]{},;]", text):
        sign = match[0]
        depth += (sign in _OPENING) - (sign in _CLOSING)
        if depth == 0 and sign in ",;":
            parts.append(text[start:match.start()])
            start = match.end()
    return [*parts, text[start:]]


def encloses(text: str) -> bool:
    """Whether the first bracket closes at the end."""
    depth = 0
    for match in re.finditer(r"[()\[\]{}]", text):
        depth += 1 if match[0] in _OPENING else -1
        if depth == 0:
            return match.end() == len(text)
    return False


def _without_braces(text: str) -> str:
    """The braces around a whole text, taken off."""
    while text[:1] == "{" and text[-1:] == "}" and encloses(text):
        text = text[1:-1].strip()
    return text


_TIME = re.compile(r"([01]?[0-9]|2[0-4]) ?: ?([0-5][0-9])(?: ?(?:\\text\{)?([aApP])\.? ?[mM]\.?\}?)?")


def _ratio(text: str, at: At) -> Value | None:
    if ":" not in text:
        return None
    if not at.is_formula and (time := _TIME.fullmatch(text)) and (time[1] != "1" or time[3]):
        hour = int(time[1]) % 12 + 12 * (time[3] in "pP") if time[3] else int(time[1])
        return Ratio(tuple(Scalar(expression.parse(one), text=one) for one in (str(hour), time[2])), is_time=True)
    texts = split_at(text, ":")
    if len(texts) < 2 or len(texts) > 6:
        return None
    terms = [_scalar(one.strip(), at) for one in texts]
    if not all(isinstance(one, Scalar) and one.unit is None for one in terms):
        return None
    return Ratio(tuple(terms))


_MINUTES = re.compile(r"([0-9]{1,3}) ?\\degree *([0-5]?[0-9]) ?'(?! ?')(?: ?([0-5]?[0-9](?:\.[0-9]{1,9})?) ?'')?")


def _of_minutes(text: str, at: At) -> Value | None:
    """35°24': degrees and their sixtieths, as degrees."""
    match = _MINUTES.fullmatch(text.replace(r"^{\prime}", "'").replace(r"^\prime", "'")) if "\\degree" in text else None
    if match is None:
        return None
    degrees = int(match[1]) + Fraction(match[2]) / 60 + Fraction(match[3] or 0) / 3600
    return Scalar(("number", degrees), unit_of("\\degree"), text)


_TERM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(\\text\{[^{}]{1,12}\}|[A-Za-z]{1,8})\s*")


def _measured(text: str, at: At) -> Value | None:
    """2 h 30 min: one quantity in two units, counted in the smaller one."""
    terms, position = [], 0
    while (match := _TERM.match(text, position)) is not None:
        terms.append((match[1], unit_of(_spoken_unit(match[2]))))
        position = match.end()
    units = [unit for _, unit in terms]
    if position < len(text) or len(terms) < 2 or None in units or len({unit.dimension for unit in units}) > 1:
        return None
    if any(one.factor <= other.factor for one, other in pairwise(units)):
        return None
    total = sum(Fraction(number) * unit.factor for number, unit in terms) / units[-1].factor
    return Scalar(("number", total), units[-1], text)


_CURRENCY = re.compile(r"\s*(-?)\s*(?:US|A|HK)?(\\?\$|€|£|¥|\\pounds|\\euro|Rs\.?|₹)\s*(?=[0-9.\\])")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_UNIT_BEGINS = re.compile(r"\\text\{|\\degree|\\%|%|(?<![A-Za-z\\])[A-Za-z]|\\(?:Omega|mu)(?![A-Za-z])|[€£¥¢$]|\\\$")
_GOES_ON = re.compile(r"(?<=[0-9]) ?(?:\\ldots|\.\.\.) ?$")
_LITERAL = re.compile(
    r"[-+]?\{?[0-9][0-9.,/ ]*\}?(?:(?:\\times|\\cdot|\*) *10 ?\^ ?(?:\{ ?-?[0-9]{1,3} ?\}|-?[0-9]{1,3}) *)?"
)


def _is_currency(text: str) -> bool:
    return text.count("$") % 2 == 1 and _CURRENCY.match(text.replace("\\$", "$")) is not None


_DATE = re.compile(r"[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}|[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{4}")


def _scalar(text: str, at: At) -> Value | None:
    if _DATE.fullmatch(text):
        return None
    if "," in text:
        text = _THOUSANDS.sub("", text)
    unit = None
    if currency := _CURRENCY.match(text):
        unit = unit_of(currency[2].lstrip("\\").replace("pounds", "£").replace("euro", "€").replace("₹", "Rs"))
        text = currency[1] + text[currency.end():]
    text = _GOES_ON.sub("", text)
    try:
        behind = None if text.isdigit() else _unit_behind(text, at.is_formula)
        if behind is not None:
            text, behind_unit = behind
            unit = behind_unit if unit is None else unit
        return Scalar(expression.parse(text), unit, text)
    except Unreadable:
        return None


def _unit_behind(text: str, is_formula: bool) -> tuple[str, Unit] | None:
    """(value, unit) of a text that ends with a unit; the longest unit counts."""
    for match in list(_UNIT_BEGINS.finditer(text))[-12:]:
        value, name = text[:match.start()].rstrip(" -*."), text[match.start():]
        if not value or value[-1] in "+/^_({" or (value.endswith("\\cdot")):
            continue
        unit = unit_of(_spoken_unit(name))
        if unit is None:
            continue
        if unit.dimension == "angle" and _TRIGONOMETRIC.search(value):
            continue        # 5 \sin 40°
        letter = re.match(r"[A-Za-z](?![A-Za-z])", name)
        if letter and letter[0] in LETTERS and (is_formula or not _LITERAL.fullmatch(value)):
            continue        # 2\pi r, $5m$: a letter that may be a variable
        try:
            expression.parse(_THOUSANDS.sub("", value))
        except Unreadable:
            continue
        return value, unit
    return None


_TRIGONOMETRIC = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")


def _spoken_unit(text: str) -> str:
    """A unit as the table of units spells it."""
    text = re.sub(r"\\text\s?\{", " ", text).replace("{", "").replace("}", "").replace("\\%", "%").replace("\\$", "$")
    text = re.sub(r"\b(sq|cu)(?:\.\s*|\s+)(?=[A-Za-z])", r"\1 ", text)
    return " ".join(re.sub(r"\\degree ?(?=[CFT]\b)", r"\\degree ", text).replace(r"\degree  ", r"\degree ").split())
