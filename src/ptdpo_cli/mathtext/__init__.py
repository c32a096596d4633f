r"""The one reader of mathematical text: LaTeX, Unicode or plain, as references and responses write it.

    spelling    one spelling of it: dress off, Unicode's signs as LaTeX commands
    units       one table of units: what they measure, and how much of it
    expression  school mathematics as a tree, read to the last sign or not at all, and its value to 60 digits
    values      what an answer is: a value with a unit, a named value, a ratio, an interval, several values, a text
    wrapping    what it may come in: tags, boxes, "Answer:", a system's lines
    reading     from a text to its value, whole or as a text
    equality    whether one answer says what another says
    parts       what a reference is made of, and how else it may be written: its own proof

Declined, and then a text: sums, integrals, limits, matrices (the worker of math-verify reads these), sentences,
chemical formulas, decimal commas, number words, digits of other scripts. Prose is read by `hints/numbers.py`.
"""

from ptdpo_cli.mathtext.equality import same, same_words, squeezed, words
from ptdpo_cli.mathtext.reading import read
from ptdpo_cli.mathtext.spelling import plain, spelt
from ptdpo_cli.mathtext.units import UNITS, Unit
from ptdpo_cli.mathtext.values import Value

__all__ = ["UNITS", "Unit", "Value", "plain", "read", "same", "same_words", "spelt", "squeezed", "words"]
