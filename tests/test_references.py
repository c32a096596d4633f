"""Generated references of every kind: whole and in other spellings right, a part of it or a near miss wrong.

What is right and what is wrong is known from how a reference is put together. No function of the package makes it.
"""

import random
import re
from collections.abc import Callable
from fractions import Fraction
from math import gcd
from typing import NamedTuple

import pytest

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets.answers import valued
from ptdpo_cli.rewards import Response, check_answers, grade_all, proof, verify
from ptdpo_cli.rewards.extract import WAYS

SEED = 20_240_501
N_OF_EACH_KIND = 90
THIN = r",\,"        # a comma and a thin space


class Made(NamedTuple):
    """A reference, the types that it may have, and what is right and wrong beside it."""

    text: str
    types: str
    right: list[str]
    wrong: list[str]


class Term(NamedTuple):
    """One value as text, other spellings of it, its parts, and values that are near and others."""

    text: str
    spellings: list[str]
    parts: list[str]
    misses: list[str]


# --- single values ----------------------------------------------------------------------------------------------------


def signed(text: str) -> str:
    return text.removeprefix("-") if text.startswith("-") else f"-{text}"


def integer(rng: random.Random) -> Term:
    number = rng.choice((rng.randint(2, 9), rng.randint(10, 99), rng.randint(1000, 99_999))) * rng.choice((1, 1, -1))
    spellings = [f"{number}.0", f"{{{number}}}", f"{number}".replace("-", "−"),
                 f"+{number}" if number > 0 else f"- {-number}"]
    if abs(number) >= 1000:
        spellings += [f"{number:,}", f"{number:,}".replace(",", "{,}"), f"{number:,}".replace(",", r"\,")]
    return Term(str(number), spellings, [], [str(number + 1), str(number - 1), signed(str(number)), f"{number}0",
                                             f"{number}.5"])


def decimal(rng: random.Random) -> Term:
    n = rng.randint(1, 3)
    number = rng.randint(1, 9999) * 10 + rng.randint(1, 9)
    text = f"{number // 10**n}.{number % 10**n:0{n}}"
    more = str(Fraction(number + 1, 10**n).__float__())
    return Term(text, [f"{text}0", rf"\frac{{{number}}}{{{10**n}}}", f"{text}001"],
                [text.partition(".")[0]], [f"-{text}", more, str(number), f"{number * 10}"])


def ratio_of(rng: random.Random) -> tuple[int, int]:
    while True:
        above, below = rng.randint(1, 30), rng.randint(2, 30)
        if gcd(above, below) == 1 and above != below:
            return above, below


def fraction(rng: random.Random) -> Term:
    above, below = ratio_of(rng)
    k, sign = rng.randint(2, 5), rng.choice(("", "", "-"))
    spellings = [rf"{sign}\dfrac{{{above}}}{{{below}}}", rf"{sign}\tfrac{{{above}}}{{{below}}}",
                 f"{sign}{above}/{below}",
                 rf"{sign}\frac{{{k * above}}}{{{k * below}}}", rf"\frac{{{sign}{above}}}{{{below}}}",
                 rf"{sign}\frac{{ {above} }}{{ {below} }}".replace("-", "−"), rf"{sign}{above}\div {below}"]
    if above < 10 and below < 10:
        spellings.append(rf"{sign}\frac{above}{below}")
    if above > below:
        spellings.append(rf"{sign}{above // below}\frac{{{above % below}}}{{{below}}}")
    parts = [str(above), str(below)] if below > 1 else []
    misses = [rf"\frac{{{below}}}{{{above}}}" if not sign else rf"-\frac{{{below}}}{{{above}}}",
              rf"{sign}\frac{{{above + below}}}{{{below}}}", signed(rf"{sign}\frac{{{above}}}{{{below}}}"),
              f"{sign}{above}{below}", f"{sign}{above / below + 0.004:.3f}"]
    return Term(rf"{sign}\frac{{{above}}}{{{below}}}", spellings, parts, misses)


def root(rng: random.Random) -> Term:
    a, b = rng.randint(2, 12), rng.choice((2, 3, 5, 6, 7, 10, 11, 13))
    spellings = [rf"\sqrt{{{a * a * b}}}", rf"{a}\cdot\sqrt{{{b}}}", rf"{a}\times \sqrt{{{b}}}", f"{a}√{b}",
                 rf"\sqrt{{{b}}}\cdot {a}",
                 rf"{a}$\sqrt{{{b}}}$", rf"{a} \sqrt {{{b}}}", rf"\frac{{{a * b}}}{{\sqrt{{{b}}}}}", f"{a}*sqrt({b})"]
    return Term(rf"{a}\sqrt{{{b}}}", spellings, [str(a), str(b), rf"\sqrt{{{b}}}"],
                [rf"{a + 1}\sqrt{{{b}}}", rf"{a}\sqrt{{{b + 1}}}", rf"-{a}\sqrt{{{b}}}", str(a * b),
                 f"{a * b**0.5:.2f}",
                 rf"{a}+\sqrt{{{b}}}"])


def circle(rng: random.Random) -> Term:
    a, b = ratio_of(rng)
    whole = rng.random() < 0.5
    text = rf"{a + 1}\pi" if whole else rf"\frac{{{a}}}{{{b}}}\pi"
    a, b = (a + 1, 1) if whole else (a, b)
    spellings = [f"{a}π" if whole else rf"\frac{{{a}π}}{{{b}}}", rf"\frac{{{a}\pi}}{{{b}}}",
                 rf"\pi\cdot\frac{{{a}}}{{{b}}}",
                 rf"\dfrac{{{2 * a}\pi}}{{{2 * b}}}", f"{a}*pi/{b}", rf"{a}\mathrm \pi" if whole else rf"{a}\pi/{b}"]
    parts = [r"\pi", str(a)] if a > 1 else [str(b)]
    return Term(text, spellings, parts, [rf"\frac{{{a + b}}}{{{b}}}\pi", f"-{text}", f"{a / b * 3.14159:.2f}",
                                         rf"{text}^2",
                                         rf"\frac{{{a}}}{{{b}}}"])


NUMBERS: tuple[Callable[[random.Random], Term], ...] = (integer, decimal, fraction, root, circle)


def number(rng: random.Random) -> Term:
    return rng.choice(NUMBERS)(rng)


def distinct(rng: random.Random, n: int, make: Callable[[random.Random], Term] = number) -> list[Term]:
    """Values, no two of which are near each other."""
    found: list[Term] = []
    while len(found) < n:
        one = make(rng)
        near = {one.text, *one.spellings, *one.misses, *one.parts}
        if not any(near & {other.text, *other.misses, *other.parts} for other in found):
            found.append(one)
    return found


def dressed(text: str) -> list[str]:
    """The text in what may stand around any formula."""
    return [f"${text}$", rf"\({text}\)", f"$${text}$$", f" {text} ", f"{text}.", rf"\boxed{{{text}}}",
            rf"\left. {text} \right."]


def single(make: Callable[[random.Random], Term], types: str) -> Callable[[random.Random], Made]:
    def made(rng: random.Random) -> Made:
        one = make(rng)
        named = [f"x = {one.text}", f"{one.text} cm"] if types != "float" else [f"x = {one.text}"]
        pair = [f"{one.text}, {one.misses[0]}", f"{one.text} or {one.misses[0]}", f"({one.text}, {one.misses[0]})"]
        return Made(one.text, types, dressed(one.text)[:6] + one.spellings + named, one.parts + one.misses + pair)

    return made


# --- expressions and equations ----------------------------------------------------------------------------------------


def polynomial(rng: random.Random) -> tuple[list[str], str]:
    """Terms with their signs, and the letter that stands in them."""
    letter = rng.choice("xyznta")
    terms = [f"{rng.choice('+-')}{rng.randint(2, 9)}{letter}^{{2}}", f"{rng.choice('+-')}{rng.randint(2, 9)}{letter}",
             f"{rng.choice('+-')}{rng.randint(1, 30)}"]
    return terms if rng.random() < 0.5 else terms[1:], letter


def joined(terms: list[str]) -> str:
    return "".join(terms).removeprefix("+")


def expression(rng: random.Random) -> Made:
    terms, letter = polynomial(rng)
    text, other = joined(terms), "w"
    turned = joined(terms[::-1])
    wide = joined([f"{one[0]} {one[1:]}" if index else one for index, one in enumerate(terms)])
    double = joined([re.sub(r"[0-9]+", lambda digits: str(2 * int(digits[0])), one, count=1) for one in terms])
    right = [turned, wide, rf"\frac{{{double}}}{{2}}", rf"\left({text}\right)",
             f"-({joined([flipped(t) for t in terms])})",
             text.replace("^{2}", "²"), text.replace(f"{letter}^{{2}}", f"{letter}{letter}"), text.replace("-", "−"),
             f"f({letter}) = {text}", *dressed(text)[:4]]
    wrong = [*map(str, terms), *(joined([*terms[:k], *terms[k + 1:]]) for k in range(len(terms))),
             *(joined([*terms[:k], flipped(terms[k]), *terms[k + 1:]]) for k in range(len(terms))),
             text.replace(letter, other), text.replace(letter, letter.upper()), f"{text}+1", f"{text} = 0",
             f"{text}, 1", letter]
    return Made(text, "expression", right, [one.removeprefix("+") for one in wrong])


def flipped(term: str) -> str:
    return ("-" if term[0] == "+" else "+") + term[1:]


def quotient(rng: random.Random) -> Made:
    letter = rng.choice("xyz")
    a, b, c = rng.randint(2, 9), rng.randint(1, 9), rng.randint(10, 19)
    above, below = f"{a}{letter}+{b}", f"{letter}-{c}"
    right = [rf"\dfrac{{{above}}}{{{below}}}", f"({above})/({below})", rf"\frac{{{b}+{a}{letter}}}{{{below}}}",
             rf"-\frac{{{above}}}{{{c}-{letter}}}", rf"\frac{{2({above})}}{{2{letter}-{2 * c}}}",
             rf"({above})\div({below})"]
    wrong = [above, below, rf"\frac{{{below}}}{{{above}}}", rf"-\frac{{{above}}}{{{below}}}",
             rf"\frac{{{above}}}{{{letter}+{c}}}",
             rf"\frac{{{a}{letter}}}{{{below}}}", f"{above}/{below}", str(a)]
    return Made(rf"\frac{{{above}}}{{{below}}}", "expression", right, wrong)


def equation(rng: random.Random) -> Made:
    a, b = rng.randint(2, 9), rng.randint(1, 20)
    sign, other = rng.choice(("+-", "-+"))
    text = f"y = {a}x {sign} {b}"
    right = [f"{a}x{sign}{b} = y", f"y={a}x{sign}{b}", f"{a}x-y{sign}{b}=0", f"2y = {2 * a}x {sign} {2 * b}",
             f"y = {sign}{b} + {a}x",
             f"y{other}{b} = {a}x", f"$y={a}x{sign}{b}$", f"-y = -{a}x {other} {b}"]
    wrong = [f"{a}x{sign}{b}", "y", f"{a}x", str(b), f"y = {a}x {other} {b}", f"y = {a + 1}x {sign} {b}",
             f"x = {a}y {sign} {b}",
             f"y < {a}x {sign} {b}", f"y = {a}x", f"Y = {a}x {sign} {b}", f"y = {a}x {sign} {b + 1}",
             f"z = {a}x {sign} {b}"]
    return Made(text, "expression", right, wrong)


# --- quantities and names ---------------------------------------------------------------------------------------------

# Spellings of a unit; another unit of the same, and how many of it are one; units of something else.
UNITS = (
    ([r"\text{ cm}", " cm", r"\mathrm{~cm}", r"\,\text{cm}", " centimeters", r"\ \mathrm{cm}", "厘米"], (" mm", 10),
     (" kg", r"\text{ cm}^2", " s", "°")),
    ([r"\text{ m}^2", " m^2", r"\mathrm{~m}^{2}", " m²", " square meters", r"\,\text{m}^{2}", " sq m"],
     (" cm^2", 10_000), (" m", " m^3", " L")),
    ([r"\text{ kg}", " kg", r"\mathrm{kg}", " kilograms"], (" g", 1000), (" km", " L", " N")),
    ([r"^\circ", "°", r"^{\circ}", r"\degree", " degrees", "º"], None, (" cm", r"\%", " rad")),
    ([r"\%", "%", " percent", r" \%"], None, (" cm", "°", " kg")),
    ([" km/h", r"\text{ km/h}", r"\mathrm{~km/h}", " km per hour", " kilometers per hour"], None,
     (" km", " h", " m/s", " mph")),
    ([" min", r"\text{ minutes}", r"\mathrm{~min}", " minutes"], (" s", 60), (" m", " min^2", " kg")),
    ([r"\text{ mL}", " ml", r"\mathrm{~mL}", " cm^3", " cubic centimeters"], None, (" L", " cm", " cm^2")),
    ([r"\text{ N}", " N", r"\mathrm{~N}", " newtons"], None, (" J", " kg", " kN")),
    ([r"\text{ MW}", r"\mathrm{~MW}", " MW", " megawatts"], (" kW", 1000), (" mW", " MJ", " M")),
)


def quantity(rng: random.Random) -> Made:
    spelt, other, misses = rng.choice(UNITS)
    one = rng.choice((integer, integer, decimal, fraction, root))(rng)
    if "\\" in one.text:       # there a letter that is not upright may be a variable
        spelt = [spelling for spelling in spelt if not (spelling[0] == " " and len(spelling.strip(" ^²2")) == 1)]
    unit = rng.choice(spelt[:2])
    right = [one.text, f"${one.text}$", *(one.text + spelling for spelling in spelt), f"${one.text}{spelt[0]}$"]
    right += [spelling + spelt[0] for spelling in one.spellings[:2]]
    if other and one.text.lstrip("-").isdigit():
        right.append(f"{int(one.text) * other[1]}{other[0]}")
    wrong = [unit, *(one.text + miss for miss in misses), *(miss + unit for miss in one.misses),
             *(miss for miss in one.misses)]
    if other:
        wrong.append(one.text + other[0])
    return Made(one.text + unit, "quantity", right, wrong)


NAMES = (  # a name, another spelling of it, and the name of something else of the same kind
    ("AB", "BA", "AC"), ("x", "x ", "y"), (r"\angle A", "∠A", r"\angle B"), ("S_{1}", "S_1", "S_{2}"),
    ("f(2)", "f(2)", "f(3)"), ("BC", "|BC|", "BD"),
    (r"\angle ABC", r"\angle CBA", r"\angle ACB"), ("m", "m", "M"), ("Area", r"\text{Area}", "Perimeter"),
    ("a_{n}", "a_n", "b_n"),
)


def named(rng: random.Random) -> Made:
    name, again, other = rng.choice(NAMES)
    one = number(rng)
    gap = rng.choice(("", " "))
    right = [one.text, f"{name}={one.text}", f"{again} = {one.text}", rf"${name} = {one.text}$", f"${one.text}$",
             *one.spellings[:3]]
    wrong = [name, f"{other} = {one.text}", *(f"{name} = {miss}" for miss in one.misses), *one.misses,
             f"{name} = {one.text}, {one.misses[0]}"]
    return Made(f"{name}{gap}={gap}{one.text}", "named", right, wrong)


# --- several values ---------------------------------------------------------------------------------------------------


def changed(terms: list[Term], rng: random.Random) -> list[str]:
    """The texts of the terms, one of them another value."""
    k = rng.randrange(len(terms))
    return [one.misses[0] if index == k else one.text for index, one in enumerate(terms)]


def all_but_one(texts: list[str]) -> list[list[str]]:
    return [[*texts[:k], *texts[k + 1:]] for k in range(len(texts))]


def blanks(rng: random.Random) -> Made:
    terms = distinct(rng, rng.randint(2, 4))
    texts = [one.text for one in terms]
    if rng.random() < 0.2:
        word = rng.choice(("south", "increases", "isosceles"))
        k = rng.randrange(len(texts))
        texts[k], terms[k] = word, Term(word, [rf"\text{{{word}}}"], [], ["north"])
    shapes = (
        lambda some: "; ".join(some), lambda some: "\n".join(some), lambda some: " ".join(f"$${one}$$" for one in some),
        lambda some: ", ".join(f"${one}$" for one in some),
        lambda some: " ".join(f"({k}) {one}" for k, one in enumerate(some, 1)),
        lambda some: "; ".join(f"({k}) ${one}$" for k, one in enumerate(some, 1)), lambda some: "；".join(some),
    )
    right = [shape(texts) for shape in shapes] + [", ".join(texts), r",\ ".join(texts), r";\; ".join(texts),
                                                  rf"\({', '.join(texts)}\)"]
    right += [", ".join(one.spellings[0] for one in terms)]
    wrong = texts + [shape(texts[::-1]) for shape in shapes[:4]] + [", ".join(some) for some in all_but_one(texts)]
    wrong += ["; ".join(changed(terms, rng)), "; ".join([*texts, "170003"]), ", ".join([*texts, texts[0]]),
              " ".join(texts[:1] * 2)]
    return Made(rng.choice(shapes)(texts), "blanks", right, wrong)


def alternatives(rng: random.Random) -> Made:
    terms = distinct(rng, rng.randint(2, 3))
    texts = [one.text for one in terms]
    order = rng.sample(texts, len(texts))
    right = [" or ".join(order), ", ".join(order), r" \text{ or } ".join(order), rf"\{{{', '.join(order)}\}}",
             " and ".join(order),
             f"x = {' or x = '.join(order)}", THIN.join(order), ", ".join(one.spellings[0] for one in terms)]
    wrong = texts + [" or ".join(some) for some in all_but_one(texts)]
    wrong += [", ".join(changed(terms, rng)), " or ".join([*texts, "170003"]), f"({', '.join(order)}, 170003)"]
    return Made(rng.choice((" or ", " and ", ", ")).join(texts), "alternatives", right, wrong)


def either(rng: random.Random) -> Made:
    terms = distinct(rng, 2)
    name, another = rng.choice((("x", "q"), ("k", "q"), ("m", "q"), ("AB", "CD")))
    texts = [one.text for one in terms]
    one, other = texts
    right = [f"{name}={other} or {name}={one}", f"{name} = {one}, {other}", f"{one}, {other}",
             rf"{name}={one} \text{{ or }} {name}={other}",
             f"{other} or {one}"]
    wrong = [one, other, f"{name}={one}", f"{name}={other}", f"{another}={one} or {another}={other}",
             f"{name}={one} or {name}={terms[1].misses[0]}", name]
    return Made(f"{name} = {one} or {name} = {other}", "alternatives", right, wrong)


def system(rng: random.Random) -> Made:
    terms = distinct(rng, 2)
    one, other = (term.text for term in terms)
    right = [f"y={other}, x={one}", f"x={one}; y={other}", f"({one}, {other})", f"{one}, {other}",
             f"$x={one}$, $y={other}$",
             rf"\begin{{cases}} x={one} \\ y={other} \end{{cases}}", rf"x={one} \text{{ and }} y={other}"]
    wrong = [one, other, f"x={one}", f"y={other}", f"x={other}, y={one}", f"({other}, {one})",
             f"x={one}, y={terms[1].misses[0]}",
             f"x={one}, z={other}", f"x={one}, y={other}, z=1"]
    return Made(f"x = {one}, y = {other}", "alternatives", right, wrong)


def set_of(rng: random.Random) -> Made:
    terms = distinct(rng, rng.randint(2, 4), integer)
    texts = [one.text for one in terms]
    order = rng.sample(texts, len(texts))
    right = [rf"\{{{', '.join(order)}\}}", rf"\left\{{{','.join(order)}\right\}}", rf"\{{{THIN.join(order)}\}}",
             ", ".join(order),
             rf"\lbrace {', '.join(order)} \rbrace", rf"$\{{{', '.join(order)}\}}$"]
    wrong = [*texts, *(rf"\{{{', '.join(some)}\}}" for some in all_but_one(texts)),
             rf"\{{{', '.join([*order, '170000'])}\}}", r"\emptyset",
             rf"\{{{', '.join(changed(terms, rng))}\}}"]
    return Made(rf"\{{{', '.join(texts)}\}}", "expression", right, wrong)


def point(rng: random.Random) -> Made:
    terms = distinct(rng, rng.choice((2, 2, 3)), rng.choice((integer, fraction, root)))
    texts = [one.text for one in terms]
    inner = ", ".join(texts)
    right = [rf"\left({inner}\right)", f"({','.join(texts)})", rf"({THIN.join(texts)})",
             rf"\left( {' , '.join(texts)} \right)",
             f"$({inner})$", f"P({inner})", rf"\bigl({inner}\bigr)", f"({inner})".replace("-", "−"),
             f"({', '.join(one.spellings[0] for one in terms)})"]
    wrong = [*texts, f"({', '.join(texts[::-1])})", f"({', '.join(changed(terms, rng))})", f"[{inner}]",
             f"({inner}, 170000)",
             *(f"({', '.join(some)})" for some in all_but_one(texts)), rf"\{{{inner}\}}"]
    return Made(f"({inner})", "expression", right, wrong)


def bounds(rng: random.Random, n: int) -> list[int]:
    return sorted(rng.sample(range(-40, 60), n))


def interval(rng: random.Random) -> Made:
    low, high = bounds(rng, 2)
    left, right_ = rng.choice(("(]", "[)", "[]"))
    signs = {"(": "<", "[": r"\le ", ")": "<", "]": r"\leq "}
    text = f"{left}{low}, {high}{right_}"
    other = {"(": "[", "[": "(", ")": "]", "]": ")"}
    right = [rf"\left{left}{low}, {high}\right{right_}", f"{left}{low},{high}{right_}",
             rf"{left}{low},\,{high}{right_}",
             f"{low}{signs[left]}x{signs[right_]}{high}", rf"x \in {left}{low}, {high}{right_}", f"${text}$",
             text.replace("-", "−"),
             f"{high}{'>' if right_ == ')' else '≥'}t{'>' if left == '(' else '≥'}{low}"]
    wrong = [f"{other[left]}{low}, {high}{right_}", f"{left}{low}, {high}{other[right_]}",
             f"{left}{high}, {low}{right_}", str(low), str(high),
             f"{low}, {high}", f"{left}{low}, {high + 1}{right_}",
             f"x{signs[left].replace('<', '>').replace('le', 'ge')}{low}",
             rf"\{{{low}, {high}\}}", f"x{signs[right_]}{high}"]
    return Made(text, "interval", right, wrong)


def ray(rng: random.Random) -> Made:
    (bound,) = bounds(rng, 1)
    closed = rng.random() < 0.5
    text = rf"(-\infty, {bound}{']' if closed else ')'}"
    sign, other = (r"\le", "<") if closed else ("<", r"\le")
    right = [rf"x {sign} {bound}", rf"\left(-\infty, {bound}\right{']' if closed else ')'}",
             text.replace(r"\infty", "∞"),
             f"{bound} {'≥' if closed else '>'} x", rf"x\in {text}", rf"$x {sign} {bound}$"]
    wrong = [rf"x {other} {bound}", f"x > {bound}", str(bound), r"-\infty", rf"({bound}, \infty)", f"x = {bound}",
             rf"x {sign} {bound + 1}",
             rf"(-\infty, {bound}{')' if closed else ']'}"]
    return Made(text, "interval expression", right, wrong)      # of two open ends it may be a point


def inequality(rng: random.Random) -> Made:
    (bound,) = bounds(rng, 1)
    right = [f"{bound} < x", rf"({bound}, \infty)", rf"x\in({bound},+\infty)", rf"$x > {bound}$", rf"x\gt {bound}",
             f"{bound}<x", f"x＞{bound}"]
    wrong = [str(bound), "x", f"x < {bound}", rf"x \ge {bound}", f"x = {bound}", f"y > {bound}", f"x > {bound + 1}",
             rf"[{bound}, \infty)"]
    return Made(f"x > {bound}", "expression", right, wrong)


def union(rng: random.Random) -> Made:
    a, b, c, d = bounds(rng, 4)
    one = rng.choice((rf"(-\infty, {b})", f"({a}, {b}]", f"[{a}, {b})"))
    other = rng.choice((rf"({c}, \infty)", f"[{c}, {d}]"))
    right = [rf"{other} \cup {one}", rf"\left{one[:-1]}\right{one[-1]}\cup\left{other[:-1]}\right{other[-1]}",
             f"{one}∪{other}",
             rf"${one}\cup {other}$", rf"x\in {one}\cup {other}"]
    if one.startswith(r"(-\infty") and other.endswith(")"):
        right += [f"x < {b} or x > {c}", f"x > {c} or x < {b}", rf"x<{b} \text{{ or }} x>{c}"]
    wrong = [one, other, rf"{one} \cap {other}", rf"{one} \cup [{c}, {d + 1}]", rf"[{a}, {b}] \cup {other}", str(b),
             str(c),
             f"x < {b}", f"x > {c}"]
    return Made(rf"{one} \cup {other}", "interval", right, wrong)


def ratio(rng: random.Random) -> Made:
    a, b = ratio_of(rng)
    while b > 9 or a > 9:
        a, b = ratio_of(rng)
    if rng.random() < 0.3:
        c = rng.randint(10, 19)
        right = [f"{a} : {b} : {c}", f"{a}∶{b}∶{c}", f"{2 * a}:{2 * b}:{2 * c}", f"${a}:{b}:{c}$"]
        return Made(f"{a}:{b}:{c}", "ratio", right, [f"{a}:{b}", f"{c}:{b}:{a}", str(a), str(b), str(c),
                                                     f"{a}:{b}:{c + 1}",
                                                     rf"\frac{{{a}}}{{{b}}}", f"{a}, {b}, {c}"])
    right = [f"{a} : {b}", f"{a}∶{b}", rf"\frac{{{a}}}{{{b}}}", f"${a}:{b}$", f"{a}/{b}", f"{a} to {b}",
             f"{3 * a}:{3 * b}"]
    wrong = [f"{b}:{a}", str(a), str(b), rf"\frac{{{b}}}{{{a}}}", f"{a}:{b + 10}", f"{a}:{b}:1", f"{a}, {b}",
             f"({a}, {b})"]
    return Made(f"{a}:{b}", "ratio", right, wrong)


CIRCLED = "①②③④⑤⑥⑦⑧⑨"


def statements(rng: random.Random) -> Made:
    numbers = sorted(rng.sample(range(1, 7), rng.randint(2, 4)))
    circled = [CIRCLED[k - 1] for k in numbers]
    order = rng.sample(circled, len(circled))
    dotted = "".join(f"{k}." for k in numbers)
    right = ["".join(circled), "".join(order), "".join(f"({k})" for k in numbers), ", ".join(map(str, numbers)),
             ", ".join(circled),
             "、".join(circled), " and ".join(circled) if len(circled) == 2 else "".join(circled), " ".join(circled)]
    wrong = [*circled, *map(str, numbers), *("".join(some) for some in all_but_one(circled) if some),
             "".join([*circled, "⑨"]),
             "".join(map(str, numbers)), ".".join(map(str, numbers[:2])), "".join(circled[:-1]) + "⑧"]
    types = "statements" if len(numbers) > 2 or circled[0] >= "①" else "float"
    text = rng.choice(["".join(circled), "".join(f"({k})" for k in numbers), *([dotted] if len(numbers) > 2 else [])])
    return Made(text, types, right, wrong)

# --- more of one kind each --------------------------------------------------------------------------------------------


def tiny(rng: random.Random) -> Made:
    n = rng.randint(60, 120)
    if rng.random() < 0.5:
        right = [rf"\frac{{1}}{{2^{{{n}}}}}", rf"\left(\frac{{1}}{{2}}\right)^{{{n}}}", rf"0.5^{{{n}}}",
                 rf"2\cdot 2^{{-{n + 1}}}", f"2^-{n}"]
        wrong = [f"2^{{-{n + 1}}}", f"2^{{{n}}}", "0", f"-2^{{-{n}}}", "2", str(n), f"-{n}", f"{n}^{{-2}}",
                 f"3^{{-{n}}}"]
        return Made(f"2^{{-{n}}}", "expression", right, wrong)
    right = [rf"\frac{{1}}{{{n}\cdot {n - 1}!}}", f"1/{n}!", rf"\dfrac{{1}}{{{n}!}}",
             rf"\frac{{{n + 1}}}{{({n + 1})!}}", rf"({n}!)^{{-1}}"]
    wrong = [rf"\frac{{1}}{{{n + 1}!}}", f"{n}!", "0", "1", str(n), rf"\frac{{1}}{{{n}}}", rf"\frac{{2}}{{{n}!}}"]
    return Made(rf"\frac{{1}}{{{n}!}}", "expression", right, wrong)


def huge(rng: random.Random) -> Made:
    number = rng.randint(10**29, 10**30)
    right = [f"{number:,}", f"{number:,}".replace(",", "{,}"), f"${number}$", f"{number}.0", f"x={number}"]
    return Made(str(number), "integer", right, [str(number + 1), str(number - 1), str(number)[:-1], f"-{number}",
                                                f"{number}0", f"{number / 10**29:.6f}e29"])


def complex_number(rng: random.Random) -> Made:
    a, b = rng.randint(2, 20), rng.randint(2, 20)
    right = [f"{b}i+{a}", f"{a} + {b}i", f"{a}+i{b}", rf"{a}+{b}\mathrm{{i}}", f"-(-{a}-{b}i)", f"z = {a}+{b}i",
             f"i({b}-{a}i)"]
    wrong = [f"{a}-{b}i", str(a), f"{b}i", str(b), f"{b}+{a}i" if a != b else "0", f"-{a}+{b}i", f"{a}+{b}",
             f"({a}, {b})", f"{a}+{b}j"]
    return Made(f"{a}+{b}i", "expression", right, wrong)


def function(rng: random.Random) -> Made:
    a, b = rng.randint(2, 9), rng.randint(2, 6)
    text, right, wrong = rng.choice((
        (rf"{a}\sin {b}x", [rf"{a}\sin({b}x)", rf"{a}\cdot\sin\left({b}x\right)", rf"\sin({b}x)\cdot {a}",
                            f"{a}sin({b}x)", rf"-{a}\sin(-{b}x)"],
         [str(a), rf"\sin {b}x", rf"{a}\cos {b}x", rf"{a}\sin x", rf"{b}\sin {a + b}x", rf"{a}\sin^{{2}} {b}x",
          rf"{a}\sin {b}t"]),
        (rf"e^{{{a}x}}+{b}", [rf"{b}+e^{{{a}x}}", rf"(e^x)^{{{a}}}+{b}", rf"\exp({a}x)+{b}",
                              rf"\mathrm{{e}}^{{{a}x}}+{b}"],
         [rf"e^{{{a}x}}", str(b), rf"e^{{{a}x+{b}}}", rf"e^{{{a + 1}x}}+{b}", rf"e^{{-{a}x}}+{b}", rf"{a}e^x+{b}"]),
        (rf"\log_{{{a}}} x", [rf"\frac{{\ln x}}{{\ln {a}}}", rf"\log_{{{a}}}(x)", rf"\log_{{{a}}}{{x}}",
                              rf"-\log_{{{a}}}\frac{{1}}{{x}}"],
         [r"\log x", rf"\log_{{{a + 1}}} x", rf"\log_x {a}", "x", str(a), rf"\log_{{{a}}} y", r"\ln x"]),
        (rf"|x-{a}|", [rf"|{a}-x|", rf"\left|x-{a}\right|", rf"\lvert x-{a}\rvert", rf"\sqrt{{(x-{a})^2}}"],
         [f"x-{a}", f"|x+{a}|", str(a), "x", f"|x|-{a}", f"|y-{a}|"]),
        (rf"\sqrt{{x+{a}}}", [rf"(x+{a})^{{\frac{{1}}{{2}}}}", rf"\sqrt{{{a}+x}}", f"√(x+{a})", rf"\sqrt[2]{{x+{a}}}"],
         [f"x+{a}", rf"\sqrt{{x}}+{a}", rf"\sqrt{{x-{a}}}", r"\sqrt{x}", rf"\sqrt{{{a}}}", rf"\sqrt[3]{{x+{a}}}"]),
        (rf"x_{{{a}}}+x_{{{b + 10}}}", [rf"x_{{{b + 10}}}+x_{a}", rf"x_{a}+x_{{{b + 10}}}"],
         [rf"x_{a}", rf"x_{a}-x_{{{b + 10}}}", rf"2x_{a}", f"{a}x+{b + 10}x"]),
        (rf"\vec{{a}}+{a}\vec{{b}}", [rf"{a}\vec{{b}}+\vec{{a}}", rf"\overrightarrow{{a}}+{a}\overrightarrow{{b}}",
                                      rf"\vec a + {a}\vec b"],
         [r"\vec{a}", rf"{a}\vec{{b}}", f"a+{a}b", rf"\vec{{b}}+{a}\vec{{a}}", rf"\vec{{a}}-{a}\vec{{b}}"]),
    ))
    return Made(text, "expression", [*right, f"${text}$", rf"y = {text}" if "a" not in text else text], wrong)


def money(rng: random.Random) -> Made:
    amount = f"{rng.randint(1, 900)}.{rng.choice((25, 50, 75, 99, '05'))}"
    right = [amount, rf"\${amount}", f"${amount}", f"{amount} dollars", rf"\${amount}0", rf"\text{{\${amount}}}",
             rf"{amount}\text{{ USD}}"]
    wrong = [f"€{amount}", rf"\$1{amount}", f"{amount} cents", amount.partition(".")[0], f"-{amount}", f"{amount} kg",
             r"\$", "dollars"]
    return Made(rng.choice((rf"\${amount}", f"${amount}", f"{amount} dollars")), "quantity", right, wrong)


def named_quantity(rng: random.Random) -> Made:
    name, other = rng.choice((
        ("Area", "Perimeter"), ("Surface area", "Volume"), ("AB", "CD"), (r"\text{Speed}", "Mass"),
    ))
    spelt, _, misses = rng.choice(UNITS)
    value = str(rng.randint(2, 900))
    unit = spelt[0]
    right = [value, f"{value}{unit}", f"{name}={value}", f"{name} = {value}{spelt[1]}", rf"${value}{unit}$",
             f"{name.lower() if len(name) > 2 and chr(92) not in name else name} = {value}{unit}"]
    wrong = [name, unit, f"{other} = {value}{unit}", *(f"{name} = {value}{miss}" for miss in misses),
             *(f"{value}{miss}" for miss in misses),
             f"{name} = 1{value}{unit}", f"{name} = -{value}{unit}"]
    return Made(f"{name} = {value}{unit}", "named", right, wrong)


def named_ratio(rng: random.Random) -> Made:
    a, b = rng.sample((2, 3, 5, 7), 2)
    one, other = rng.choice((("V_1", "V_2"), ("a", "b"), ("AB", "CD"), (r"S_{1}", r"S_{2}")))
    right = [f"{a}:{b}", f"{one} : {other} = {a} : {b}", rf"\frac{{{a}}}{{{b}}}", rf"${one}:{other}={a}:{b}$",
             rf"\frac{{{one}}}{{{other}}} = \frac{{{a}}}{{{b}}}"]
    wrong = [f"{b}:{a}", str(a), str(b), f"{one}:{other}", f"{one}:{other} = {b}:{a}", rf"\frac{{{b}}}{{{a}}}",
             f"{other}:{one} = {a}:{b}", f"{one} = {a}"]
    return Made(f"{one}:{other} = {a}:{b}", "named", right, wrong)


def named_point(rng: random.Random) -> Made:
    a, b = rng.sample(range(-30, 30), 2)
    name, other = rng.sample("PQRABC", 2)
    right = [f"({a}, {b})", f"{name}({a},{b})", rf"{name}\left({a}, {b}\right)", rf"$({a},\,{b})$"]
    wrong = [f"({b}, {a})", str(a), str(b), name, f"{other}({a}, {b})", f"({a}, {b + 1})", f"[{a}, {b}]",
             f"{name}({a}, {b}, 0)"]
    return Made(f"{name}({a}, {b})", "named", right, wrong)


def chain(rng: random.Random) -> Made:
    a, b = rng.randint(3, 40), rng.randint(3, 40)
    right = [str(a * b), rf"{a}\times {b} = {a * b}", f"{b}*{a} = {a * b}", f"x = {a * b}", rf"{a * b}\text{{ cm}}"]
    wrong = [str(a), str(b), f"{a}*{b} = {a * b + 1}", str(a * b + 1), f"{a}{b}", f"-{a * b}"]
    return Made(rf"{a} \times {b} = {a * b}", "named", right, wrong)


def measures(rng: random.Random) -> Made:
    (one, _, misses), (other, _, others) = rng.sample(UNITS, 2)
    a, b = rng.sample(range(2, 900), 2)
    right = [f"{a}; {b}", f"{a}{one[0]}; {b}{other[0]}", f"{a}{one[1]}, {b}{other[1]}",
             rf"{a}{one[0]} \text{{ and }} {b}{other[0]}", f"(1) {a}{one[0]} (2) {b}{other[0]}"]
    wrong = [str(a), str(b), f"{a}{one[0]}", f"{b}{other[0]}", f"{b}; {a}", f"{b}{other[0]}; {a}{one[0]}",
             f"{a}{misses[0]}; {b}{other[0]}",
             f"{a}{one[0]}; {b}{others[0]}", f"{a}{one[0]}; {b}{other[0]}; 1"]
    return Made(f"{a}{one[0]}; {b}{other[0]}", "blanks", right, wrong)


def any_one(rng: random.Random) -> Made:
    one, other = distinct(rng, 2)
    right = [one.text, other.text, one.spellings[0], f"x = {other.text}"]
    wrong = [one.misses[0], other.misses[0], f"{one.text}{other.text}" if one.text.isdigit() else "170003"]
    return Made(f"{one.text} or {other.text} (any one)", "alternatives", right, wrong)


WORDS = ("the line rises", "isosceles triangle", "no solution", "north west", "it decreases", "an even number",
         "blue circle", "photosynthesis")


def wording(rng: random.Random) -> Made:
    words = rng.choice(WORDS)
    right = [words.upper(), words.capitalize(), rf"\text{{{words}}}", f"{words}.", f"**{words}**",
             words.replace(" ", "  "), rf"\mathrm{{{words.replace(' ', '~')}}}"]
    wrong = [*(word for word in words.split() if word != words), f"not {words}",
             rng.choice([one for one in WORDS if one != words]), f"{words} or not", "1", "?"]
    return Made(words, "text", right, wrong)


def clock(rng: random.Random) -> Made:
    hour, minute = rng.randint(1, 11), rng.randint(10, 58)
    right = [f"{hour}:{minute} PM", f"{hour + 12}:{minute}", rf"{hour}:{minute}\text{{ p.m.}}", f"{hour}:{minute}pm"]
    wrong = [f"{hour}:{minute} am", f"{hour}:{minute + 1} pm", f"{hour % 11 + 1}:{minute} pm",
             f"{hour + 12}:{minute + 1}",
             str(hour), str(minute)]
    return Made(f"{hour}:{minute} pm", "ratio", right, wrong)


KINDS: dict[str, Callable[[random.Random], Made]] = {
    "integer": single(integer, "integer"), "decimal": single(decimal, "float"),
    "fraction": single(fraction, "expression"),
    "root": single(root, "expression"), "circle": single(circle, "expression"), "expression": expression,
    "quotient": quotient,
    "equation": equation, "quantity": quantity, "named": named, "blanks": blanks, "alternatives": alternatives,
    "either": either,
    "system": system, "set": set_of, "point": point, "interval": interval, "ray": ray, "inequality": inequality,
    "union": union,
    "ratio": ratio, "statements": statements, "tiny": tiny, "huge": huge, "complex": complex_number,
    "function": function,
    "money": money, "named quantity": named_quantity, "named ratio": named_ratio, "named point": named_point,
    "chain": chain,
    "measures": measures, "any one": any_one, "wording": wording, "clock": clock,
}


def references(kind: str, n: int = N_OF_EACH_KIND) -> list[Made]:
    rng = random.Random(f"{SEED} {kind}")
    return [KINDS[kind](rng) for _ in range(n)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_is_right_and_a_part_or_a_near_miss_is_wrong(kind):
    differing = []
    for made in references(kind):
        answer, answer_type = valued(made.text)
        if answer_type not in made.types.split():
            differing.append(f"{made.text!r} is of type {answer_type}")
            continue
        for texts, expected in (([made.text, answer, *made.right], True), (made.wrong, False)):
            differing += [
                f"{text!r} to {made.text!r} ({answer_type}) is {'right' if expected else 'wrong'}"
                for text in dict.fromkeys(texts) if verify(text, answer, answer_type) is not expected
            ]
    assert not differing, f"seed {SEED}, {len(differing)} verdicts differ:\n" + "\n".join(differing[:40])


def test_in_a_box_as_in_the_hand():
    sample = [(kind, made) for kind in KINDS for made in references(kind, 12)]
    assert len(sample) * N_OF_EACH_KIND / 12 > 3000
    responses, expected = [], []
    for kind, made in sample:
        answer, answer_type = valued(made.text)
        problem = Problem(kind, "", (), answer, answer_type=answer_type)
        texts = [made.text, *made.right, *made.wrong]
        responses += [Response(problem, f"<think>so</think>It is \\boxed{{{text}}}", False, 0) for text in texts]
        expected += [True] * (1 + len(made.right)) + [False] * len(made.wrong)
    grades = grade_all(responses)
    differing = [f"{response.text!r} to {response.problem.answer!r} is {'right' if is_right else 'wrong'}"
                 for response, grade, is_right in zip(responses, grades, expected, strict=True)
                 if (grade.accuracy == 1.0) != is_right]
    assert not differing, f"seed {SEED}:\n" + "\n".join(differing[:40])


def options(rng: random.Random) -> tuple[tuple[str, ...], int, list[Term]]:
    """Options, some of them with a unit, and which of them is right."""
    terms = distinct(rng, rng.randint(2, 6))
    unit = rng.choice(("", "", r"\text{ cm}", r"\text{ kg}"))
    return tuple(one.text + unit for one in terms), rng.randrange(len(terms)), terms


def test_an_option_is_named_by_its_letter_or_its_text_and_by_no_other():
    rng = random.Random(f"{SEED} options")
    differing = []
    for _ in range(2 * N_OF_EACH_KIND):
        choices, index, terms = options(rng)
        gold, own = "ABCDEF"[index], choices[index]
        others = [("ABCDEF"[k], text) for k, text in enumerate(choices) if k != index]
        right = [gold, f"({gold})", f"{gold}.", rf"\text{{{gold}}}", f"**{gold}**", f"({gold}) {own}",
                 f"{gold}. {own}", own, f"${own}$",
                 terms[index].spellings[0], f"Option {gold}", gold.lower(), f"{gold}: ${own}$"]
        wrong = ["G", "", f"{gold} or {others[0][0]}", f"{gold}{others[0][0]}", f"{gold}, {others[0][0]}",
                 *terms[index].misses[:2]]
        for letter, text in others:
            wrong += [letter, text, f"{letter}. {text}", f"{letter}. {own}", f"{gold}. {text}", f"({letter}) {own}"]
        for texts, expected in ((right, True), (wrong, False)):
            differing += [f"{text!r} to {gold} of {choices}" for text in texts
                          if verify(text, gold, "choice", choices) is not expected]
    assert not differing, f"seed {SEED}, {len(differing)} verdicts differ:\n" + "\n".join(differing[:40])


def test_references_prove_themselves():
    """None of them is refused when data are read."""
    sample = [(kind, *valued(made.text)) for kind in KINDS for made in references(kind, 20)]
    unfit = check_answers([Problem(kind, "", (), answer, answer_type=answer_type)
                           for kind, answer, answer_type in sample])
    assert not unfit, "\n".join(f"{problem.problem_id}: {error.found}" for problem, error in unfit)


@pytest.mark.parametrize(("verdict", "expected"), [
    (True, ["'7', a part of it, is right", "'10', a part of it, is right"]),
    (False, ["the answer itself in a box is wrong", "'7, 10', another spelling of it, is wrong"]),
])
def test_a_verifier_that_is_wrong_fails_the_proof(monkeypatch, verdict, expected):
    """One that lets everything pass, and one that lets nothing pass."""
    monkeypatch.setattr(proof, "decide", lambda *_: verdict)
    found = proof.failures(Problem("p", "", (), "7; 10", answer_type="blanks"))
    assert set(expected) <= set(found)
    assert all(("is right" in one) == verdict for one in found)


def test_letters_of_an_option_have_their_case():
    assert not verify("5 mW", "A", "choice", ("5 MW", "5 kW")) and verify("5 MW", "A", "choice", ("5 MW", "5 mW"))
    assert not verify("2r", "A", "choice", ("2R", "3R"))
    assert not verify(r"\delta", "A", "choice", (r"$\Delta$", r"$\pi$"))
    assert not verify(r"the angle $\delta$", "A", "choice", (r"the angle $\Delta$", r"$\pi$"))
    assert verify(r"The Angle $\Delta$", "A", "choice", (r"the angle $\Delta$", r"$\pi$"))
    problem = Problem("p", "", (), "A", answer_type="choice", choices=(r"$\Delta$", r"$\pi$"))
    said = [Response(problem, text, False, 0) for text in (r"We find $\delta$ here.", r"We find $\Delta$ here.")]
    assert [grade.accuracy for grade in grade_all(said, extraction=WAYS)] == [0.0, 1.0]
    assert verify("navy blue", "A", "choice", ("Navy Blue", "Red")) and verify("yes", "B", "choice", ("No", "Yes"))


@pytest.mark.parametrize(("text", "expected"), [
    ("= 5", ("5", "integer")), ("about 5", ("5", "integer")), ("{7}", ("7", "integer")), ("7。", ("7", "integer")),
    (r"\approx 3.14", ("3.14", "float")), ("1,234", ("1,234", "integer")), ("- 7", ("-7", "integer")),
    ("1e3", ("1e3", "float")),
    ("$7$", ("7", "integer")), ("<answer>5</answer>", ("5", "integer")), ("#### 12", ("12", "integer")),
    ("B", ("B", "choice")),
])
def test_a_number_is_kept_as_a_number(text, expected):
    assert valued(text) == expected
