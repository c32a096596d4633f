r"""One spelling of mathematical text: LaTeX without its dress, Unicode's signs as LaTeX has them.

What is left has ASCII operators, LaTeX commands for what ASCII lacks, `\text{…}` around upright letters (a word, a
unit), `\degree`, and `$` where a formula begins and ends. Nothing that carries meaning is dropped, and case is kept.
Every pattern has bounded repetitions, so that any text takes linear time.
"""

from __future__ import annotations

import re
import unicodedata

from ptdpo_cli.mathtext.braces import closing_brace

MAX_CHARACTERS = 2000       # no answer is longer, and a longer text is left as it is

_GREEK = dict(zip(
    "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩϕϑϵ",
    [
        "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu",
        "xi", "pi", "rho", "sigma", "tau", "upsilon", "varphi", "chi", "psi", "omega", "Gamma", "Delta", "Theta",
        "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega", "phi", "vartheta", "epsilon",
    ],
    strict=True,
))
_SIGNS = (
    {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}        # a Chinese keyboard's ASCII
    | {ord(letter): rf"\{name} " for letter, name in _GREEK.items()}
    | {ord(sign): "-" for sign in "−–‐‑－﹣"}
    | {ord(sign): " " for sign in "\u3000\u00a0\u2002\u2003\u2009\u200a\u202f\u2005"}
    | {ord(sign): None for sign in "\u200b\u200c\u200d\u2060\ufeff\u2061\u2062"}
    | {ord(sign): r"\degree " for sign in "°º˚∘"}
    | {ord(sign): r"\cdot " for sign in "·⋅∙"}
    | {ord(sign): r"\triangle " for sign in "△∆"}
    | {ord(sign): '"' for sign in "“”„"} | {ord(sign): "'" for sign in "‘’`´′"} | {0x2033: "''"}
    | {ord(sign): ":" for sign in "∶："} | {ord(sign): "," for sign in "，、"} | {ord(sign): "." for sign in "。．"}
    | {ord(sign): rf"\{name} " for sign, name in {
        "×": "times", "÷": "div", "±": "pm", "∓": "mp", "∞": "infty", "≤": "leq", "≥": "geq", "⩽": "leq", "⩾": "geq",
        "≠": "neq", "≈": "approx", "∠": "angle", "⊥": "perp", "∥": "parallel", "∪": "cup", "∩": "cap", "∈": "in",
        "∉": "notin", "∅": "emptyset", "→": "to", "⇒": "Rightarrow", "…": "ldots", "⊙": "odot", "∴": "therefore",
        "∵": "because", "≌": "cong", "≅": "cong", "∽": "sim", "Ω": "Omega", "µ": "mu", "ℓ": "ell",
    }.items()}
    | {ord("㎝"): r"\text{cm}", ord("㎡"): r"\text{m^2}", ord("㎜"): r"\text{mm}", ord("㎞"): r"\text{km}",
       ord("㎏"): r"\text{kg}", ord("℃"): r"\degree \text{C}", ord("℉"): r"\degree \text{F}"}
    | {ord(raised): f"\ue002{digit}" for raised, digit in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True)}
    | {ord(lowered): f"\ue003{digit}" for lowered, digit in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)}
)
_RUN = {mark: re.compile(rf"(?:{mark}[0-9+\-n])+") for mark in "\ue002\ue003"}
_VULGAR = re.compile("[¼-¾⅐-⅞]")
CIRCLED = {chr(0x2460 + k): k + 1 for k in range(20)}
_ROOT = re.compile(
    r"√\s{0,4}(?:\(([^()√]{1,100})\)|\{([^{}√]{1,100})\}|([0-9]{1,20}(?:\.[0-9]{1,20})?|\\pi|[A-Za-z]|(?=\\)))"
)

# "\\\\frac" of a text that was escaped twice; a line break before the name of a command is not written.
_ESCAPED_TWICE = re.compile(
    r"\\\\(?=(?:left|right|[dtc]?frac|sqrt|boxed|text|leq?|geq?|pi|times|cdot|pm|infty|in|cup|begin|end|circ)(?![A-Za-z]))"
)
_BREAK = re.compile(r"\\\\(?:\[[0-9a-z. ]{1,10}\])?|\\newline(?![A-Za-z])|\\par(?![A-Za-z])")
_SPACES = re.compile(r"\\[,;:> ]|~|\\q?quad|\\(?:thinspace|enspace|hfill|hfil|medspace|thickspace)(?![A-Za-z])")
_NO_SPACE = re.compile(
    r"\\!\s{0,4}|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|mathstrut|strut"
    r"|noindent|rm|bf|it|sf|tt|nonumber|hline|boldmath|unboldmath|mathord|mathopen|mathclose|middle"
    r"|tiny|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge)(?![A-Za-z])\.?(?<![0-9])"
)
_WITH_LENGTH = re.compile(r"\\(?:hspace|vspace|mspace|phantom|hphantom|vphantom|label|tag|cite)\*?\s?\{[^{}]{0,40}\}")
_DELIMITERS = re.compile(r"\$\$|\\[()\[\]]")
_DEGREE = re.compile(
    r"(?:\{\})?\^\s?(?:\{\s?(?:\{\}\^)?\s?\\circ\s?\}|\\circ(?![a-z]))|\\degrees?(?![a-z])|\\circ(?![a-z])"
)
_COMMANDS = {
    name: new
    for new, names in {
        r"\frac": "dfrac tfrac cfrac sfrac", r"\binom": "dbinom tbinom", r"\leq": "le leqslant leqq",
        r"\geq": "ge geqslant geqq", "<": "lt", ">": "gt", r"\neq": "ne", r"\cdot": "cdotp bullet ast",
        r"\ldots": "cdots dots dotsc dotsb", r"\triangle": "vartriangle bigtriangleup", r"\emptyset": "varnothing",
        r"\to": "rightarrow longrightarrow", r"\infty": "infin", r"\vec": "overrightarrow",
        r"\overline": "bar", r"\phi": "varphi", r"\epsilon": "varepsilon", r"\cong": "equiv", r"\land": "wedge",
        r"\lor": "vee", "|": "vert lvert rvert mid", r"\{": "lbrace", r"\}": "rbrace", r"\%": "percent", ":": "colon",
        r"\widehat": "hat",
    }.items()
    for name in names.split()
}
_TABLE = re.compile(r"\\begin\s?\{(?:[pbvBV]?matrix|smallmatrix|array|tabular)\}")     # its rows are no lines
_COMMAND = re.compile(r"\\([A-Za-z]+)")
# What a command's argument is set in: upright text, or nothing but dress.
_UPRIGHT = frozenset([
    "text", "textrm", "textnormal", "textup", "textsf", "texttt", "textbf", "textit", "mbox", "hbox", "mathrm",
    "mathsf", "mathtt", "operatorname", "emph", "ce", "textmd", "boldtext",
])
_DRESS = frozenset([
    "mathbf", "mathit", "mathcal", "mathbb", "mathfrak", "boldsymbol", "bm", "pmb", "mathop", "mathrel", "mathbin",
    "underline", "fbox", "boxed", "framebox", "uline", "bold", "number", "num", "ensuremath", "smash", "cancel",
    "mathnormal", "mathscr", "math", "underbar",
])
_COLOURED = frozenset(["color", "textcolor", "colorbox"])
_MEASURED = frozenset(["SI", "qty", "quantity"])
_THOUSANDS = re.compile(r"(?<=[0-9])\{,\}(?=[0-9]{3})")
_POINT = re.compile(r"(?<=[0-9])\{([.:])\}(?=[0-9])")


def spelt(text: str, *, max_characters: int = MAX_CHARACTERS) -> str:
    r"""The text in the one spelling of this package; line breaks are kept, and `\\` is one.

    By hand: "$$\dfrac{2}{3}\pi$$" is "$\frac{2}{3}\pi$", "5\,\mathrm{~cm}^{2}" is "5 \text{cm}^{2}", "60°" is
    "60\degree", "x²" is "x^2", "3√2" is "3\sqrt{2}".
    """
    if len(text) > max_characters:
        return text.strip()
    if not text.isascii():
        text = _ascii(text)
    if "..." in text:
        text = text.replace("...", "\\ldots ")
    if "\\" not in text and "$$" not in text and "~" not in text and "{" not in text:
        return text.strip()
    if "\\\\" in text:
        text = _ESCAPED_TWICE.sub(r"\\", text) if "\\begin" not in text else text
    text = text if _TABLE.search(text) else _BREAK.sub("\n", text)
    text = _DELIMITERS.sub("$", text)
    text = _THOUSANDS.sub(",", _POINT.sub(r"\1", text))
    text = _DEGREE.sub(r"\\degree ", text)
    text = _UNIT_IN_BRACES.sub(r"\\text{\1}", text)
    text = _SPACES.sub(" ", _WITH_LENGTH.sub(" ", text))
    text = _NO_SPACE.sub("", text)
    return _undressed(text).strip()


_CHINESE_UNITS = {
    "平方厘米": "cm^2", "平方米": "m^2", "立方厘米": "cm^3", "立方米": "m^3", "厘米": "cm", "毫米": "mm", "千米": "km",
    "公里": "km", "米": "m", "千克": "kg", "公斤": "kg", "克": "g", "吨": "t", "升": "L", "毫升": "mL", "秒": "s",
    "分钟": "min", "小时": "h", "天": "days", "元": "yuan", "度": "degrees", "个": "units", "人": "people",
}
_CHINESE_UNIT = re.compile(rf"(?<=[0-9)}}$]) ?({'|'.join(_CHINESE_UNITS)})(?![\u4e00-\u9fff])")


def _ascii(text: str) -> str:
    text = _CHINESE_UNIT.sub(lambda unit: rf"\text{{{_CHINESE_UNITS[unit[1]]}}}", text)
    text = _VULGAR.sub(_fraction, text)
    text = text.translate(_SIGNS)
    for mark, sign in (("\ue002", "^"), ("\ue003", "_")):
        if mark in text:
            text = _RUN[mark].sub(lambda run, mark=mark, sign=sign: sign + _group(run[0].replace(mark, "")), text)
    return _ROOT.sub(lambda root: rf"\sqrt{{{one}}}" if (one := root[1] or root[2] or root[3]) else r"\sqrt ", text)


def _fraction(sign: re.Match) -> str:
    above, below = unicodedata.normalize("NFKC", sign[0]).split("⁄")
    return rf"\frac{{{above}}}{{{below}}}"


def _group(digits: str) -> str:
    return digits if len(digits) == 1 else f"{{{digits}}}"


def _undressed(text: str) -> str:
    r"""The text with its commands renamed and its wrappers gone; what is upright comes to stand in \text{…}."""
    parts, position = [], 0
    while (match := _COMMAND.search(text, position)) is not None:
        name = match[1]
        parts.append(text[position:match.start()])
        position = match.end()
        if name in _UPRIGHT or name in _DRESS:
            inner, position = _argument(text, position)
            if inner is None:       # \mathrm \pi, \mathbf 7
                continue
            inner = _undressed(inner)
            is_upright = name in _UPRIGHT and any(letter.isalpha() for letter in inner)
            parts.append(rf"\text{{{inner.strip()}}}" if is_upright else f"{{{inner}}}" if name in _DRESS else inner)
        elif name in _COLOURED:
            if model := _MODEL.match(text, position):
                position = model.end()
            colour, position = _argument(text, position)
            inner, after = _argument(text, position) if colour is not None else (None, position)
            if inner is not None:
                parts.append(f"{{{_undressed(inner)}}}")
                position = after
        elif name in _MEASURED:
            value, after = _argument(text, position)
            unit, end = _argument(text, after) if value is not None else (None, position)
            if unit is not None:
                parts.append(rf"{_undressed(value)} \text{{{_undressed(unit)}}}")
                position = end
            else:
                parts.append(match[0])
        else:
            parts.append(_COMMANDS.get(name, match[0]))
    parts.append(text[position:])
    return "".join(parts)


_MODEL = re.compile(r"\s?\[[A-Za-z]{1,8}\]")


def _argument(text: str, position: int) -> tuple[str | None, int]:
    """The group in braces that begins here, after spaces, and where it ends; (None, position) where there is none."""
    start = position
    while start < len(text) and text[start] == " ":
        start += 1
    if text[start:start + 1] != "{":
        return None, position
    end = closing_brace(text, start + 1)
    return (None, position) if end is None else (text[start + 1:end], end + 1)


_DOLLAR = re.compile(r"(?<!\\)\$")
_UNIT_IN_BRACES = re.compile(       # 47{degrees}, 2\pi{feet}
    r"(?:(?<=[0-9])|(?<=\\pi)|(?<=\\pi ))"
    r"\{(degrees?|feet|inches|units|cm|mm|km|meters?|metres?|yards|miles|kg|seconds|hours)\}"
)
_WORDING = re.compile(r"\\text\{([^{}]*)\}")


def plain(text: str) -> str:
    r"""The text as a person says it aloud: `spelt`, without dollars and \text, its white space single."""
    text = spelt(text)
    while "\\text{" in text and text != (inner := _WORDING.sub(r" \1 ", text)):
        text = inner
    text = _DOLLAR.sub(" ", text).replace(r"\$", "$").replace(r"\degree", "°").replace(r"\%", "%")
    return " ".join(text.split()).strip(" *")
