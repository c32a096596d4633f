r"""Whether an extracted answer is the right one, by the type of the answer; the table of docs/rewards.md.

Nothing is evaluated here: a number is what one regular expression says it is, and every check is linear in the text.
What needs algebra (`expression`) goes to math-verify in worker processes with a time limit.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from fractions import Fraction
from string import ascii_uppercase

from ptdpo_cli.artifacts.schemas import ANSWER_TYPES, Problem
from ptdpo_cli.errors import UsageError
from ptdpo_cli.rewards import workers

LETTERS = "ABCDEFGHIJ"          # those of a problem whose options are not known

_MAX_NUMBER_CHARACTERS = 64     # no answer is longer, and Python's int() is quadratic in the digits
_MAX_EXPRESSION_CHARACTERS = 1000
_MAX_DEPTH = 30                 # of brackets: no answer has more, and a parser takes seconds there
# ！ to ～: a Chinese keyboard's ASCII. Other digits (٧, 七) are no digits here.
_SIGNS = (
    {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | {0x3000: " ", ord("·"): r"\cdot ", ord("∞"): r"\infty "}
    | {ord(sign): "-" for sign in "−–‐－﹣"}
)
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_SMALL_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻₀₁₂₃₄₅₆₇₈₉", "0123456789+-0123456789")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_ROOT = re.compile(r"√\s{0,4}(?:\(([^()√]{1,100})\)|\{([^{}√]{1,100})\}|([0-9]{1,20}(?:\.[0-9]{1,20})?|[A-Za-z]))")
_DECORATION = re.compile(r"\\[(),;!\[\]]|\\(?:left|right|displaystyle)(?![A-Za-z])|\\[$%]|[$%°]|\^\{?\\circ\}?|\\ ")
_WORDING = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,|\{,\}| )(?=[0-9]{3}(?![0-9]))")
_DECIMAL = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,2}))?")
_POWER_OF_TEN = re.compile(r"(?:\\times|\\cdot|×|·|\*)10\^(?:\{([+-]?[0-9]{1,2})\}|([+-]?[0-9]{1,2}))")
_RATIO = re.compile(
    r"([+-]?)(?:([0-9]+)(?: (?=[0-9])|(?=\\)))?"
    r"(?:\\[dtc]?frac\{([0-9]+)\}\{([0-9]+)\}|\\[dtc]?frac([0-9])([0-9])|([0-9]+)/([0-9]+))"
)
_LABEL = re.compile(r"[A-Za-z∠△\\][A-Za-z∠△\\_{}' ]{0,30}?(?:=|\\approx|≈)|\\approx|≈|~|(?:approximately|about) ")
_CURRENCY = re.compile(r"[€£¥]|\\(?:euro|pounds)(?![A-Za-z])")

# A unit and how else it is written. It is dropped where the answer is a number; where both sides have one they must
# be the same.
_UNITS = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "dm": "decimeter", "m": "meter metre",
    "km": "kilometer kilometre", "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile", "nm": "nanometer",
    "mg": "milligram", "g": "gram", "kg": "kilogram", "lb": "lbs pound", "oz": "ounce", "t": "ton tonne",
    "ms": "millisecond", "s": "sec second", "min": "minute", "h": "hr hrs hour", "day": "", "week": "", "month": "",
    "year": "yr yrs", "N": "newton", "J": "joule", "kJ": "kilojoule", "W": "watt", "kW": "kilowatt", "V": "volt",
    "mA": "", "A": "amp ampere", "Ω": "ohm \\Omega", "Hz": "hertz", "Pa": "pascal", "kPa": "", "mol": "mole",
    "mL": "ml milliliter", "L": "l liter litre", "K": "kelvin", "C": "celsius", "degree": "deg", "rad": "radian",
    "unit": "", "percent": "", "dollar": "USD", "cent": "", "people": "person", "piece": "",
}
_UNIT_OF = {
    spelling: unit
    for unit, others in _UNITS.items()
    for name in (unit, *others.split())
    for spelling in (name, name + "s" if len(name) > 2 else name)
}
_QUANTITY = re.compile(
    r"(.*[0-9}])([ ]?)((?:(?:square|cubic|sq\.?|cu\.?) )?)([A-Za-zΩ\\]{1,12})"
    r"((?:\^\{?[23]\}?|[²³])?)(?: ?(?:/|per) ?([A-Za-z]{1,12})((?:\^\{?[23]\}?|[²³])?))?"
)


def verify(
    extracted: str | None,
    answer: str,
    answer_type: str = "integer",
    choices: Sequence[str] = (),
    precision: int | None = None,
    *,
    time_limit_s: float = 5.0,
) -> bool:
    r"""True if `extracted` says what `answer` says.

    integer     the same number: "07", "7.0", "$7$", "7.", "x = 7" and "7 cm" are 7, "1,234" is 1234, "−3" is -3
    float       the number that `answer` is when rounded to `precision` decimals, or to those that it has: 3.14159 is
                "3.14", 3.1 is not
    choice      the right letter in any spelling, or the text of its option alone; two letters are wrong
    expression  equal by math-verify, in a worker process
    list        the same items in the same order, each by number or text; brackets are optional
    set         the same items in any order; "AC" is "C, A" where the answer is letters
    text        the same text but for case, spaces, LaTeX dress, a final full stop, brackets around a letter; or,
                where both are numbers, the same number

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
        case "expression":
            return _same_expression(extracted, answer)
        case "list":
            found, gold = items(extracted), items(answer)
            return len(found) == len(gold) and all(map(_same_item, found, gold))
        case "set":
            return _same_set(extracted, answer, choices)
        case _:
            return _same_text(extracted, answer)


def check_answer(answer: str, answer_type: str, choices: Sequence[str] = ()) -> None:
    """Refuse an answer that nothing could be compared with.

    Errors: UsageError if it is empty or NaN, no number where its type says so, a letter that no option has, an
    expression with unbalanced brackets, or of an unknown type.
    """
    if answer_type not in ANSWER_TYPES:
        raise UsageError("unknown answer type", expected=" | ".join(ANSWER_TYPES), found=repr(answer_type))
    if not isinstance(answer, str) or not (gold := normalise(answer)):
        raise UsageError("a problem has an empty answer", expected="text or a number", found=repr(answer))
    if gold in ("nan", "none", "null") and answer_type != "text":
        raise UsageError("the answer of a problem is no answer", expected="text or a number", found=repr(answer))
    if answer_type in ("integer", "float") and number(gold) is None:
        raise UsageError(
            f"the answer of a problem of type {answer_type} is not a number",
            expected="a number such as 12, -3.5 or 3/4",
            found=repr(answer),
            hint="give the problem the answer_type `text`",
        )
    if answer_type == "choice" and (letter := _bare_letter(answer)) not in tuple(_letters_of(choices)):
        raise UsageError(
            "the answer of a multiple-choice problem is no letter of an option",
            expected=f"one of {', '.join(_letters_of(choices))}",
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


def check_answers(
    problems: Iterable[Problem], *, time_limit_s: float = 5.0
) -> list[tuple[Problem, UsageError]]:
    """The problems whose answers are unfit, with what is wrong: `check_answer`, and whether math-verify can read it."""
    unfit, asked = [], []
    for problem in problems:
        try:
            check_answer(problem.answer, problem.answer_type, problem.choices)
        except UsageError as error:
            unfit.append((problem, error))
        else:
            if problem.answer_type == "expression" and not _is_words(normalise(problem.answer)):
                asked.append(problem)
    tasks = [("parse", expression(problem.answer), "") for problem in asked]
    for problem, result in zip(asked, workers.ask(tasks, time_limit_s=time_limit_s), strict=True):
        if result.value is not True:
            why = f"took longer than {time_limit_s:g} s to read" if result.status == "timeout" else "cannot be read"
            unfit.append((problem, UsageError(
                f"the answer of a problem of type expression {why}",
                expected="what math-verify parses",
                found=repr(problem.answer),
                hint="mend it, or give the problem the answer_type `text`",
            )))
    return unfit


# --- text and numbers -------------------------------------------------------------------------------------------------


def spelt_out(text: str) -> str:
    r"""Unicode's signs as ASCII and LaTeX have them, for math-verify drops what it does not know: "x²" is x^2, "3½"
    is 3\frac{1}{2}, "2√(a)" is 2\sqrt{a}.
    """
    if text.isascii():
        return text
    text = _VULGAR.sub(_fraction, text)
    for pattern, mark in ((_RAISED, "^"), (_LOWERED, "_")):
        text = pattern.sub(lambda signs, mark=mark: mark + _braced(signs[0].translate(_SMALL_DIGITS)), text)
    text = text.translate(_SIGNS)
    return _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2] or root[3]}}}", text)


def _fraction(sign: re.Match) -> str:
    above, below = unicodedata.normalize("NFKC", sign[0]).split("⁄")
    return rf"\frac{{{above}}}{{{below}}}"


def _braced(digits: str) -> str:
    return digits if len(digits) == 1 else f"{{{digits}}}"


def normalise(text: str) -> str:
    """The text in lower case without LaTeX dress, spaces, thousands separators, % and °, and a final full stop."""
    text = _WORDING.sub(r"\1", spelt_out(text))
    text = _DECORATION.sub("", text)
    text = re.sub(r"\s+", " ", text.casefold()).strip()
    text = re.sub(r"(?<![0-9]) | (?![0-9])", "", text)      # "1 2" is not 12, but "1 234" is 1234
    text = _THOUSANDS.sub("", text)
    text = text if text.endswith("..") else text.removesuffix(".")
    return text[1:-1] if re.fullmatch(r"\([^()]\)|\{[^{}]*\}", text) else text


def number(text: str) -> Fraction | None:
    r"""The exact value of a normalised number, else None: "-1.5", "2e3", "2\times10^3", "3/4", "1\frac{3}{4}"."""
    if len(text) > _MAX_NUMBER_CHARACTERS:
        return None
    if match := _RATIO.fullmatch(text):
        sign, whole, *parts = match.groups()
        above, below = (int(part) for part in parts if part is not None)
        value = int(whole or 0) + Fraction(above, below) if below else None
        return -value if value is not None and sign == "-" else value
    power = _POWER_OF_TEN.search(text)
    if power and power.end() == len(text):
        text = f"{text[: power.start()]}e{power[1] or power[2]}"
    match = _DECIMAL.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    return Fraction(text)


def quantity(text: str) -> Fraction | None:
    """The number that an answer states, with a name before it or a unit behind it: "7", "x = 7", "≈ 7 cm", "€7"."""
    if (value := number(normalise(text))) is not None or len(text) > 4 * _MAX_NUMBER_CHARACTERS:
        return value
    stated = _CURRENCY.sub("", plain(text))
    if label := _LABEL.match(stated):
        stated = stated[label.end() :].strip()
    return number(normalise(split_unit(stated)[0]))


def split_unit(text: str) -> tuple[str, str | None]:
    """A plain text as number and unit, the unit in its short spelling: ("5", "cm^2"); (text, None) without one."""
    match = _QUANTITY.fullmatch(text.removesuffix("."))
    if match is None:
        return text, None
    value, _, power_word, name, power, divisor, divisor_power = match.groups()
    names = [_UNIT_OF.get(part) or _UNIT_OF.get(part.lower()) for part in (name, divisor) if part]
    if None in names:
        return text, None
    power = {"s": "2", "c": "3"}.get(power_word[:1], _digits(power))
    unit = names[0] + (f"^{power}" if power else "")
    return value, unit + (f"/{names[1]}{_digits(divisor_power or '')}" if divisor else "")


def _digits(power: str) -> str:
    return power.translate({ord("²"): "2", ord("³"): "3"} | {ord(c): None for c in "^{}"})


def plain(text: str) -> str:
    """A text without LaTeX dress, its spaces kept."""
    text = spelt_out(text)
    text = re.sub(r"\\[,;: ]|~", " ", text)
    text = _DECORATION.sub("", _WORDING.sub(r" \1", text))
    return re.sub(r"\s+", " ", text).strip(" *")


def decimals(answer: str, precision: int | None) -> int:
    """Decimals to which a float answer counts: `precision`, else those it is written with; 0 for a ratio."""
    if precision is not None:
        return precision
    match = _DECIMAL.fullmatch(normalise(answer))
    return len(match[3] or "") - int(match[4] or 0) if match else 0


def _same_number(extracted: str, answer: str, answer_type: str, precision: int | None) -> bool:
    gold, found = number(normalise(answer)), quantity(extracted)
    if found is None:
        return False
    if answer_type == "float" and (precision is not None or decimals(answer, None) > 0):
        return abs(found - gold) < Fraction(1, 2) / Fraction(10) ** decimals(answer, precision)
    return found == gold


def _same_text(extracted: str, answer: str) -> bool:
    gold, found = normalise(answer), normalise(extracted)
    if gold in _OPPOSITES:      # "Yes, it is." says yes; "true" does not
        said = set(re.findall(r"[a-z]+", plain(extracted).casefold())) & _OPPOSITES
        return re.match(rf"{gold}(?![a-z])", plain(extracted).casefold()) is not None and said == {gold}
    return found == gold or ((value := number(gold)) is not None and number(found) == value)


_OPPOSITES = {"yes", "no", "true", "false"}


# --- lists, sets, choices ---------------------------------------------------------------------------------------------


def items(text: str) -> list[str]:
    """The items of a list or set: brackets around all of it taken off, split at commas, semicolons and "and".

    A separator inside brackets or braces splits nothing.
    """
    text = _WORDING.sub(r" \1 ", spelt_out(text))
    text = re.sub(r"\\(?:left|right|quad|qquad)(?![A-Za-z])|\\?\$", " ", text).strip()
    text = re.sub(r"\\([{}])", r"\1", text).removesuffix(".")
    text = _without_brackets(text)
    parts, depth, start = [], 0, 0
    for match in _SEPARATOR.finditer(text):
        token = match.group()
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


_SEPARATOR = re.compile(r"[,;、]|\b(?:and|or)\b|[()\[\]{}]")


def _without_brackets(text: str) -> str:
    """One pair of brackets that encloses all of the text taken off."""
    if text[:1] not in tuple("([{") or not text:
        return text
    depth = 0
    for match in re.finditer(r"[()\[\]{}]", text):
        depth += 1 if match.group() in "([{" else -1
        if depth == 0:
            return text[1:-1].strip() if match.end() == len(text) else text
    return text


def _same_item(found: str, gold: str) -> bool:
    value = number(normalise(gold))
    return _bare_item(found) == _bare_item(gold) or (value is not None and quantity(found) == value)


def _bare_item(text: str) -> str:
    return normalise(text).strip("'\"")


def _same_set(extracted: str, answer: str, choices: Sequence[str]) -> bool:
    gold = letter_set(answer, choices)
    if gold is not None:
        return (letter_set(extracted, choices) or _texts_as_letters(extracted, choices)) == gold
    found, wanted = (_signs(items(text)) for text in (extracted, answer))
    return (
        bool(found)
        and all(any(_same_item(one, other) for other in wanted) for one in found)
        and all(any(_same_item(one, other) for one in found) for other in wanted)
    ) if len(found) * len(wanted) <= 10_000 else False


def _signs(found: list[str]) -> list[str]:
    r"""Items with "\pm 3" as the two that it is."""
    texts = [text.replace("±", r"\pm ") for text in found]
    return [text.replace(r"\pm", sign) for text in texts for sign in ("+", "-") if sign == "+" or r"\pm" in text]


def letter_set(text: str, choices: Sequence[str]) -> set[str] | None:
    """The options that a text names and nothing else: "A, C", "AC", "(A) and (C)"; None for any other text.

    "A or C" is a doubt and no set.
    """
    letters = _letters_of(choices)
    named = _STATEMENT.sub("", plain(text).replace("\\", ""), count=1)
    named = _without_brackets(named.strip().removesuffix("."))
    if re.fullmatch(rf"[{letters}]{{1,26}}", named):
        return set(named)
    if re.search(r"\bor\b", named) or len(named) > 200:
        return None
    parts = filter(None, re.split(r"(?:[,;、&\s]|\band\b)+", named))
    found = [re.fullmatch(r"[(\[]?([A-Za-z])[)\].]?", part) for part in parts]
    if not found or None in found or not {one[1].upper() for one in found} <= set(letters):
        return None
    return {one[1].upper() for one in found}


def _texts_as_letters(text: str, choices: Sequence[str]) -> set[str] | None:
    found = [choice_of(item, choices) for item in items(text)] if choices else [None]
    return None if None in found else set(found)


_STATEMENT = re.compile(
    r"(?:the )?(?:(?:final|correct|right|best) )?(?:answers?|options?|choices?)(?: (?:is|are))?:? ", re.IGNORECASE
)
_LETTERED = re.compile(r"(?:[(\[]([A-Za-z])[)\]][.:]?|([A-Za-z])(?:[.:)]| -(?= )))[ ]*(\S.*)", re.DOTALL)


def _letters_of(choices: Sequence[str]) -> str:
    return ascii_uppercase[: len(choices)] if choices else LETTERS


def _same_choice(extracted: str, answer: str, choices: Sequence[str]) -> bool:
    gold, found = _bare_letter(answer), choice_of(extracted, choices)
    if found is None or found == gold or not choices:
        return found == gold
    # Two options of one text: whoever gives the text has given both.
    return _bare_letter(extracted) is None and _option(choices, found) == _option(choices, gold)


def choice_of(text: str, choices: Sequence[str]) -> str | None:
    """The one option that a text names, by its letter or by its own text; None if it names none, or several.

    A letter goes before an option's text, where an option is itself a letter.
    """
    letters = _letters_of(choices)
    if (letter := _bare_letter(text)) is not None:
        return letter if letter in letters else None
    options = [_option(choices, letter) for letter in letters] if choices else []
    if (found := _bare_item(text)) in options:
        return letters[options.index(found)]
    if match := _LETTERED.fullmatch(_STATEMENT.sub("", plain(text), count=1)):
        letter, rest = (match[1] or match[2]).upper(), match[3]
        others = set(re.findall(r"\b[A-Z]\b", rest)) & set(letters) - {letter}
        if letter not in letters:
            return None
        if _bare_item(rest) in options:     # "B. 12" where 12 is the text of C names two
            return letter if _bare_item(rest) == _option(choices, letter) else None
        return None if others and len(rest) < 20 else letter
    value = quantity(text)
    equal = [one for one in letters[: len(choices)] if value is not None and quantity(_own(choices, one)) == value]
    return equal[0] if len(equal) == 1 else None


def _bare_letter(text: str) -> str | None:
    r"""The letter of a text that is nothing else: "B", "(b)", "B.", "**B**", "\text{B}", "The answer is option B"."""
    if len(text) > 100:
        return None
    named = _STATEMENT.sub("", plain(text).strip("*`'\" "), count=1)
    match = re.fullmatch(r"(?:option |choice )?[(\[{]?[ ]?([A-Za-z])[ ]?[)\]}]?[.:]?", named, re.IGNORECASE)
    return match[1].upper() if match else None


def _own(choices: Sequence[str], letter: str) -> str:
    """An option's text without its own letter before it."""
    return re.sub(rf"^\(?{letter}[).:]\s+", "", choices[_letters_of(choices).index(letter)])


def _option(choices: Sequence[str], letter: str) -> str:
    return _bare_item(_own(choices, letter))


# --- expressions ------------------------------------------------------------------------------------------------------


def expression(text: str) -> str:
    """What math-verify gets of an answer."""
    return spelt_out(text).strip().strip("$").strip()


def _same_expression(extracted: str, answer: str) -> bool | None:
    gold, found = normalise(answer), normalise(extracted)
    if gold == found:
        return True
    (gold_text, gold_unit), (_, found_unit) = (split_unit(plain(text)) for text in (answer, extracted[:200]))
    if gold_unit and found_unit and number(normalise(gold_text)) is not None and gold_unit != found_unit:
        return False
    gold_value, found_value = number(gold), number(found)
    if gold_value is not None and found_value is not None and "%" not in answer + extracted:
        return gold_value == found_value
    # math-verify reads a word as the product of its letters, so that "act" would be "cat".
    if not found or _is_words(gold) or _is_words(found) or malformed(extracted) or "√" in found:
        return False
    return None


def _is_words(text: str) -> bool:
    """Whether a normalised text is words rather than mathematics."""
    return re.fullmatch(r"[^\W\d_]{4,}", text) is not None


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
