"""One writer per artifact: a lock file that says who holds it.

The file appears whole (written aside, then hard-linked into place, which fails when one is there), so it excludes
writers on every host that shares the directory. Only the same host can see that a holder is dead and take over; flock
makes that step safe against a second process that sees the same.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from ptdpo_cli.errors import LockedError


class Lock:
    """`with Lock(path):` holds the lock file `path`; LockedError when another live process, or another host, does."""

    def __init__(self, path: Path, command: str | None = None):
        self.path = Path(path)
        self.command = command or command_line()
        self._text: str | None = None           # what the file says while we hold it

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *exception) -> None:
        self.release()

    def acquire(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mine = self.path.with_name(f"{self.path.name}.{platform.node()}.{os.getpid()}.{id(self):x}")
        text = json.dumps(_this_process(self.command)) + "\n"
        try:
            while self._text is None:
                mine.write_text(text)
                try:
                    os.link(mine, self.path)
                    self._text = text
                except FileExistsError:
                    _remove_if_dead(self.path)
                except FileNotFoundError:       # the new holder cleaned up; it is our turn to ask who that is
                    continue
            for aside in self.path.parent.glob(f"{glob.escape(self.path.name)}.*"):
                aside.unlink(missing_ok=True)   # also what processes left that were killed right here
        finally:
            mine.unlink(missing_ok=True)

    def release(self) -> None:
        text, self._text = self._text, None
        try:
            if text is not None and self.path.read_text() == text:
                self.path.unlink()
        except FileNotFoundError:       # someone followed the hint and deleted it
            pass


def read_holder(path: Path) -> dict | None:
    """What a lock file says: host, pid, pid_namespace, process_start, command, since; None when there is no lock file.

    A file that cannot be read as such gives {}: held by nobody knows whom.
    """
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    return _parse(text)


def describe_holder(holder: dict) -> str:
    if not holder:
        return "an unreadable lock file"
    return f"pid {holder['pid']} on {holder['host']} since {holder['since']}: {holder['command']}"


def is_dead(holder: dict) -> bool:
    """True only when the holder ran on this host, where its absence can be seen."""
    if not holder or (holder["host"], holder["pid_namespace"]) != (platform.node(), _pid_namespace()):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:             # alive, another user's
        pass
    state, start = _process(holder["pid"])
    is_reused = None not in (start, holder["process_start"]) and start != holder["process_start"]
    return state in ("Z", "X") or is_reused


def command_line() -> str:
    """The command of this process, as one would type it."""
    name = Path(sys.argv[0]).name
    return shlex.join(["ptdpo" if name == "__main__.py" else name, *sys.argv[1:]])


def _remove_if_dead(path: Path) -> None:
    """Removes the lock file of a dead process, or raises LockedError; leaves a file that came meanwhile alone."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
            raise _locked(path, read_holder(path) or {}) from None      # no flock here: leave it to the user
        try:
            if os.fstat(descriptor).st_ino != path.stat().st_ino:       # another process took over while we waited
                return
        except FileNotFoundError:
            return
        holder = _parse(os.read(descriptor, 65536))
        if not is_dead(holder):
            raise _locked(path, holder)
        path.unlink()
    finally:
        os.close(descriptor)


def _locked(path: Path, holder: dict) -> LockedError:
    if holder and (holder["host"], holder["pid_namespace"]) == (platform.node(), _pid_namespace()):
        hint = f"wait for it, or stop it with `kill {holder['pid']}` and run this again; it resumes"
    else:
        hint = f"if that process is gone for good, run `rm {shlex.quote(str(path))}` and try again"
    return LockedError(f"another process is writing {path.with_suffix('')}", found=describe_holder(holder), hint=hint)


def _this_process(command: str) -> dict:
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "pid_namespace": _pid_namespace(),
        "process_start": _process(os.getpid())[1],
        "command": command,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _parse(text: bytes) -> dict:
    try:
        holder = json.loads(text)
        return holder if {"host", "pid", "pid_namespace", "process_start", "command", "since"} <= holder.keys() else {}
    except (ValueError, AttributeError):
        return {}


def _process(pid: int) -> tuple[str | None, int | None]:
    """State letter, and start in clock ticks since boot (it tells a reused pid apart); None without /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None, None
    return fields[0], int(fields[19])


def _pid_namespace() -> str | None:
    """Containers may share a host name but not each other's pids: what is not seen from another one is not dead."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
