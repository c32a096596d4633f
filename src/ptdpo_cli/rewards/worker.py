"""What runs in a worker process: math-verify, or a user's own functions. JSON lines in, JSON lines out.

    python -m ptdpo_cli.rewards.worker PARENT_PID MEMORY_BYTES [MODULE:FUNCTION …]

It knows no time limit. Its parent, `rewards/workers.py`, does, and kills it.
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import json
import logging
import math
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from functools import lru_cache

_PR_SET_PDEATHSIG = 1
_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?")
_LABEL = re.compile(r"[A-Za-z]{1,10} ?= ?(?=[-+0-9\\])")


def main() -> None:
    parent, memory, *names = sys.argv[1:]
    _die_with(int(parent))
    replies = _take_stdout()
    logging.disable(logging.CRITICAL)      # math-verify warns that its own time limits are off
    try:
        tasks = _load(names) if names else _algebra()
        ready = {"ready": True}
    except BaseException as error:      # a module may call sys.exit
        tasks, ready = {}, {"ready": False, "error": _name(error)}
    if not names:
        _limit_memory(int(memory))
    _say(replies, ready)
    for line in sys.stdin:
        task = json.loads(line)
        try:
            reply = {"value": tasks[task["kind"]](*task["arguments"])}
        except Exception as error:
            reply = {"error": _name(error)}
        _say(replies, {"id": task["id"], **reply})


def _die_with(parent: int) -> None:
    """Even a worker that hangs must not outlive its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:      # it ended before the line above
        os._exit(0)


def _take_stdout():
    """The pipe to the parent, under a number that `print` does not know: stdout is stderr from here on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _limit_memory(n_bytes: int) -> None:
    """A huge power ends in MemoryError here and not in the machine's swap."""
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


def _say(replies, message: dict) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


# --- algebra ----------------------------------------------------------------------------------------------------------


def _algebra() -> dict[str, Callable]:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
    from sympy import Basic, Eq, Float, MatrixBase, Rational

    latex, plain = LatexExtractionConfig(), ExprExtractionConfig()
    by_case = ConversionConfig(lowercase_symbols=False)

    @lru_cache(maxsize=50_000)
    def whole(text: str) -> tuple:
        """The expression that a text is to its last sign, or () where the grammar leaves anything over."""
        try:
            found = latex2sympy(text, conversion_config=by_case)
        except Exception:       # its parser raises whatever its grammar meets
            return ()
        return (found,) if isinstance(found, Basic | MatrixBase) else ()

    def equal(found: str, gold: str) -> bool:
        said, right = whole(found), whole(gold)
        if not said or not right or said == right:
            return bool(said and right)
        if _differ(said, right):
            return False
        return verify(list(right), list(said), timeout_seconds=None)

    @lru_cache(maxsize=50_000)
    def parsed(text: str) -> tuple:
        is_plain = _PLAIN_NUMBER.fullmatch(text)        # needs no LaTeX grammar, which takes milliseconds
        found = parse(
            text if is_plain else f"${text}$", extraction_config=[plain] if is_plain else [latex, plain],
            fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=False,
        )  # fmt: skip
        return tuple(one for one in found if not isinstance(one, str))

    def value(text: str) -> Rational | None:
        """The rational number that math-verify reads; its floats by their shortest decimal, not their bits."""
        label = _LABEL.match(text)
        (number,) = parsed(text[label.end() :] if label else text)[-1:] or (None,)
        number = number.rhs if isinstance(number, Eq) else number      # x = 5
        if not isinstance(number, Basic) or not number.is_number or not number.is_real:
            return None
        number = number.xreplace({one: Rational(str(one)) for one in number.atoms(Float)}).doit()
        return number if isinstance(number, Rational) else None

    def same_number(found: str, gold: str, decimals: int | None) -> bool | None:
        right, said = value(gold), value(found)
        if right is None:
            return None
        if said is None:
            return False
        return bool(said == right if decimals is None else abs(said - right) * 2 * Rational(10) ** decimals < 1)

    parsed("1")     # builds the tables of its grammars, which is no task's fault
    return {"equal": equal, "number": same_number, "parse": lambda text, _: bool(whole(text))}


def _differ(said: tuple, right: tuple) -> bool:
    """Whether both are real numbers and far apart, which `verify` would find out in ten times the time."""
    from sympy import Expr, N

    both = (*said, *right)
    if len(said) != 1 or len(right) != 1 or not all(isinstance(one, Expr) and one.is_number for one in both):
        return False
    first, second = (N(one, 20) for one in both)
    return bool(first.is_real and second.is_real and abs(first - second) > 1e-3 * max(1, abs(second)))


# --- functions of the user --------------------------------------------------------------------------------------------


def _load(names: list[str]) -> dict[str, Callable]:
    sys.path.insert(0, os.getcwd())
    return {name: _function(name) for name in names}


def _function(name: str) -> Callable[[str, dict], float]:
    module, _, attribute = name.partition(":")
    function = getattr(importlib.import_module(module), attribute, None)
    if not callable(function):
        raise LookupError(f"module {module} has no function {attribute}")
    inspect.signature(function).bind("response", {})     # two positional arguments, or a TypeError now

    def call(response: str, problem: dict) -> float:
        found = function(response, problem)
        # bool and NumPy's scalars are numbers; text is none, though float() would read it.
        if isinstance(found, (str, bytes)) or not math.isfinite(number := float(found)):
            raise ValueError(f"it returned {found!r}, which is no finite number")
        return number

    return call


if __name__ == "__main__":
    main()
