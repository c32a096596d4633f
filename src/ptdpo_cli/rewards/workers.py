"""Worker processes with a hard time limit: whatever could hang or eat memory runs there, and is killed there.

A worker is a plain subprocess that speaks JSON lines (`rewards/worker.py`): no fork of a process that may hold a GPU,
no pickle, no signal that would have to arrive in a main thread. Each has a few tasks waiting in its pipe; the clock of
a task starts when the one before it is answered. When it runs out the worker gets SIGKILL, its other tasks go to the
front of the queue, and another worker starts. Workers start when first needed and serve this process until it ends.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from ptdpo_cli.errors import PtdpoError, UsageError

_MAX_WORKERS = 8
_WAITING = 16           # tasks written ahead per worker
_TASKS_PER_WORKER = 200  # one more worker takes a second to start, which as many easy tasks take too
_SLOW_S = 1.0           # a batch that lasts longer gets all the workers
_MEMORY_BYTES = 4 << 30
_START_S = 120.0        # of importing sympy, or a user's module, on a busy machine
_REMEMBERED = 200_000   # results; then all are forgotten

Task = tuple            # kind, then two or three arguments that are JSON


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a task: its value, or why there is none."""

    status: Literal["ok", "timeout", "error"]
    value: Any = None
    error: str = ""


def ask(tasks: Sequence[Task], *, time_limit_s: float) -> list[Result]:
    """Results of algebra, in order; equal tasks are done once, and what was found is remembered.

    Tasks: ("equal", found, gold), ("number", found, gold, decimals or None), ("parse", text, "").
    """
    missing = [task for task in dict.fromkeys(tasks) if task not in _found]
    new = dict(zip(missing, pool().run(missing, time_limit_s=time_limit_s), strict=True)) if missing else {}
    answers = [new.get(task) or _found[task] for task in tasks]
    if len(_found) > _REMEMBERED:
        _found.clear()
    # A time-out may be a busy machine's fault: it is not held against the same answer later.
    _found.update({task: result for task, result in new.items() if result.status == "ok"})
    return answers


def pool(functions: tuple[str, ...] = ()) -> Pool:
    """This process's workers for algebra, or those for these functions of the user."""
    with _pools_lock:
        return _pools.setdefault(functions, Pool(functions))


class Pool:
    """Workers of one kind. It does one batch at a time; threads wait for each other."""

    def __init__(self, functions: tuple[str, ...] = ()):
        self._functions = functions
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()

    def run(self, tasks: Sequence[Task], *, time_limit_s: float) -> list[Result]:
        """The result of each task, in order; without tasks one worker is started, to see that it can be.

        Errors: PtdpoError when a worker does not start, UsageError when it cannot import the user's functions.
        """
        with self._lock:
            try:
                return self._run(tasks, time_limit_s)
            except BaseException:       # Ctrl-C too: the next batch must not read answers to this one
                self._close()
                raise

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        while self._workers:
            _kill(self._workers.pop())

    def _run(self, tasks: Sequence[Task], time_limit_s: float) -> list[Result]:
        results: list[Result | None] = [None] * len(tasks)
        queue, began, n_left = deque(range(len(tasks))), time.monotonic(), len(tasks)
        for worker in [one for one in self._workers if one.process.poll() is not None]:     # it died while idle
            self._drop(worker)
        while n_left or not (tasks or any(worker.is_ready for worker in self._workers)):
            self._hire(n_left, is_slow=time.monotonic() - began > _SLOW_S)
            share = min(_WAITING, math.ceil(n_left / len(self._workers)))
            for worker in self._workers:
                while queue and worker.is_ready and len(worker.waiting) < share:
                    worker.give(queue.popleft(), tasks)
            for worker in self._with_news(time_limit_s):
                for reply in worker.replies():
                    if "ready" in reply:
                        self._require_ready(reply)
                    else:
                        results[reply["id"]] = (
                            Result("ok", reply["value"]) if "value" in reply else Result("error", error=reply["error"])
                        )
                        n_left -= 1
            for worker in list(self._workers):
                is_late = not worker.has_ended and time.monotonic() > worker.deadline(time_limit_s)
                if is_late or worker.has_ended:
                    self._drop(worker)
                    if not worker.is_ready:
                        raise _no_start(worker)
                if (is_late or worker.has_ended) and worker.waiting:
                    results[worker.waiting.popleft()] = (
                        Result("timeout", error=f"no result in {time_limit_s:g} s") if is_late
                        else Result("error", error=f"its process ended with status {worker.process.returncode}")
                    )
                    n_left -= 1
                    queue.extendleft(reversed(worker.waiting))
        return results

    def _hire(self, n_tasks: int, *, is_slow: bool) -> None:
        most = min(_MAX_WORKERS, os.cpu_count() or 1)
        useful = n_tasks if is_slow else math.ceil(n_tasks / _TASKS_PER_WORKER)
        while len(self._workers) < max(1, min(most, useful)):
            self._workers.append(_start(self._functions))

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        _kill(worker)

    def _with_news(self, time_limit_s: float) -> list[_Worker]:
        """Wait until a worker says something, takes more, or is late; those that said something or ended."""
        now = time.monotonic()
        timeout = min(worker.deadline(time_limit_s) for worker in self._workers) - now
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                if worker.unsent:
                    selector.register(worker.process.stdin, selectors.EVENT_WRITE, worker)
            ready = selector.select(min(max(0.0, timeout) + 1e-3, _SLOW_S))
        for key, _ in ready:
            if key.fileobj is key.data.process.stdin:
                key.data.send()
        return [key.data for key, _ in ready if key.fileobj is key.data.process.stdout]

    def _require_ready(self, reply: dict) -> None:
        if reply["ready"]:
            return
        if self._functions:
            raise UsageError(
                f"cannot import the reward function{'s' if len(self._functions) > 1 else ''} "
                f"{', '.join(self._functions)}",
                expected="module:function of two arguments, on Python's path or in the current folder",
                found=reply["error"],
                hint="see reward.functions in docs/rewards.md",
            )
        raise PtdpoError(
            "math-verify cannot be imported", found=reply["error"], hint="`pip install 'math-verify[antlr4_13_2]'`"
        )


@dataclass(eq=False)
class _Worker:
    """One process: until it says that it is ready it imports; then it works through what waits in its pipe."""

    process: subprocess.Popen
    clock: float                                            # when the task in progress began, or the start
    is_ready: bool = False
    has_ended: bool = False
    waiting: deque[int] = field(default_factory=deque)      # tasks given and not answered, the first in progress
    unsent: bytearray = field(default_factory=bytearray)
    unread: bytearray = field(default_factory=bytearray)

    def give(self, index: int, tasks: Sequence[Task]) -> None:
        if not self.waiting:
            self.clock = time.monotonic()
        self.waiting.append(index)
        kind, *arguments = tasks[index]
        self.unsent += json.dumps({"id": index, "kind": kind, "arguments": arguments}).encode() + b"\n"
        self.send()

    def send(self) -> None:
        """What the pipe takes; a worker that hangs takes nothing, and must not hang its parent."""
        with suppress(BlockingIOError, BrokenPipeError):
            del self.unsent[: os.write(self.process.stdin.fileno(), self.unsent)]

    def replies(self) -> list[dict]:
        part = os.read(self.process.stdout.fileno(), 1 << 16)
        self.has_ended = not part
        self.unread += part
        *lines, rest = bytes(self.unread).split(b"\n")
        self.unread = bytearray(rest)
        found = [json.loads(line) for line in lines]
        for reply in found:
            self.clock = time.monotonic()
            if "ready" in reply:
                self.is_ready = True
            else:
                self.waiting.popleft()
        return found

    def deadline(self, time_limit_s: float) -> float:
        if not self.is_ready:
            return self.clock + _START_S
        return self.clock + time_limit_s if self.waiting else math.inf


# The kernel kills a worker when the *thread* that started it ends, so one thread that lasts starts them all.
_starter = ThreadPoolExecutor(1)
_found: dict[Task, Result] = {}
_pools: dict[tuple[str, ...], Pool] = {}
_pools_lock = threading.Lock()


def _start(functions: tuple[str, ...]) -> _Worker:
    arguments = [str(os.getpid()), str(_MEMORY_BYTES), *functions]
    process = _starter.submit(
        subprocess.Popen,
        # -P: a file `json.py` in the current folder is not for us.
        [sys.executable, "-P", "-m", "ptdpo_cli.rewards.worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,     # Ctrl-C is for the parent, which decides
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    ).result()
    os.set_blocking(process.stdin.fileno(), False)
    return _Worker(process, clock=time.monotonic())


def _kill(worker: _Worker) -> None:
    """End a worker and what it started, and leave no zombie."""
    with suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    worker.process.stdin.close()
    worker.process.stdout.close()


def _no_start(worker: _Worker) -> PtdpoError:
    status = worker.process.returncode
    return PtdpoError(
        "a worker process of the verifier does not start",
        found=f"no word in {_START_S:g} s" if status == -signal.SIGKILL else f"it ended with status {status}",
        hint="what it said stands above",
    )


def close_all() -> None:
    """End every worker of this process; the next task starts new ones."""
    with _pools_lock:
        pools = list(_pools.values())
    for one in pools:
        one.close()


def _forget_the_parent_s() -> None:
    """A fork of this process has no part in its workers, and no thread that could start others."""
    global _starter
    _starter = ThreadPoolExecutor(1)
    _pools.clear()


atexit.register(close_all)
os.register_at_fork(after_in_child=_forget_the_parent_s)
