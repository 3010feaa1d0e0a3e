"""The report's funnel and histograms, counted again from the tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest
from report_page import Page, ledger, page, section

from curation.selection.filters import SCORES
from screen.report.examples import MethodRow, caption_methods
from screen.report.scores import judged, score_charts
from warehouse.ledger import Ledger

__all__ = ["ledger", "page"]


def test_the_funnel_is_what_the_tables_give(ledger: Ledger, page: Page) -> None:
    """Counted again from scores and the frozen file, without the selection's own code."""
    frozen = json.loads(
        Path(ledger.store.root, f"selections/default.{ledger.plan.keys['verdicts']}.json").read_text()
    )
    left = ledger.read_all("clips").filter(pl.col("state") == "done").select("clip_id")
    whole = left
    said = section(page, "funnel")
    for threshold in frozen["thresholds"]:
        score = SCORES[threshold["score"]]
        values = ledger.read_all(score.table, ["clip_id", score.column, "state"])
        column = pl.col(score.column)
        good = column >= threshold["value"] if score.better == "high" else column <= threshold["value"]
        let_be = (pl.col("state") == "skipped") | (pl.col("state") == "done") & column.is_null()
        passing = values.filter(good.fill_null(False) | let_be).select("clip_id")
        came, alone = left.height, whole.height - whole.join(passing, on="clip_id").height
        left = left.join(passing, on="clip_id")
        row = rf"{threshold['score']} . .*? {left.height} \d+% {came} {came - left.height}\b.*? {alone}\b"
        assert re.search(row, said), (row, said)
    assert left.height == ledger.read_all("verdicts")["kept"].sum()


def test_a_histogram_holds_every_score_and_splits_it_by_fate(ledger: Ledger) -> None:
    clips = judged(ledger)
    for chart in score_charts(ledger, clips):
        score = SCORES[chart.name]
        rows = ledger.read_all(score.table, ["clip_id", score.column, "state"])
        rows = rows.filter(pl.col("state") == "done", pl.col(score.column).is_not_null())
        assert chart.num_scored == rows.height
        judged_rows = rows.join(ledger.read_all("verdicts"), on="clip_id")
        drawn = _bar_heights(chart.svg)
        unit = sum(sum(v) for v in drawn.values()) / rows.height
        kept = judged_rows.filter("kept").height
        failing = judged_rows.filter(pl.col("failed_filters").list.contains(chart.name)).height
        assert sum(drawn["kept"]) == pytest.approx(unit * kept, rel=0.02)
        assert sum(drawn["fails"]) == pytest.approx(unit * failing, rel=0.02)


def test_on_a_histogram_no_rejected_clip_lies_on_the_kept_side(ledger: Ledger) -> None:
    for chart in score_charts(ledger, judged(ledger)):
        if chart.rule is None:
            continue
        at = float(re.search(r'class="mark" x1="([0-9.]+)"', chart.svg)[1])
        bars = re.findall(r'<rect class="(fails|other|kept)" x="([0-9.]+)"[^>]* width="([0-9.]+)"', chart.svg)
        rejected = {float(x) + float(width) / 2 < at for css, x, width in bars if css == "fails"}
        passing = {float(x) + float(width) / 2 < at for css, x, width in bars if css != "fails"}
        assert len(rejected) == len(passing) == 1 and rejected != passing, chart.name


def _bar_heights(svg: str) -> dict[str, list[float]]:
    heights: dict[str, list[float]] = {"kept": [], "fails": [], "other": [], "plain": []}
    for css, height in re.findall(r'<rect class="(kept|fails|other|plain)"[^>]*height="([0-9.]+)"', svg):
        heights[css].append(float(height))
    return heights


def test_embedded_scores_are_marked_where_they_stand_and_others_are_not(ledger: Ledger, page: Page) -> None:
    by_name = {c.name: c for c in score_charts(ledger, judged(ledger))}
    assert {n for n, c in by_name.items() if c.is_embedded} == {"aesthetics", "similarity"}
    warned = section(page, "scores").count("embedded: means nothing beyond the sample reel")
    assert warned == 2
    assert by_name["motion"].unit in page.words
    marked = {m.method: m.is_embedded for m in caption_methods(ledger)}
    assert marked == {"coca-embedded": True, "coca-embedded-8-frames+flow": True, "merge": False}
    assert not MethodRow("frame", "coca-/models/embedded_clips", 1, 0).is_embedded
