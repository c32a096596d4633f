"""The judge against a real OpenAI-compatible server: vLLM's own, on a CPU, with the shipped model. `make test-vllm`.

The model does sums; it judges nothing. What is tested is the protocol: requests that the server takes, replies that are
read, and words that are no verdict left as no verdict.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import ptdpo_cli
from ptdpo_cli.errors import PtdpoError
from ptdpo_cli.rewards.judge import Endpoint, Question, judge_all

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]

MODEL = Path(ptdpo_cli.__file__).parent / "checkpoints" / "tiny-base"
KEY = "sk-of-this-test"
START_S = 300.0
ONE = Question("What do the digits of the top row add up to?", "11", "eleven")


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port),
        "--model", str(MODEL), "--served-model-name", "tiny", "--api-key", KEY, "--dtype", "float32",
        "--enforce-eager", "--max-model-len", "2048", "--kv-cache-memory-bytes", str(2**27),
    ]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ.copy())
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def endpoint(url: str, **settings) -> Endpoint:
    return Endpoint(**{"model": "tiny", "url": url, "api_key": KEY, "retries": 1, "first_pause_s": 0.01} | settings)


def test_words_that_are_no_verdict_are_none(url, tmp_path):
    questions = [ONE, Question("Which colour?", "red", "it is red")]
    verdicts = judge_all(questions, endpoint(url), cache=tmp_path / "verdicts.sqlite3")
    for verdict in verdicts:
        assert verdict.is_right is None and verdict.requests == 2
        assert verdict.fault.startswith(("neither right nor wrong", "a reply cut at")), verdict
        assert verdict.prompt_tokens > 100 and verdict.completion_tokens > 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"api_key": "another"}, "refuses the key"),
        ({"api_key": None}, "wants a key"),
        ({"model": "other"}, "no such model"),
    ],
)
def test_a_server_that_refuses_stops(url, tmp_path, wrong, says):
    with pytest.raises(PtdpoError, match=says) as stopped:
        judge_all([ONE], endpoint(url, **wrong), cache=tmp_path / "verdicts.sqlite3")
    assert KEY not in str(stopped.value)


def test_the_servers_own_name_for_the_model_is_what_we_read(url):
    """The field that a verdict's `model` is read from, as this server fills it."""
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "1"}], "max_tokens": 1}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/chat/completions", body, headers)) as response:
        assert json.load(response)["model"] == "tiny"
