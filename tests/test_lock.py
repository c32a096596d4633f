"""One writer per artifact, with real processes: who may take over, who may not, and two who try at once."""

import json
import os
import shlex
import subprocess
import sys
import time

import pytest

from ptdpo_cli.artifacts.lock import Lock, read_holder
from ptdpo_cli.artifacts.store import Writer, find_finished
from ptdpo_cli.errors import LockedError

HOLD = """
import sys, time
from ptdpo_cli.artifacts.lock import Lock
with Lock(sys.argv[1], "ptdpo rollout --run demo"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A live process that holds tmp_path/v1-0.lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "v1-0.lock")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def plant(path, **changes) -> None:
    """A lock file as this process would write it, but for some changes."""
    with Lock(path):
        text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | changes))


def dead_pid() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_a_lock_says_who_holds_it_and_goes_away(tmp_path):
    path = tmp_path / "deep" / "v1-0.lock"
    with Lock(path, "ptdpo train"):
        holder = read_holder(path)
        assert (holder["pid"], holder["command"], holder["host"]) == (os.getpid(), "ptdpo train", os.uname().nodename)
        with pytest.raises(LockedError), Lock(path):
            pass
        assert path.exists()            # the one that failed leaves ours alone
    assert os.listdir(path.parent) == [] and read_holder(path) is None


def test_a_live_process_keeps_its_lock(tmp_path, holder):
    with pytest.raises(LockedError) as error, Lock(tmp_path / "v1-0.lock"):
        pass
    assert error.value.exit_code == 4
    assert f"pid {holder.pid} on" in error.value.found and "ptdpo rollout --run demo" in error.value.found
    assert f"kill {holder.pid}" in error.value.hint


def test_a_killed_process_is_taken_over_even_before_it_is_reaped(tmp_path, holder):
    holder.kill()
    time.sleep(0.2)                     # dead, and a zombie: nobody has waited for it yet
    with Lock(tmp_path / "v1-0.lock"):
        assert read_holder(tmp_path / "v1-0.lock")["pid"] == os.getpid()


def test_a_dead_pid_and_a_reused_pid_are_taken_over(tmp_path):
    path = tmp_path / "v1-0.lock"
    for changes in ({"pid": dead_pid()}, {"process_start": 1}):
        plant(path, **changes)
        with Lock(path):
            pass


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"pid_namespace": "pid:[1]"}])
def test_another_host_or_container_is_never_taken_over(tmp_path, changes):
    path = tmp_path / "v1-0.lock"
    plant(path, pid=dead_pid(), **changes)
    with pytest.raises(LockedError) as error, Lock(path):
        pass
    assert f"rm {shlex.quote(str(path))}" in error.value.hint
    assert read_holder(path)["pid"] != os.getpid()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"host": 1}'])
def test_an_unreadable_lock_file_is_left_to_the_user(tmp_path, text):
    path = tmp_path / "v1-0.lock"
    path.write_text(text)
    with pytest.raises(LockedError, match="rm "), Lock(path):
        pass
    assert path.read_text() == text


def test_a_lock_that_the_user_deleted_is_not_taken_from_its_next_holder(tmp_path):
    path = tmp_path / "v1-0.lock"
    first, second = Lock(path, "one"), Lock(path, "two")
    first.acquire()
    path.unlink()
    second.acquire()
    first.release()
    assert path.exists()
    second.release()
    assert not path.exists()


def test_many_processes_take_over_a_dead_lock_one_at_a_time(tmp_path):
    """Each holder makes a file that must not exist yet, so that a second holder at the same time fails."""
    path, inside = tmp_path / "v1-0.lock", tmp_path / "inside"
    dead, children = dead_pid(), []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                entered = 0
                while entered < 40:
                    lock = Lock(path)
                    try:
                        lock.acquire()
                    except LockedError:
                        continue
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                    entered += 1
                    inside.unlink()
                    plant_dead = json.loads(path.read_text()) | {"pid": dead}
                    path.write_text(json.dumps(plant_dead))     # leave it as a killed process would
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6


def test_two_writers_of_one_artifact(tmp_path):
    given = {"key": "a" * 64, "stage": "train", "section": {}, "inputs": {}}
    with Writer(tmp_path, "policy", **given) as writer:
        with pytest.raises(LockedError), Writer(tmp_path, "policy", **given):
            pass
        (writer.path / "weights").write_bytes(b"x")
        writer.add_file("weights")
        writer.finish()
    with pytest.raises(LockedError, match="just finished"), Writer(tmp_path, "policy", **given):
        pass
    assert find_finished(tmp_path, "policy", "a" * 64) is not None
    assert sorted(os.listdir(tmp_path / "policy")) == ["v1-aaaaaaaa"]
