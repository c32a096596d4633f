"""`ptdpo …` in this process, as a shell sees it, and small data files to give to it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from conftest import SMALL
from ptdpo_cli import cli, console

RECIPES = Path(__file__).parents[1] / "recipes"
TINY = ("--recipe", str(RECIPES / "tiny.yaml"), *(word for override in SMALL for word in ("--set", override)))


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def path(self) -> Path:
        return Path(self.out.removesuffix("\n"))

    @property
    def json(self) -> dict:
        return json.loads(self.out)


def ptdpo(*arguments: object) -> Done:
    """Run a command; what it did to signal handlers and verbosity is undone."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before, sys.argv = sys.argv, ["ptdpo", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        return Done(end.code, out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
        console.Verbosity.quiet = console.Verbosity.verbose = False
        for number, handler in handlers.items():
            signal.signal(number, handler)
    raise AssertionError("main() returned without an exit code")


def done(*arguments: object) -> Done:
    """Run a command that must succeed."""
    ended = ptdpo(*arguments)
    assert ended.code == 0, ended.err
    return ended


def refused(code: int, *arguments: object, says: tuple[str, ...] = ()) -> str:
    """Run a command that must end with this code, nothing on stdout, and one message with a hint; the message."""
    ended = ptdpo(*arguments)
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert len(re.findall(r"^error: ", ended.err, re.MULTILINE)) == 1 and "\nhint: " in ended.err, ended.err
    assert "Traceback" not in ended.err and "unexpected" not in ended.err, ended.err
    for words in says:
        assert words in ended.err, ended.err
    return ended.err[ended.err.index("error: ") :]


def png(width: int = 48, height: int = 48, colour="white", mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.new(mode, (width, height), colour).save(data, "PNG")
    return data.getvalue()


def jsonl(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def flip(path: Path, at: float = 0.5) -> None:
    """Change one bit of a file, at this fraction of its length."""
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)
