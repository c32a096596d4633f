"""A stand-in for a judge or an expert: a local server that speaks as much of `/chat/completions` as a test needs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """What the stub sends: a body as text, after a delay; `cut_after` bytes of it and then nothing more."""

    body: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut_after: int | None = None


def says(text: object, *, model: str = "stub-1.2", finish_reason: str = "stop", usage: object = None, **more) -> Answer:
    """A chat completion as the OpenAI API reference has it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = usage or {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}
    return Answer(json.dumps({"id": "x", "object": "chat.completion", "model": model, "choices": [choice],
                              "usage": usage}), **more)


@dataclass
class Stub:
    """A running stub: what it was asked, and how many requests were under way at once at the most."""

    url: str = ""
    bodies: list[dict] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0

    @property
    def fields(self) -> list[dict]:
        """The JSON object in each request."""
        return [fields_of(body) for body in self.bodies]


def fields_of(body: dict) -> dict:
    """The JSON object in a request's last message, behind its pictures where it has any."""
    content = body["messages"][-1]["content"]
    prompt = content if isinstance(content, str) else content[-1]["text"]
    return json.loads(prompt[prompt.index("{") : prompt.rindex("}") + 1])


def interrupted_at_the_third(as_completed: Callable) -> Callable:
    """`as_completed`, into which Ctrl-C arrives with the third future."""
    count = []

    def interrupted(futures):
        for future in as_completed(futures):
            count.append(future)
            if len(count) == 3:
                raise KeyboardInterrupt
            yield future

    return interrupted


@contextmanager
def stub_judge(answer: Callable[[int, dict], Answer]) -> Iterator[Stub]:
    """`answer(number, body)` says what the request of that number, from 0, gets."""
    stub, lock, at_once = Stub(), threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(stub.bodies)
                stub.bodies.append(body)
                stub.paths.append(self.path)
                stub.keys.append(self.headers.get("Authorization"))
                stub.times.append(time.monotonic())
                at_once[0] += 1
                stub.most_at_once = max(stub.most_at_once, at_once[0])
            try:
                self._send(answer(number, body))
            except (BrokenPipeError, ConnectionResetError):     # a client that has waited long enough
                pass
            finally:
                with lock:
                    at_once[0] -= 1

        def _send(self, one: Answer) -> None:
            time.sleep(one.delay_s)
            data = one.body.encode()
            self.send_response(one.status)
            for name, value in one.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: one.cut_after])
            if one.cut_after is not None:
                self.close_connection = True

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
