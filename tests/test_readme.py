"""Every command in the README runs, as it stands there, on settings cut down to seconds."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import SMALL
from ptdpo_cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
TAKES_SETTINGS = {"build-hints", "rollout", "score-ref", "train", "eval", "demo"}


def cut_down(words: list[str]) -> list[str]:
    """The command with small settings behind its own, where it takes settings at all."""
    if words[1] not in TAKES_SETTINGS:
        return words
    return words + [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder with the recipes and a file of one's own, as the README assumes them."""
    from ptdpo_cli.datasets.digit_grid import load

    place = tmp_path_factory.mktemp("readme")
    (place / "recipes").symlink_to(ROOT / "recipes")
    rows = []
    for i, problem in enumerate(load("train", count=8)):
        (place / f"{i}.png").write_bytes(problem.images[0])
        row = {"problem": problem.question, "images": [f"{i}.png"], "answer": problem.answer, "steps": problem.steps}
        rows.append(row)
    (place / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def test_the_commands_run_in_their_order(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    commands = [line for line in LINES if line.startswith("ptdpo ")]
    assert len(commands) >= 12
    for line in commands:
        monkeypatch.setattr(sys, "argv", cut_down(shlex.split(line)))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0, f"{line}\n{capsys.readouterr().err}"
        capsys.readouterr()
    assert (folder / "hints.png").stat().st_size > 1000


def test_stages_chain_in_a_shell(folder):
    """The line with $(…): stdout of one stage is the argument of the next."""
    (line,) = [line for line in LINES if "$(ptdpo" in line]
    shim = folder / "bin" / "ptdpo"
    shim.parent.mkdir(exist_ok=True)
    settings = " ".join(f"--set {shlex.quote(setting)}" for setting in SMALL)
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m ptdpo_cli "$@" {settings}\n')
    shim.chmod(0o755)
    environment = os.environ | {"PATH": f"{shim.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f'{line}; echo "$scores"'], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (folder / done.stdout.strip() / "manifest.json").is_file()


def test_make_targets_and_extras_exist():
    for line in (line for line in LINES if line.startswith("make ")):
        assert subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True).returncode == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"pip install [^\n]*\[([a-z]+)\]", README):
        assert extra in project["optional-dependencies"]


def test_the_readme_has_no_other_commands():
    known = ("ptdpo ", "make ", "pip install ", "rollouts=$(ptdpo ")
    assert not [line for line in LINES if not line.startswith(known)]


def test_the_demo_from_start_to_end(tmp_path, capsys, monkeypatch):
    """Three iterations of what `make demo` runs: its table, its pictures, its last lines."""
    settings = [word for setting in SMALL for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["ptdpo", "demo", "--run", str(tmp_path / "demo"), *settings])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    assert out.strip() == str(tmp_path / "demo" / "demo.json")
    assert "PTD-PO − GRPO" in err and "try next" in err and "always answering" in err
    for name in ("curves.png", "samples.png"):
        assert (tmp_path / "demo" / name).read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert set(result["accuracy"]) == {"base", "GRPO", "PTD-PO"}
