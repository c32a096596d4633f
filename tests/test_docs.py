"""docs/: what the code knows is written from the code, and the examples run. `make docs` writes those parts again.

In docs/cli.md that is the help of each command. In docs/recipes.md it is the tables: key, type and default come from
the models, the meaning from a key's docstring; where it has none, what the page says stays.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import numpy as np
import pyarrow as pa
import pytest
import typer
import yaml
from pydantic import BaseModel, TypeAdapter

from ptdpo_cli.artifacts import schemas
from ptdpo_cli.artifacts.manifest import Manifest
from ptdpo_cli.artifacts.tensors import offsets_of
from ptdpo_cli.cli import app
from ptdpo_cli.recipe import (
    AttentionHints,
    ExpertHints,
    Judge,
    Overlong,
    Reader,
    Recipe,
    Repetition,
    RewardFunction,
    StepHints,
)
from ptdpo_cli.stages.sft import Phase, SftSettings, Share, Warmup

DOCS = Path(__file__).parents[1] / "docs"
AGAIN = "`make docs` writes it again"
END = "...\n"        # YAML's, after a value that stands alone
SFT = {"sft": SftSettings, "sft.warmup": Warmup, "sft.phases[]": Phase, "sft.phases[].mix[]": Share}
# Sections that may be null or stand in a list: a table of their own, and a key in the section that holds them.
INNER = {
    "reward": {
        "reward.overlong": Overlong, "reward.repetition": Repetition, "reward.functions[]": RewardFunction,
        "reward.reader": Reader,
    },
    "eval": {"eval.judge": Judge},
    "hints": {"hints.attention": AttentionHints, "hints.steps": StepHints, "hints.expert": ExpertHints},
}


# --- docs/recipes.md --------------------------------------------------------------------------------------------------


def sections() -> dict[str, type[BaseModel]]:
    """Heading -> model, in the order of the recipe; the top level's own keys come first."""
    fields = {name: field.annotation for name, field in Recipe.model_fields.items()}
    found = {"Top level": Recipe}
    for name, model in fields.items():
        if is_section(model):
            found |= {name: model} | INNER.get(name, {})
    return found | SFT


def is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def keys(model: type[BaseModel]) -> dict:
    """The plain keys of a section: those that are sections themselves have a table of their own."""
    fields = model.model_fields.items()
    return {name: field for name, field in fields if not is_section(field.annotation) and name != "sft"}


def type_name(kind, metadata: tuple = ()) -> str:
    """`Literal["a", "b"] | None` as `a | b | null`, with the bounds: `int, ≥ 1`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_name(parts[0], parts[1:])
    if origin is Literal:
        text = " | ".join(parts)
    elif origin in (Union, UnionType):
        text = " | ".join(map(type_name, parts))
    elif parts:
        text = f"{origin.__name__} of {', '.join(type_name(part) for part in parts if part is not ...)}"
    else:
        text = "section" if is_section(kind) else {NoneType: "null"}.get(kind, kind.__name__)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [limit for one in metadata for limit in getattr(one, "metadata", [one])]
    bounds = (f"{sign} {getattr(limit, n)}" for limit in limits for n, sign in signs.items() if hasattr(limit, n))
    return ", ".join([text, *bounds])


def default(field) -> str:
    """As YAML would have it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    plain = TypeAdapter(type(value)).dump_python(value, mode="json", exclude_unset=True)
    return f"`{yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix(END).strip()}`"


def written_meanings(page: str) -> dict[tuple[str, str], str]:
    """(section, key) -> the last column of its row."""
    meanings, section = {}, ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line.strip("# `")
        elif match := re.match(r"\| `(\w+)` \|.*[^\\]\| (.*?) ?\|$", line):
            meanings[section, match[1]] = match[2]
    return meanings


def render_recipes(page: str) -> str:
    """The page with its tables as the models are now; prose before a table stays."""
    meanings = written_meanings(page)
    before, *parts = re.split(r"^## ", page, flags=re.MULTILINE)
    prose = {part.splitlines()[0].strip("`"): re.sub(r"(?ms)^\|.*?\|$\n?", "", part).splitlines()[1:] for part in parts}
    lines = [before.rstrip()]
    for section, model in sections().items():
        text = "\n".join(prose.get(section, [])).strip() or (model.__doc__ or "").strip().splitlines()[0]
        title = section if section == "Top level" else f"`{section}`"
        lines += ["", f"## {title}", "", text, "", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        for name, field in keys(model).items():
            described = " ".join((field.description or "").split()).replace("|", "\\|")
            kind = type_name(field.annotation, tuple(field.metadata)).replace("|", "\\|")
            lines.append(f"| `{name}` | {kind} | {default(field)} | {described or meanings.get((section, name), '')} |")
    return "\n".join(lines) + "\n"


def test_recipes_page_has_every_key_with_its_default():
    page = (DOCS / "recipes.md").read_text()
    assert render_recipes(page) == page, AGAIN
    unexplained = [".".join(key) for key, meaning in written_meanings(page).items() if not meaning]
    assert not unexplained, "say in the last column what these mean"


def test_shipped_recipes_use_known_keys(recipes):
    from ptdpo_cli.recipe import load_recipe

    for path in recipes.rglob("*.yaml"):
        recipe = load_recipe(path)
        assert recipe.sft is None or SftSettings.model_validate(recipe.sft)


# --- docs/cli.md ------------------------------------------------------------------------------------------------------


def commands(group=None, name: str = "ptdpo") -> dict[str, typer.core.TyperCommand]:
    """By its words; those of a group such as `ptdpo data` follow it."""
    found = {name: group or typer.main.get_command(app)}
    for word, command in getattr(found[name], "commands", {}).items():
        found |= commands(command, f"{name} {word}")
    return found


def help_text(name: str, command) -> str:
    """What `--help` prints, 100 wide and without boxes and colours."""
    command.rich_markup_mode = None
    context = type(command).context_class(
        command, info_name=name, terminal_width=100, max_content_width=100, help_option_names=["-h", "--help"]
    )
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def render_cli(page: str) -> str:
    """The page with each command's help as it is now; what stands before the first command stays."""
    helps = (f"## {name}\n\n```text\n{help_text(name, command)}\n```\n" for name, command in commands().items())
    return page.partition("## ")[0] + "\n".join(helps)


def test_cli_page_has_every_command_and_option():
    """Line breaks and the names of types differ between versions of typer, so it is the words that are compared."""
    page = (DOCS / "cli.md").read_text()
    parts = {part.partition("\n")[0]: " ".join(part.split()) for part in page.split("\n## ")[1:]}
    assert list(parts) == list(commands()), AGAIN
    for name, command in commands().items():
        now = help_text(name, command)
        options = set(re.findall(r"(?<![\w`-])--?[a-z][a-z-]*", parts[name]))
        assert options == set(re.findall(r"(?<![\w`-])--?[a-z][a-z-]*", now)), f"{name}: {AGAIN}"
        told = [parameter.help for parameter in command.params if getattr(parameter, "help", None)]
        for text in [*(command.help or "").split("\n\n"), *told]:
            assert " ".join(text.split()) in parts[name], f"{name}: {AGAIN}"


def test_help_of_the_page_is_that_of_the_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for name, command in list(commands().items())[1:]:
        words = set(re.findall(r"--[a-z-]+", help_text(name, command)))
        app([*name.split()[1:], "--help"], standalone_mode=False)
        assert words == set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


# --- docs/artifacts.md ------------------------------------------------------------------------------------------------


def rows_of(page: str, heading: str) -> list[str]:
    """The names in the first column of the tables under a heading."""
    part = re.split(r"^#+ ", page.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^\| `(\w+)` \|", part, flags=re.MULTILINE)


def test_artifacts_page_has_every_field_column_and_tensor():
    page = (DOCS / "artifacts.md").read_text()
    assert rows_of(page, "The manifest") == list(Manifest.model_fields)
    for kind in schemas.SCHEMA_VERSIONS:
        expected = [*schemas.TABLES.get(kind, pa.schema([])).names, *schemas.TENSORS.get(kind, ())]
        expected += schemas.IMAGES.names if kind == "problems" else []
        assert [row for row in rows_of(page, kind) if row != "trainer"] == expected, kind
        for field in schemas.TABLES.get(kind, pa.schema([])):
            if not pa.types.is_nested(field.type):
                assert re.search(rf"^\| `{field.name}` \| {field.type}", page.replace("float32", "float"), re.MULTILINE)


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / "artifacts.md").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("example", [pytest.param(e, id=re.search(r"(?:import|from) (\w+)", e)[1]) for e in examples()])
def test_examples_run(example, tmp_path, monkeypatch, capsys):
    write_rollouts(tmp_path / "runs" / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    found: dict = {}
    exec(example, found)
    if "tensors" in found:
        assert capsys.readouterr().out == "the third [4 5 6] [0. 0. 0.]\n"
    else:
        assert len(found["rollouts"]) == 3


def write_rollouts(run: Path) -> None:
    from ptdpo_cli.artifacts.store import Writer

    texts, lengths = ("the first", "the second", "the third"), [2, 2, 3]
    rows = [{"rollout_id": f"p/{i}", "problem_id": "p", "text": text, "accuracy": 1.0} for i, text in enumerate(texts)]
    tensors = {
        "offsets": offsets_of(lengths), "token_ids": np.arange(7, dtype=np.int32),
        "sampler_logprobs": np.zeros(7, np.float32), "sampler_top_ids": np.zeros((7, 0), np.int32),
    }
    with Writer(run, "rollouts", key="a" * 64, stage="rollout", section={}, inputs={}) as writer:
        table = pa.Table.from_pylist(rows, schemas.ROLLOUTS)
        writer.write_shard(0, tables={"rollouts": table}, tensors={"rollouts": tensors})
        writer.finish()


# --- links ------------------------------------------------------------------------------------------------------------


def pages() -> list[Path]:
    root = DOCS.parent
    return [*root.glob("*.md"), *DOCS.rglob("*.md"), *(root / "stages").rglob("*.md")]


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(DOCS.parent)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_contributing_names_tests_that_exist():
    named = re.findall(r"`(test_\w+\.py)`: `(test_\w+)`", (DOCS.parent / "CONTRIBUTING.md").read_text())
    tests = Path(__file__).parent
    assert named and not [(file, name) for file, name in named if f"def {name}(" not in (tests / file).read_text()]


if __name__ == "__main__":
    for name, render in {"cli.md": render_cli, "recipes.md": render_recipes}.items():
        (DOCS / name).write_text(render((DOCS / name).read_text()))
