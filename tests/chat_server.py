"""A small server of OpenAI's chat protocol on loopback, whose answers follow from what it is asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request as it arrived."""

    key: str
    frame: str
    video: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class Chat:
    """What was asked so far, and how to answer."""

    answer: Callable[[Asked], tuple[int, Any]]
    """HTTP status and body of an answer; a string is sent as it is, an iterator of bytes part by part."""
    asked: list[Asked] = field(default_factory=list)
    retry_after: str = "0"
    """What a refusal with status 429 says in its header of that name."""
    times_s: list[float] = field(default_factory=list)
    """When each request came, on the monotonic clock."""
    most_at_once: int = 0
    url: str = ""
    _under_way: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, asked: Asked) -> tuple[int, Any]:
        with self._lock:
            self.asked.append(asked)
            self.times_s.append(time.monotonic())
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            return self.answer(asked)
        finally:
            with self._lock:
                self._under_way -= 1


def completion(content: str | None, finish_reason: str = "stop") -> dict[str, Any]:
    """A chat completion as servers send it."""
    return {
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }


def merged(asked: Asked) -> tuple[int, Any]:
    """The answer of an obedient model."""
    return 200, completion(f"{asked.key} | {asked.video} while {asked.frame}")


@contextmanager
def chat_server(answer: Callable[[Asked], tuple[int, Any]] = merged) -> Iterator[Chat]:
    """Serves until the block is left."""
    chat = Chat(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                return self._send(404, {"error": self.path})
            last = body["messages"][-1]["content"]
            fields = dict(line.split(": ", 1) for line in last.splitlines())
            return self._send(*chat.handle(Asked(**fields, body=body, headers=dict(self.headers))))

        def _send(self, status: int, answer: Any) -> None:
            if isinstance(answer, Iterator):
                self._send_parts(status, answer)
                return
            payload = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            if status == 429:
                self.send_header("Retry-After", chat.retry_after)
            self.end_headers()
            self.wfile.write(payload)

        def _send_parts(self, status: int, parts: Iterator[bytes]) -> None:
            self.send_response(status)
            self.end_headers()
            with suppress(OSError):  # who asked may be gone
                for part in parts:
                    self.wfile.write(part)
                    self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
