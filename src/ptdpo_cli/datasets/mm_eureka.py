"""MM-Eureka's first training data: MMK12's forerunner and parts of MMPR (arXiv 2503.07365)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import easyr1, fields
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.errors import UsageError

CARD = Card(
    name="mm-eureka",
    hub="FanqingM/MM-Eureka-Dataset",
    splits={"train": Split(None, (Table(files="dataset.jsonl", archive="*.zip"),))},
    license="unknown",
    purpose="train",
    scoring="letter, number or expression by value, or text, as the form of the answer says",
    train="train",
    key="id",
    notes="Licence and number of rows are unconfirmed. Two layouts are read: `message`, a JSON text of chat messages "
          "with file:// addresses of pictures, and `conversations` with `image_urls`, as readers of the repository "
          "find it. The pictures are in K12.zip and MMPR.zip.",
)
# Where the two zips have what the rows call K12/… and MMPR/….
_ROOT = "inspire/hdd/global_user/shaowenqi-shaowenqi/mengfanqing/OpenRLHF-InternVL/dataset/report_data/"
_BLANK = "blank_image.jpg"                                      # stands for no picture
_INSTRUCTION = re.compile(r"\A.*?</?(?:answer|think)>.*?\bQuestion:\s*", re.DOTALL)


def problem(row: Mapping, place: Place) -> Problem:
    """The question is what the user says, without the instruction that may precede "Question:"."""
    images: list[str] = []
    if row.get("message") is not None:
        messages, name = fields.from_json(row["message"], "message"), "message"
    else:
        messages, name = row["conversations"], "conversations"
        images = list(fields.texts(row, "image_urls"))
        if isinstance(messages, str):
            messages = fields.from_json(messages, name)
    question = ""
    for speaker, said in fields.turns(messages, name):
        if speaker in ("user", "human"):
            question, shown = _said(said)
            images += shown
    if not question:
        raise UsageError(f"there is no question in {name}", expected="a turn of the user with text")
    return easyr1.asked(
        _INSTRUCTION.sub("", question), tuple(_path(image) for image in images if image != _BLANK),
        fields.text(row, "answer"), place, CARD, f"mm-eureka/{fields.text(row, 'id')}",
    )


def _said(content) -> tuple[str, list[str]]:
    """Text and pictures of one turn, which is a text or a list of parts."""
    if isinstance(content, str):
        return content.strip(), []
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    words = [fields.as_text(part.get("text"), "text of a message", "") for part in parts if part.get("type") == "text"]
    shown = [fields.as_text(part.get("image"), "image of a message") for part in parts if part.get("type") == "image"]
    return "\n".join(filter(None, words)), shown


def _path(address: str) -> str:
    """Where a picture is inside its zip."""
    path = address.removeprefix("file://").lstrip("/")
    inside = path.partition("report_data/")[2] or path
    return _ROOT + inside if inside.startswith(("K12/", "MMPR/")) else path
