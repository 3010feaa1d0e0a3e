"""Verdicts over a whole warehouse: near-duplicates fall for the best, whatever happens on the way, and it is told."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from warehouse_builder import SELECTION, STEPS, build_warehouse

from curation.selection.duplicates import DuplicateConfig
from curation.selection.explained import explain
from curation.selection.filters import SCORES
from curation.selection.verdicts import current, gather_scores, select, select_step
from screen.report.examples import examples
from screen.report.footage import read_videos
from screen.report.scores import funnel_rows, judged
from warehouse.audit import audit
from warehouse.errors import SettingsError, WarehouseError
from warehouse.ledger import Ledger
from warehouse.lineage_text import render
from warehouse.plan import Plan
from warehouse.schema import TABLES


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return build_warehouse(tmp_path_factory.mktemp("copies") / "warehouse", copies=True)


def verdicts(ledger: Ledger) -> pl.DataFrame:
    return ledger.read_all("verdicts").sort("clip_id")


def test_of_clips_that_pass_and_look_alike_the_best_stays(ledger: Ledger) -> None:
    clips = verdicts(ledger).join(ledger.read_all("clips").drop("state"), on="clip_id")
    clips = clips.join(ledger.read_all("sharpness", ["clip_id", "score"]), on="clip_id")
    passing = clips.filter(pl.col("failed_filters").list.set_difference(["near_duplicate"]).list.len() == 0)
    best = min(passing.to_dicts(), key=lambda c: (-round(c["duration_s"]), -c["score"], c["clip_id"]))
    assert best["kept"] and best["near_duplicate_of"] is None
    fallen = passing.filter(rejected_by="near_duplicate")
    # All prints are equal here: of the best's own video every passing clip stays, of all others every one falls.
    assert set(fallen["clip_id"]) == set(passing.filter(pl.col("video_id") != best["video_id"])["clip_id"])
    assert set(fallen["near_duplicate_of"]) <= set(clips.filter("kept")["clip_id"]) and fallen.height > 1
    rest = clips.filter(pl.col("rejected_by") != "near_duplicate")
    assert rest["near_duplicate_of"].is_null().all()


def test_explain_funnel_report_and_audit_tell_it(ledger: Ledger) -> None:
    fallen = verdicts(ledger).filter(rejected_by="near_duplicate").to_dicts()
    told = explain(ledger, fallen[0]["clip_id"])
    assert told.verdict["near_duplicate_of"] == fallen[0]["near_duplicate_of"]
    kept = fallen[0]["near_duplicate_of"]
    assert f"rejected by near_duplicate of clip {kept}, which is kept (by hash)" in render(told)
    clips = judged(ledger)
    last = funnel_rows(clips)[-1]
    assert (last.score, last.rejected, last.alone) == ("near_duplicate", len(fallen), len(fallen))
    assert last.kept == clips.num_kept and last.came == last.kept + last.rejected
    found = audit(ledger)
    assert found.balanced and found.selections["default"]["rejected"]["near_duplicate"] == len(fallen)
    videos = read_videos(ledger)
    fates = clips.frame.select("clip_id", "kept", "rejected_by")
    spans = ledger.read_all("clips").join(fates, on="clip_id", how="left")
    reasons = {c.clip_id: c.reason for c in examples(ledger, clips, spans, videos).rejected}
    shown = [f for f in fallen if f["clip_id"] in reasons]
    assert shown and all(f["near_duplicate_of"][:12] in reasons[f["clip_id"]] for f in shown)


def test_a_score_that_was_skipped_rejects_no_clip_and_one_that_failed_does(ledger: Ledger) -> None:
    """The builder's: motion is skipped for a clip of each shard, text detection fails on another."""
    skipped = ledger.read_all("motion").filter(state="skipped")["clip_id"].to_list()
    failed = ledger.read_all("text_area").filter(state="failed")["clip_id"].to_list()
    filters = {r["clip_id"]: r["failed_filters"] for r in verdicts(ledger).to_dicts()}
    assert len(skipped) == len(failed) == 2
    assert not any("motion" in name for clip in skipped for name in filters[clip])
    assert all("text_area:missing" in filters[clip] for clip in failed)
    counts = {row["score"]: row["unknown"] for row in judged(ledger).funnel}
    assert {score: n for score, n in counts.items() if n} == {"motion": 2}
    assert {row.score: row.let_be for row in funnel_rows(judged(ledger))} == counts
    told = explain(ledger, skipped[0])
    assert next(s for s in told.scores if s.name == "motion").passed is None
    assert "skipped (no_pairs)" in render(told) and "is let be by >=" in render(told)
    assert next(s for s in explain(ledger, failed[0]).scores if s.name == "text_area").passed is False


def test_null_in_a_row_that_is_done_is_unknown_and_no_row_is_missing(tmp_path: Path) -> None:
    built = build_warehouse(tmp_path / "w")
    scores = {name: SCORES[name] for name in ("camera_motion", "motion", "duration")}
    rows = built.read_all("motion").sort("clip_id")
    shaky = rows.filter(state="done")["clip_id"][0]
    no_camera = pl.when(clip_id=shaky).then(None).otherwise("camera_motion").alias("camera_motion")
    table = rows.with_columns(no_camera).to_arrow().cast(TABLES["motion"].schema)
    (motion,) = (s for s in STEPS if s.name == "motion")
    for shard in built.shards():
        built.commit(motion, shard, {"motion": table.to_batches()}, run_id="again")
    unknown = dict(gather_scores(built, None, scores).select("clip_id", "unknown").iter_rows())
    skipped = {c: ["camera_motion", "motion"] for c in rows.filter(state="skipped")["clip_id"]}
    assert {clip: names for clip, names in unknown.items() if names} == skipped | {shaky: ["camera_motion"]}
    for part in (part for parts in built.parts("motion").values() for part in parts):
        Path(built.store.path(part.path)).unlink()
    assert not any(gather_scores(built, None, scores)["unknown"].to_list())


def test_a_selection_frozen_without_a_score_says_so_once_a_clip_can_have_it(
    tmp_path: Path,
) -> None:
    built = build_warehouse(tmp_path / "w")
    path = Path(built.store.root, f"selections/default.{built.plan.keys['verdicts']}.json")
    body = json.loads(path.read_text())
    body["thresholds"] = [t for t in body["thresholds"] if t["score"] != "motion"]
    path.write_text(json.dumps(body))
    with pytest.raises(SettingsError, match=r"no clip could have motion .*select under another name"):
        select(built, SELECTION, run_id="again")


def test_a_selection_that_died_between_two_shards_ends_as_if_it_had_not(tmp_path: Path) -> None:
    whole = build_warehouse(tmp_path / "w", copies=True)
    expected = verdicts(whole)
    parts = whole.parts("verdicts")
    assert len(parts) == 2
    for shard, (part,) in parts.items():
        lost = Path(whole.store.path(part.path)).read_bytes()
        Path(whole.store.path(part.path)).unlink()
        again = select(whole, SELECTION, run_id="again")
        assert verdicts(whole).rows() == expected.rows(), f"without {shard}"
        assert again.num_kept == expected["kept"].sum() == again.funnel[-1]["kept"]
        Path(whole.store.path(part.path)).write_bytes(lost)


def test_better_footage_that_comes_later_falls_for_what_is_kept(tmp_path: Path) -> None:
    built = build_warehouse(tmp_path / "w", copies=True)
    first = verdicts(built)
    best = first["near_duplicate_of"].drop_nulls()[0]
    early, late = sorted(built.shards(), key=lambda s: best in set(built.read("verdicts", s)["clip_id"]))
    for (part,) in built.parts("verdicts").values():
        Path(built.store.path(part.path)).unlink()
    fallen = pl.col("rejected_by") == "near_duplicate"
    alone = first.filter(pl.col("clip_id").is_in(built.read("clips", early)["clip_id"].implode()))
    alone = alone.with_columns(
        kept=pl.col("kept") | fallen,
        rejected_by=pl.when(~fallen).then("rejected_by"),
        near_duplicate_of=pl.lit(None, pl.String),
        near_duplicate_by=pl.lit(None, pl.String),
    )
    table = alone.to_arrow().cast(TABLES["verdicts"].schema)
    built.commit(select_step(SELECTION), early, {"verdicts": table.to_batches()}, run_id="early")
    select(built, SELECTION, run_id="late")
    assert alone["kept"].any() and built.read("verdicts", early).sort("clip_id").rows() == alone.rows()
    assert not built.read("verdicts", late)["kept"].any()
    assert best in set(built.read("verdicts", late).filter(rejected_by="near_duplicate")["clip_id"])


def test_near_duplicates_stay_where_the_selection_says_so_and_its_plan_needs_no_fingerprints(
    tmp_path: Path,
) -> None:
    built = build_warehouse(tmp_path / "w", copies=True)
    lenient = replace(SELECTION, duplicates=DuplicateConfig(drop=False))
    assert "fingerprints" not in select_step(lenient).reads
    steps = [s for s in STEPS if s.name not in ("select", "fingerprints", "encode", "encode_text")]
    other = Ledger(built.store, Plan.of([*steps, select_step(lenient)]))
    selected = select(other, lenient, run_id="other")
    assert "near_duplicate" not in set(verdicts(other)["rejected_by"])
    assert selected.num_kept > verdicts(built)["kept"].sum()
    assert [row["score"] for row in selected.funnel] == [f.score for f in SELECTION.filters]
    assert current(other)[0] == lenient
    frozen = json.loads(other.store.read_bytes(selected.path))
    assert frozen["duplicates"] == asdict(lenient.duplicates)


def test_embeddings_tell_copies_where_a_selection_asks_for_it_and_the_footage_is_known(
    tmp_path: Path,
) -> None:
    built = build_warehouse(tmp_path / "w")
    assert "embeddings" not in select_step(SELECTION).reads
    lenient = replace(SELECTION, duplicates=DuplicateConfig(min_cosine=0.01))
    steps = [s for s in STEPS if s.name not in ("select", "encode", "encode_text")]
    other = Ledger(built.store, Plan.of([*steps, select_step(lenient)]))
    with pytest.raises(
        SettingsError, match=r"duplicates\.min_cosine: table embeddings comes from the embedded"
    ):
        select(other, lenient, run_id="other")
    trusted = replace(lenient, trust_embedded=True)
    other = Ledger(built.store, Plan.of([*steps, select_step(trusted)]))
    select(other, trusted, run_id="other")
    rows = {r["clip_id"]: r for r in other.read_all("embeddings").to_dicts()}
    frames = {i: np.array([r["first"], r["middle"], r["last"]]) for i, r in rows.items()}
    fallen = verdicts(other).filter(rejected_by="near_duplicate").to_dicts()
    assert fallen and {f["near_duplicate_by"] for f in fallen} == {"embedding"}
    for copy in fallen:
        assert (frames[copy["clip_id"]] * frames[copy["near_duplicate_of"]]).sum() / 3 >= 0.01
    videos = dict(other.read_all("clips", ["clip_id", "video_id"]).iter_rows())
    kept = verdicts(other).filter("kept")["clip_id"].to_list()
    for a, b in itertools.combinations(kept, 2):
        assert videos[a] == videos[b] or (frames[a] * frames[b]).sum() / 3 < 0.01


def test_a_copy_whose_better_is_not_kept_is_named_by_the_audit(tmp_path: Path) -> None:
    built = build_warehouse(tmp_path / "w", copies=True)
    keeper = verdicts(built)["near_duplicate_of"].drop_nulls()[0]
    shard = next(s for s in built.shards() if keeper in set(built.read("verdicts", s)["clip_id"]))
    row = (
        built.read("verdicts", shard)
        .filter(clip_id=keeper)
        .with_columns(kept=False, rejected_by=pl.lit("motion"))
    )
    table = row.to_arrow().cast(TABLES["verdicts"].schema)
    built.commit(select_step(SELECTION), shard, {"verdicts": table.to_batches()}, run_id="spoilt")
    found = audit(built)
    assert not found.balanced
    assert ("verdicts", "unknown", keeper) in {(p.table, p.kind, p.id) for p in found.problems}


def test_one_run_at_a_time_judges(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    import curation.selection.verdicts
    from warehouse.claims import claim

    monkeypatch.setattr(
        curation.selection.verdicts, "claim", lambda store, thing, wait_s: claim(store, thing, wait_s=0.5)
    )
    with (
        claim(ledger.store, ledger.folder("verdicts")) as held,
        pytest.raises(WarehouseError, match="another run has been judging"),
    ):
        assert held
        select(ledger, SELECTION, run_id="second")
