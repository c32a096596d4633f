r"""School mathematics as a tree, read whole or not at all, and its value to 60 digits.

Reads: numbers, letters with indices and primes, + − × ÷ / ± powers, factorials, roots, fractions, mixed numbers,
absolute values, %, degrees, logarithms, trigonometric and hyperbolic functions, binomials, vectors, segments (AB),
f(x). Declines: sums, integrals, limits, matrices, words, and whatever else is not in this list. A text is read to its
last sign or `Unreadable` is raised: no part of it is passed over.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from mpmath import mp, mpc, mpf

# A node: ("number", Fraction) · ("symbol", name) · (operator, node, …)
Node = tuple

MAX_CHARACTERS = 1000
MAX_DEPTH = 60
MAX_SIGNS = 250             # a chain of so many is a tree as deep, and Python calls go no deeper than 1,000
_DIGITS = 60                        # that are calculated with
_TOLERANCE = mpf(10) ** -45         # relative, of two values that are the same
_MAX_BITS = 20_000                  # of a power that is calculated exactly
_MAX_EXPONENT = 10**7               # of one that is calculated at all
_MAX_FACTORIAL = 3000

_FUNCTIONS = {
    name: function for names, function in (
        ("sin", "sin"), ("cos", "cos"), ("tan tg", "tan"), ("cot ctg cotan", "cot"), ("sec", "sec"),
        ("csc cosec", "csc"),
        ("arcsin asin", "asin"), ("arccos acos", "acos"), ("arctan atan arctg", "atan"), ("sinh", "sinh"),
        ("cosh", "cosh"), ("tanh", "tanh"), ("ln", "ln"), ("lg", "log10"), ("exp", "exp"),
    ) for name in names.split()
}
_INVERSE = {"sin": "asin", "cos": "acos", "tan": "atan"}
_LETTERS = {name: name for name in [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma",
    "Phi", "Psi", "Omega", "vartheta", "ell", "varrho", "Upsilon",
]}
_MARKS = frozenset([
    "vec", "overline", "widehat", "dot", "widetilde", "tilde", "overleftrightarrow", "overarc", "wideparen",
])
_NAMES_OF_FIGURES = frozenset(["angle", "triangle", "odot"])

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3}(?![0-9A-Za-z.]))?|\.[0-9]+)
    | \\(?P<command>[A-Za-z]+) | (?P<word>[A-Za-z]+)
    | (?P<sign>\*\*|\\[{}|%]|[-+*/^_!|(){}\[\],'%])
    )""",
    re.VERBOSE,
)
_THIN = re.compile(r"(?<=[0-9]) (?=[0-9]{3}(?![0-9]))")


# What stands behind \frac where its parts are whole numbers: {1} {2}, 1 {2}, {1} 2, 12.
_WHOLE_PARTS = re.compile(r"(?:[0-9]{2,}|(?:\{ [0-9]+ \}|[0-9]) (?:\{ [0-9]+ \}|[0-9]+))(?![0-9])(?! [\^!])")
_REPEATING = re.compile(r"([0-9]+)\.([0-9]*)\\(?:overline|dot)\s?\{([0-9]+)\}")


def _repeated(decimal: re.Match) -> str:
    r"""0.1\overline{6} as a fraction: 0.1 and 6/90."""
    whole, fixed, repeated = decimal.groups()
    value = Fraction(f"{whole}.{fixed or 0}") + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(fixed))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


class Unreadable(ValueError):
    """The text is no expression that this reads, with the reason."""


@lru_cache(maxsize=20_000)
def parse(text: str) -> Node:
    r"""The tree of a text in the spelling of `spelling.spelt`; dollars around its parts mean nothing.

    By hand: "2x" is ("·", ("number", 2), ("symbol", "x")). Errors: Unreadable.
    """
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"it is longer than {MAX_CHARACTERS} characters")
    return _Reader(text).whole()


class _Reader:
    """A recursive descent over the tokens of one text."""

    def __init__(self, text: str):
        text = _THIN.sub("", text.replace("$", " "))
        if r"\overline" in text or r"\dot" in text:
            text = _REPEATING.sub(_repeated, text)
        self.tokens: list[tuple[str, str]] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                raise Unreadable(f"{text[position:position + 10].strip()!r} is not read")
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()
        if len(self.tokens) > MAX_SIGNS:
            raise Unreadable(f"it has more than {MAX_SIGNS} signs")
        self.at = 0
        self.depth = 0

    def whole(self) -> Node:
        node = self.sum()
        if self.takes_command("over"):
            node = ("/", node, self.sum())
        if self.at < len(self.tokens):
            raise Unreadable(f"{self.tokens[self.at][1]!r} is left over")
        return node

    # --- tokens

    def peek(self, offset: int = 0) -> tuple[str, str]:
        index = self.at + offset
        return self.tokens[index] if index < len(self.tokens) else ("end", "")

    def takes(self, *signs: str) -> str | None:
        kind, text = self.peek()
        if kind == "sign" and text in signs:
            self.at += 1
            return text
        return None

    def takes_command(self, *names: str) -> str | None:
        kind, text = self.peek()
        if kind == "command" and text in names:
            self.at += 1
            return text
        return None

    def needs(self, sign: str) -> None:
        if self.takes(sign) is None:
            raise Unreadable(f"{sign!r} is missing before {self.peek()[1]!r}")

    # --- grammar

    def sum(self) -> Node:
        node = self.signed(self.product)
        while sign := self.takes("+", "-"):
            right = self.signed(self.product)
            node = ("+", node, right if sign == "+" else ("neg", right))
        return node

    def signed(self, inner) -> Node:
        if self.takes("-"):
            return ("neg", self.signed(inner))
        if self.takes("+"):
            return self.signed(inner)
        return inner()

    def product(self) -> Node:
        node = self.juxtaposed()
        while True:
            if self.takes("*") or self.takes_command("times", "cdot"):
                node = ("·", node, self.signed(self.juxtaposed))
            elif self.takes("/") or self.takes_command("div"):
                node = ("/", node, self.signed(self.juxtaposed))
            else:
                return node

    def juxtaposed(self) -> Node:
        node = self.power()
        while self.begins_factor():
            before, after = self.tokens[self.at - 1], self.peek()
            if _is_whole(node) and before[0] == "number" and self.is_numeric_fraction():
                node = ("+", node, self.power())            # 1\frac{1}{2}
            elif _is_whole(node) and before[0] == "number" and self.is_slashed_fraction():
                above, below = (Fraction(self.peek(offset)[1]) for offset in (0, 2))
                self.at += 3
                node = ("+", node, ("/", ("number", above), ("number", below)))       # 1 1/2
            else:
                factor = self.power()
                if node[0] == factor[0] == "number" and after[1] != "(" and before[1] != ")":
                    raise Unreadable("two numbers side by side")
                node = ("·", node, factor)
        return node

    def is_numeric_fraction(self) -> bool:
        return self.peek() == ("command", "frac") and \
            _WHOLE_PARTS.match(" ".join(text for _, text in self.tokens[self.at + 1:self.at + 8])) is not None

    def is_slashed_fraction(self) -> bool:
        kinds = [self.peek(offset) for offset in range(3)]
        return kinds[1] == ("sign", "/") and all(kind == "number" and text.isdigit() for kind, text in kinds[::2]) \
            and kinds[2][1].strip("0") != "" and self.peek(3)[1] not in ("^", "!")

    def begins_factor(self) -> bool:
        kind, text = self.peek()
        if kind == "sign":
            return text in ("(", "{", "[", "\\{") or (text == "|" and not self.in_bars)
        if kind == "command":
            return text not in ("times", "cdot", "div", "degree", "over", "text") or text == "text"
        return kind in ("number", "word")

    in_bars = False

    def power(self) -> Node:
        node = self.postfixed(self.atom())
        if self.takes("^", "**"):
            if self.takes_command("prime"):
                raise Unreadable("a derivative")
            node = ("^", node, self.exponent())
            node = self.postfixed(node)
        return node

    def exponent(self) -> Node:
        kind, text = self.peek()
        if text in ("{", "("):
            return self.postfixed(self.atom())
        if kind == "sign" and text in "+-":
            return self.signed(self.exponent)
        return self.atom() if kind == "number" and text.isdigit() else self.single()    # whoever writes 2^10 means 1024

    def postfixed(self, node: Node) -> Node:
        while True:
            if self.takes("!"):
                node = ("!", node)
            elif self.takes("%", "\\%"):
                node = ("/", node, ("number", Fraction(100)))
            elif self.takes_command("degree"):
                node = ("·", node, ("degree",))
            else:
                return node

    def group(self) -> Node:
        """What a command takes: a group in braces, or the next single sign (\\frac12)."""
        return self.atom() if self.peek()[1] == "{" else self.single()

    def single(self) -> Node:
        """One digit, one letter, one command, or a signed one: what LaTeX takes without braces."""
        kind, text = self.peek()
        if kind == "number" and len(text) > 1:
            self.tokens[self.at: self.at + 1] = [("number", text[0]), ("number", text[1:])]
            if "." in text[:2]:
                raise Unreadable("a point without a digit before it")
        elif kind == "word" and len(text) > 1 and text not in _FUNCTIONS:
            self.tokens[self.at: self.at + 1] = [("word", text[0]), ("word", text[1:])]
        if kind == "sign" and text in "+-":
            return self.signed(self.single)
        return self.atom()

    def atom(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("it is nested too deep")
        node = self.unsigned()
        self.depth -= 1
        return node

    def unsigned(self) -> Node:
        kind, text = self.peek()
        self.at += 1
        if kind == "number":
            return ("number", Fraction(text))
        if kind == "word":
            return self.letters(text)
        if kind == "command":
            return self.command(text)
        if kind == "sign" and text in ("(", "[", "{", "\\{"):
            outside, self.in_bars = self.in_bars, False
            if text == "{" and self.takes("}"):     # {}^{\circ}
                raise Unreadable("empty braces")
            node = self.sum()
            if text == "{" and self.takes_command("over"):
                node = ("/", node, self.sum())
            self.needs({"(": ")", "[": "]", "{": "}", "\\{": "\\}"}[text])
            self.in_bars = outside
            return node
        if kind == "sign" and text == "|" and not self.in_bars:
            self.in_bars = True
            node = self.sum()
            self.in_bars = False
            self.needs("|")
            return ("abs", node)
        raise Unreadable(f"{text!r} has nothing to stand on" if text else "it ends too early")

    def letters(self, text: str) -> Node:
        """A run of letters: a function, π, or a product of one-letter names; words are not read."""
        if text in _FUNCTIONS:
            return self.function(_FUNCTIONS[text])
        if text == "log":
            return self.logarithm()
        if text == "pi":
            return ("pi",)
        if text == "sqrt":
            return ("^", self.atom(), ("number", Fraction(1, 2)))
        if text == "abs":
            return ("abs", self.atom())
        for name in ("sqrt", "sin", "cos", "tan", "log", "pi"):       # 2xsin(x), 3pi: the run holds a name
            if name in text and len(text) <= len(name) + 2 and name != text:
                head, _, tail = text.partition(name)
                self.at -= 1
                self.tokens[self.at: self.at + 1] = [("word", part) for part in (head, name, tail) if part]
                _, first = self.peek()
                self.at += 1
                return self.letters(first)
        is_name = text.isupper() and len(text) <= 5
        if len(text) > 3 and not is_name:
            raise Unreadable(f"{text!r} is a word")
        if text.lower() in _WORDS and not text.isupper():
            raise Unreadable(f"{text!r} is a word")
        *before, last = text
        nodes = [_letter(letter) for letter in before] + [self.indexed(last)]
        node = nodes[0]
        for one in nodes[1:]:
            node = ("·", node, one)
        return node

    def indexed(self, name: str) -> Node:
        """A name with its primes and its index: x', a_1, S_{ABC}; f(x) is a name too where f, g or h is called."""
        while self.takes("'"):
            name += "'"
        if self.takes("_"):
            name += "_" + self.index()
            while self.takes("'"):
                name += "'"
        if name[0] in "fghFGP" and len(name.rstrip("'")) == 1 and self.peek() == ("sign", "("):
            return ("call", name, self.atom())
        return _letter(name)

    def index(self) -> str:
        """The text of an index, which is a part of a name."""
        if not self.takes("{"):
            kind, text = self.peek()
            if (kind == "number" and len(text) > 1) or (kind == "word" and len(text) > 1):
                self.tokens[self.at: self.at + 1] = [(kind, text[0]), (kind, text[1:])]
                text = text[0]
            if kind not in ("number", "word", "command"):
                raise Unreadable("an index is missing")
            self.at += 1
            return text
        depth, parts = 1, []
        while depth:
            kind, text = self.peek()
            if kind == "end":
                raise Unreadable("braces that do not close")
            self.at += 1
            depth += {"{": 1, "}": -1}.get(text, 0)
            parts.append(text if kind != "command" or text != "text" else "")
        return "".join(parts[:-1]).replace("{", "").replace("}", "")

    def command(self, name: str) -> Node:
        if name == "frac":
            above = self.group()
            return ("/", above, self.group())
        if name == "sqrt":
            degree = None
            if self.takes("["):
                degree = self.sum()
                self.needs("]")
            inside = self.group()
            return ("^", inside, ("/", ("number", Fraction(1)), degree) if degree else ("number", Fraction(1, 2)))
        if name == "pi":
            return ("pi",)
        if name in _FUNCTIONS:
            return self.function(_FUNCTIONS[name])
        if name == "log":
            return self.logarithm()
        if name == "text":
            return self.upright()
        if name in _LETTERS:
            return self.indexed("\\" + name)
        if name in _MARKS:
            return self.marked(name)
        if name in _NAMES_OF_FIGURES:
            figure = self.figure()
            if name == "angle" and figure.isupper() and figure.isalpha():
                figure = min(figure, figure[::-1])      # ∠ABC is ∠CBA
            return ("symbol", f"{name} {figure}")
        if name == "infty":
            return ("infinity",)
        if name == "binom":
            above = self.group()
            return ("binomial", above, self.group())
        if name == "circled":
            raise Unreadable("a circled number")
        raise Unreadable(f"\\{name} is not read")

    def upright(self) -> Node:
        r"""\text{…}: one letter, digits or a function; words are not read."""
        self.needs("{")
        kind, text = self.peek()
        is_name = len(text) == 1 or text in _FUNCTIONS or text.isupper()
        if kind == "word" and is_name and self.peek(1) == ("sign", "}"):
            self.at += 2
            return self.letters(text)
        if kind in ("number", "command"):
            node = self.sum()
            self.needs("}")
            return node
        raise Unreadable(f"{text!r} is a word")

    def marked(self, mark: str) -> Node:
        r"""\vec{a}, \overline{AB}: a name, whose letters are no factors."""
        if self.takes("{"):
            depth, parts = 1, []
            while depth:
                kind, text = self.peek()
                if kind == "end":
                    raise Unreadable("braces that do not close")
                if kind == "number" and mark == "overline":
                    raise Unreadable("a repeating decimal")
                self.at += 1
                depth += {"{": 1, "}": -1}.get(text, 0)
                parts.append("" if text in "{}" or (kind, text) == ("command", "text") else text)
            inside = "".join(parts)
        else:
            kind, inside = self.peek()
            if kind not in ("word", "command"):
                raise Unreadable(f"nothing stands under \\{mark}")
            self.at += 1
            if kind == "word" and len(inside) > 1:
                self.at -= 1
                self.tokens[self.at: self.at + 1] = [("word", inside[0]), ("word", inside[1:])]
                self.at += 1
                inside = inside[0]
        if mark == "overline" and len(inside) == 2 and inside.isupper():
            return ("·", ("symbol", inside[0]), ("symbol", inside[1]))       # a segment: its length is AB
        return self.indexed(f"{mark} {inside}")

    def figure(self) -> str:
        kind, text = self.peek()
        if kind == "sign" and text == "{":
            raise Unreadable("a figure in braces")
        if kind not in ("word", "number", "command") or (kind == "command" and text not in _LETTERS):
            raise Unreadable("a figure without a name")
        self.at += 1
        while self.takes("'"):
            text += "'"
        if self.takes("_"):
            text += "_" + self.index()
        return text

    def function(self, name: str) -> Node:
        """sin x, \\sin^2 x, sin(2x + 1), \\sin 2x \\cos x: the argument ends at a sum, a product sign or a function."""
        power = None
        if self.takes("^", "**"):
            power = self.exponent()
            if power == ("neg", ("number", Fraction(1))) and name in _INVERSE:
                name, power = _INVERSE[name], None
        node = ("call " + name, self.argument())
        return node if power is None else ("^", node, power)

    def logarithm(self) -> Node:
        base = None
        if self.takes("_"):
            base = self.group()
        node = ("call ln", self.argument())
        if base is None:
            return ("call log10", node[1])
        return ("/", node, ("call ln", base))

    def argument(self) -> Node:
        kind, text = self.peek()
        if kind == "sign" and text in ("(", "[", "{", "\\{", "|"):
            return self.power()
        node = self.signed(self.power)
        while self.begins_factor() and not self.begins_function() and self.peek()[1] not in ("(", "["):
            node = ("·", node, self.power())
        return node

    def begins_function(self) -> bool:
        kind, text = self.peek()
        return kind in ("word", "command") and (text in _FUNCTIONS or text == "log")


_WORDS = frozenset([
    "the", "and", "or", "is", "are", "of", "to", "in", "if", "not", "for", "by", "no", "yes", "all", "any", "per",
    "was", "has", "an", "as", "at", "be", "do", "we", "it", "its", "but", "can",
])


def _letter(name: str) -> Node:
    return (name,) if name in ("e", "i") else ("symbol", name)


def _is_whole(node: Node) -> bool:
    return node[0] == "number" and node[1].denominator == 1


# --- values -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=20_000)
def symbols(node: Node) -> frozenset[str]:
    """The names whose values an expression does not say; f(x) is one of them."""
    if node[0] == "symbol":
        return frozenset({node[1]})
    inner = [symbols(one) for one in node[1:] if isinstance(one, tuple)]
    own = {f"{node[1]}("} if node[0] == "call" else set()
    return frozenset(own).union(*inner)


def is_literal(node: Node) -> bool:
    """Whether a number stands there as one writes it: 7, −3.5, 3/4, 1½, 2·10³; and not 3 + 4, 2² or √4."""
    kind = node[0]
    if kind == "neg":
        return is_literal(node[1])
    if kind == "number":
        return True
    if kind == "/":
        return all(_is_whole(one) or (one[0] == "neg" and _is_whole(one[1])) for one in node[1:])
    if kind == "+":
        return _is_whole(node[1]) and node[2][0] == "/" and is_literal(node[2])
    if kind == "^":
        return node[1] == ("number", Fraction(10)) and _exact_integer(node[2]) is not None
    if kind == "·":
        return is_literal(node[1]) and node[2][0] == "^" and is_literal(node[2])
    return False


def _exact_integer(node: Node) -> int | None:
    if node[0] == "neg":
        inner = _exact_integer(node[1])
        return None if inner is None else -inner
    return node[1].numerator if _is_whole(node) else None


@lru_cache(maxsize=50_000)
def exact(node: Node) -> Fraction | None:
    """The rational value of an expression of rational numbers alone; None where it has none, or is too large."""
    kind = node[0]
    if kind == "number":
        return node[1]
    if kind == "neg":
        inner = exact(node[1])
        return None if inner is None else -inner
    if kind == "abs":
        inner = exact(node[1])
        return None if inner is None else abs(inner)
    if kind in ("+", "·", "/"):
        one, other = exact(node[1]), exact(node[2])
        if one is None or other is None:
            return None
        if kind == "/":
            return one / other if other else None
        return one + other if kind == "+" else one * other
    if kind == "^":
        base, power = exact(node[1]), exact(node[2])
        if base is None or power is None or (base == 0 and power <= 0):
            return None
        if power.denominator != 1:
            return _exact_root(base, power)
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        return base**power.numerator if abs(power) * bits <= _MAX_BITS else None
    if kind == "!":
        inner = exact(node[1])
        if inner is None or inner.denominator != 1 or not 0 <= inner <= _MAX_FACTORIAL:
            return None
        return Fraction(_factorial(int(inner)))
    if kind == "binomial":
        one, other = exact(node[1]), exact(node[2])
        if None in (one, other) or one.denominator != 1 or other.denominator != 1 or not 0 <= other <= one <= 1000:
            return None
        return Fraction(_factorial(int(one)) // _factorial(int(other)) // _factorial(int(one - other)))
    return None


def _exact_root(base: Fraction, power: Fraction) -> Fraction | None:
    """√9 is 3; None where the root is not rational."""
    if power != Fraction(1, 2) or base < 0:
        return None
    above, below = _square_root(base.numerator), _square_root(base.denominator)
    return Fraction(above, below) if above is not None and below is not None else None


def _square_root(number: int) -> int | None:
    from math import isqrt

    root = isqrt(number)
    return root if root * root == number else None


@lru_cache(maxsize=4096)
def _factorial(number: int) -> int:
    from math import factorial

    return factorial(number)


class _NotReal(ArithmeticError):
    """A value outside of the real numbers."""


class _Point:
    """Values of the names at one point of comparison, drawn from their names; and the largest term of a sum there.

    At the third one they are negative, which tells √x² from x; what is not real there (√x, ln x) is not compared there.
    """

    def __init__(self, number: int):
        self.number = number
        self.largest = mpf(0)

    def real(self, value, *of: object):
        """A value of a root or logarithm. Errors: _NotReal where it is complex at the negative point, of real ones."""
        if self.number == 2 and isinstance(value, mpc) and not any(isinstance(one, mpc) for one in of):
            raise _NotReal
        return value

    def value(self, name: str) -> mpf:
        draw = random.Random(f"{self.number} {name}").uniform(0.3, 3.3)
        return mpf(-draw if self.number == 2 else draw)


def _value(node: Node, point: _Point):
    """The value at a point, as mpf or mpc. Errors: ArithmeticError, ValueError or Unreadable where there is none."""
    fraction = exact(node)
    if fraction is not None:
        return mpf(fraction.numerator) / fraction.denominator
    kind = node[0]
    if kind == "symbol":
        return point.value(node[1])
    if kind == "pi":
        return +mp.pi
    if kind == "e":
        return +mp.e
    if kind == "i":
        return mpc(0, 1)
    if kind == "degree":
        return mp.pi / 180
    if kind == "infinity":
        return mp.inf
    if kind == "call":
        return point.value(node[1]) * (1 + _value(node[2], point)) ** 2 + mp.sin(_value(node[2], point))
    values = [_value(one, point) for one in node[1:]]
    if kind == "+":
        point.largest = max(point.largest, *map(abs, values))
        return values[0] + values[1]
    if kind == "neg":
        return -values[0]
    if kind == "·":
        return values[0] * values[1]
    if kind == "/":
        return values[0] / values[1]
    if kind == "^":
        if (values[0] == 0 and values[1] == 0) or abs(values[1]) > _MAX_EXPONENT:
            raise Unreadable("a power without a value")
        return point.real(_power(*values, exact(node[2])), *values)
    if kind == "abs":
        return abs(values[0])
    if kind == "!":
        if abs(values[0]) > _MAX_FACTORIAL:
            raise Unreadable("a factorial that is too large")
        return mp.gamma(values[0] + 1)
    if kind == "binomial":
        return _binomial(values[0], exact(node[2]))
    if kind.startswith("call "):
        if abs(values[0]) > mpf(10) ** 20:
            raise Unreadable("an argument that is too large")
        return point.real(getattr(mp, kind[5:])(values[0]), *values)
    raise Unreadable(f"{kind} has no value")


def _binomial(above, below: Fraction | None):
    """n (n − 1) … / k! for a small whole k."""
    if below is None or below.denominator != 1 or not 0 <= below <= 50:
        raise Unreadable("a binomial of no small whole number")
    value = mpf(1)
    for k in range(int(below)):
        value = value * (above - k) / (k + 1)
    return value


def _power(base, exponent, fraction: Fraction | None):
    """A power; the odd roots of a negative number are real, as at school: the third root of −8 is −2."""
    is_odd_root = fraction is not None and fraction.denominator % 2 and fraction.denominator > 1
    if is_odd_root and not isinstance(base, mpc) and base < 0:
        value = mp.power(-base, exponent)
        return -value if fraction.numerator % 2 else value
    return mp.power(base, exponent)


def _values(node: Node) -> Iterator[tuple[object, mpf]]:
    """The values at three points, with the largest term of a sum at each; None where there is none, nan where it is
    not real.
    """
    with mp.workdps(_DIGITS):
        for number in range(3 if symbols(node) else 1):
            point = _Point(number)
            try:
                value = _value(node, point)
                yield (None if mp.isnan(value) else value), point.largest
            except _NotReal:
                yield mp.nan, mpf(0)
            except (ArithmeticError, ValueError, OverflowError):
                yield None, mpf(0)


@lru_cache(maxsize=20_000)
def sampled(node: Node) -> tuple[tuple[object, mpf], ...]:
    return tuple(_values(node))


def same(one: Node, other: Node) -> bool:
    """Whether two expressions are equal: exactly where both are rational, else to 45 digits at three points.

    A difference counts relative to the values, and relative to the terms of a sum that nearly cancel.
    """
    if one == other:
        return True
    exact_values = exact(one), exact(other)
    if None not in exact_values:
        return exact_values[0] == exact_values[1]
    if symbols(one) and symbols(other) and not symbols(one) & symbols(other):
        return False
    with mp.workdps(_DIGITS):
        return _agree(one, other, lambda a, b, largest: abs(a - b) <= _TOLERANCE * max(abs(a), abs(b), largest))


def _agree(one: Node, other: Node, is_same) -> bool:
    names = symbols(one) | symbols(other)
    n_points = 3 if names else 1
    compared = 0
    points = zip(_padded(sampled(one), n_points), _padded(sampled(other), n_points), strict=True)
    for (a, a_largest), (b, b_largest) in points:
        if any(one is not None and mp.isnan(one) for one in (a, b)):
            continue
        if (a is None) != (b is None):
            if isinstance(a if a is not None else b, mpc):
                continue
            return False
        if a is None:
            continue
        if mp.isinf(a) or mp.isinf(b):
            if a != b:
                return False
        elif not is_same(a, b, max(a_largest, b_largest)):
            return False
        compared += 1
    return compared > 0


def _padded(values: tuple, n: int) -> tuple:
    return values if len(values) == n else values * n


def fraction(node: Node, levels: int = 8) -> tuple[Node, Node]:
    """An expression as one fraction: y − 6/x is (xy − 6, x); fractions in fractions are cleared `levels` deep.

    A continued fraction grows twofold with each level.
    """
    kind, one = node[0], ("number", Fraction(1))
    if kind == "neg":
        above, below = fraction(node[1], levels)
        return ("neg", above), below
    if kind in ("+", "·") or (kind == "/" and levels):
        levels -= kind == "/"
        (a, b), (c, d) = fraction(node[1], levels), fraction(node[2], levels)
        if kind == "·":
            return _times(a, c), _times(b, d)
        if kind == "/":
            return _times(a, d), _times(b, c)
        return (("+", a, c), b) if b == d else (("+", _times(a, d), _times(c, b)), _times(b, d))
    return node, one


def _times(a: Node, b: Node) -> Node:
    one = ("number", Fraction(1))
    return b if a == one else a if b == one else ("·", a, b)


def proportional(one: Node, other: Node) -> int:
    """The sign of c where `one` is c times `other` at every point, with a constant c; 0 where there is none."""
    with mp.workdps(_DIGITS):
        ratio = None
        for (a, _), (b, _) in zip(_padded(sampled(one), 3), _padded(sampled(other), 3), strict=True):
            if a is None or b is None or a == 0 or b == 0 or mp.isinf(a) or mp.isinf(b):
                return 0
            if mp.isnan(a) or mp.isnan(b):
                continue
            if ratio is None:
                ratio = a / b
            elif abs(a / b - ratio) > _TOLERANCE * abs(ratio):
                return 0
        if isinstance(ratio, mpc):
            if ratio.imag != 0:
                return 0
            ratio = ratio.real
        return 1 if ratio > 0 else -1


def real_value(node: Node) -> mpf | None:
    """The value of an expression without names, where it is real and finite."""
    if symbols(node):
        return None
    ((value, _),) = sampled(node)
    if value is None or isinstance(value, mpc) or mp.isinf(value):
        return None
    return value
