from __future__ import annotations

import json
import pickle
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from annotator_clips import check_columns, clip_of
from chat_server import Asked, chat_server, completion, merged
from hypothesis import given
from hypothesis import strategies as st

from curation.annotate import AnnotateWork
from curation.annotators.base import Clip, Done, Failed
from curation.annotators.caption_merge import merge_captions, telling_words
from curation.annotators.summaries import SummariesAnnotator, SummariesConfig
from curation.annotators.summary_server import Request, ServerConfig, retry_after_s
from flows.settings import load_settings, nest, parse_set
from warehouse.errors import SettingsError

NOTHING_ASKED = dict.fromkeys(("requests", "prompt_tokens", "completion_tokens", "nano_usd"))
QUICK = ServerConfig(model="tiny", backoff_s=0.001, timeout_s=5.0)


def captioned(number: int, **other: str | None) -> Clip:
    row = {
        "frame_caption": f"a dog number {number} on grass",
        "frame_status": "ok",
        "video_caption": f"dog {number} runs",
        "video_status": "ok",
    }
    return clip_of([], clip_id=f"clip{number}", rows={"captions": row | other})


def annotator(server: ServerConfig | None) -> SummariesAnnotator:
    made = SummariesAnnotator(SummariesConfig(server))
    made.load()
    return made


@pytest.mark.parametrize(
    ("frame", "video", "both"),
    [
        (  # the example of the paper's figure 14, with what its language model made of it
            "there is a piece of wood on the floor next to a tape measure .",
            "a person is using a ruler to measure a piece of wood",
            "a person is using a ruler to measure a piece of wood on the floor next to a tape measure",
        ),
        (
            "a red ring on a plain background",
            "a red ring moving left on a plain background",
            "a red ring moving left on a plain background",
        ),
        ("a dog sleeping in a basket", "a dog", "a dog sleeping in a basket"),
        (
            "a red ring on a plain background with text",
            "a red ring standing still on a plain background",
            "a red ring standing still on a plain background with text",
        ),
        ("two horses", "a rider falls", "a rider falls, two horses"),
        ("a dog near a ball with a ball", "a cat", "a cat, a dog near a ball"),
    ],
)
def test_a_rule_merges_captions_without_saying_anything_twice(frame: str, video: str, both: str) -> None:
    assert merge_captions(frame, video) == both


WORDS = "a the red blue dog dogs cat grass on in with while runs sleeps of near ball"
CAPTIONS = st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=9).map(" ".join)


@given(CAPTIONS, CAPTIONS)
def test_a_merge_tells_what_either_caption_tells_and_nothing_else(frame: str, video: str) -> None:
    both = merge_captions(frame, video)
    assert telling_words(both) == telling_words(frame) | telling_words(video)
    assert merge_captions(frame, both) == both
    assert merge_captions(video, video) == video


def test_without_a_server_the_rule_writes_the_summary_and_a_cut_caption_stays_marked() -> None:
    whole, cut, missing = annotator(None).annotate(
        [captioned(1), captioned(2, frame_status="truncated"), clip_of([], rows={"captions": {}})]
    )
    assert isinstance(whole, Done) and isinstance(cut, Done)
    check_columns("summaries", whole)
    assert dict(whole.columns) == {
        "summary": "dog 1 runs, a dog number 1 on grass",
        "method": "offline-merge",
        "status": "ok",
        **NOTHING_ASKED,
    }
    assert cut.columns["status"] == "truncated"
    assert isinstance(missing, Failed) and missing.cause == "missing_input"


def test_where_one_caption_failed_the_other_is_the_summary_and_no_server_is_asked() -> None:
    silent = captioned(1, video_caption=None, video_status="failed")
    (alone,) = annotator(None).annotate([silent])
    assert isinstance(alone, Done)
    assert dict(alone.columns) == {
        "summary": "a dog number 1 on grass",
        "method": "offline-merge",
        "status": "ok",
        **NOTHING_ASKED,
    }
    with chat_server() as chat:
        server = annotator(replace(QUICK, url=chat.url))
        first, second, third = server.annotate([captioned(0), silent, captioned(2)])
        assert server.annotate([silent]) == [alone]
    assert second == alone and len(chat.asked) == 2
    assert [first.columns["summary"][:5], third.columns["summary"][:5]] == ["dog 0", "dog 2"]
    assert first.columns["method"] == third.columns["method"] == "llm-tiny"


def test_every_answer_goes_to_the_clip_that_asked_for_it_and_tokens_are_counted() -> None:
    def slow_for_early_ones(asked: Asked) -> tuple[int, Any]:
        time.sleep(0.02 * (12 - int(asked.video.split()[1])))
        return merged(asked)

    with chat_server(slow_for_early_ones) as chat:
        priced = {"usd_per_million_prompt_tokens": 2.0, "usd_per_million_completion_tokens": 10.0}
        server = annotator(replace(QUICK, url=chat.url, concurrency=4, **priced))
        outcomes = server.annotate([captioned(n) for n in range(12)])
    for number, outcome in enumerate(outcomes):
        assert isinstance(outcome, Done)
        check_columns("summaries", outcome)
        assert dict(outcome.columns) == {
            "summary": f"dog {number} runs while a dog number {number} on grass",
            "method": "llm-tiny",
            "status": "ok",
            "requests": 1,
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "nano_usd": 100 * 2_000 + 20 * 10_000,
        }
    assert 2 <= chat.most_at_once <= 4


def test_a_request_carries_its_clip_its_key_and_two_examples() -> None:
    with chat_server() as chat:
        annotator(replace(QUICK, url=chat.url + "/", max_tokens=33)).annotate([captioned(7)])
    (asked,) = chat.asked
    request = Request("clip7", "a dog number 7 on grass", "dog 7 runs")
    assert asked.key == request.key != Request("clip8", "a dog number 7 on grass", "dog 7 runs").key
    assert asked.headers["X-Request-Id"] == f"clip7:{request.key}"
    assert [m["role"] for m in asked.body["messages"]] == ["system", *("user", "assistant") * 2, "user"]
    for question, answer in zip(asked.body["messages"][1:5:2], asked.body["messages"][2:5:2], strict=True):
        key = question["content"].split()[1]
        assert answer["content"].startswith(f"{key} | ")
        asked_key, frame, video = (line.split(": ", 1)[1] for line in question["content"].splitlines())
        assert telling_words(answer["content"]) - {asked_key} <= telling_words(f"{frame} {video}")
    assert (asked.body["model"], asked.body["max_tokens"], asked.body["temperature"]) == ("tiny", 33, 0.0)


def test_what_passes_is_asked_again_until_it_is_right() -> None:
    seen: Counter[str] = Counter()
    faults: list[tuple[int, Any]] = [
        (503, "busy"),
        (429, "slow down"),
        (200, "no json"),
        (200, completion("00000000 | a dog runs")),
    ]

    def faulty_at_first(asked: Asked) -> tuple[int, Any]:
        seen[asked.key] += 1
        at = seen[asked.key] - 1
        return faults[at] if at < len(faults) else merged(asked)

    with chat_server(faulty_at_first) as chat:
        (outcome,) = annotator(replace(QUICK, url=chat.url, attempts=5)).annotate([captioned(1)])
        (failed,) = annotator(replace(QUICK, url=chat.url, attempts=1)).annotate([captioned(2)])
    assert isinstance(outcome, Done) and len(chat.asked) == 6
    # Of the five requests two were answered with a chat completion, one of them of no use.
    assert [outcome.columns[name] for name in NOTHING_ASKED] == [5, 200, 40, None]
    asked = NOTHING_ASKED | {"requests": 1}
    assert failed == Failed("server_error", "the server answered 503: 'busy' (attempt 1 of 1)", asked)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("a dog runs on grass", "does not begin with the key"),
        ("{other} | a dog runs on grass", "does not begin with the key"),
        ("{key} | I cannot help with that.", "has no word of the captions"),
        ("{key} |", "has no word of the captions"),
        ("", "does not begin with the key"),
    ],
)
def test_an_answer_that_is_not_this_clips_summary_fails_it(content: str, cause: str) -> None:
    other = Request("clip2", "a dog number 2 on grass", "dog 2 runs").key

    def answer(asked: Asked) -> tuple[int, Any]:
        return 200, completion(content.format(key=asked.key, other=other))

    with chat_server(answer) as chat:
        (outcome,) = annotator(replace(QUICK, url=chat.url, attempts=2)).annotate([captioned(1)])
    assert isinstance(outcome, Failed) and outcome.cause == "bad_answer" and cause in outcome.detail
    assert [outcome.columns[name] for name in NOTHING_ASKED] == [2, 200, 40, None]
    assert len(chat.asked) == 2


def test_an_answer_that_was_cut_is_kept_and_marked_and_talk_after_it_is_dropped() -> None:
    with chat_server(lambda asked: (200, completion(f"{asked.key} | a dog that", "length"))) as chat:
        (cut,) = annotator(replace(QUICK, url=chat.url)).annotate([captioned(1)])
    with chat_server(lambda asked: (200, completion(f" {asked.key}|a dog runs\n\nAnything else?"))) as chat:
        (chatty,) = annotator(replace(QUICK, url=chat.url)).annotate([captioned(1)])
    assert isinstance(cut, Done) and cut.columns["status"] == "truncated"
    assert isinstance(chatty, Done) and chatty.columns["summary"] == "a dog runs"


@pytest.mark.parametrize(
    "content",
    [
        "<think>\nA dog | runs.\n</think>\n\n{key} | a dog runs",
        "thoughts whose first tag stood in the prompt</think>{key} | a dog runs",
        "{key} | a dog runs",
    ],
)
def test_what_a_model_thinks_before_it_answers_is_no_summary(content: str) -> None:
    with chat_server(lambda asked: (200, completion(content.format(key=asked.key)))) as chat:
        (outcome,) = annotator(replace(QUICK, url=chat.url)).annotate([captioned(1)])
    assert isinstance(outcome, Done) and outcome.columns["summary"] == "a dog runs"


@pytest.mark.parametrize("content", ["<think>\nA dog runs. Or does", None])
def test_a_model_that_is_cut_while_it_thinks_says_nothing(content: str | None) -> None:
    with chat_server(lambda asked: (200, completion(content, "length"))) as chat:
        (outcome,) = annotator(replace(QUICK, url=chat.url, attempts=1)).annotate([captioned(1)])
    assert isinstance(outcome, Failed) and outcome.cause == "bad_answer"
    assert "raise annotators.summaries.server.max_tokens" in outcome.detail


def only_newer_fields(asked: Asked) -> tuple[int, Any]:
    """As OpenAI's models that think answer."""
    for name in ("max_tokens", "temperature"):
        if name in asked.body:
            return 400, {"error": {"message": f"Unsupported parameter: '{name}'"}}
    return merged(asked)


def test_what_a_server_wants_otherwise_is_set_in_the_body() -> None:
    body = {
        "max_tokens": None,
        "max_completion_tokens": 2000,
        "temperature": None,
        "reasoning": {"effort": "low"},
    }
    with chat_server(only_newer_fields) as chat:
        (refused,) = annotator(replace(QUICK, url=chat.url)).annotate([captioned(1)])
        (done,) = annotator(replace(QUICK, url=chat.url, body=body)).annotate([captioned(1)])
    assert isinstance(refused, Failed) and refused.cause == "refused"
    assert "Unsupported parameter" in refused.detail and "max_tokens" in refused.detail
    assert "annotators.summaries.server.body changes what is sent" in refused.detail
    assert isinstance(done, Done)
    sent = chat.asked[-1].body
    assert (sent["max_completion_tokens"], sent["reasoning"], sent["model"]) == (
        2000,
        {"effort": "low"},
        "tiny",
    )
    with pytest.raises(SettingsError, match="body has messages, stream, which cannot be set"):
        replace(QUICK, body={"stream": True, "messages": []})


def test_another_body_is_another_table_and_reaches_workers() -> None:
    def summaries(body: str) -> AnnotateWork:
        settings = load_settings(
            nest(dict([parse_set(f"annotators.summaries.server={body}")])), environ={}, toml=None
        )
        return AnnotateWork("summaries", dict(settings.annotators)["summaries"])

    plain, low = summaries("{}"), summaries('{"body": {"reasoning": {"effort": "low"}}}')
    assert low.config.server.body == {"reasoning": {"effort": "low"}}
    assert plain.step.config != low.step.config
    assert pickle.loads(pickle.dumps(low)) == low != plain
    assert hash(low.config) == hash(plain.config), "a worker keeps annotators by their config"


def test_what_no_attempt_can_mend_is_not_tried_again() -> None:
    with chat_server(lambda asked: (401, "no key")) as chat:
        (outcome,) = annotator(replace(QUICK, url=chat.url)).annotate([captioned(1)])
    assert isinstance(outcome, Failed) and outcome.cause == "refused" and len(chat.asked) == 1


def test_a_server_that_is_away_or_silent_fails_each_clip_with_its_cause() -> None:
    def silent(asked: Asked) -> tuple[int, Any]:
        time.sleep(0.3)
        return merged(asked)

    with chat_server(silent) as chat:
        (late,) = annotator(replace(QUICK, url=chat.url, timeout_s=0.05, attempts=2)).annotate([captioned(1)])
    assert isinstance(late, Failed) and late.cause == "timeout"
    (away,) = annotator(replace(QUICK, url=chat.url, attempts=2)).annotate([captioned(1)])
    assert isinstance(away, Failed) and away.cause == "server_error" and "cannot be asked" in away.detail


def test_an_answer_that_never_ends_is_not_waited_for() -> None:
    """Servers that keep a connection open send blanks, each in time; others send without end."""

    def drip(asked: Asked) -> tuple[int, Any]:
        return 200, (time.sleep(0.05) or b" " for _ in range(200))

    def flood(asked: Asked) -> tuple[int, Any]:
        return 200, (bytes(1 << 20) for _ in range(10_000))

    for answer, cause, timeout_s in ((drip, "timeout", 0.3), (flood, "bad_answer", 30.0)):
        with chat_server(answer) as chat:
            began = time.monotonic()
            quick = replace(QUICK, url=chat.url, attempts=1, timeout_s=timeout_s)
            (failed,) = annotator(quick).annotate([captioned(1)])
        assert isinstance(failed, Failed) and failed.cause == cause
        assert time.monotonic() - began < 5


def test_an_answer_in_parts_and_one_of_brackets_alone_are_read_to_their_end() -> None:
    def in_parts(asked: Asked) -> tuple[int, Any]:
        whole = json.dumps(merged(asked)[1]).encode()
        return 200, (whole[n : n + 7] for n in range(0, len(whole), 7))

    for answer, told in ((in_parts, Done), (lambda asked: (200, "[" * 100_000), Failed)):
        with chat_server(answer) as chat:
            (outcome,) = annotator(replace(QUICK, url=chat.url, attempts=1)).annotate([captioned(1)])
        assert isinstance(outcome, told)


def test_requests_are_spaced_to_a_rate() -> None:
    with chat_server() as chat:
        server = annotator(replace(QUICK, url=chat.url, requests_per_minute=1200))
        started = time.monotonic()
        server.annotate([captioned(n) for n in range(7)])
    assert 0.3 <= time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("120", 120),
        ("0.25", 0.25),
        (" 7 ", 7),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30),
        ("Saturday, 21-Nov-26 12:00:30 GMT", 30),
        ("Sat Nov 21 12:00:30 2026", 30),
        ("Sat, 21 Nov 2026 11:59:00 GMT", 0),
        ("", 0),
        ("soon", 0),
        ("-5", 0),
    ],
)
def test_retry_after_is_seconds_or_any_of_the_three_forms_of_a_date(header: str, wait_s: float) -> None:
    assert retry_after_s(header, datetime(2026, 11, 21, 12, tzinfo=UTC)) == wait_s


def refuse_the_first(asked: Asked, seen: Counter[str]) -> tuple[int, Any]:
    seen["all"] += 1
    return (429, "slow down") if seen["all"] == 1 else merged(asked)


def test_a_server_that_asks_for_time_gets_it_from_all_that_ask() -> None:
    seen: Counter[str] = Counter()
    with chat_server(lambda asked: refuse_the_first(asked, seen)) as chat:
        chat.retry_after = "0.6"
        server = annotator(replace(QUICK, url=chat.url, concurrency=1))
        outcomes = server.annotate([captioned(n) for n in range(3)])
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert chat.times_s[1] - chat.times_s[0] >= 0.6
    seen.clear()
    with chat_server(lambda asked: refuse_the_first(asked, seen)) as chat:
        chat.retry_after = "0.6"
        annotator(replace(QUICK, url=chat.url, requests_per_minute=1200)).annotate(
            [captioned(n) for n in range(20)]
        )
    refused_s = chat.times_s[0]
    assert not [t for t in chat.times_s if refused_s + 0.3 < t < refused_s + 0.6], "others kept asking"


def test_no_wait_is_longer_than_the_settings_allow_and_the_failure_says_so() -> None:
    with chat_server(lambda asked: (429, "slow down")) as chat:
        chat.retry_after = "3600"
        started = time.monotonic()
        config = replace(QUICK, url=chat.url, attempts=2, longest_wait_s=0.2)
        (outcome,) = annotator(config).annotate([captioned(1)])
    assert 0.2 <= time.monotonic() - started < 5
    assert isinstance(outcome, Failed)
    assert outcome.detail.endswith("; it asks to wait 3600 s, and longest_wait_s allows 0.2 s")


def test_a_servers_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(QUICK, api_key_env="SOME_SERVERS_KEY")
    monkeypatch.delenv("SOME_SERVERS_KEY", raising=False)
    with pytest.raises(SettingsError, match="'SOME_SERVERS_KEY', which is not set"):
        annotator(config)
    monkeypatch.setenv("SOME_SERVERS_KEY", "open sesame")
    with chat_server() as chat:
        annotator(replace(config, url=chat.url)).annotate([captioned(1)])
    assert chat.asked[0].headers["Authorization"] == "Bearer open sesame"


@pytest.mark.parametrize("setting", ["attempts", "concurrency", "requests_per_minute"])
def test_numbers_by_which_no_server_can_be_asked_are_refused(setting: str) -> None:
    with pytest.raises(SettingsError, match=f"annotators.summaries.server.{setting} is 0"):
        ServerConfig(**{setting: 0})
