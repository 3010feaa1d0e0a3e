"""Whether captions fit their clips, as the report tells it, against the check itself."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from report_page import build_page, section
from test_caption_fit import built_steps, ledger, write
from warehouse_builder import build_warehouse

from curation.captions.fit import check_captions
from screen.report.caption_check import SAMPLE, caption_check
from warehouse.ledger import Ledger
from warehouse.plan import Plan

__all__ = ["ledger"]


def told_of(page_section: str) -> dict[str, str]:
    """What the section says of each kind of caption, from its table of the check."""
    table = page_section.split("Whether captions fit their clips")[1]
    return dict(re.findall(r"(frame|video|summary) (.*?)(?= frame | video | summary |The marks)", table))


def test_the_page_tells_what_the_check_finds(ledger: Ledger, tmp_path: Path) -> None:
    for shard in ledger.shards():
        rows = ledger.read("summaries", shard, ["clip_id", "summary", "method", "status"]).sort("clip_id")
        slipped = pl.concat([rows["summary"][1:], rows["summary"][:1]])
        write(ledger, "summaries", shard, rows.with_columns(summary=slipped))
    told = told_of(section(build_page(ledger, tmp_path), "captions"))
    fits = {fit.of: fit for fit in check_captions(ledger, SAMPLE)}
    assert set(told) == set(fits) == {"frame", "video", "summary"}
    for of, fit in fits.items():
        assert ("they fit" in told[of]) is fit.fits() is (of != "summary")
        assert ("they do not fit" in told[of]) is not fit.fits()
        assert f"{fit.pairs} pairs of {fit.clips} clips" in told[of]
        assert f"{fit.own:.2f} with its own caption, {fit.other:.2f} with another's" in told[of].replace(
            "&#39;", "'"
        )
        (percent,) = re.findall(r"(\d+)%", told[of])
        assert int(percent) == pytest.approx(100 * fit.share, abs=0.51)


def test_what_could_not_be_checked_is_said(tmp_path: Path) -> None:
    built = build_warehouse(tmp_path / "w", videos=1, clips_per_video=3)
    gone = {"model": "local-dir:gone", "pretrained": None}
    without = {"similarity": {"model": "embedded", "pretrained": None}, "embeddings": {"anew": True}}
    for anew, said in (
        ({"similarity": gone}, "Not checked: open_clip model"),
        (without, "not checked no clip has both embeddings and this caption"),
    ):
        steps = [replace(s, config=anew.get(s.name, s.config)) for s in built_steps(built)]
        other = Ledger(built.store, Plan.of(steps))
        for table in ("embeddings", "similarity", "captions", "summaries"):
            for shard in built.shards():
                if table in anew and anew is without:
                    continue
                rows = built.read(table, shard).drop("state", "cause", "detail", "attempt")
                write(other, table, shard, rows)
        assert said in section(build_page(other, tmp_path / "out"), "captions")


def test_a_plan_without_captions_is_not_checked(tmp_path: Path) -> None:
    built = build_warehouse(tmp_path / "w", videos=1, clips_per_video=3)
    steps = [
        s for s in built_steps(built) if s.name in ("give", "list", "match", "hash", "assign", "scan", "cut")
    ]
    page = build_page(Ledger(built.store, Plan.of(steps)), tmp_path / "out")
    assert "No clip has a caption" in section(page, "captions")
    assert "Do they fit" not in page.words


def test_the_embedded_model_is_marked_unless_the_footage_is_what_it_knows(ledger: Ledger) -> None:
    assert caption_check(ledger).is_embedded
    config = ledger.plan.config
    trusted = {**config, "select": {**config["select"], "trust_embedded": True}}
    assert not caption_check(Ledger(ledger.store, replace(ledger.plan, config=trusted))).is_embedded
