"""A file that was replaced never stands in for the one that was scanned; a copy of that does."""

from __future__ import annotations

import os
from pathlib import Path

import footage
import polars as pl
import pytest

from curation.engine.local import run_shards
from curation.engine.pool import Pool
from curation.footage.media import MediaLimits
from curation.ingest import ASSIGN, GIVE, HASH, HashWork, ShardSize, assign, give
from curation.sources import check_holds, find_source
from warehouse.errors import MediaError
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.store import Store


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Three sources: a film, a copy of it, and another film."""
    films = tmp_path / "in"
    films.mkdir()
    footage.write_video(films / "a.mp4", footage.numbered(12))
    (films / "copy.mp4").write_bytes((films / "a.mp4").read_bytes())
    footage.write_video(films / "other.mp4", footage.numbered(24)[12:])
    store, plan = Store(tmp_path / "w"), Plan.of([GIVE, HASH, ASSIGN])
    plan.save(store)
    found = Ledger(store, plan)
    groups = give(found, [str(films)], run_id="test").groups
    with Pool(1, store.scratch()) as pool:
        run_shards(HashWork(MediaLimits()), found, groups, pool, run_id="test")
    assign(found, ShardSize(), run_id="test")
    return found


def source_now(ledger: Ledger, name: str) -> str:
    shards = ledger.read_all("shards").filter(pl.col("uri").str.ends_with(name))
    (shard,) = ledger.shards()
    return Path(find_source(ledger, shard, shards["video_id"][0])).name


def test_the_file_that_was_scanned_is_read_unless_it_was_replaced(ledger: Ledger, tmp_path: Path) -> None:
    films = tmp_path / "in"
    assert (source_now(ledger, "a.mp4"), source_now(ledger, "other.mp4")) == ("a.mp4", "other.mp4")
    os.utime(films / "a.mp4", (1, 1))
    assert source_now(ledger, "a.mp4") == "a.mp4", "touched, it holds the same"
    (films / "a.mp4").write_bytes((films / "other.mp4").read_bytes())
    assert source_now(ledger, "a.mp4") == "copy.mp4"
    (films / "a.mp4").unlink()
    assert source_now(ledger, "a.mp4") == "copy.mp4"


def test_where_no_file_holds_it_any_more_that_is_said(ledger: Ledger, tmp_path: Path) -> None:
    films = tmp_path / "in"
    (films / "other.mp4").write_bytes((films / "a.mp4").read_bytes())
    with pytest.raises(MediaError, match="changed: its content is another than when it was curated"):
        source_now(ledger, "other.mp4")
    (films / "other.mp4").unlink()
    with pytest.raises((MediaError, OSError)):
        source_now(ledger, "other.mp4")
    shards = ledger.read_all("shards")
    video_id = shards.filter(pl.col("uri").str.ends_with("a.mp4"))["video_id"][0]
    check_holds(str(films / "copy.mp4"), video_id)
