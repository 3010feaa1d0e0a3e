"""What `explain` says of a clip's filters is what the selection did with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest
from warehouse_builder import STEP, build_warehouse

from curation.selection.explained import explain
from curation.selection.filters import SCORES, Threshold, judge
from curation.selection.verdicts import gather_scores
from warehouse.ledger import Ledger
from warehouse.lineage_text import render
from warehouse.schema import TABLES


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Two clips are stills, and the limits lie on a clip's own values or beyond all."""
    built = build_warehouse(tmp_path / "w")
    stills = built.read_all("clips").filter(state="done").sort("clip_id")["clip_id"][:2].to_list()
    for shard in built.shards():
        frames = pl.when(pl.col("clip_id").is_in(stills)).then(1).otherwise("num_frames")
        rows = built.read("clips", shard).with_columns(frames.alias("num_frames")).to_arrow()
        rows = rows.cast(TABLES["clips"].schema)
        of_cut = {t: [] for t in STEP["cut"].writes} | {"clips": rows.to_batches()}
        built.commit(STEP["cut"], shard, of_cut, run_id="again")
    area = built.read_all("text_area", ["score"]).drop_nulls()["score"].max()
    limits = {"fps": 1e6, "duration": 1e6, "motion": 0.0, "sharpness": 0.0, "text_area": round(area, 9)}
    thresholds = [Threshold(s, SCORES[s].better, limit, None, 0) for s, limit in limits.items()]
    path = Path(built.store.root, f"selections/default.{built.plan.keys['verdicts']}.json")
    body = json.loads(path.read_text()) | {"thresholds": [asdict(t) for t in thresholds]}
    path.write_text(json.dumps(body))
    scores = gather_scores(built, None, {t.score: SCORES[t.score] for t in thresholds})
    for shard in built.shards():
        own = pl.col("clip_id").is_in(built.read("clips", shard)["clip_id"].implode())
        judged = judge(thresholds, scores.filter(own)).to_arrow().cast(TABLES["verdicts"].schema)
        built.commit(STEP["select"], shard, {"verdicts": judged.to_batches()}, run_id="again")
    return built


def test_every_filter_is_told_as_the_selection_applies_it(ledger: Ledger) -> None:
    path = Path(ledger.store.root, f"selections/default.{ledger.plan.keys['verdicts']}.json")
    thresholds = [Threshold(**t) for t in json.loads(path.read_text())["thresholds"]]
    scores = gather_scores(ledger, None, {t.score: SCORES[t.score] for t in thresholds})
    judged = judge(thresholds, scores)
    let_be = 0
    for row in judged.iter_rows(named=True):
        facts = [s for s in explain(ledger, row["clip_id"]).scores if s.threshold]
        assert {s.name for s in facts if s.passed is False} == {
            f.removesuffix(":missing") for f in row["failed_filters"]
        }
        still = scores.row(by_predicate=pl.col("clip_id") == row["clip_id"], named=True)["still"]
        if still:
            assert {s.name for s in facts if s.passed is None} == {"fps", "duration", "motion"}
            assert all(s.value is not None for s in facts if s.name in ("fps", "duration"))
            assert "is let be by >= 1e+06" in render(explain(ledger, row["clip_id"]))
        let_be += still
    assert let_be == 2


def test_what_was_never_judged_has_no_outcome(ledger: Ledger) -> None:
    no_clip = ledger.read_all("clips").filter(state="skipped")["clip_id"][0]
    assert {s.passed for s in explain(ledger, no_clip).scores} == {None}
