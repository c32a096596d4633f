"""Hints from a strong model behind an endpoint: asked, audited, asked once more, then its fallback likewise.

    reply            passes: the hint. Cut, unreadable, not English, or giving the answer away: the reason goes into one
                     more request, then to the fallback model, at last into the artifact
    service fault    no reply after all retries: the fallback model is asked, at last the problem goes without
    no service       the stage stops; what is paid for is kept

Every reply goes to RUN/expert/replies.sqlite3 as it arrives, under a hash of all that it depends on; nothing that is in
there is asked again, whatever became of it. So a stage that is killed goes on where it was, to the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ptdpo_cli.artifacts.images import image_hash
from ptdpo_cli.artifacts.schemas import Cost, Hint, Problem
from ptdpo_cli.datasets.images import decode_rgb
from ptdpo_cli.endpoint import (
    Endpoint,
    Ledger,
    Reply,
    ask,
    does_not_answer,
    open_client,
    open_database,
    open_pool,
    post,
    without_key,
)
from ptdpo_cli.errors import PtdpoError, UsageError
from ptdpo_cli.hints import expert as wording
from ptdpo_cli.hints.sources import Draft, Source, join_drafts, parse_sources
from ptdpo_cli.recipe import ExpertHints, Hints, Recipe

if TYPE_CHECKING:
    import httpx

# How the expert is asked changes no hint, so it is no part of an artifact's key.
_NOT_IN_KEY = {
    "key_variable", "fallback_key_variable", "concurrency", "requests_per_minute", "retries", "timeout_s",
    "max_requests", "prompt_price", "completion_price",
}
_PICTURES = {"images", "max_image_side"}
_MAX_FAULTS = 5             # problems in a row without a reply; then something is wrong with the service, not with them
_JPEG_QUALITY = 95
_FIRST_PAUSE_S = 1.0

Audit = Callable[[Hint, Problem], Hint]


@dataclass(frozen=True)
class Task:
    """What is asked about a problem (its pictures' addresses and the last refusal given), and what a reply says."""

    prompt: Callable[[Problem, Sequence[str], str], list[dict]]
    read: Callable[[str], Draft]
    schema: dict
    has_pictures: bool


@dataclass(frozen=True)
class _Work:
    """A task, and what is open while it is done."""

    task: Task
    clients: dict[Endpoint, httpx.Client]
    ledger: Replies
    stopping: threading.Event


# ---- sources ---------------------------------------------------------------------------------------------------------


def expert_source(recipe: Recipe, run: Path, audit: Audit) -> Source:
    """The source `expert`; `audit` is the check that its hints must pass.

    Errors: see `Expert.drafts`.
    """
    task = Task(
        lambda problem, pictures, refusal: wording.prompt_of(problem, pictures, refusal=refusal),
        wording.read_hint, wording.HINT_SCHEMA, _settings(recipe.hints).images,
    )
    expert = Expert(recipe, run, audit)
    return lambda problems: expert.drafts(problems, task)


def with_rewritten_steps(steps: Source, recipe: Recipe, run: Path, audit: Audit) -> Source:
    """The source `steps`, and where it finds none, or only such as `audit` refuses, the expert's from the solution."""
    expert = Expert(recipe, run, audit)

    def filled(problems: Sequence[Problem]) -> list[Draft]:
        drafts = steps(problems)
        gaps = [
            index for index, problem in enumerate(problems)
            if problem.solution and not _passes(drafts[index], problem, audit)
        ]
        rewritten = rewrite_steps([problems[index] for index in gaps], expert, recipe.hints.steps.max_steps)
        for index, draft in zip(gaps, rewritten, strict=True):
            drafts[index] = _better(drafts[index], draft, is_good=_passes(draft, problems[index], audit))
        return drafts

    return filled


def rewrite_steps(problems: Sequence[Problem], expert: Expert, max_steps: int) -> list[Draft]:
    """Steps in place of each problem's solution, from its text alone."""
    return expert.drafts(problems, Task(
        lambda problem, pictures, refusal: wording.steps_prompt_of(problem, max_steps=max_steps, refusal=refusal),
        partial(wording.read_steps, max_steps=max_steps), wording.steps_schema(max_steps), has_pictures=False,
    ))


def expert_sections(hints: Hints) -> dict:
    """What of the expert's settings and prompts is part of the key of hints from these sources.

    Errors: UsageError where an expert is to be asked and none is named.
    """
    names, sections = parse_sources(hints.source), {}
    if "expert" in names:
        sections["expert"] = _settings(hints).model_dump(exclude=_NOT_IN_KEY) | {"prompt_sha256": wording.PROMPT_HASH}
    if "steps" in names and hints.steps.expert:
        settings = _settings(hints).model_dump(exclude=_NOT_IN_KEY | _PICTURES)
        sections["steps_expert"] = settings | {"prompt_sha256": wording.STEPS_PROMPT_HASH}
    return sections


def spent(hints: Sequence[Hint], settings: ExpertHints | None) -> dict[str, float]:
    """What these hints cost, as a count; empty without prices."""
    if settings is None or not (settings.prompt_price or settings.completion_price):
        return {}
    prompt, completion = (sum(getattr(hint.cost, name) for hint in hints) for name in _TOKENS)
    return {"spent": round((prompt * settings.prompt_price + completion * settings.completion_price) / 1e6, 6)}


def said_cost(counts: dict) -> str:
    """"expert: 12 requests, 3,400 prompt and 900 completion tokens, 0.05 spent"; empty where none was asked."""
    if not counts.get("requests"):
        return ""
    prompt, completion = (counts.get(name, 0) for name in _TOKENS)
    money = f", {counts['spent']:,.4g} spent" if "spent" in counts else ""
    return f"expert: {counts['requests']:,} requests, {prompt:,} prompt and {completion:,} completion tokens{money}"


def ledger_file(run: Path) -> Path:
    """Where a run keeps the replies that it has paid for."""
    return run / "expert" / "replies.sqlite3"


def endpoints_of(settings: ExpertHints) -> list[Endpoint]:
    """The expert, and its fallback where there is one, with their keys from the environment."""
    how = {
        "concurrency": settings.concurrency, "retries": settings.retries, "timeout_s": settings.timeout_s,
        "first_pause_s": _FIRST_PAUSE_S, "who": "expert",
    }
    named = [(settings.model, settings.url, settings.key_variable, "hints.expert.")]
    if settings.fallback_model:
        variable = settings.fallback_key_variable or settings.key_variable
        named.append((settings.fallback_model, settings.fallback_url or settings.url, variable,
                      "hints.expert.fallback_"))
    return [
        Endpoint(model, url, (os.environ.get(variable) or "").strip() or None, variable, settings=prefix, **how)
        for model, url, variable, prefix in named
    ]


_TOKENS = ("prompt_tokens", "completion_tokens")


def _settings(hints: Hints) -> ExpertHints:
    if hints.expert is None:
        raise UsageError(
            "the recipe names no expert", expected="hints.expert: {model: …, url: …}",
            hint="`--set hints.expert.model=MODEL --set hints.expert.url=http://localhost:8000/v1`, its key in "
            "OPENAI_API_KEY",
        )
    return hints.expert


def _passes(draft: Draft, problem: Problem, audit: Audit) -> bool:
    return bool(draft.steps) and not _why_refused(draft, problem, audit)


def _why_refused(draft: Draft, problem: Problem, audit: Audit) -> str:
    return draft.refusal or audit(join_drafts(problem, {"expert": draft}), problem).refusal or ""


def _better(old: Draft, new: Draft, *, is_good: bool) -> Draft:
    """Steps that pass, else those that will be refused, else why there are none; at the cost of asking in any case."""
    if is_good or not (old.steps or new.fault):
        return new
    fault = "" if old.steps else "; ".join(filter(None, [old.fault, new.fault]))
    return replace(old, fault=fault, cost=new.cost)


# ---- asking ----------------------------------------------------------------------------------------------------------


class Expert:
    """The models that a recipe names, asked through the ledger of its run."""

    def __init__(self, recipe: Recipe, run: Path, audit: Audit):
        self._settings = _settings(recipe.hints)
        self._max_pixels = recipe.data.max_image_pixels
        self._run, self._audit = run, audit
        self._endpoints = endpoints_of(self._settings)
        self._pace = _Pace(self._settings.requests_per_minute)
        self._has_replied = False       # the service, to this process
        self._faults = 0                # problems in a row that got no reply

    def drafts(self, problems: Sequence[Problem], task: Task) -> list[Draft]:
        """One draft for each problem, with what it cost; a reply that is no use is in it with its `refusal`.

        Errors: PtdpoError when nobody answers, at first or for several problems in a row; when the key (401, 403), the
        model or the path (404) is refused; when `max_requests` are sent; when the ledger cannot be read or written.
        """
        if not problems:
            return []
        found: dict[int, Draft] = {}
        with ExitStack() as stack:
            ledger = stack.enter_context(open_ledger(ledger_file(self._run)))
            clients = {endpoint: stack.enter_context(open_client(endpoint)) for endpoint in self._endpoints}
            work = _Work(task, clients, ledger, threading.Event())
            draft_of = partial(self._draft, work)
            waiting = list(range(len(problems)))
            if not self._has_replied:       # the first alone, to learn whether anybody is there
                found[0] = self._heard(draft_of(problems[waiting.pop(0)]))
            with open_pool(self._settings.concurrency, work.stopping) as pool:
                asked = {pool.submit(draft_of, problems[index]): index for index in waiting}
                for future in as_completed(asked):
                    with suppress(CancelledError):      # stopped by an error that another of them raises
                        found[asked[future]] = self._heard(future.result())
            faults = [draft.fault for draft in found.values()]
            if all(faults) and ledger.is_empty():
                raise _no_replies(self._endpoints[0], len(faults), faults[0])
        return [found[index] for index in range(len(problems))]

    def _heard(self, draft: Draft) -> Draft:
        """The draft, unless it is one too many that the service had no reply for."""
        self._faults = self._faults + 1 if draft.fault else 0
        if self._faults == _MAX_FAULTS:
            raise _no_replies(self._endpoints[0], _MAX_FAULTS, draft.fault)
        return draft

    def _draft(self, work: _Work, problem: Problem) -> Draft:
        """The first draft that passes, of each model's two; else the last one that was refused."""
        replies: list[Reply] = []
        last = None
        for endpoint in self._endpoints:
            refusal = ""
            for temperature in (self._settings.temperature, self._settings.retry_temperature):
                reply = self._reply(work, problem, endpoint, temperature, refusal)
                replies.append(reply)
                if reply.fault:
                    break
                last = self._read(reply, work.task)
                refusal = _why_refused(last, problem, self._audit)
                if not refusal:
                    return replace(last, cost=_cost(replies))
        draft = last or Draft(fault=f"the expert: {reply.fault}")
        return replace(draft, cost=_cost(replies))

    def _reply(self, work: _Work, problem: Problem, endpoint: Endpoint, temperature: float, refusal: str) -> Reply:
        """The reply that the ledger has, or the service's, or the fault of its last attempt."""
        settings, task = self._settings, work.task
        body = {"temperature": temperature, "max_tokens": settings.max_tokens} | self._format(task)
        images = problem.images if task.has_pictures else ()
        names = [f"sha256:{image_hash(data)}, {settings.max_image_side}" for data in images]
        key = reply_key(endpoint, task.prompt(problem, names, refusal), body)
        with work.ledger.turn(key):
            if kept := work.ledger.reply(key):
                return kept
            shown = partial(data_url, max_side=settings.max_image_side, max_pixels=self._max_pixels,
                            where=f"problem {problem.problem_id}")
            messages = task.prompt(problem, list(map(shown, images)), refusal)
            reply = ask(lambda: self._send(work, endpoint, messages, body), endpoint, work.stopping)
            if reply.is_down and not self._has_replied:
                raise does_not_answer(endpoint, reply.fault)
            if reply.fault and work.stopping.is_set():
                raise CancelledError
            if not reply.fault:
                self._has_replied = True
                clean = self._without_keys
                reply = replace(reply, text=clean(reply.text or ""), model=clean(reply.model))
                work.ledger.keep_reply(key, reply)
            return reply

    def _send(self, work: _Work, endpoint: Endpoint, messages: list[dict], body: dict) -> Reply:
        """One attempt, when its turn has come and the budget allows it."""
        self._pace.wait(work.stopping)
        if work.stopping.is_set():
            return Reply(fault="stopped", is_final=True)
        try:
            work.ledger.count_request(self._settings.max_requests)
            return post(work.clients[endpoint], endpoint, messages, **body)
        except PtdpoError:
            work.stopping.set()     # at once: no other thread is to send what this one was refused for
            raise

    def _format(self, task: Task) -> dict:
        if self._settings.structured == "json_schema":
            schema = {"name": "hint", "strict": True, "schema": task.schema}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        return {"response_format": {"type": "json_object"}} if self._settings.structured == "json_object" else {}

    def _read(self, reply: Reply, task: Task) -> Draft:
        """What a reply says, without the keys even where it hides them in escapes."""
        if reply.is_cut:
            return wording.unreadable(f"the reply was cut at {self._settings.max_tokens} tokens", reply.text)
        draft, clean = task.read(reply.text), self._without_keys
        steps = tuple(map(clean, draft.steps))
        return replace(draft, spatial=clean(draft.spatial), steps=steps, text=clean(draft.text))

    def _without_keys(self, text: str) -> str:
        for endpoint in self._endpoints:
            text = without_key(text, endpoint.api_key)
        return text


def reply_key(endpoint: Endpoint, messages: list[dict], body: dict) -> str:
    """sha256 of all that a reply depends on: model, host, messages (prompts, fields, names of pictures), settings."""
    return hashlib.sha256(json.dumps([endpoint.model, endpoint.host, messages, body]).encode()).hexdigest()


def data_url(data: bytes, *, max_side: int, max_pixels: int, where: str = "") -> str:
    """A picture as a `data:` URL: its pixels encoded anew, as JPEG if it was one, else as PNG, no side over max_side.

    Errors: UsageError when it cannot be read or has too many pixels.
    """
    picture = decode_rgb(data, where=where, max_pixels=max_pixels, least=max_side)
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    picture.info = {}       # comments and the like would be saved with it
    kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
    encoded = io.BytesIO()
    picture.save(encoded, kind, **({"quality": _JPEG_QUALITY} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}"


class _Pace:
    """Requests begin no closer together than a minute's number of them allows."""

    def __init__(self, per_minute: float | None):
        self._between_s = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stopping: threading.Event) -> None:
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._between_s
        if begin > now:
            stopping.wait(begin - now)


def _cost(replies: Sequence[Reply]) -> Cost:
    """Of all of them; the name is the last one's that gave any."""
    name = next((reply.model for reply in reversed(replies) if reply.model), "")
    return Cost(name, *(sum(getattr(reply, of) for reply in replies) for of in ("requests", *_TOKENS)))


def _no_replies(endpoint: Endpoint, count: int, fault: str) -> PtdpoError:
    return PtdpoError(
        f"the expert at {endpoint.url} gave no reply for {count} {'problem' if count == 1 else 'problems in a row'}",
        found=fault.removeprefix("the expert: "),
        hint="mend it and run the same command again: it asks for what is missing. HTTP 400 often means a "
        "hints.expert.max_tokens beyond the model's length, a model without pictures (`--set "
        "hints.expert.images=false`), or a server that knows no response_format (`--set hints.expert.structured=none`)",
    )


# ---- the ledger ------------------------------------------------------------------------------------------------------


class Replies(Ledger):
    """The replies that a run has paid for, and how many requests it has sent."""

    _KEPT = ("text", "model", "requests", *_TOKENS, "is_cut")

    def __init__(self, database: sqlite3.Connection):
        super().__init__(database, "replies", "reply")
        self._turns: dict[str, threading.Lock] = {}
        self.do("CREATE TABLE IF NOT EXISTS sent (id INTEGER PRIMARY KEY, requests INTEGER NOT NULL)")
        self.do("INSERT OR IGNORE INTO sent VALUES (0, 0)")

    def reply(self, key: str) -> Reply | None:
        """The reply, unless there is none or it cannot be read."""
        record = self.get(key)
        try:
            return Reply(**{name: record[name] for name in self._KEPT}) if record else None
        except LookupError:
            return None

    def keep_reply(self, key: str, reply: Reply) -> None:
        self.keep(key, {name: getattr(reply, name) for name in self._KEPT})

    def turn(self, key: str) -> threading.Lock:
        """Held while a key is asked for: who waits for it finds the reply."""
        return self._turns.setdefault(key, threading.Lock())

    def count_request(self, at_most: int | None) -> None:
        """Errors: PtdpoError when as many were counted before, by any command."""
        if not self.do("UPDATE sent SET requests = requests + 1 WHERE ? IS NULL OR requests < ?", at_most, at_most
                       ).rowcount:
            raise PtdpoError(
                f"the budget of {at_most:,} requests to the expert is spent", expected="hints.expert.max_requests",
                hint=f"all replies are kept: the same command goes on with `--set hints.expert.max_requests="
                f"{2 * at_most}` (null: no limit)",
            )


@contextmanager
def open_ledger(path: Path) -> Iterator[Replies]:
    """The ledger in a file, which is made where there is none; errors as `open_database`."""
    with open_database(path, what="the expert's replies", lost="its replies are then paid for again") as database:
        yield Replies(database)
