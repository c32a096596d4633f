"""SIGTERM and Ctrl-C end a stage between steps, never inside one."""

from __future__ import annotations

import signal
from contextlib import contextmanager

from ptdpo_cli.errors import Terminated

_held = False
_pending: int | None = None


def install() -> None:
    """From now on SIGTERM raises Terminated and SIGINT KeyboardInterrupt, both deferred inside `held()`."""
    signal.signal(signal.SIGTERM, _on_signal)
    signal.signal(signal.SIGINT, _on_signal)


@contextmanager
def held():
    """Run a block that must not be cut in two (an optimizer step, a rename); a signal acts at its end."""
    global _held, _pending
    outer, _held = _held, True
    try:
        yield
    finally:
        _held = outer
        if not _held and _pending is not None:
            number, _pending = _pending, None
            _raise(number)


def forget() -> None:
    """A signal that waits for the end of `held()` is taken care of."""
    global _pending
    _pending = None


def _on_signal(number: int, _frame) -> None:
    global _pending
    if _held:
        _pending = number
    else:
        _raise(number)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated
