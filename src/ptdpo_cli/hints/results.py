"""What a worked solution finds on its way: numbers that a hint must not hold, because little is left beside them."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from ptdpo_cli.hints.numbers import Value, is_same, numbers_in, unit_at

MAX_RESULTS = 24
# What makes the number behind it a result.
_STATES = re.compile(
    r"(?:[=≈⇒→]|\\(?:approx|Rightarrow|implies)|\b(?:is|are|was|were|equals?|gives?|giving|makes?|yields?|becomes?|gets?"
    r"|obtains?|has|have|shows?|contains?|holds?|measures?|totals?|leaves?|leaving|reaches|costs?|weighs?|means"
    r"|stands\s+for|comes?\s+to|adds?\s+up\s+to|sums?\s+to|works?\s+out\s+(?:to|at|as))\b)"
    r"(?:\s+(?:about|also|only|exactly|then|thus|equal\s+to|at))?[\s$({\[\\+\-−£€]*\Z",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"\s*[A-Za-z°%$]{0,12}\s*(?:,|,?\s*and)\s+[$({]*\Z", re.IGNORECASE)      # "5, 8 and 10"
_GOES_ON_AS_PRODUCT = re.compile(r"\s?(?:[·*×]|\\(?:cdot|times|pi)|π|[a-zA-Z]\b)")
_FACTORS = frozenset({Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(1, 6), Fraction(4, 3)})   # of formulas
_LOOK_BACK = 28
# What everybody knows; and what stands in equations without being found: small factors and exponents, per cent.
_NO_RESULTS = frozenset({("π", Fraction(1)), *map(Fraction, (0, 1, 90, 180, 360))})
_NO_TERMS = _NO_RESULTS | frozenset(map(Fraction, (2, 3, 4, 10, 60, 100)))


def decisive_results(solution: str | None, question: str = "") -> tuple[str, ...]:
    """The numbers that a worked solution states ("= 110", "the width is 10") and the terms of its last equation, the
    last ones first, as they are spelt there; those that stand in the question are left out.

    At most `MAX_RESULTS` of them, for the last ones decide.
    """
    return _decisive(solution, question) if solution else ()


@lru_cache(maxsize=1024)
def _decisive(solution: str, question: str) -> tuple[str, ...]:
    known = numbers_in(question)
    known_values: set[Value] = set().union(*(number.values for number in known))
    known = [number for number in known if number.unit or number.decimals]
    last_sign = max(solution.rfind(sign) for sign in "=≈→")
    ends = (". ", ";", "\n")
    last_sentence = max(solution.rfind(end, 0, last_sign) for end in ends) if last_sign > 0 else len(solution)
    is_result, end = False, 0
    results: dict[str, None] = {}
    for number in (one for one in numbers_in(solution) if not one.terms):
        before = solution[max(end, number.start - _LOOK_BACK) : number.start]
        goes_on = is_result and _GOES_ON.fullmatch(solution, end, number.start)
        is_result = bool(goes_on or _STATES.search(before))
        is_factor = number.values <= _FACTORS and _GOES_ON_AS_PRODUCT.match(solution, number.end)
        is_result = is_result and not is_factor
        is_term = number.start >= last_sentence and not number.values <= _NO_TERMS and not is_factor
        if any(is_same(number, other) for other in known):
            known_values |= number.values       # "1 kg = 1000 g": also the 1000 of what follows
        elif ((is_result and not number.values <= _NO_RESULTS) or is_term) and not number.values & known_values:
            text = solution[number.start : unit_at(solution, number.end)[1]]
            results.pop(text, None)
            results[text] = None
        end = number.end
    return tuple(results)[::-1][:MAX_RESULTS]
