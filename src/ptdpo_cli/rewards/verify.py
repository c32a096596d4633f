r"""Whether an extracted answer is the right one, by the type of the answer; the table of docs/rewards.md.

Answers are read by `mathtext`, whole or not at all. What it declines (sums, integrals, matrices) goes to math-verify
in worker processes with a time limit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from ptdpo_cli.artifacts.schemas import ANSWER_TYPES
from ptdpo_cli.errors import UsageError
from ptdpo_cli.mathtext import expression as expressions
from ptdpo_cli.mathtext import plain, read, same, same_words, spelt, squeezed, words
from ptdpo_cli.mathtext.equality import intervals, same_formula, same_name, same_unit
from ptdpo_cli.mathtext.kinds import has_words, needs_algebra, type_of
from ptdpo_cli.mathtext.reading import encloses, split_at
from ptdpo_cli.mathtext.values import Named, Scalar, Text, Value, values_in
from ptdpo_cli.rewards import workers
from ptdpo_cli.rewards.choices import bare_letter, letter_set, letters_of, named_options, options_of

_MAX_EXPRESSION_CHARACTERS = 1000
_MAX_DEPTH = 30                 # of brackets: no answer has more, and a parser takes seconds there
_MAX_REFERENCE_CHARACTERS = 2000
# The types that say what a reference is; each is compared as it is read.
_READ = ("expression", "quantity", "named", "ratio", "interval", "blanks", "alternatives", "statements", "text")


def verify(
    extracted: str | None,
    answer: str,
    answer_type: str = "integer",
    choices: Sequence[str] = (),
    precision: int | None = None,
    *,
    time_limit_s: float = 5.0,
) -> bool:
    r"""True if `extracted` says what `answer` says, the whole of it and nothing else.

    integer       the same number: "07", "7.0", "$7$", "x = 7", "7 cm" and "3 + 4 = 7" are 7; "1,234" is 1234
    float         the number that `answer` is when rounded to `precision` decimals, or to those that it has
    choice        the right letter in any spelling, or its option by text or value; letter and text must not disagree
    expression    equal as mathematics: names are told apart by case, equations up to a factor
    quantity      the same value, in the same unit, in another of the same kind, or without one
    named         the value, with that name or without
    ratio         the same ratio, or of two terms their quotient
    interval      the same interval, also as an inequality
    blanks        the same values in the same order
    alternatives  the same values in any order; any one of them where the reference says so
    statements    the same numbers of statements: ①③ is (1)(3) is "1, 3"
    list          the same items in the same order, each by value or text; brackets are optional
    set           the same items in any order; "AC" is "C, A" where the answer is letters
    text          the same words but for case, spaces, LaTeX dress and a final full stop; what is mathematics, as that

    Errors: UsageError as `check_answer` has it. What takes longer than the time limit is not right.
    """
    said = decide(extracted, answer, answer_type, choices, precision)
    if said is None:
        (result,) = workers.ask([("equal", expression(extracted), expression(answer))], time_limit_s=time_limit_s)
        return result.value is True
    return said


def decide(
    extracted: str | None, answer: str, answer_type: str, choices: Sequence[str] = (), precision: int | None = None
) -> bool | None:
    """What can be said without algebra; None where math-verify has to say. Errors: as `check_answer`."""
    check_answer(answer, answer_type, choices)
    if extracted is None:
        return False
    match answer_type:
        case "integer" | "float":
            return _same_number(extracted, answer, answer_type, precision)
        case "choice":
            return _same_choice(extracted, answer, choices)
        case "list":
            found, gold = items(extracted), items(answer)
            return len(found) == len(gold) and all(map(_same_item, found, gold))
        case "set":
            return _same_set(extracted, answer, choices)
        case "ratio":
            return _same_as_read(re.sub(r"(?<=[0-9]) ?to ?(?=[0-9])", ":", plain(extracted)), answer, answer_type)
        case _:
            return _same_as_read(extracted, answer, answer_type)


def contradicts(extracted: str, choices: Sequence[str]) -> bool:
    """Whether an answer gives the letter of one option and the text of another."""
    return bool(choices) and named_options(extracted, choices)[1]


def n_values(answer: str, answer_type: str) -> int:
    """How many values a reference has: 2 of "7; 10", 1 of a point or an interval."""
    if answer_type in ("list", "set"):
        return len(items(answer))
    return len(list(values_in(read(answer)))) if answer_type in _READ else 1


def check_answer(answer: str, answer_type: str, choices: Sequence[str] = ()) -> None:
    """Refuse an answer that nothing could be compared with.

    Errors: UsageError if it is empty or NaN, not what its type says, a letter that no option has, an expression with
    unbalanced brackets, too long, or of an unknown type.
    """
    if answer_type not in ANSWER_TYPES:
        raise UsageError("unknown answer type", expected=" | ".join(ANSWER_TYPES), found=repr(answer_type))
    if not isinstance(answer, str) or not (gold := squeezed(answer)):
        raise UsageError("a problem has an empty answer", expected="text or a number", found=repr(answer))
    if gold.casefold() in ("nan", "none", "null") and answer_type != "text":
        raise UsageError("the answer of a problem is no answer", expected="text or a number", found=repr(answer))
    if len(answer) > _MAX_REFERENCE_CHARACTERS:
        raise UsageError("the answer of a problem is too long",
                         expected=f"{_MAX_REFERENCE_CHARACTERS} characters at most", found=f"{len(answer)} characters")
    if answer_type in ("integer", "float") and _literal(answer) is None:
        raise UsageError(
            f"the answer of a problem of type {answer_type} is not a number",
            expected="a number such as 12, -3.5 or 3/4",
            found=repr(answer),
            hint="give the problem the answer_type `text`",
        )
    if answer_type == "choice" and (letter := bare_letter(answer)) not in tuple(letters_of(choices)):
        raise UsageError(
            "the answer of a multiple-choice problem is no letter of an option",
            expected=f"one of {', '.join(letters_of(choices))}",
            found=repr(answer) if letter is None or choices else f"{answer!r}, without options",
            hint="give the problem the letter of the right option, or the answer_type `text`",
        )
    if answer_type in ("list", "set") and not items(answer):
        raise UsageError(f"the answer of a problem of type {answer_type} has no items", found=repr(answer))
    if answer_type == "expression" and (fault := malformed(answer)):
        raise UsageError(
            f"the answer of a problem of type expression {fault}",
            found=repr(answer),
            hint="mend it, or give the problem the answer_type `text`",
        )
    if answer_type in _KINDS and (kind := type_of(read(answer))) != answer_type and not (
        answer_type == "interval" and intervals(read(answer)) is not None      # (0, 1), x < 3
    ):
        raise UsageError(
            f"the answer of a problem of type {answer_type} is none",
            expected=_KINDS[answer_type],
            found=f"{answer!r}, which reads as {kind}",
            hint=f"give the problem the answer_type `{kind}`",
        )


_KINDS = {
    "quantity": "a value with a unit, such as 5 cm^2 or 45°",
    "named": "a name and its value, such as AB = 5",
    "ratio": "such as 2:3",
    "interval": "such as (1, 2] or 0 < x < 1",
    "blanks": "several values, such as 7; 10",
    "alternatives": "several values, such as 7 or 11",
    "statements": "numbers of statements, such as ①③ or (1)(3)",
}


# --- numbers ----------------------------------------------------------------------------------------------------------


def number(text: str) -> Fraction | None:
    """The number that an answer states, with a name before it or a unit behind it: "7", "x = 7", "≈ 7 cm", "€7".

    None for anything else, also for what would have to be worked out: 3 + 4, 2², √4.
    """
    value = read(text)
    if isinstance(value, Named):
        value = value.value
    return expressions.exact(value.node) if isinstance(value, Scalar) and expressions.is_literal(value.node) else None


def _literal(text: str) -> Fraction | None:
    """The number that a text is, with nothing beside it but dress."""
    value = read(text)
    is_bare = isinstance(value, Scalar) and value.unit is None and expressions.is_literal(value.node)
    return expressions.exact(value.node) if is_bare else None


_DECIMAL = re.compile(r"[-+]?[0-9]*(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,3}))?")


def decimals(answer: str, precision: int | None) -> int:
    """Decimals to which a float answer counts: `precision`, else those it is written with; 0 for a ratio."""
    if precision is not None:
        return precision
    match = _DECIMAL.fullmatch(squeezed(answer).replace(",", ""))
    return len(match[1] or "") - int(match[2] or 0) if match else 0


def _same_number(extracted: str, answer: str, answer_type: str, precision: int | None) -> bool:
    gold, found = _literal(answer), number(extracted)
    if found is None:
        return False
    if answer_type == "float" and (precision is not None or decimals(answer, None) > 0):
        return _is_rounded(found, gold, decimals(answer, precision))
    return found == gold


def _is_rounded(found: Fraction, gold: Fraction, n_decimals: int) -> bool:
    return abs(found - gold) < Fraction(1, 2) / Fraction(10) ** n_decimals


# --- what is read -----------------------------------------------------------------------------------------------------


_LABELLED = re.compile(       # "Point A"
    r"(?:point|step|figure|graph|curve|line|shape|box|region|group|picture|image) (?=\(?[A-Z]\b)", re.IGNORECASE
)


def _same_as_read(extracted: str, answer: str, answer_type: str) -> bool | None:
    if squeezed(extracted) == squeezed(answer) or same_formula(extracted, answer):
        return True
    if answer_type == "text":
        if (gold := words(answer)) in _OPPOSITES:
            return leading_opposite(extracted) == gold
        if len(gold) == 1 and gold.isascii() and gold.isalpha():
            return bare_letter(_LABELLED.sub("", extracted.strip())) == gold.upper()
    found, gold = read(extracted), read(answer)
    if isinstance(gold, Text) and same_words(extracted, answer):
        return True
    if _reaches(found, gold) or same(found, gold):
        return True
    if isinstance(gold, Text) or isinstance(found, Text):
        return _by_algebra(extracted, answer)
    return False


def _reaches(found: Value, gold: Value) -> bool:
    """Whether a measured value, as 4.4 m, is the found one when that is rounded to its decimals."""
    if isinstance(gold, Named):
        if isinstance(found, Named) and not same_name(found.name, gold.name):
            return False
        gold = gold.value
    elif not isinstance(gold, Scalar) or gold.unit is None:
        return False
    found = found.value if isinstance(found, Named) else found
    if not (isinstance(found, Scalar) and isinstance(gold, Scalar)) or same_unit(found.unit, gold.unit) != 1:
        return False
    n_decimals = decimals(gold.text, None)
    if n_decimals < 1 or not expressions.is_literal(found.node):
        return False
    values = expressions.exact(found.node), expressions.exact(gold.node)
    return None not in values and _is_rounded(*values, n_decimals)


def _by_algebra(extracted: str, answer: str) -> bool | None:
    """None where math-verify has to compare: both are mathematics, one of them of a kind that `mathtext` declines."""
    texts = extracted, answer
    if any(has_words(spelt(text)) or malformed(text) for text in texts) or not any(map(needs_algebra, texts)):
        return False
    return None


_OPPOSITES = {"yes", "no", "true", "false"}
_FIRST_WORD = re.compile(r"[^A-Za-z]{0,12}(yes|no|true|false)\b", re.IGNORECASE)


def leading_opposite(text: str) -> str | None:
    """yes, no, true or false, where a text begins with it and says none of the others: "Yes, it is" says yes."""
    said = plain(text)
    first = _FIRST_WORD.match(said)
    if first is None:
        return None
    sentence = re.split(r"[.!?\n]", said[first.start():], maxsplit=1)[0] if len(said) > 200 else said
    others = {word.casefold() for word in re.findall(r"[A-Za-z]+", sentence)} & _OPPOSITES
    return first[1].casefold() if others == {first[1].casefold()} else None


# --- lists, sets, choices ---------------------------------------------------------------------------------------------


_SEPARATOR = re.compile(r"[,;\n]|\s(?:and|or)(?=\s)|\\text\{\s*(?:,? ?and|or)\s*\}")


def items(text: str) -> list[str]:
    """The items of a list or set: brackets around all of it taken off, split at commas, semicolons and "and".

    A separator inside brackets or braces splits nothing.
    """
    if len(text) > 20_000:
        return [text]
    text = spelt(text).replace("$", " ").strip().removesuffix(".").strip()
    if re.match(r"\\text\{", text) and text.endswith("}") and text.count("{") == 1:
        text = text[6:-1]
    text = re.sub(r"\\([{}])", r"\1", text)
    if text[:1] in tuple("([{") and encloses(text):
        text = text[1:-1].strip()
    text = re.sub(r"\\text\{\s*(,? ?and|or)\s*\}", r" \1 ", text)
    return [part.strip() for part in split_at(text, _SEPARATOR) if part.strip()]


def _same_item(found: str, gold: str) -> bool:
    found, gold = found.strip("'\""), gold.strip("'\"")
    if words(found) == words(gold):
        return True
    value = read(gold)
    return not isinstance(value, Text) and same(read(found), value)


def _same_set(extracted: str, answer: str, choices: Sequence[str]) -> bool:
    gold = letter_set(answer, choices)
    if gold is not None:
        return (letter_set(extracted, choices) or _texts_as_letters(extracted, choices)) == gold
    found, wanted = (_signs(items(text)) for text in (extracted, answer))
    if not found or len(found) * len(wanted) > 10_000:
        return False
    return all(any(_same_item(one, other) for other in wanted) for one in found) \
        and all(any(_same_item(one, other) for one in found) for other in wanted)


def _signs(found: list[str]) -> list[str]:
    r"""Items with "\pm 3" as the two that it is."""
    return [text.replace(r"\pm", sign) for text in found for sign in ("+", "-") if sign == "+" or r"\pm" in text]


def _texts_as_letters(text: str, choices: Sequence[str]) -> set[str] | None:
    if not choices or re.search(r"\bor\b", text):
        return None
    found = [named_options(item, choices)[0] for item in items(text)]
    return None if None in found else set(found)


def _same_choice(extracted: str, answer: str, choices: Sequence[str]) -> bool:
    gold, (found, _) = bare_letter(answer), named_options(extracted, choices)
    if found is None or found == gold or not choices:
        return found == gold
    # Two options of one text: whoever gives the text has given both.
    options, letters = options_of(tuple(choices)), letters_of(choices)
    names_text = bare_letter(extracted) not in tuple(letters)
    return names_text and options[letters.index(found)].exact == options[letters.index(gold)].exact


# --- what math-verify is given ----------------------------------------------------------------------------------------


def expression(text: str) -> str:
    """What math-verify gets of an answer: it is without delimiters, and math-verify has its own spelling."""
    return re.sub(r"^\s*(?:\$\$|\$|\\\(|\\\[)|(?:\$\$|\$|\\\)|\\\])[\s.]*$", "", text).strip()


def malformed(text: str) -> str | None:
    """Why a text is no expression, before anything is parsed."""
    if len(text) > _MAX_EXPRESSION_CHARACTERS:
        return f"is longer than {_MAX_EXPRESSION_CHARACTERS} characters"
    braces = depth = deepest = 0
    for match in re.finditer(r"\\.|[{}()\[\]]", text, re.DOTALL):
        depth += {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}.get(match.group(), 0)
        braces += {"{": 1, "}": -1}.get(match.group(), 0)
        deepest = max(deepest, depth)
        if braces < 0:
            break
    if braces:
        return "has unbalanced braces"
    return f"is nested deeper than {_MAX_DEPTH} brackets" if deepest > _MAX_DEPTH else None
