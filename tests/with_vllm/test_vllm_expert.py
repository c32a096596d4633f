"""The expert against a real OpenAI-compatible server: vLLM's own, on a CPU, with the shipped model. `make test-vllm`.

The model does sums and writes no hints. What is tested is the protocol: pictures that the server takes, a schema that
it keeps to, replies that are read, counted, refused and stored.
"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from pathlib import Path

import pytest
from test_vllm_judge import KEY, url  # noqa: F401 (a fixture: the same server)

from command import TINY, ptdpo
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.datasets import digit_grid
from ptdpo_cli.hints.expert import HINT_SCHEMA, prompt_of, read_hint
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.expert_hints import Expert, Task, ledger_file

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]


@pytest.fixture
def build(url, tmp_path, monkeypatch):  # noqa: F811
    """`build("key=value", …)`: build-hints of three problems with the server as expert."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def run(*overrides: str, model: str = "tiny", limit: int = 3, force: bool = False):
        named = [f"hints.expert.model={model}", f"hints.expert.url={url}", "hints.expert.max_tokens=200", *overrides]
        flags = [word for override in named for word in ("--set", override)] + ["--force"] * force
        return ptdpo("build-hints", *TINY, "--run", tmp_path, "--source", "expert", "--limit", limit, *flags)

    run.folder = tmp_path
    return run


def replies(run: Path) -> list[dict]:
    with sqlite3.connect(ledger_file(run)) as ledger:
        return [json.loads(reply) for (reply,) in ledger.execute("SELECT reply FROM replies")]


def test_from_the_picture_to_a_stored_refusal(build):
    """At the schema of the product the model never ends a string: what it says is cut, refused, counted and kept."""
    ended = build("hints.max_refused=1")
    assert ended.code == 0, ended.err
    hints = Artifact.open(ended.path)
    rows = hints.table("hints").to_pylist()
    assert len(rows) == 3 and all(row["hint"] or row["refusal"] for row in rows), rows
    assert all(row["expert"] == "tiny" and row["requests"] >= 1 for row in rows)
    assert all(row["prompt_tokens"] > 300 and row["completion_tokens"] > 0 for row in rows)
    kept = replies(build.folder)
    assert sum(reply["requests"] for reply in kept) == hints.manifest.counts["requests"]
    assert all(reply["text"].lstrip().startswith("{") for reply in kept)
    again = build("hints.max_refused=1", force=True)
    assert Artifact.open(again.path).content_hash == hints.content_hash and len(replies(build.folder)) == len(kept)


def test_replies_keep_to_the_schema(url, tmp_path, monkeypatch):  # noqa: F811
    """With strings that must end: every whole reply is the object that was asked for."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    recipe = load_recipe(None, ["hints.expert.model=tiny", f"hints.expert.url={url}", "hints.expert.max_tokens=700"])
    schema = json.loads(json.dumps(HINT_SCHEMA).replace('"string"', '"string", "maxLength": 30'))
    task = Task(lambda one, pictures, why: prompt_of(one, pictures, refusal=why), read_hint, schema, has_pictures=True)
    problems = digit_grid.load("train", count=4, seed=0)
    drafts = Expert(recipe, tmp_path, lambda hint, problem: hint).drafts(problems, task)
    kept = replies(tmp_path)
    whole = [json.loads(reply["text"]) for reply in kept if not reply["is_cut"]]
    assert len(whole) >= len(kept) / 2, kept
    for found in whole:
        assert set(found) == {"spatial_guidance", "steps"}
        assert 1 <= len(found["spatial_guidance"]) <= 2 and 1 <= len(found["steps"]) <= 4
    assert all(draft.cost.completion_tokens > 0 and (draft.steps or draft.refusal) for draft in drafts), drafts
    assert not any("no JSON object" in draft.refusal for draft in drafts)


def test_the_pictures_are_seen(build):
    """The same problems with and without: the prompt is longer by the picture's tokens."""
    few = ("hints.expert.max_tokens=8", "hints.max_refused=1")
    with_pictures, without = (
        Artifact.open(build(*few, *more).path).manifest.counts for more in ((), ("hints.expert.images=false",))
    )
    assert with_pictures["prompt_tokens"] > without["prompt_tokens"] > 0
    assert with_pictures["refused"] == without["refused"] == 3      # cut at 8 tokens, both times


@pytest.mark.parametrize("structured", ["json_object", "none"])
def test_other_ways_to_ask_for_json_are_taken(build, structured):
    ended = build(f"hints.expert.structured={structured}", "hints.expert.max_tokens=64", "hints.max_refused=1")
    assert ended.code == 0, ended.err
    counts = Artifact.open(ended.path).manifest.counts
    assert counts["hints"] + counts["refused"] == 3 and counts["completion_tokens"] > 0


def test_a_budget_beyond_the_model_is_said(build):
    ended = build("hints.expert.max_tokens=16384", "hints.expert.retries=0")
    assert ended.code == 1 and "HTTP 400" in ended.err and "hints.expert.max_tokens" in ended.err, ended.err


def test_a_server_that_refuses_stops(build, monkeypatch):
    ended = build(model="other")
    assert ended.code == 1 and "no such model" in ended.err and KEY not in ended.err
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
    ended = build()
    assert ended.code == 1 and "refuses the key" in ended.err and "OPENAI_API_KEY" in ended.err
    assert "sk-of-nobody" not in ended.err and KEY not in ended.err
