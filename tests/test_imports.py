"""Imports point one way: cli → stages → the rest → artifacts → errors; read from the syntax, so lazy ones count too."""

import ast
import sys
from pathlib import Path

import pytest

import ptdpo_cli

ROOT = Path(ptdpo_cli.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# What the modules of a folder (or a file) may import of this package, beside their own folder.
_LEAVES = {"errors"}
ALLOWED = {
    "errors": set(),
    "signals": _LEAVES,
    "console": _LEAVES,
    "statistics": _LEAVES,
    "endpoint": _LEAVES,
    "mathtext": set(),
    "objectives": set(),
    "artifacts": _LEAVES,
    "rewards": _LEAVES | {"mathtext", "artifacts", "endpoint"},
    "hints": _LEAVES | {"mathtext", "artifacts", "endpoint"},
    "datasets": _LEAVES | {"mathtext", "artifacts"},
    "models": _LEAVES | {"signals", "artifacts", "datasets.images"},
    "engines": _LEAVES | {"artifacts", "models"},
    "recipe": _LEAVES | {"models.prompt"},
    "stages": _LEAVES | {
        "signals", "console", "statistics", "endpoint", "recipe",
        "mathtext", "artifacts", "objectives", "rewards", "hints", "datasets", "models", "engines",
    },
    "cli": None,        # everything
    "__main__": {"cli"},
    "__init__": set(),
}


def imports(path: Path) -> list[tuple[str, int]]:
    """(module, line) of every import in a file, wherever it stands; not those for type checkers alone."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} relative import"
            # `from ptdpo_cli.stages import train` imports ptdpo_cli.stages.train
            submodules = [f"{node.module}.{a.name}" for a in node.names if _is_module(f"{node.module}.{a.name}")]
            found += [(name, node.lineno) for name in submodules or [node.module]]
    return found


def _is_module(dotted: str) -> bool:
    first, *parts = dotted.split(".")
    place = ROOT.joinpath(*parts)
    return first == "ptdpo_cli" and bool(parts) and (place.is_dir() or place.with_suffix(".py").is_file())


def own(path: Path) -> str:
    """The folder of the package that a file is in, or the file's own name at the top."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def violations(path: Path) -> list[str]:
    allowed = ALLOWED[own(path)]
    wrong = []
    for name, line in imports(path):
        if not name.startswith("ptdpo_cli.") or allowed is None:
            continue
        target = name.removeprefix("ptdpo_cli.")
        if target.split(".")[0] != own(path) and not any(target == a or target.startswith(f"{a}.") for a in allowed):
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {target}")
    return wrong


def test_every_module_has_its_place():
    assert {own(path) for path in MODULES} == set(ALLOWED)
    assert len(MODULES) > 40


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    assert violations(path) == []


def test_objectives_import_torch_alone():
    for path in (ROOT / "objectives").glob("*.py"):
        others = {name.split(".")[0] for name, _ in imports(path)} - set(sys.stdlib_module_names) - {"ptdpo_cli"}
        assert others <= {"torch"}, path


@pytest.mark.parametrize("folder", ["artifacts", "rewards", "hints", "datasets"])
def test_these_never_import_torch(folder):
    for path in (ROOT / folder).glob("*.py"):
        assert not {"torch", "transformers", "accelerate"} & {name.split(".")[0] for name, _ in imports(path)}, path


def test_files_at_the_top_import_torch_nowhere():
    for path in ROOT.glob("*.py"):
        assert "torch" not in {name.split(".")[0] for name, _ in imports(path)}, path


def test_what_the_command_line_loads_at_start_is_light():
    """Statements at the top of cli.py and console.py, as `ptdpo --help` runs them."""
    for name in ("cli.py", "console.py", "errors.py", "signals.py"):
        at_the_top = [node for node in ast.parse((ROOT / name).read_text()).body if isinstance(node, ast.ImportFrom)]
        modules = {node.module for node in at_the_top if node.module.startswith("ptdpo_cli")}
        assert modules <= {"ptdpo_cli", "ptdpo_cli.errors"}, name


def test_the_walk_sees_what_it_should(tmp_path, monkeypatch):
    """A module with every kind of wrong import, at the top and inside a function."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for folder in ("artifacts", "stages"):
        (tmp_path / folder).mkdir()
    (tmp_path / "stages" / "train.py").touch()
    wrong = tmp_path / "artifacts" / "wrong.py"
    wrong.write_text(
        "import ptdpo_cli.stages.train\nfrom ptdpo_cli.errors import ArtifactError\n"
        "def later():\n    from ptdpo_cli.stages import train\n    from ptdpo_cli import stages\n"
    )
    assert [line.partition(" ")[0] for line in violations(wrong)] == [f"artifacts/wrong.py:{n}" for n in (1, 4, 5)]
