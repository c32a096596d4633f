"""The reader of mathematical text, module by module, against what a person reads in each text."""

import cmath
import math
import random
import time
from fractions import Fraction

import pytest

from ptdpo_cli.mathtext import expression, plain, read, same, same_words, spelt, squeezed, words
from ptdpo_cli.mathtext.braces import closing_brace
from ptdpo_cli.mathtext.expression import Unreadable, exact, parse
from ptdpo_cli.mathtext.kinds import has_words, needs_algebra, type_of
from ptdpo_cli.mathtext.parts import parts, spellings
from ptdpo_cli.mathtext.reading import split_at, too_deep
from ptdpo_cli.mathtext.units import UNITS, Unit, unit_named, unit_of
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
)
from ptdpo_cli.mathtext.wrapping import boxed_parts, unwrapped

# --- spelling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "start", "end"), [
    ("{a}", 1, 2), ("{a{b}c}", 1, 6), (r"{\{a}", 1, 4), ("{a", 1, None), ("{}", 1, 1), (r"{a\}", 1, None),
])
def test_where_a_brace_closes(text, start, end):
    assert closing_brace(text, start) == end


@pytest.mark.parametrize(("text", "expected"), [
    ("7", "7"), ("  7 ", "7"), ("$$7$$", "$7$"), (r"\(7\)", "$7$"), (r"\[7\]", "$7$"),
    (r"$$\dfrac{2}{3}\pi$$", r"$\frac{2}{3}\pi$"), (r"\tfrac12", r"\frac12"), (r"\cfrac{1}{2}", r"\frac{1}{2}"),
    (r"5\,\mathrm{~cm}^{2}", r"5 \text{cm}^{2}"), (r"5\ \textrm{cm}", r"5 \text{cm}"), (r"\mbox{cm}", r"\text{cm}"),
    ("60°", r"60\degree"), (r"60^\circ", r"60\degree"), (r"60^{\circ}", r"60\degree"), (r"60{}^{\circ}", r"60\degree"),
    ("60º", r"60\degree"), (r"60\degrees", r"60\degree"),
    ("x²", "x^2"), ("x⁻¹²", "x^{-12}"), ("a₁₂", "a_{12}"), ("3√2", r"3\sqrt{2}"), ("√(x+1)", r"\sqrt{x+1}"),
    ("½", r"\frac{1}{2}"), ("¾", r"\frac{3}{4}"), ("−3", "-3"), ("３．５", "3.5"), ("2，3", "2,3"), ("a∶b", "a:b"),
    ("x≤1", r"x\leq 1"), ("x≥1", r"x\geq 1"), (r"x\le 1", r"x\leq 1"), (r"x\geqslant 1", r"x\geq 1"),
    (r"x\ne 1", r"x\neq 1"), (r"a\lt b", "a< b"), (r"a \gt b", "a > b"),
    (r"1,\,2", "1, 2"), (r"1\;2", "1 2"), (r"1\quad2", "1 2"), (r"1~2", "1 2"), (r"3\!4", "34"),
    (r"a\hspace{1em}b", "a b"),
    (r"\left(1,2\right]", "(1,2]"), (r"\big(1\big)", "(1)"), (r"\displaystyle x", "x"), (r"{\rm cm}", "{ cm}"),
    (r"1{,}234", "1,234"), (r"3{.}5", "3.5"),
    (r"\mathbf{x}", "{x}"), (r"\underline{5}", "{5}"), (r"\color{red}{5}", "{5}"), (r"\textcolor{red}{5}", "{5}"),
    (r"108\mathrm \pi", r"108 \pi"), (r"\text{5}", "5"), (r"\fbox{5}", "{5}"), (r"\SI{5}{cm}", r"5 \text{cm}"),
    (r"\\frac{1}{2}", r"\frac{1}{2}"), (r"2\\sqrt{3}", r"2\sqrt{3}"), (r"1\\2", "1\n2"), (r"1\newline 2", "1\n 2"),
    (r"a\cdots b", r"a\ldots b"), ("1, 2, ...", r"1, 2, \ldots"), (r"\overrightarrow{AB}", r"\vec{AB}"),
    (r"\varnothing", r"\emptyset"), (r"\lbrace 1\rbrace", r"\{ 1\}"), (r"5\percent", r"5\%"),
    ("5厘米", r"5\text{cm}"), ("3平方米", r"3\text{m^2}"), ("25℃", r"25\degree \text{C}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\begin{cases}x=1\\y=2\end{cases}", "\\begin{cases}x=1\ny=2\\end{cases}"),
])
def test_one_spelling(text, expected):
    assert " ".join(spelt(text).split(" ")).replace("  ", " ") == expected


@pytest.mark.parametrize("text", [
    r"\frac{1}{2}\pi", "x^2", r"5 \text{cm}", r"\sqrt{2}", "7; 10", "M", "mW and MW", r"\Delta", "It rises", r"a_{12}",
])
def test_spelt_is_spelt(text):
    assert spelt(text) == text


def test_nothing_is_spelt_in_a_text_that_is_longer_than_any_answer():
    assert spelt("½" * 2001) == "½" * 2001


@pytest.mark.parametrize(("text", "expected"), [
    (r"\text{Top  left}", "Top left"), (r"$5\,\text{cm}$", "5 cm"), (r"60^\circ", "60°"), (r"**B**", "B"),
    (r"\$5", "$5"),
    (r"50\%", "50%"),
])
def test_plain(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("Top left.", "topleft"), ("(B)", "b"), ('"Yes"', "yes"), ("1 2", "1 2"), ("a b", "ab"),
    ("and so on ..", "andsoon.."),
])
def test_words(text, expected):
    assert words(text) == expected
    assert squeezed(text).casefold() == expected


@pytest.mark.parametrize(("found", "gold", "expected"), [
    ("Top Left", "top left", True), (r"\text{navy\ blue}", "Navy Blue", True), ("yes.", "Yes", True),
    ("no", "yes", False),
    ("M", "m", False), ("R", "r", False), (r"\Delta", r"\delta", False), ("V_A", "V_a", False), ("NO", "no", True),
    ("top", "top left", False), ("", "", False), ("H2O", "H_2O", True), ("CO", "Co", False),
    (r"\mathrm{SO_4^{2-}}", "SO_4^{2-}", True),
])
def test_same_words(found, gold, expected):
    assert same_words(found, gold) == expected


# --- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "dimension", "factor"), [
    ("m", "length", "1"), ("cm", "length", "1/100"), ("mm", "length", "1/1000"), ("km", "length", "1000"),
    ("nm", "length", "1/1000000000"), (r"\mu m", "length", "1/1000000"), ("centimetres", "length", "1/100"),
    ("Meters", "length", "1"), ("CM", "length", "1/100"), ("inches", "length", "127/5000"),
    ("ft", "length", "381/1250"),
    ("miles", "length", "201168/125"),
    ("cm^2", "length^2", "1/10000"), ("cm^{2}", "length^2", "1/10000"), ("cm2", "length^2", "1/10000"),
    ("square metres", "length^2", "1"), ("sq. ft", "length^2", "145161/1562500"),
    ("centimeters squared", "length^2", "1/10000"),
    ("cm^3", "length^3", "1/1000000"), ("cubic cm", "length^3", "1/1000000"), ("meters cubed", "length^3", "1"),
    ("hectares", "length^2", "10000"), ("L", "length^3", "1/1000"), ("mL", "length^3", "1/1000000"),
    ("cc", "length^3", "1/1000000"),
    ("g", "mass", "1"), ("kg", "mass", "1000"), ("mg", "mass", "1/1000"), ("t", "mass", "1000000"),
    ("s", "time", "1"), ("min", "time", "60"), ("hours", "time", "3600"), ("days", "time", "86400"),
    ("years", "months", "12"),
    ("m/s", "length · time^-1", "1"), ("km/h", "length · time^-1", "5/18"),
    ("miles per hour", "length · time^-1", "1397/3125"),
    ("mph", "length · time^-1", "1397/3125"), ("m s^{-1}", "length · time^-1", "1"),
    ("meters per second squared", "length · time^-2", "1"),
    ("m/s^2", "length · time^-2", "1"), ("m/s/s", "length · time^-2", "1"), ("g/cm^3", "length^-3 · mass", "1000000"),
    ("kg m^2", "length^2 · mass", "1000"), (r"N\cdot m", "force · length", "1"),
    ("J/(kg K)", "energy · mass^-1 · temperature in K^-1", "1/1000"),
    ("J/kg K", "energy · mass^-1 · temperature in K^-1", "1/1000"),
    ("m^3/s", "length^3 · time^-1", "1"), ("g per square cm^2", "length^-4 · mass", "100000000"),
    ("MW", "power", "1000000"), ("mW", "power", "1/1000"), ("kWh", "energy", "3600000"),
    ("MHz", "frequency", "1000000"),
    ("kPa", "pressure", "1000"), (r"\Omega", "resistance", "1"), (r"k\Omega", "resistance", "1000"),
    ("mol/L", "amount · length^-3", "1000"),
    (r"\degree", "angle", "1"), ("degrees", "angle", "1"), ("rad", "angle in rad", "1"),
    (r"\degree C", "temperature", "1"),
    ("%", "percent", "1"), ("$", "money in $", "1"), ("cents", "money in $", "1/100"), ("£", "money in £", "1"),
    ("people", "count of person", "1"), ("units", "count", "1"), ("square units", "count^2", "1"),
    ("students", "count of student", "1"),
])
def test_units_by_hand(text, dimension, factor):
    assert unit_of(text) == Unit(dimension, Fraction(factor))


@pytest.mark.parametrize("text", [
    "", "x", "a", "apple", "apples", "per", "/s", "m/", "m^0", "of", "is", "cm of wood", "red m", "MHZ", "Mpa", "sin",
    "5", "cm 5",
    "cm" * 40, "m per", "k", r"\pi", "Gm", "cm^x",
])
def test_what_is_no_unit(text):
    assert unit_of(text) is None


def test_case_tells_units_apart():
    assert unit_named("MW") != unit_named("mW") and unit_named("Mg") is None and unit_named("M") != unit_named("m")
    assert unit_named("Kilometres") == unit_named("km") == UNITS["km"]
    for prefixed, smaller in (("MPa", "mPa"), ("MHz", "mHz"), ("MJ", "mJ"), ("MN", "mN")):
        assert unit_named(prefixed).factor == 10**9 * unit_named(smaller).factor


# --- expressions ------------------------------------------------------------------------------------------------------


def n(value) -> tuple:
    return ("number", Fraction(value))


def s(name: str) -> tuple:
    return ("symbol", name)


HALF = n("1/2")
X, Y, A, B, N = map(s, "xyabn")


@pytest.mark.parametrize(("text", "tree"), [
    ("7", n(7)), ("0.25", n("1/4")), (".5", n("1/2")), ("1.5e3", n(1500)), ("1 234", n(1234)), ("-3", ("neg", n(3))),
    ("+3", n(3)),
    ("2x", ("·", n(2), X)), ("xy", ("·", X, Y)), (r"x\cdot y", ("·", X, Y)), ("3*4", ("·", n(3), n(4))),
    ("2(3)", ("·", n(2), n(3))),
    ("x+1", ("+", X, n(1))), ("x-1", ("+", X, ("neg", n(1)))), ("a-b-x", ("+", ("+", A, ("neg", B)), ("neg", X))),
    ("-x^2", ("neg", ("^", X, n(2)))), ("x^2y", ("·", ("^", X, n(2)), Y)), ("x^{-1}", ("^", X, ("neg", n(1)))),
    ("x^-1", ("^", X, ("neg", n(1)))), ("x^{12}", ("^", X, n(12))), ("2^10", ("^", n(2), n(10))),
    ("2^{3^2}", ("^", n(2), ("^", n(3), n(2)))),
    ("x^{n+1}", ("^", X, ("+", N, n(1)))),
    (r"\frac12", ("/", n(1), n(2))), (r"\frac1{2}", ("/", n(1), n(2))), (r"\frac{a}{b}x", ("·", ("/", A, B), X)),
    ("a/b/x", ("/", ("/", A, B), X)), (r"6\div 2", ("/", n(6), n(2))), (r"{a \over b}", ("/", A, B)),
    (r"1\frac{1}{2}", ("+", n(1), ("/", n(1), n(2)))), ("1 1/2", ("+", n(1), ("/", n(1), n(2)))),
    (r"x\frac{1}{2}", ("·", X, ("/", n(1), n(2)))),
    (r"\sqrt{2}", ("^", n(2), HALF)), (r"\sqrt2", ("^", n(2), HALF)), (r"3\sqrt{2}", ("·", n(3), ("^", n(2), HALF))),
    (r"\sqrt[3]{x}", ("^", X, ("/", n(1), n(3)))), ("sqrt(3)", ("^", n(3), HALF)),
    (r"2\pi", ("·", n(2), ("pi",))), ("3pi", ("·", n(3), ("pi",))), ("e^x", ("^", ("e",), X)), ("i", ("i",)),
    ("|x|", ("abs", X)), ("2|x-1|", ("·", n(2), ("abs", ("+", X, ("neg", n(1)))))), ("n!", ("!", N)),
    ("(3!)!", ("!", ("!", n(3)))),
    (r"50\%", ("/", n(50), n(100))), (r"60\degree", ("·", n(60), ("degree",))),
    (r"\sin x", ("call sin", X)), ("sin(x)", ("call sin", X)), (r"\sin 2x", ("call sin", ("·", n(2), X))),
    (r"\sin^2 x", ("^", ("call sin", X), n(2))), (r"\sin^{-1} x", ("call asin", X)),
    (r"\sin x \cos x", ("·", ("call sin", X), ("call cos", X))),
    (r"\ln x", ("call ln", X)), (r"\log x", ("call log10", X)),
    (r"\log_2 8", ("/", ("call ln", n(8)), ("call ln", n(2)))),
    ("a_1", s("a_1")), ("a_{12}", s("a_12")), ("x'", s("x'")), (r"\theta", s(r"\theta")), ("AB", ("·", s("A"), s("B"))),
    (r"\overline{AB}", ("·", s("A"), s("B"))), (r"\vec{a}", s("vec a")), (r"\angle ABC", s("angle ABC")),
    (r"\angle CBA", s("angle ABC")),
    ("f(x)", ("call", "f", X)), (r"\binom{5}{2}", ("binomial", n(5), n(2))), (r"-\infty", ("neg", ("infinity",))),
    (r"0.1\overline{6}", ("/", n(1), n(6))), (r"0.\dot{3}", ("/", n(1), n(3))),
])
def test_trees_by_hand(text, tree):
    assert parse(text) == tree


@pytest.mark.parametrize("text", [
    "", " ", "x+", "*x", "(x", "x)", "{x", r"\frac{1}", r"\sqrt", "2 3", "1.2.3", "5.", "x^", "x^2^3", "x_", "{}",
    "()", "|x", "a=b", "1,2",
    "apple", "the", "3 apples", r"x\text{cm}", r"\text{area}", r"\sum_{k=1}^n k", r"\int x", r"\lim x",
    r"\begin{matrix}1\end{matrix}", "x?",
    "x;y", "٧", r"\foo", "x #", "3 and 4", "x'y'z is", "\x00", "1/", "!", "%",
])
def test_what_is_declined(text):
    with pytest.raises(Unreadable):
        parse(text)


@pytest.mark.parametrize(("text", "value"), [
    ("7", "7"), ("-3.5", "-7/2"), (r"\frac{2}{4}", "1/2"), (r"1\frac{1}{2}", "3/2"), ("2^{10}", "1024"),
    ("2^{-3}", "1/8"), ("5!", "120"),
    (r"\sqrt{9}", "3"), (r"\sqrt{\frac{4}{9}}", "2/3"), ("|3-5|", "2"), (r"\binom{5}{2}", "10"), ("3+4*5", "23"),
    ("6/2(3)", "1"), ("-2^2", "-4"),
    ("(-2)^2", "4"), (r"50\%", "1/2"), ("2-3-4", "-5"), ("0!", "1"), (r"0.\overline{9}", "1"),
    (r"5\times 10^{-3}", "1/200"),
    ("8/4/2", "1"),
    (r"\sqrt{2}", None), (r"\pi", None), ("x", None), ("1/0", None), ("0^0", None), ("9^{9^{9}}", None),
    ("4000!", None), (r"60\degree", None),
])
def test_exact_values(text, value):
    assert exact(parse(text)) == (None if value is None else Fraction(value))


def are_same(one: str, other: str) -> bool:
    return expression.same(parse(spelt(one)), parse(spelt(other)))


@pytest.mark.parametrize(("one", "other"), [
    ("2n+1", "1+2n"), ("(x+1)^2", "x^2+2x+1"), (r"\frac{x^2-1}{x-1}", "x+1"), (r"\sin^2 x+\cos^2 x", "1"),
    (r"2\sin x\cos x", r"\sin 2x"),
    (r"\sqrt{12}", r"2\sqrt{3}"), (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"), ("3^{2n+1}", r"3\cdot 9^n"),
    (r"\log_2 8", "3"),
    (r"\ln(e^2)", "2"), (r"\cos 60\degree", r"\frac{1}{2}"), (r"\tan\frac{\pi}{4}", "1"), (r"e^{i\pi}", "-1"),
    ("(1+i)^2", "2i"),
    (r"\frac{n!}{(n-2)!}", "n(n-1)"), (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"), (r"\sqrt{x^2}", "|x|"),
    ("0.5", r"\frac12"),
    (r"\sqrt[3]{8}", "2"),
    ("0.25", "0.250000000000000000000000000000000000000000"),
    ("a_1+a_2", "a_2+a_1"), ("f(x)+1", "1+f(x)"), ("2^{-98}", r"\frac{1}{2^{98}}"),
    (r"\frac{1}{52!}", r"\frac{1}{52\cdot 51!}"), ("xy", "yx"),
    (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"), (r"\sqrt[3]{-8}", "-2"), (r"\sqrt[3]{x^3}", "x"),
    (r"-\ln\frac{1}{x}", r"\ln x"),
    (r"\sqrt{x}\sqrt{y}", r"\sqrt{xy}"), (r"\sqrt{-4}", "2i"), (r"x^{\frac{2}{3}}", r"\sqrt[3]{x^2}"),
    (r"2^-10", r"\frac{1}{1024}"),
    ("AB", "BA"),
])
def test_what_is_the_same(one, other):
    assert are_same(one, other) and are_same(other, one)


@pytest.mark.parametrize(("one", "other"), [
    ("2n+1", "2n-1"), ("x^2", "2x"), ("x", "y"), ("R", "r"), ("M", "m"), (r"\Delta", r"\delta"), ("2^{-98}", "2^{-99}"),
    (r"\frac{1}{51!}", r"\frac{1}{52!}"), ("10^{-30}", "2*10^{-30}"), ("0", "10^{-30}"),
    ("123456789012345678901234567890", "123456789012345678901234567891"),
    (r"2^{200}", "2^{200}+1"), (r"\sqrt{2}", "1.41421356237309504880"), (r"\pi", r"\frac{355}{113}"),
    (r"\frac13", "0.3333333333333333333333333333"),
    ("a_1", "a_2"), ("x'", "x"), ("f(x)", "g(x)"), ("f(x)", "f(y)"), (r"\angle ABC", r"\angle ACB"), ("3+4i", "3-4i"),
    (r"\sqrt{x^2}", "x"),
    (r"(x-1)(x+2)", "(x+1)(x-2)"), (r"\ln x", r"\ln(-x)"), (r"\sqrt{x}", r"\sqrt{-x}"), (r"\sqrt[3]{-8}", "2"),
    (r"\frac{a}{b}", r"\frac{b}{a}"), (r"\sin x", r"\cos x"), (r"\infty", r"-\infty"),
    ("1/0", "2/0"),
    ("x+10^{-20}", "x"), (r"\vec{a}", "a"), ("30!", "30!+1"), (r"e^{-200}", r"e^{-201}"),
    (r"\sin(10^{-40})", r"2\sin(10^{-40})"),
])
def test_what_is_not_the_same(one, other):
    assert not are_same(one, other) and not are_same(other, one)


IDENTITIES = (
    # text, and what it is by Python's own functions
    (r"x^2+2xy+y^2", lambda x, y: (x + y) ** 2),
    (r"\frac{x^3-y^3}{x-y}", lambda x, y: x * x + x * y + y * y),
    (r"\sin(x+y)", lambda x, y: cmath.sin(x) * cmath.cos(y) + cmath.cos(x) * cmath.sin(y)),
    (r"\cos 2x", lambda x, y: 1 - 2 * math.sin(x) ** 2),
    (r"\tan^2 x+1", lambda x, y: 1 / math.cos(x) ** 2),
    (r"\ln(xy)", lambda x, y: math.log(x) + math.log(y)),
    (r"\log_{2}x", lambda x, y: math.log2(x)),
    (r"\lg x", lambda x, y: math.log10(x)),
    (r"e^{x+iy}", lambda x, y: cmath.exp(x) * complex(math.cos(y), math.sin(y))),
    (r"\sqrt{x}\sqrt{y}", lambda x, y: math.sqrt(x * y)),
    (r"\sqrt[3]{x^6}", lambda x, y: x * x),
    (r"\left|x-y\right|", lambda x, y: abs(x - y)),
    (r"\frac{x^y}{x}", lambda x, y: x ** (y - 1)),
    (r"\cosh^2 x-\sinh^2 y", lambda x, y: math.cosh(x) ** 2 - math.sinh(y) ** 2),
    (r"\arctan\frac{x}{y}", lambda x, y: math.atan2(x, y)),
    (r"\sin x\degree", lambda x, y: math.sin(math.radians(x))),
    (r"x!", lambda x, y: math.gamma(x + 1)),
    (r"6/2x", lambda x, y: 3 / x),
    (r"-x^2", lambda x, y: -(x * x)),
    (r"2\sin x\cos y", lambda x, y: math.sin(x + y) + math.sin(x - y)),
    (r"\sec x\csc y\cot x", lambda x, y: 1 / math.cos(x) / math.sin(y) / math.tan(x)),
    (r"x^{-\frac{1}{2}}", lambda x, y: 1 / math.sqrt(x)),
)


@pytest.mark.parametrize(("text", "function"), IDENTITIES, ids=[text for text, _ in IDENTITIES])
def test_values_against_python_at_random_points(text, function):
    """The text with numbers in place of its names is the same as the number that Python gets, to 12 digits."""
    rng = random.Random(text)
    tree = parse(spelt(text))
    for _ in range(5):
        x, y = rng.uniform(0.4, 1.4), rng.uniform(0.4, 1.4)
        expected = complex(function(x, y))
        ((value, _),) = expression.sampled(_with(tree, {"x": x, "y": y}))
        assert abs(complex(value) - expected) <= 1e-12 * max(1, abs(expected)), (text, x, y)


def _with(node: tuple, values: dict[str, float]) -> tuple:
    if node[0] == "symbol":
        return ("number", Fraction(values[node[1]]))
    return tuple(_with(one, values) if isinstance(one, tuple) else one for one in node)


@pytest.mark.parametrize("text", [
    "9^{9^{9}}", "9^{9^{9^{9}}}", "((20!)!)!", "(10^{9})!", "2^{-9^{9^9}}", r"\sin(9^{9^{9}})", "10^{10^{10}}x",
    r"\binom{10^9}{10^8}",
    "(" * 400 + "1" + ")" * 400, "{" * 400 + "1" + "}" * 400, r"\frac{" * 200 + "1" + "}{2}" * 200,
    r"\sqrt{" * 300 + "2" + "}" * 300,
    "x^{" * 300 + "2" + "}" * 300, "-" * 900 + "1", "1+" * 499 + "1", "x" * 1000, "|" * 999, "!" * 999, "1" * 1000,
    "x^9" * 333, "(" * 1000, "'" * 999,
    "x" + "'" * 900, "5" + "!" * 900, r"\sin" * 200 + "x", "sin" * 300 + "x", "a_" * 400, "1 " * 500, "1e999",
    "9" * 900 + "!", "f(" * 50, "f(" * 50 + "x" + ")" * 49,
    "1\\frac{" * 50 + "1" + "}{2}" * 50, "1\\frac{1}{" * 50, r"\sqrt" * 200 + "2", r"\vec{" * 100, r"\frac" * 200,
    "x_{" * 100, "2^" * 120 + "2", "|f(" * 50,
    r"e^{e^{e^{e^{x}}}}", r"\tan(\frac{\pi}{2})", r"(x+1)^{99999}", r"\ln(0)", "7^{7^{7}}-7^{7^{7}}",
])
def test_no_text_hangs(text):
    start = time.perf_counter()
    read(text)
    try:
        tree = parse(text)
    except Unreadable:
        pass
    else:
        expression.same(tree, ("+", tree, n(1)))
        expression.same(tree, n(1))
        same(Scalar(tree), Scalar(("·", n(2), tree)))
    assert time.perf_counter() - start < 1.5


def test_no_equation_hangs():
    """A continued fraction cleared to its last level is a tree of millions of nodes."""
    deep = "x"
    for _ in range(24):
        deep = rf"\frac{{1}}{{x+{deep}}}"
    start = time.perf_counter()
    assert not same(read(f"y={deep}"), read("y=x"))
    assert not same(read(f"y={deep}"), read(f"y={deep}+1"))
    assert same(read(r"y=\frac{6}{x}"), read("xy=6"))
    assert time.perf_counter() - start < 2


# --- kinds of values --------------------------------------------------------------------------------------------------

INTEGER, FLOAT, EXPRESSION, TEXT = (Scalar, "integer"), (Scalar, "float"), (Scalar, "expression"), (Text, "text")
QUANTITY, NAMED, RATIO = (Scalar, "quantity"), (Named, "named"), (Ratio, "ratio")
BLANKS, ALTERNATIVES, STATEMENTS = (Several, "blanks"), (Several, "alternatives"), (Statements, "statements")
INTERVAL, POINT, UNION = (Bracketed, "interval"), (Bracketed, "expression"), (Union, "interval")
RELATION = (Relation, "expression")
ALGEBRA = (Text, "expression")


@pytest.mark.parametrize(("text", "kind"), [
    ("7", INTEGER), ("-3", INTEGER), ("1,234", INTEGER), ("$7$", INTEGER), (r"\boxed{7}", INTEGER),
    ("<answer>5</answer>", INTEGER), ("#### 12", INTEGER),
    ("7.", INTEGER), ("7。", INTEGER), ("{7}", INTEGER), ("Answer: 7", INTEGER), ("= 5", INTEGER),
    ("3.14", FLOAT), (".5", FLOAT), ("1e3", FLOAT), (r"\approx 3.14", FLOAT), ("1.3", FLOAT),
    ("3/4", EXPRESSION), (r"2\sqrt{3}", EXPRESSION), (r"4$\sqrt{3}$", EXPRESSION), ("2n+1.", EXPRESSION),
    (r"108\mathrm \pi", EXPRESSION),
    ("3+4", EXPRESSION), ("2^{10}", EXPRESSION), ("x", EXPRESSION), ("$5m$", EXPRESSION), (r"5\sin 40°", EXPRESSION),
    ("3+4i", EXPRESSION), ("AB", EXPRESSION),
    (r"2\pi r", EXPRESSION), (r"0.1\overline{6}", EXPRESSION),
    ("5 cm", QUANTITY), ("5cm", QUANTITY), ("5 cm2", QUANTITY), (r"5\mathrm{~cm}^{2}", QUANTITY),
    ("$5$ cm", QUANTITY), ("45°", QUANTITY), ("50%", QUANTITY),
    ("$12", QUANTITY), (r"\$12", QUANTITY), ("5 m", QUANTITY), (r"2\sqrt{3} cm", QUANTITY), ("2 h 30 min", QUANTITY),
    ("3 people", QUANTITY),
    (r"5\times 10^{-3} m", QUANTITY), ("5 m/s^2", QUANTITY), ("25℃", QUANTITY), (r"\frac{1}{2}\text{ m}", QUANTITY),
    ("AB = 5", NAMED), ("x=3", NAMED), ("Area = 4 cm^2", NAMED), (r"Area $=5 \mathrm{~cm}^2$", NAMED),
    ("V_1:V_2 = 11:21", NAMED), ("f(2)=3", NAMED), ("x = 1, 2", NAMED),
    ("A(1, 2)", NAMED), (r"x \in (0,1)", NAMED), ("24*24 = 576", NAMED), (r"\angle A = 60^{\circ}", NAMED),
    (r"x = \pm 3", NAMED), ("Area: 5", NAMED),
    ("2:3", RATIO), ("1:2:3", RATIO), ("2∶3", RATIO), ("12:30", RATIO), ("10:30 am", RATIO),
    ("7; 10", BLANKS), ("$$7$$ $$10$$", BLANKS), ("$7$, $10$", BLANKS), ("6\n14", BLANKS), ("(1) 3 (2) 4", BLANKS),
    ("south; 60", BLANKS), ("16 12.5", BLANKS),
    (r"\boxed{3}, \boxed{4}", BLANKS), (r"1, 2, 3, \ldots", BLANKS),
    ("7 or 11", ALTERNATIVES), ("7, 10", ALTERNATIVES), ("7 and 10", ALTERNATIVES), (r"\pm 3", ALTERNATIVES),
    ("x=1 or x=2", ALTERNATIVES), ("x<1 or x>2", ALTERNATIVES),
    ("3或4", ALTERNATIVES), ("7 or 8 (any one)", ALTERNATIVES), ("x=1, y=2", ALTERNATIVES),
    (r"\begin{cases}x=1\\y=2\end{cases}", ALTERNATIVES),
    ("①③④", STATEMENTS), ("(1)(3)", STATEMENTS), ("1.3.4.", STATEMENTS), ("②", STATEMENTS), ("①, ③", STATEMENTS),
    ("(1, 2]", INTERVAL), ("[1, 2]", INTERVAL), (r"(-\infty, 2]", INTERVAL), (r"\left[0,1\right)", INTERVAL),
    (r"(0,1)\cup[3,4]", UNION),
    ("(1, 2)", POINT), ("(1,2,3)", POINT), (r"\{1, 2\}", POINT), (r"\emptyset", POINT), (r"\{1\}", POINT),
    ("y = 2x", RELATION), ("x^2+y^2=1", RELATION), ("x < 1", RELATION), ("1<x<2", RELATION), (r"x \neq 2", RELATION),
    (r"AB \parallel CD", RELATION),
    ("It rises", TEXT), ("no solution", TEXT), ("NaCl", TEXT), ("5 apples", TEXT), ("2024-05-01", TEXT),
    ("10 cm by 5 cm", TEXT), ("x=2 (rejected)", TEXT), ("?", TEXT),
    (r"\sum_{k=1}^n k", ALGEBRA), (r"\int_0^1 x dx", ALGEBRA), (r"\begin{pmatrix}1\\2\end{pmatrix}", ALGEBRA),
    (r"\lim_{x\to 0} x", ALGEBRA),
])
def test_kind_and_type_of_references(text, kind):
    value = read(text)
    assert (type(value), type_of(value)) == kind


@pytest.mark.parametrize(("text", "value"), [
    ("7", Scalar(n(7))), ("5 cm", Scalar(n(5), Unit("length", Fraction(1, 100)))),
    ("2 h 30 min", Scalar(n(150), Unit("time", Fraction(60)))),
    ("AB = 5", Named(("·", s("A"), s("B")), Scalar(n(5)))), ("Area: 5", Named("Area", Scalar(n(5)))),
    (r"x \approx 5", Named(X, Scalar(n(5)))),
    (r"x = \frac{1}{3} \approx 0.33", Named(X, Scalar(n("0.33")), Scalar(("/", n(1), n(3))))),
    ("2:3", Ratio((Scalar(n(2)), Scalar(n(3))))), ("10:30 pm", Ratio((Scalar(n(22)), Scalar(n(30))), True)),
    ("(1, 2]", Bracketed("(", (Scalar(n(1)), Scalar(n(2))), "]")),
    ("(1,234)", Bracketed("(", (Scalar(n(1)), Scalar(n(234))), ")")),
    ("①③", Statements(frozenset({1, 3}))), ("7; 10", Several((Scalar(n(7)), Scalar(n(10))), True)),
    ("7, 10", Several((Scalar(n(7)), Scalar(n(10))), False)),
    ("1,234; 5", Several((Scalar(n(1234)), Scalar(n(5))), True)),
    ("7, 8 or 9", Several((Scalar(n(7)), Scalar(n(8)), Scalar(n(9))), False)),
    (r"\pm 3", Several((Scalar(n(3)), Scalar(("neg", n(3)))), False)),
    ("3 or 4 (choose one)", Several((Scalar(n(3)), Scalar(n(4))), False, True)),
    (r"\{\}", Bracketed("{", (), "}")), ("0 < x", Relation((n(0), X), ("<",))), ("x ≤ 1", Relation((X, n(1)), ("≤",))),
    (r"(0,1)\cup(2,3)", Union((
        Bracketed("(", (Scalar(n(0)), Scalar(n(1))), ")"), Bracketed("(", (Scalar(n(2)), Scalar(n(3))), ")"),
    ))),
    (r"\boxed{7} \text{ and } \boxed{8}", Several((Scalar(n(7)), Scalar(n(8))), False)),
    ("It rises.", Text("It rises")),
])
def test_values_by_hand(text, value):
    """`text` of a Scalar and of Statements is left out of the comparison."""
    found = read(text)
    assert (Statements(found.numbers) if isinstance(found, Statements) else found) == value


def test_texts_around_and_between_values():
    assert unwrapped("<answer>5</answer>") == "5" and unwrapped("#### 12") == "12"
    assert unwrapped("Final answer: x") == "x"
    assert unwrapped(r"The answer is $\boxed{5}$.") == r"\boxed{5}" and unwrapped("5 is it") == "5 is it"
    assert boxed_parts(r"\boxed{3}, \boxed{\frac{1}{2}}.") == ["3", r"\frac{1}{2}"]
    assert boxed_parts(r"x \boxed{3}") is None and boxed_parts("3") is None and boxed_parts(r"\boxed{3") is None
    assert split_at("1,234, (5,6), 7", ",") == ["1,234", " (5,6)", " 7"]
    assert split_at("a;{b;c};d", ";") == ["a", "{b;c}", "d"]
    assert too_deep("(" * 31) and not too_deep("()" * 100)


def test_what_only_math_verify_reads():
    assert needs_algebra(r"\sum_{k=1}^n k") and not needs_algebra("x+1")
    assert not needs_algebra(r"the sum \sum over words")
    assert has_words("the area") and has_words(r"x + \text{area}") and not has_words(r"\alpha + abc")


# --- equality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gold", "found"), [
    # numbers and expressions
    ("7", "7.0"), ("1,234", "1234"), ("0.5", r"\frac12"), (r"4\sqrt{3}", r"\sqrt{48}"), ("2n+1", "1+2n"),
    ("5", "5 cm"), ("5", "x=5"), ("576", "24*24=576"), ("x+1", "f(x)=x+1"),
    (r"\frac{1}{2}", "1:2"), (r"\frac{3}{4}", r"75\%"), ("5", r"\{5\}"), ("AB", "BA"),
    # quantities
    ("5 cm", "5"), ("5 cm", r"5\text{ cm}"), ("5 cm", "0.05 m"), ("5 cm", "50 mm"), ("2 L", "2000 cm^3"),
    ("1 ha", "10000 m^2"), ("60 mph", "60 miles per hour"), ("45°", "45"),
    ("45°", r"\frac{\pi}{4} rad"), ("36 km/h", "10 m/s"), ("3 people", "3"), ("12 units", "12 people"),
    ("$12", "12 dollars"), ("50%", "50"), ("50%", "0.5"), ("2 h 30 min", "150 min"),
    ("2 h 30 min", "2.5 hours"), (r"2\pi cm", r"2\pi"), ("5 kg", "5000 g"), (r"5\times10^{-3} m", "5 mm"),
    ("5 cm^2", "5 cm2"), ("25℃", "25 degrees Celsius"), ("$12", "1200 cents"),
    # names
    ("AB=5", "5"), ("AB=5", "BA = 5"), ("AB = 5", "AB=5 cm"), ("Area = 4 cm^2", "4"),
    ("Area = 4 cm^2", "area = 4 square centimeters"), ("V_1:V_2=11:21", "11:21"), ("x=3", "3"), ("A(1,2)", "(1, 2)"),
    (r"x=\frac{1}{3} \approx 0.33", "0.33"), ("0.33", r"x=\frac{1}{3}\approx 0.33"),
    (r"\frac13", r"x=\frac{1}{3}\approx 0.33"), ("S = 4", "Area = 4"), ("x = 1, 2", "x=2 or x=1"),
    # ratios
    ("2:3", "2 : 3"), ("2:3", "4:6"), ("2:3", r"\frac{2}{3}"), ("1:2:3", "2:4:6"), ("2:3", "2 to 3"),
    ("12:30", "12:30"), ("10:30 pm", "22:30"),
    # intervals
    ("(1,2]", r"\left(1, 2\right]"), ("(1,2]", "1<x≤2"), ("1<x<2", "(1,2)"), ("x<1", r"(-\infty,1)"),
    ("x > 1", "1 < x"), (r"(0,1)\cup[3,4]", r"[3,4]\cup(0,1)"), ("x<1 or x>2", r"(-\infty,1)\cup(2,\infty)"),
    ("x>-2 and x<5", "-2<x<5"), (r"x\in(0,1)", "0<x<1"), (r"x\in(0,1)", "(0,1)"),
    (r"(-\infty,\infty)", r"\mathbb{R}"), ("1<x<2", "2>x>1"), ("(0, 1]", r"x \in (0, 1]"),
    # several
    ("7; 10", "7, 10"), ("7; 10", r"7 \text{ and } 10"), ("$$7$$ $$10$$", "7; 10"), ("7 or 11", "11, 7"),
    ("7 or 11", "11 or 7"), (r"\pm 3", "3, -3"), (r"\pm 3", "-3 or 3"), ("7, 10", r"\{10, 7\}"),
    ("x=1, y=2", "y=2, x=1"), ("x=1,y=2", "(1,2)"), ("x=1 or x=2", "1, 2"), ("7 or 8 (any one)", "8"),
    ("(1) 3 (2) 4", "3; 4"), ("5 cm; 7 cm", "5, 7"), ("south; 60", r"\text{south}, 60"),
    # points, sets, statements
    ("(1,2)", r"\left( 1 , 2 \right)"), ("(1,2)", "A(1,2)"), ("(1,2)", "x=1, y=2"), (r"\{1,2\}", "2, 1"),
    (r"\{1,2\}", r"\{2,1\}"), (r"\emptyset", r"\{\}"), ("①③", "(1)(3)"), ("①③", "1, 3"), ("①③", "③①"),
    ("1.3.4.", "①③④"), ("②", "2"), ("②", "(2)"),
    # equations
    ("y=2x", "2x=y"), ("y=2x", "y-2x=0"), ("2x+3y=6", "4x+6y=12"), ("x<y", "y>x"),
    (r"AB \parallel CD", r"CD \parallel AB"), ("y=2x", "-y=-2x"), ("y = 2x + 1", "y = 1 + 2x"),
    (r"f(x)=2\sin 2x", r"y=2\sin(2x)"), (r"y=\pm\frac{3}{4}x", r"y=\frac{3x}{4} \text{ or } y=-\frac{3}{4}x"),
    ("a^2-b^2=(a+b)(a-b)", "(a-b)(a+b)=a^2-b^2"),
    # degrees and minutes, points with a sign, vectors in bold, a unit in italics
    ("35°24′", "35.4°"), (r"62^{\circ}30'", "62.5"), ("(3,0) or (-3,0)", r"(\pm 3, 0)"),
    (r"\boldsymbol{a}+2\boldsymbol{b}", r"\vec{a}+2\vec{b}"), (r"9\sqrt{6} \mathrm{~N}", r"9\sqrt{6}N"),
    (r"\frac{121\pi}{4} \mathrm{~m}^{2}", "30.25π m²"),
    (r"18\text{ cm}, 31\text{ cm}", r"18\text{ cm and }31\text{ cm}"),
    ("domain: [0,1) and range: (2,3]", r"\text{domain: }[0,1)\text{ and range: }(2,3]"),
    # texts
    ("rhombus", "a rhombus"),
    ("It rises", "it rises."), ("north", r"\text{North}"), (r"\sum_{k=1}^n k", r"\sum_{k=1}^n k"),
])
def test_right_pairs(gold, found):
    assert same(read(found), read(gold))


@pytest.mark.parametrize(("gold", "found"), [
    ("7", "8"), ("7", "-7"), ("7", "7, 8"), ("7", "7 or 8"), ("1,234", "234"), (r"4\sqrt{3}", "4"),
    (r"4\sqrt{3}", r"\sqrt{3}"), ("2n+1", "2"), ("2n+1", "2n"), ("2n+1", "2m+1"), (r"108\pi", "108"), ("x+1", "y+1"),
    ("x+1", "x"),
    (r"\frac{1}{2}", "2:1"), (r"\frac{3}{4}", r"75"), ("R", "r"), ("m", "M"), ("x+1", "f(x)=x+2"), ("x", "x=x+1"),
    ("576", "24*24=575"), ("7", "(7, 8)"), ("7", r"\{7, 8\}"), ("7", "no"),
    ("5 cm", "5 m"), ("5 cm", "5 kg"), ("5 cm", "5 cm^2"), ("5 cm", "cm"), ("5 cm", "500"), ("5 cm", "6 cm"),
    ("5 MW", "5 mW"), ("45°", "45 rad"), ("45°", "45 cm"), ("3 people", "3 books"), ("$12", "12 euros"),
    ("$12", "12 cents"),
    ("50%", "0.05"), ("50%", "50 cm"), ("25℃", "25 K"), ("25℃", "25℉"), ("2 h 30 min", "2.3 h"), ("2 h 30 min", "2"),
    (r"2\pi cm", "2"), ("5 m/s", "5 m"), ("5 m/s", "5 km/h"), ("5 mol/L", "5 mol"), ("5 kWh", "5 kW"),
    ("5 cm2", "10 cm"),
    ("AB=5", "AC=5"), ("AB=5", "AB"), ("AB=5", "AB=6"), ("x=3", "y=3"), ("Area = 4 cm^2", "Area = 4 m^2"),
    ("Area = 4", "Perimeter = 4"), ("V_1:V_2=11:21", "21:11"), ("V_1:V_2=11:21", "11"), ("A(1,2)", "B(1,2)"),
    ("A(1,2)", "(2,1)"), ("f(2)=3", "f(3)=3"),
    ("x = 1, 2", "x = 1"), ("x = 1, 2", "1"),
    ("2:3", "3:2"), ("2:3", "2"), ("2:3", r"\frac{3}{2}"), ("1:2:3", "1:3:2"), ("1:2:3", "1:2"), ("12:30", "12:03"),
    ("10:30 pm", "10:30 am"), ("2:3", "2, 3"),
    ("(1,2]", "[1,2]"), ("(1,2]", "(1,2)"), ("(1,2]", "1<x<2"), ("(1,2]", "2"), ("(1,2]", "(2,1]"), ("x<1", "x≤1"),
    ("x<1", "x>1"), ("x<1", "1"), ("x<1", "y<1"), (r"(0,1)\cup[3,4]", "(0,1)"),
    (r"(0,1)\cup[3,4]", r"(0,1)\cup(3,4)"),
    ("x<1 or x>2", "x<1"), ("1<x<2", "1<x"), ("1<x<2", "1<y<2"), (r"x\in(0,1)", r"y\in(0,1)"),
    (r"x\in(0,1)", "(0,2)"), ("x>-2 and x<5", "x>-2"), ("x>-2 and x<5", "x>-2 or x<5"), ("[1,2]", r"\{1,2\}"),
    ("(1,2]", "1, 2"),
    ("7; 10", "7"), ("7; 10", "10"), ("7; 10", "10, 7"), ("7; 10", "7, 10, 11"), ("7; 10", "17"), ("7 or 11", "7"),
    ("7 or 11", "7, 11, 12"), ("7 or 11", "7, 12"), (r"\pm 3", "3"), (r"\pm 3", "-3"), ("x=1, y=2", "x=2, y=1"),
    ("x=1, y=2", "x=1"),
    ("x=1, y=2", "(2,1)"), ("7 or 8 (any one)", "9"), ("(1) 3 (2) 4", "4; 3"), ("5 cm; 7 cm", "7 cm; 5 cm"),
    ("5 cm; 7 cm", "5 m; 7 m"), ("south; 60", "60"), ("7; 10", "7; 1"), ("7, 10, 7", "7"), ("7; 7", "7"),
    ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("(1,2)", "1"), ("(1,2)", "(1,2,3)"), ("(1,2)", "(1,2]"),
    (r"\{1,2\}", r"\{1\}"), (r"\{1,2\}", r"\{1,2,3\}"), (r"\{1,2\}", "1"), (r"\emptyset", "0"),
    (r"\{1\}", r"\emptyset"),
    ("①③", "①"), ("①③", "①②③"), ("①③", "13"), ("①③", "1.3"), ("1.3.4.", "1.3"), ("②", "①"), ("①③", "③"), ("①③", "1"),
    ("y=2x", "2x"), ("y=2x", "y"), ("y=2x", "y=2"), ("y=2x", "x=2y"), ("y=2x", "y<2x"), ("2x+3y=6", "6"),
    ("x<y", "x>y"), ("x^2+y^2=1", "x^2+y^2=2"), (r"AB \parallel CD", r"AB \perp CD"), ("x<y", "x≤y"),
    ("x<y", "-x<-y"), (r"x\neq 2", "2"), (r"x\neq 2", "x=2"),
    (r"f(x)=2\sin 2x", r"y=2\sin x"), (r"f(x)=2\sin 2x", r"2\sin 2x"), (r"y=\pm\frac{3}{4}x", r"y=\frac{3}{4}x"),
    ("a^2-b^2=(a+b)(a-b)", "a^2=a^2"), ("a^2-b^2=(a+b)(a-b)", "a^2-b^2"),
    (r"\cos A=\frac{4}{5}", r"\sin A=\frac{4}{5}"), (r"\cos A=\frac{4}{5}", r"A=\frac{4}{5}"), ("35°24′", "35°"),
    ("35°24′", "24"), ("62°30′", "62°30″"), ("(3,0) or (-3,0)", "(3,0)"), ("(3,0) or (-3,0)", r"(0, \pm 3)"),
    (r"\boldsymbol{a}+2\boldsymbol{b}", r"\vec{a}+\vec{b}"), (r"9\sqrt{6} \mathrm{~N}", r"9\sqrt{6}m"), ("A'", "A"),
    ("It rises", "It"), ("It rises", "rises"), ("north", "south"), ("H_2O", "H_2"), ("CO", "Co"),
    ("no solution", "no"), (r"\sum_{k=1}^n k", "k"),
])
def test_wrong_pairs(gold, found):
    assert not same(read(found), read(gold))


# --- parts and spellings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [
    (r"4\sqrt{3}", {"4", "3"}), ("7; 10", {"7", "10"}), ("y = 2x", {"y", "2x", "2"}), ("5 cm", set()),
    ("AB = 5", {"AB"}), ("7", set()), ("3.14", set()), ("2n+1", {"2", "1"}),
    ("(1, 2)", {"1", "2"}), ("2:3", {"2", "3"}), ("①③", {"1", "3"}), (r"\frac{1}{2}", {"1", "2"}),
    (r"(0,1)\cup[3,4]", set()), ("7 or 8 (any one)", set()), ("It rises", set()),
    (r"2\sqrt{3} cm", {"2", "3"}), ("24*24 = 576", set()), ("x < 1", {"x", "1"}), (r"\{5\}", set()),
    (r"1\cdot x", {"1"}), ("②", set()),
])
def test_parts_by_hand(text, expected):
    assert set(parts(text)) == expected


@pytest.mark.parametrize(("text", "some"), [
    (r"\frac{1}{2}", {r"\dfrac{1}{2}"}), ("5 cm", {"5"}), ("7; 10", {"7, 10"}),
    ("7 or 11", {"11, 7", r"7 \text{ or } 11"}), ("AB = 5", {"5"}), ("1+2n", {"2n+1"}), ("①③", {"(1)(3)"}),
    ("(1)(3)", {"①③"}),
    ("2:3", {"2 : 3"}), ("(1,2)", {r"\left( 1 , 2 \right)"}), ("$7$", {"7"}),
])
def test_spellings_by_hand(text, some):
    found = spellings(text)
    assert some <= set(found) and len(found) == len(set(found)) and all(found)


@pytest.mark.parametrize(("text", "none"), [
    ("7; 10", "10, 7"), ("x-1", "1-x"), ("a-b+c", "c+a-b"), ("7 or 8 (any one)", "7, 8"), ("(1,2)", "(2,1)"),
])
def test_no_spelling_says_something_else(text, none):
    assert none not in spellings(text)
