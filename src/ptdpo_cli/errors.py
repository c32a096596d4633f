"""The errors a user can meet, and the exit code of each.

    PtdpoError        1   the stage failed
    ├── UsageError    2   bad usage, recipe or data
    ├── ArtifactError 3   an artifact is missing, corrupt or incompatible
    └── LockedError   4   another writer holds it

    KeyboardInterrupt 130 Ctrl-C; what was finished is saved
    Terminated        143 SIGTERM; likewise

Each says what is wrong, what was expected and found, and the command that mends it. Only `cli.main` catches them.
"""


class PtdpoError(Exception):
    """What is wrong in one sentence without a full stop, with optional `expected`, `found` and `hint` lines."""

    exit_code = 1

    def __init__(self, what: str, *, expected: object = None, found: object = None, hint: str | None = None):
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.expected is not None:
            lines.append(f"  expected  {self.expected}")
        if self.found is not None:
            lines.append(f"  found     {self.found}")
        if self.hint:
            lines += ["", f"hint: {self.hint}"]
        return "\n".join(lines)


class UsageError(PtdpoError):
    """The command, the recipe or the user's data is wrong: nothing was started."""

    exit_code = 2


class ArtifactError(PtdpoError):
    """An artifact is missing, unfinished, corrupt, of a newer schema, or does not belong to its partners."""

    exit_code = 3


class LockedError(PtdpoError):
    """Another process is writing this artifact."""

    exit_code = 4


class Terminated(BaseException):
    """SIGTERM arrived (Slurm preemption, time limit); everything finished is on disk.

    Like Ctrl-C no Exception: the `except Exception` of a library that it lands in must not turn it into something else.
    """

    exit_code = 143

    def __init__(self, *, is_agreed: bool = False):
        super().__init__()
        self.is_agreed = is_agreed  # a peer of a distributed run ended, and all ranks know
