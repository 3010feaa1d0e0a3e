"""Summaries by a language model behind any server that speaks OpenAI's chat protocol.

Every request carries the clip's id and a key made of it and its captions, in a header for the server's log; the key is
in the prompt too, where the model is asked to begin its answer with it. An answer without its key, or without a word of
the captions, is some other clip's or no summary, and is asked for again. (Servers name answers in headers of their own,
so a header can prove nothing.)
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from curation.annotators.base import Failed, operational
from curation.annotators.caption_merge import telling_words
from curation.annotators.coca import Caption
from curation.captions.spending import Spent
from warehouse.errors import SettingsError
from warehouse.ranges import MANY, check_ranges

if TYPE_CHECKING:
    import httpx

_INSTRUCTION = (
    "You are given two captions of one video clip: `frame` tells what its middle frame shows, `video` tells what "
    "happens over the whole clip. Write one or two sentences on one line that tell everything that either of them "
    "tells, each thing once, and nothing else. Do not speak of captions, frames or clips. Begin your answer with the key "
    "of the request and a vertical bar, and write nothing after the sentences."
)
# The two clips of SVD's figure 14: what CoCa, the video model and the language model said of each.
_EXAMPLES = (
    (
        "key: 5d41c0aa\nframe: there is a piece of wood on the floor next to a tape measure .\n"
        "video: a person is using a ruler to measure a piece of wood",
        "5d41c0aa | A person is using a ruler to measure a piece of wood on the floor next to a tape measure.",
    ),
    (
        "key: 90be217f\nframe: two men sitting on a rock near a river . one is holding a stick and the other is holding "
        "a pole .\nvideo: two people are fishing in a river",
        "90be217f | Two men are fishing in a river. One is holding a stick and the other is holding a pole.",
    ),
)


@dataclass(frozen=True)
class ServerConfig:
    """Which server and model, and how much is asked of it at once."""

    url: str = "http://127.0.0.1:8000/v1"
    """What precedes `/chat/completions`."""
    model: str = "default"
    """The model's name on that server."""
    api_key_env: str | None = operational(None)
    """Name of the environment variable that holds the server's key; None sends none."""
    temperature: float = 0.0
    """0 makes an answer as repeatable as the server can."""
    max_tokens: int = 160
    """An answer that has not ended after as many tokens is cut there."""
    body: dict[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of a request's body, and others for ours; null leaves one out. Models of OpenAI that think want
    {"max_tokens": null, "max_completion_tokens": 2000, "temperature": null}."""
    concurrency: int = operational(8)
    """Requests that are under way at once, in the whole run: one worker asks, whatever their number."""
    requests_per_minute: float | None = operational(None)
    """Requests of the whole run are spaced so as not to be more, those that are asked again included; None sets no
    limit."""
    timeout_s: float = operational(60.0)
    """Longest wait for one answer, in seconds."""
    attempts: int = operational(4)
    """How often a clip is asked for in one run, the first time included."""
    usd_per_million_prompt_tokens: float = operational(0.0)
    """What the server's owner charges, so that the cost can be told; both prices 0: it is not told."""
    usd_per_million_completion_tokens: float = operational(0.0)
    """The same for what is written."""
    backoff_s: float = operational(1.0)
    """Wait before the second attempt, in seconds; it doubles with each further one."""
    longest_wait_s: float = operational(60.0)
    """Longest wait before a further attempt, also where the server asks for more (Retry-After)."""

    def __post_init__(self) -> None:
        counts, waits = ("max_tokens", "concurrency", "attempts"), ("backoff_s", "longest_wait_s")
        bounds = dict.fromkeys(counts, (1, MANY)) | dict.fromkeys(waits, (0, MANY))
        bounds |= {"requests_per_minute": (1e-3, MANY), "timeout_s": (1e-3, MANY)}
        check_ranges("annotators.summaries.server", self, **bounds)
        if kept := sorted(_OURS & self.body.keys()):
            raise SettingsError(
                f"annotators.summaries.server.body has {', '.join(kept)}, which cannot be set: summaries are asked for "
                "in messages of their own, in one piece each"
            )


_MOST_BYTES = 16 << 20
"""Of one answer, thoughts included."""
_OURS = {"messages", "stream", "n"}
"""Fields of a body that answers are read by."""


@dataclass(frozen=True)
class Request:
    """Two captions of one clip that are to become one."""

    clip_id: str
    frame_caption: str
    video_caption: str

    @property
    def key(self) -> str:
        """8 hex digits that follow from the clip and its captions."""
        whole = "\n".join((self.clip_id, self.frame_caption, self.video_caption))
        return hashlib.sha256(whole.encode()).hexdigest()[:8]

    @property
    def request_id(self) -> str:
        """What the request's header says."""
        return f"{self.clip_id}:{self.key}"

    def body(self, config: ServerConfig) -> dict[str, Any]:
        """The request in OpenAI's chat format."""
        asked = f"key: {self.key}\nframe: {self.frame_caption}\nvideo: {self.video_caption}"
        turns = [turn for example in _EXAMPLES for turn in zip(("user", "assistant"), example, strict=True)]
        messages = [("system", _INSTRUCTION), *turns, ("user", asked)]
        body = {
            "model": config.model,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "stream": False,
        }
        return {name: value for name, value in (body | config.body).items() if value is not None}


@dataclass(frozen=True)
class Answer:
    """What came of a request in the end, and what it took."""

    told: Caption | Failed
    spent: Spent | None = None
    """None where no server was asked."""


class _Refused(Exception):
    """One attempt failed. `again`: the next may succeed; `wait_s`: as the server asks."""

    def __init__(self, cause: str, detail: str, *, again: bool = True, wait_s: float = 0.0) -> None:
        super().__init__(detail)
        self.failed = Failed(cause, detail)
        self.again = again
        self.wait_s = wait_s


class SummaryServer:
    """Asks for summaries, several at once."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._pace = _Pace(config.requests_per_minute)
        self._headers = _headers(config)

    def ask_all(self, requests: Sequence[Request]) -> list[Answer]:
        """A summary for each request, or why there is none, in order."""
        import httpx

        with (
            httpx.Client(headers=self._headers, timeout=self._config.timeout_s) as client,
            ThreadPoolExecutor(self._config.concurrency) as pool,
        ):
            return list(pool.map(partial(self._ask, client), requests))

    def _ask(self, client: httpx.Client, request: Request) -> Answer:
        spent = Spent()
        longest_s, wait_s = self._config.longest_wait_s, self._config.backoff_s
        for attempt in range(1, self._config.attempts + 1):
            try:
                response = self._post(client, request)
                spent += self._took(response)
                return Answer(_read(request, response), replace(spent, requests=attempt))
            except _Refused as refused:
                failed, asked_s = refused.failed, refused.wait_s
                if not refused.again or attempt == self._config.attempts:
                    break
                self._pace.hold(min(asked_s, longest_s))
                time.sleep(min(max(wait_s, asked_s), longest_s))
                wait_s *= 2
        told = f"{failed.detail} (attempt {attempt} of {self._config.attempts})"
        if asked_s > longest_s:
            told += f"; it asks to wait {asked_s:.0f} s, and longest_wait_s allows {longest_s:g} s"
        return Answer(Failed(failed.cause, told), replace(spent, requests=attempt))

    def _post(self, client: httpx.Client, request: Request) -> httpx.Response:
        """One attempt, with what came back where it is an answer. Raises _Refused."""
        import httpx

        self._pace.wait()
        place = f"{self._config.url.rstrip('/')}/chat/completions"
        sent = {"json": request.body(self._config), "headers": {"X-Request-Id": request.request_id}}
        try:
            with client.stream("POST", place, **sent) as coming:
                response = _whole(coming, time.monotonic() + self._config.timeout_s)
        except httpx.TimeoutException as error:
            raise _Refused(
                "timeout", f"{self._config.url} gave no answer in {self._config.timeout_s} s"
            ) from error
        except httpx.HTTPError as error:
            raise _Refused("server_error", f"{self._config.url} cannot be asked: {error}") from error
        _check_status(response)
        return response

    def _took(self, response: httpx.Response) -> Spent:
        """What an answer took by the `usage` that the server reports in it, at the prices of the settings."""
        try:
            reported = dict(response.json()["usage"])
            prompt, completion = (int(reported[f"{of}_tokens"]) for of in ("prompt", "completion"))
        except (ValueError, LookupError, TypeError, RecursionError):
            return Spent()
        prices = self._config.usd_per_million_prompt_tokens, self._config.usd_per_million_completion_tokens
        nano_usd = round(1000 * (prompt * prices[0] + completion * prices[1])) if any(prices) else None
        return Spent(0, prompt, completion, nano_usd)


def _whole(coming: httpx.Response, until_s: float) -> httpx.Response:
    """The answer once all of it is there. The client's limit is of each part that comes, and parts could come for ever.

    Raises:
        httpx.ReadTimeout: it goes on past `until_s` on the monotonic clock.
        _Refused: it is too large for an answer.
    """
    import httpx

    content = bytearray()
    for part in coming.iter_bytes():
        content += part
        if len(content) > _MOST_BYTES:
            raise _Refused("bad_answer", f"no chat completion: more than {_MOST_BYTES:,} bytes")
        if time.monotonic() > until_s:
            raise httpx.ReadTimeout("the answer does not end", request=coming.request)
    kept = {name: coming.headers[name] for name in ("Content-Type", "Retry-After") if name in coming.headers}
    return httpx.Response(coming.status_code, headers=kept, content=bytes(content))


def _read(request: Request, response: httpx.Response) -> Caption:
    """The summary in an answer. Raises _Refused."""
    try:
        choice = response.json()["choices"][0]
        content, reason = str(choice["message"]["content"] or ""), choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _Refused("bad_answer", f"no chat completion: {response.text[:200]!r}") from error
    said = without_thoughts(content)
    if not said and reason == "length":
        raise _Refused(
            "bad_answer", "the model was cut while it thought; raise annotators.summaries.server.max_tokens"
        )
    return Caption(checked_summary(request, said), "truncated" if reason == "length" else "ok")


def without_thoughts(content: str) -> str:
    """An answer less what the model thought before it, between <think> tags; the first may be the prompt's, and not
    come along. Nothing where the thoughts do not end.
    """
    _, ended, said = content.rpartition("</think>")
    return said.strip() if ended or not content.lstrip().startswith("<think>") else ""


def checked_summary(request: Request, content: str) -> str:
    """The sentence of an answer that carries its request's key and speaks of its captions; else raises _Refused."""
    first_line = content.strip().partition("\n")[0]
    key, bar, sentence = (part.strip() for part in first_line.partition("|"))
    if key != request.key or not bar:
        raise _Refused(
            "bad_answer", f"the answer does not begin with the key {request.key}: {first_line[:200]!r}"
        )
    captions = telling_words(request.frame_caption) | telling_words(request.video_caption)
    if not telling_words(sentence) & captions:
        raise _Refused("bad_answer", f"the answer has no word of the captions: {first_line[:200]!r}")
    return sentence


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status == 429 or status >= 500:
        wait_s = retry_after_s(response.headers.get("Retry-After", ""), datetime.now(UTC))
        raise _Refused(
            "server_error", f"the server answered {status}: {response.text[:200]!r}", wait_s=wait_s
        )
    if status != 200:
        told = f"the server answered {status}: {response.text[:200]!r}"
        if status in (400, 422):
            told += "; annotators.summaries.server.body changes what is sent"
        raise _Refused("refused", told, again=False)


def retry_after_s(header: str, now: datetime) -> float:
    """Seconds that a Retry-After header asks to wait: a number of them, or a date (RFC 9110, section 10.2.3); else 0."""
    if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


def _headers(config: ServerConfig) -> dict[str, str]:
    if config.api_key_env is None:
        return {}
    key = os.environ.get(config.api_key_env)
    if not key:
        raise SettingsError(
            f"annotators.summaries.server.api_key_env names {config.api_key_env!r}, which is not set; export it"
        )
    return {"Authorization": f"Bearer {key}"}


class _Pace:
    """Spaces calls of `wait` by at least a minute over `per_minute`, over all threads, and holds all of them back."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap_s = 60.0 / per_minute if per_minute else 0.0
        self._next_s = self._held_s = 0.0
        self._lock = threading.Lock()

    def hold(self, wait_s: float) -> None:
        """No call of `wait` returns before so many seconds are over."""
        with self._lock:
            self._held_s = max(self._held_s, time.monotonic() + wait_s)
            self._next_s = max(self._next_s, self._held_s)

    def wait(self) -> None:
        """Returns when it is the caller's turn; one that was held back meanwhile takes another turn."""
        while True:
            with self._lock:
                now_s = time.monotonic()
                at_s = max(now_s, self._next_s)
                self._next_s = at_s + self._gap_s
            time.sleep(at_s - now_s)
            if time.monotonic() >= self._held_s:
                return
