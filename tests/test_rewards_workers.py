"""Worker processes: what hangs costs its time limit and one worker, and nothing else; nothing is left behind."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.errors import UsageError
from ptdpo_cli.rewards import Response, grade_all, workers

HOSTILE = "9^{9^{9^{9^{9}}}}"     # its digits would fill the universe

TASKS = """
import os, time

def quick(response, problem): return float(len(response))

def act(response, problem):
    print("this goes to stderr", flush=True)
    if response == "sleep": time.sleep(1000)
    if response == "loop":
        while True: pass
    if response == "power": return 9**9**9          # holds the GIL: no thread and no signal handler gets a turn
    if response == "child": os.system("sleep 1234.5")
    if response == "die": os._exit(3)
    if response == "raw": os.write(1, b"not json\\n")
    return float(response)
"""


def children() -> set[int]:
    """Processes that this one started, zombies too."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def command_lines() -> list[str]:
    return [text.decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline") if (text := read(path))]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:     # it has just ended
        return b""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def act(tmp_path, monkeypatch):
    """Workers that run the functions above, which are found in the current folder."""
    (tmp_path / "acts.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    pool = workers.Pool(("acts:act", "acts:quick"))
    before = children()
    yield lambda texts, **settings: pool.run([("acts:act", text, {}) for text in texts], **settings)
    pool.close()
    assert children() <= before, "a process was left behind"


@pytest.mark.parametrize("hang", ["sleep", "loop", "power", "child"])
def test_a_hang_costs_its_time_limit_and_one_worker(act, hang):
    act(["1"], time_limit_s=30)
    before = children()
    texts = [str(i) for i in range(40)]
    texts[3] = hang
    started = time.monotonic()
    results = act(texts, time_limit_s=1.0)
    assert 1.0 <= time.monotonic() - started < 15
    assert results[3].status == "timeout"
    assert [r.value for i, r in enumerate(results) if i != 3] == [float(i) for i in range(40) if i != 3]
    assert len(before - children()) == 1      # one was killed and has no zombie
    assert not any("1234.5" in line for line in command_lines()), "what the function started goes on"


def test_hangs_one_after_the_other_are_blamed_alone(act):
    texts = ["1", "sleep", "2", "loop", "3", "sleep", "4"]
    results = act(texts, time_limit_s=0.5)
    assert [r.status for r in results] == ["ok", "timeout", "ok", "timeout", "ok", "timeout", "ok"]
    assert [r.value for r in results[::2]] == [1.0, 2.0, 3.0, 4.0]


def test_a_crash_is_an_error_of_the_task_that_crashed(act):
    results = act(["1", "die", "2", "no number", "3"], time_limit_s=30)
    assert [r.status for r in results] == ["ok", "error", "ok", "error", "ok"]
    assert "status 3" in results[1].error and "ValueError" in results[3].error


def test_what_a_function_prints_does_not_reach_the_pipe(act, capfd):
    results = act(["raw", "5"], time_limit_s=30)
    assert results[0].status == "error" and results[1].value == 5.0
    captured = capfd.readouterr()
    assert captured.out == "" and "this goes to stderr" in captured.err and "not json" in captured.err


def test_long_tasks_do_not_block_a_parent_whose_worker_hangs(act):
    """More than a pipe holds is waiting behind the task that hangs."""
    results = act(["sleep"] + ["7" * 200_000] * 5, time_limit_s=1.0)
    assert [r.status for r in results] == ["timeout"] + ["error"] * 5      # float(…) of so many digits is infinite


def test_algebra_that_hangs_is_a_time_out_and_no_wrong_answer():
    hostile = Problem("p", "", (), "\\sum_{k=1}^{2} x", answer_type="expression")
    easy = [Problem(str(i), "", (), f"\\sum_{{k=1}}^{{2}} (x + {i})", answer_type="expression") for i in range(30)]
    responses = [Response(one, f"\\boxed{{{2 * i} + 2x}}", False, 0) for i, one in enumerate(easy)]
    responses.insert(7, Response(hostile, f"\\boxed{{{HOSTILE} - {HOSTILE} + x}}", False, 0))
    grade_all(responses[:1])      # the workers are there
    started = time.monotonic()
    grades = grade_all(responses, time_limit_s=1.0)
    assert time.monotonic() - started < 20
    assert grades[7].outcome in ("timeout", "error", "wrong") and grades[7].accuracy == 0
    assert {grade.outcome for i, grade in enumerate(grades) if i != 7} == {"right"}


def test_a_time_out_is_its_own_outcome(monkeypatch):
    """The algebra of every answer is made to hang."""
    monkeypatch.setattr(workers, "_found", {})
    workers.close_all()
    with frozen_workers():
        problem = Problem("p", "", (), "\\sum_{k=1}^{3} k x", answer_type="expression")
        (grade,) = grade_all([Response(problem, "\\boxed{6 x}", False, 0)], time_limit_s=0.5)
    assert (grade.outcome, grade.accuracy, grade.extracted) == ("timeout", 0.0, "6 x")
    monkeypatch.setattr(workers, "_found", {})
    assert grade_all([Response(problem, "\\boxed{6 x}", False, 0)])[0].outcome == "right"


@contextmanager
def frozen_workers():
    """Workers that are stopped as soon as they are ready, as a hang in C code would."""
    pool = workers.pool()
    pool.run([], time_limit_s=1)
    pids = [worker.process.pid for worker in pool._workers]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    assert not any(map(is_alive, pids))


def test_results_are_remembered():
    task = ("equal", "x + 77", "77 + x")
    assert workers.ask([task, task], time_limit_s=30)[1].value is True
    with frozen_workers_not_needed():
        assert workers.ask([task], time_limit_s=1)[0].value is True


@contextmanager
def frozen_workers_not_needed():
    """Nothing may be asked of a worker inside."""
    pool, run = workers.pool(), workers.Pool.run
    try:
        workers.Pool.run = lambda *_, **__: pytest.fail("a worker was asked")
        yield pool
    finally:
        workers.Pool.run = run


def test_threads_may_all_ask_at_once():
    rng = random.Random(0)
    numbers = [[rng.randint(1, 10**6) for _ in range(20)] for _ in range(4)]
    found: dict[int, list] = {}

    def ask(which: int) -> None:
        tasks = [("equal", f"{n} y", f"y * {n}") for n in numbers[which]]
        found[which] = [result.value for result in workers.ask(tasks, time_limit_s=30)]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {i: [True] * 20 for i in range(4)}
    # The kernel ends a process with the thread that started it; these workers outlive those threads.
    assert workers.ask([("equal", "z + 1", "1 + z")], time_limit_s=30)[0].value is True


PARENT = """
import sys
from ptdpo_cli.rewards import workers
workers.pool().run([], time_limit_s=30)
print(workers.pool()._workers[0].process.pid, flush=True)
pool = workers.Pool(("acts:act",))
pool.run([], time_limit_s=30)
print(pool._workers[0].process.pid, flush=True)
pool.run([("acts:act", "power", {})], time_limit_s=1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path, number):
    """One worker idle, one that holds its GIL."""
    (tmp_path / "acts.py").write_text(TASKS)
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        time.sleep(1)
        assert all(map(is_alive, pids))
        parent.send_signal(number)
        parent.wait(20)
    until = time.monotonic() + 20
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(is_alive, pids))


def test_a_signal_to_the_group_of_the_parent_leaves_the_workers_to_it(act):
    act(["1"], time_limit_s=30)
    assert all(os.getpgid(pid) != os.getpgid(0) for pid in children())


def test_functions_that_are_not_there_are_usage_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "exits.py").write_text("import sys; sys.exit(0)\n")
    (tmp_path / "one.py").write_text("def f(response): return 1.0\nvalue = 3\n")
    for name in ("nowhere:f", "broken:f", "exits:f", "one:g", "one:value", "one:f"):
        with pytest.raises(UsageError) as raised:
            workers.Pool((name,)).run([], time_limit_s=1)
        assert name in raised.value.what and raised.value.found


def test_easy_verdicts_are_fast():
    """The whole benchmark, 50,000 in 60 s, at a tenth of its size and with a generous bound."""
    rng = random.Random(1)
    responses = []
    for _ in range(5000):
        value = rng.randint(1, 10_000) / 100
        problem = Problem("p", "", (), f"{value:.2f}", answer_type="float")
        responses.append(Response(problem, f"</think>\\boxed{{{value + rng.choice((0, 0.01)):.2f}}}", False, 0))
    started = time.monotonic()
    grades = grade_all(responses)
    assert time.monotonic() - started < 60
    assert all(grade.agreed is True for grade in grades)
    assert {grade.outcome for grade in grades} == {"right", "wrong"}
