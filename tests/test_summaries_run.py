"""A run asks a server for summaries: what it may ask at once and in a minute is the run's, whatever its workers."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from chat_server import Asked, chat_server, completion, merged
from warehouse_builder import STEPS, build_warehouse

from curation.annotate import AnnotateWork
from curation.annotators.summaries import SummariesConfig
from curation.annotators.summary_server import ServerConfig
from curation.captions.spending import Spent, spent
from curation.engine.local import run_shards
from curation.engine.pool import Pool
from warehouse.ledger import Ledger
from warehouse.plan import Plan

SUMMARIES = next(i for i, step in enumerate(STEPS) if step.name == "summaries")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Two shards with captions."""
    return build_warehouse(tmp_path_factory.mktemp("captioned") / "w", videos=4, clips_per_video=4)


def run(
    captioned: Ledger,
    server: ServerConfig,
    workers: int,
    run_id: str = "test",
    retry_failed: bool = False,
) -> Ledger:
    """Summaries by a server, under a plan of their own."""
    work = AnnotateWork("summaries", SummariesConfig(server))
    plan = Plan.of([*STEPS[:SUMMARIES], work.step, *STEPS[SUMMARIES + 1 :]])
    ledger = Ledger(captioned.store, plan)
    with Pool(workers, ledger.store.scratch()) as pool:
        run_shards(work, ledger, ledger.shards(), pool, run_id=run_id, retry_failed=retry_failed)
    return ledger


def test_three_workers_ask_no_more_in_a_minute_than_one_may(captioned: Ledger) -> None:
    with chat_server() as chat:
        # At a concurrency of one a shard's eight clips are two units, which two workers could take.
        config = ServerConfig(url=chat.url, model="rate", concurrency=1, requests_per_minute=300)
        ledger = run(captioned, config, workers=3)
    assert ledger.read_all("summaries")["method"].unique().to_list() == ["llm-rate"]
    assert len(chat.times_s) == 16 and len(captioned.shards()) == 2
    # The clock is the server's: a request may be under way for a little, and the next for less.
    assert min(later - earlier for earlier, later in pairwise(chat.times_s)) > 0.2 - 0.1
    assert chat.times_s[-1] - chat.times_s[0] > 15 * 0.2 - 0.1


def test_three_workers_ask_no_more_at_once_than_one_may(captioned: Ledger) -> None:
    def slow(asked: Asked) -> tuple[int, Any]:
        time.sleep(0.1)
        return merged(asked)

    with chat_server(slow) as chat:
        run(captioned, ServerConfig(url=chat.url, model="at once", concurrency=1), workers=3)
    assert chat.most_at_once == 1


def test_what_was_paid_for_is_kept_failures_and_retries_included(captioned: Ledger) -> None:
    def useless_at_first(asked: Asked) -> tuple[int, Any]:
        return merged(asked) if len(chat.asked) > 5 else (200, completion("no key"))

    config = ServerConfig(model="paid", concurrency=1, attempts=1, usd_per_million_prompt_tokens=1000.0)
    with chat_server(useless_at_first) as chat:
        ledger = run(captioned, replace(config, url=chat.url), workers=2, run_id="first")
        states = ledger.read_all("summaries", ["state"])["state"].value_counts().rows()
        assert dict(states) == {"failed": 5, "done": 11}
        assert spent(ledger) == spent(ledger, "first") == Spent(16, 1600, 320, 1_600_000_000)
        run(captioned, replace(config, url=chat.url), workers=2, run_id="again", retry_failed=True)
    assert ledger.read_all("summaries", ["state"])["state"].unique().to_list() == ["done"]
    assert spent(ledger, "again") == Spent(5, 500, 100, 500_000_000)
    assert spent(ledger) == Spent(21, 2100, 420, 2_100_000_000)
    assert str(spent(ledger)) == "21 requests, 2,100 prompt tokens, 420 completion tokens, 2.1000 USD"
    assert spent(ledger, "another") is None


def test_what_no_server_was_asked_costs_nothing_and_what_is_not_known_is_not_told(captioned: Ledger) -> None:
    assert spent(captioned) is None
    assert Spent(1, None, None, None) + Spent(2, 5, None, None) == Spent(3, 5, None, None)
    assert str(Spent(3, 5)) == "3 requests, 5 prompt tokens"


@pytest.mark.parametrize(
    ("concurrency", "a_minute", "clips"), [(8, None, 32), (64, None, 256), (64, 10, 50), (1, 0.1, 1)]
)
def test_a_batch_keeps_the_server_busy_and_ends_in_minutes(
    concurrency: int, a_minute: float | None, clips: int
) -> None:
    work = AnnotateWork(
        "summaries", SummariesConfig(ServerConfig(concurrency=concurrency, requests_per_minute=a_minute))
    )
    assert work.batch_size == clips
    assert AnnotateWork("summaries", SummariesConfig()).batch_size == 16
