"""What a person sees: messages and bars on stderr, results alone on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from ptdpo_cli.errors import PtdpoError

messages = Console(stderr=True, highlight=False)
results = Console(highlight=False, soft_wrap=True)


def is_first_rank() -> bool:
    """Of the processes that torchrun started the first one alone speaks."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


class Verbosity:
    """-q says nothing but errors, -v says more."""

    quiet = False
    verbose = False


def say(text: str) -> None:
    if not Verbosity.quiet:
        messages.print(Text(text), soft_wrap=True)  # a path broken over two lines cannot be copied


def detail(text: str) -> None:
    """What only -v shows."""
    if Verbosity.verbose:
        messages.print(Text(text, style="dim"))


def warn(text: str) -> None:
    if not Verbosity.quiet:
        messages.print(Text.assemble(("warning: ", "yellow"), text), soft_wrap=True)


def fail(error: PtdpoError) -> None:
    messages.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)


def emit(result: dict, *, as_json: bool, line: str) -> None:
    """The result on stdout: one JSON object, or one line."""
    if is_first_rank():
        print(json.dumps(result) if as_json else line, file=sys.stdout, flush=True)


@contextmanager
def bar(doing: str) -> Iterator:
    """A progress callback `(done, total, what)`; a bar on a terminal, a line now and then without one."""
    if Verbosity.quiet:
        yield lambda done, total, what: None
    elif messages.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.fields[what]}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=messages, transient=True) as progress:
            task = progress.add_task(doing, total=None, what=doing)
            yield lambda done, total, what: progress.update(task, completed=done, total=total, what=f"{doing}: {what}")
    else:
        yield _lines(doing)


def _lines(doing: str):
    """Every tenth of the way one line: a log file wants no bar."""
    last = -1

    def progress(done: int, total: int, what: str) -> None:
        nonlocal last
        tenth = 10 * done // max(total, 1)
        if tenth != last:
            last = tenth
            say(f"{doing}: {done}/{total} {what}")

    return progress
