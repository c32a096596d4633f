"""The way `model` of an extraction: what the reader quotes, as answers, a column and counts; all that grade take it.

    asked       responses that ended, whose thought ended, that no rule reads and that do not decline
    quoted      a passage of the response, compared like any other answer
    none        the response has no answer, the reader says
    failed      nobody said, or what was said is not in the response: no answer, and the column `reader` says why
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ptdpo_cli.artifacts.manifest import Manifest
from ptdpo_cli.recipe import Reader, Reward, reader_of
from ptdpo_cli.rewards import Grade, Response
from ptdpo_cli.rewards.quote import PROMPT_HASH, Endpoint, Question, Quote, question_of, quote_all

# How a reader is asked changes no quote, so it is no part of any key.
_NOT_IN_KEY = {"key_variable", "concurrency", "retries", "timeout_s"}
_SAID = {"quoted": "quoted, says ", "none": "none, says "}


def reader_section(reward: Reward, extraction: Sequence[str]) -> dict | None:
    """The part of a key that the reader is: who, where, and the prompt; None where these ways ask nobody."""
    reader = reader_of(reward, extraction)
    return reader and reader.model_dump(exclude=_NOT_IN_KEY) | {"prompt_sha256": PROMPT_HASH}


def reward_section(reward: Reward) -> dict:
    """The part of a key that a reward is; a reader that it does not ask is none of it."""
    return reward.model_dump(exclude={"reader"}) | {"reader": reader_section(reward, reward.extraction)}


def former_reader(manifest: Manifest) -> Reader | None:
    """Who was asked for answers that were graded before."""
    section = manifest.section if manifest.kind == "evals" else manifest.section.get("reward", {})
    asked = section.get("reader")
    return Reader(**{name: value for name, value in asked.items() if name in Reader.model_fields}) if asked else None


def quote_cache(run: Path) -> Path:
    """Where a run keeps the quotes that it has paid for."""
    return run / "reader" / "quotes.sqlite3"


@dataclass
class Quoting:
    """A reader that can be asked, and what it has said so far; of one shard, so that a shard's counts are its own."""

    reader: Reader
    cache: Path
    quotes: list[Quote] = field(default_factory=list)               # one per response
    by_question: dict[Question, Quote] = field(default_factory=dict)

    def __call__(self, responses: Sequence[Response]) -> list[str | None]:
        """What each response gives as its answer.

        Errors: PtdpoError when nobody answers, or the key or the model is refused.
        """
        reader = self.reader
        endpoint = Endpoint(
            reader.model, reader.url, (os.environ.get(reader.key_variable) or "").strip() or None, reader.key_variable,
            reader.concurrency, reader.retries, reader.timeout_s, who="reader", settings="reward.reader.",
        )
        questions = [question_of(response.problem, response.text) for response in responses]
        quotes = quote_all(questions, endpoint, cache=self.cache)
        self.quotes += quotes
        self.by_question |= dict(zip(questions, quotes, strict=True))
        return [quote.text for quote in quotes]

    def said(self, response: Response, grade: Grade) -> str | None:
        """What the reader said of a response, or why it failed; None where it was not asked."""
        if grade.extracted_by not in (None, "model") or response.is_truncated:
            return None
        quote = self.by_question.get(question_of(response.problem, response.text))
        if quote is None:
            return None
        if quote.fault:
            return f"{quote.fault} ({quote.requests} {'attempt' if quote.requests == 1 else 'attempts'})"
        return _SAID["none" if quote.text is None else "quoted"] + quote.model

    def counts(self) -> dict[str, int]:
        """Counts of responses, and what their quotes cost when they were asked for; equal questions cost once.

        A quote from the disk counts with what it once cost: an artifact says the same, interrupted or not.
        """
        return _counts(self.quotes, self.by_question.values())


def open_quoting(reward: Reward, extraction: Sequence[str], run: Path) -> Quoting | None:
    """The reader of these ways, which has said nothing so far; None where they ask nobody."""
    reader = reader_of(reward, extraction)
    return reader and Quoting(reader, quote_cache(run))


def costs_of(quoting: Quoting | None) -> dict[str, int]:
    """The counts that a reader adds; none where nobody is asked."""
    return quoting.counts() if quoting else {}


def has_failed(said: str | None) -> bool:
    """Whether the column `reader` says that the reader was asked and gave nothing."""
    return said is not None and not said.startswith(tuple(_SAID.values()))


def reader_identity(section: Mapping, rows: Iterable[Mapping]) -> dict:
    """Who read, for an evaluation's `extra`: as asked for, and as the server named itself. Empty: nobody."""
    asked = section.get("reader")
    if not asked:
        return {}
    said = [row["reader"] for row in rows if row["reader"] and not has_failed(row["reader"])]
    names = {one.partition(", says ")[2] for one in said}
    return {"reader": asked | {"reported_models": sorted(names)}}


def _counts(quotes: Sequence[Quote], paid: Collection[Quote]) -> dict[str, int]:
    failed = sum(bool(quote.fault) for quote in quotes)
    quoted = sum(quote.text is not None for quote in quotes)
    return {
        "reader_asked": len(quotes),
        "reader_quoted": quoted,
        "reader_none": len(quotes) - quoted - failed,
        "reader_failed": failed,
        "reader_requests": sum(quote.requests for quote in paid),
        "reader_prompt_tokens": sum(quote.prompt_tokens for quote in paid),
        "reader_completion_tokens": sum(quote.completion_tokens for quote in paid),
    }


# The counts that a reader adds, before it is asked anything.
NO_QUOTES = _counts((), ())
