"""Asking a language model behind any endpoint that speaks OpenAI's `/chat/completions`: judge, reader and expert do.

One attempt gives a chat completion, or a fault; a fault that may pass is tried again after growing pauses, one that no
other question would change (the key, the address, the model's name) stops the work.

What a server says about an error is shown nowhere, and the key is cut out of what it says otherwise: some repeat it.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ptdpo_cli.errors import PtdpoError

if TYPE_CHECKING:
    import httpx

_MAX_PAUSE_S = 60.0             # between two attempts
_MAX_RETRY_AFTER_S = 300.0      # a server that wants more is as good as gone


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Which model to ask, where, and how patiently.

    For errors: `key_variable` is the environment variable of the key, `who` is asked, and the names of the settings in
    the recipe begin with `settings`.
    """

    model: str
    url: str
    api_key: str | None = field(default=None, repr=False)
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    retries: int = 3
    timeout_s: float = 60.0
    first_pause_s: float = 1.0
    who: str = "judge"
    settings: str = "eval.judge."

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True)
class Reply:
    """A chat completion, or with a `fault` none; `text` is None where the server sent none.

    `model` is its name as the server reports it. Of several attempts `requests` and tokens are those of all.
    """

    text: str | None = None
    fault: str = ""
    model: str = ""
    requests: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_cut: bool = False        # at the limit of tokens
    pause_s: float = 0.0        # that the server asks for
    is_final: bool = False      # asking again would give the same
    is_down: bool = False       # the service's fault, whatever the question


@contextmanager
def open_client(endpoint: Endpoint) -> Iterator[httpx.Client]:
    """A client that sends the endpoint's key, with room for all requests at once.

    Errors: PtdpoError for a key that cannot be sent.
    """
    import httpx

    # The HTTP library would refuse it with the key in its message.
    if endpoint.api_key and not re.fullmatch(r"[\x21-\x7e]+", endpoint.api_key):
        raise PtdpoError(
            f"the key in {endpoint.key_variable} has characters that cannot be sent",
            expected="printable ASCII without spaces",
            hint=f"set {endpoint.key_variable} again, without quotes, spaces or line breaks",
        )
    headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    limits = httpx.Limits(max_connections=endpoint.concurrency)
    with httpx.Client(headers=headers, timeout=endpoint.timeout_s, limits=limits) as client:
        yield client


@contextmanager
def open_pool(concurrency: int, stopping: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Threads to ask in. On an error, Ctrl-C too, what is on its way is waited for, and nothing else begun."""
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            yield pool
        except BaseException:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def ask(attempt: Callable[[], Reply], endpoint: Endpoint, stopping: threading.Event) -> Reply:
    """The first reply without fault, or the last, of up to 1 + `endpoint.retries` attempts.

    Between them is a pause that doubles, with jitter, or that the server names in Retry-After.
    """
    jitter = random.Random()
    prompt_tokens = completion_tokens = 0
    for number in range(endpoint.retries + 1):
        reply = attempt()
        prompt_tokens += reply.prompt_tokens
        completion_tokens += reply.completion_tokens
        if not reply.fault or reply.is_final or number == endpoint.retries:
            break
        pause_s = min(_MAX_PAUSE_S, endpoint.first_pause_s * 2**number) * jitter.uniform(0.5, 1.0)
        if stopping.wait(max(pause_s, reply.pause_s)):
            break
    return replace(reply, requests=number + 1, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


def ask_each(
    prompts: Mapping[str, str],
    endpoint: Endpoint,
    strict: Callable[[str, Reply], Reply],
    keep: Callable[[str, Reply], None],
    *,
    max_tokens: int,
) -> None:
    """Put each prompt to the model, at temperature 0; `keep` takes the last reply to each, by its key, as they come.

    `strict` is given what has a text, and gives it a fault where that is not what was asked for. The first prompt is
    asked alone, to learn whether anybody is there, then the others.
    Errors: PtdpoError when nobody answers the first, and as `open_client` and `post` have them.
    """
    if not prompts:
        return
    stopping = threading.Event()

    def reply_to(client: httpx.Client, key: str) -> Reply:
        messages = [{"role": "user", "content": prompts[key]}]

        def attempt() -> Reply:
            reply = post(client, endpoint, messages, temperature=0, max_tokens=max_tokens)
            if reply.fault:
                return reply
            if reply.text is None:
                return replace(reply, fault="a reply without text")
            if reply.is_cut:
                return replace(reply, fault=f"a reply cut at {max_tokens} tokens")
            return strict(key, reply)

        return ask(attempt, endpoint, stopping)

    first, *others = prompts
    with open_client(endpoint) as client:
        reply = reply_to(client, first)
        if reply.is_down:
            raise does_not_answer(endpoint, reply.fault)
        keep(first, reply)
        with open_pool(endpoint.concurrency, stopping) as pool:
            asked = {pool.submit(reply_to, client, key): key for key in others}
            for future in as_completed(asked):
                keep(asked[future], future.result())


def post(client: httpx.Client, endpoint: Endpoint, messages: list[dict], **settings: object) -> Reply:
    """What one request gives; `settings` are the other fields of its body.

    Errors: PtdpoError when the key is refused (401, 403), and when there is no such model or path (404).
    """
    import httpx

    body = {"model": endpoint.model, "messages": messages, **settings}
    try:
        response = client.post(endpoint.url.rstrip("/") + "/chat/completions", json=body)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return Reply(fault="no connection", is_down=True)
    except httpx.TimeoutException:
        return Reply(fault=f"no reply in {endpoint.timeout_s:g} s")
    except httpx.RequestError as error:
        return Reply(fault=f"a broken connection ({type(error).__name__})")
    status = response.status_code
    if status != 200:
        _refuse_for_good(status, endpoint)
        wait_s = _retry_after(response.headers.get("Retry-After", ""))
        can_mend = (status in (408, 409, 429) or status >= 500) and wait_s <= _MAX_RETRY_AFTER_S
        return Reply(fault=f"HTTP {status}", pause_s=wait_s, is_final=not can_mend, is_down=status in (429, 502, 503))
    return _read(response, endpoint)


class Ledger:
    """What was paid for, by key: JSON objects in a table of an SQLite file that threads and processes share.

    Each statement is a transaction of its own: what a reply costs is on disk before the next is asked for.
    """

    def __init__(self, database: sqlite3.Connection, table: str, column: str):
        self._database, self._table, self._column = database, table, column
        self._lock = threading.Lock()
        self.do(f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, {column} TEXT NOT NULL)")

    def get(self, key: str) -> dict | None:
        """The record, unless there is none or it cannot be read."""
        row = self.do(f"SELECT {self._column} FROM {self._table} WHERE key = ?", key).fetchone()
        try:
            record = json.loads(row[0]) if row else None
        except (ValueError, TypeError):
            return None
        return record if isinstance(record, dict) else None

    def keep(self, key: str, record: dict) -> None:
        self.do(f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?)", key, json.dumps(record))

    def is_empty(self) -> bool:
        return self.do(f"SELECT 1 FROM {self._table} LIMIT 1").fetchone() is None

    def do(self, statement: str, *values: object) -> sqlite3.Cursor:
        with self._lock:
            return self._database.execute(statement, values)


@contextmanager
def open_database(path: Path, *, what: str, lost: str) -> Iterator[sqlite3.Connection]:
    """The SQLite file of a ledger, which is made where there is none; `what` is in it, and `lost` what removing costs.

    Errors: PtdpoError, now and while it is in use, when the file cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)) as database:
            yield database
    except sqlite3.Error as error:
        raise PtdpoError(f"{what} in {path} cannot be read or written", found=error,
                         hint=f"make room on the disk, or remove the file: {lost}") from None


def does_not_answer(endpoint: Endpoint, fault: str) -> PtdpoError:
    """The error for a service that fails whatever it is asked."""
    return PtdpoError(
        f"the {endpoint.who} at {endpoint.url} does not answer",
        found=fault,
        hint=f"start it or mend {endpoint.settings}url, and run the same command again; what is finished is kept",
    )


def without_key(text: str, api_key: str | None) -> str:
    """The text with stars in place of the key."""
    return text.replace(api_key, "***") if api_key else text


def shown(text: str, api_key: str | None) -> str:
    """A little of what a server wrote, on one line and without the key."""
    return " ".join(_storable(without_key(text, api_key)).split())[:80]


def _storable(text: str) -> str:
    """Halves of surrogate pairs, which JSON can hold and UTF-8 cannot, become question marks."""
    return text.encode(errors="replace").decode()


def _read(response: httpx.Response, endpoint: Endpoint) -> Reply:
    try:
        reply = response.json()
        choice = reply["choices"][0]
        text, usage, model = choice["message"]["content"], reply.get("usage") or {}, reply.get("model")
        is_cut = choice.get("finish_reason") == "length"
        tokens = {name: _count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Reply(fault="a reply that is no chat completion")
    return Reply(
        _storable(without_key(text, endpoint.api_key)) if isinstance(text, str) else None,
        model=shown(model, endpoint.api_key) if isinstance(model, str) else "",
        is_cut=is_cut,
        **tokens,
    )


def _refuse_for_good(status: int, endpoint: Endpoint) -> None:
    """Stop at what no other question would change."""
    if status in (401, 403):
        variable = endpoint.key_variable
        raise PtdpoError(
            f"the {endpoint.who} at {endpoint.url} refuses the key" if endpoint.api_key
            else f"the {endpoint.who} at {endpoint.url} wants a key, and the environment variable {variable} is not "
            "set",
            found=f"HTTP {status}",
            hint=f"`export {variable}=…`, or name another variable with `--set {endpoint.settings}key_variable=NAME`",
        )
    if status in (404, 405) or 300 <= status < 400:
        raise PtdpoError(
            f"the {endpoint.who}'s endpoint has no such model or path: {endpoint.model} at {endpoint.url}",
            expected="a model of that name, and /chat/completions below the address",
            found=f"HTTP {status}",
            hint="most addresses end in /v1; `curl URL/models` lists the models",
        )


def _retry_after(text: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or as a date; 0 where it says nothing readable."""
    if re.fullmatch(r"\d{1,9}", text.strip()):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
