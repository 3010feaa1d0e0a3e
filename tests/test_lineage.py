"""A clip's life as `explain` tells it, held against the tables, the packed parts and the runs themselves."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotation_rows import settled
from warehouse_builder import RUN_ID, SELECTION, STEP, build_warehouse, commit, hash_of

from curation.selection.explained import explain
from curation.selection.filters import SCORES
from warehouse.errors import WarehouseError
from warehouse.ledger import Ledger
from warehouse.lineage import Explanation, score_columns
from warehouse.lineage_text import render
from warehouse.schema import TABLES
from warehouse.store import Store


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return build_warehouse(tmp_path_factory.mktemp("lineage") / "warehouse")


@pytest.fixture(scope="module")
def lives(ledger: Ledger) -> dict[str, Explanation]:
    """Every span of the warehouse explained."""
    return {i: explain(ledger, i) for i in ledger.read_all("clips")["clip_id"]}


def _verdicts(ledger: Ledger) -> pl.DataFrame:
    return ledger.read_all("verdicts").sort("clip_id")


def _clips(ledger: Ledger) -> pl.DataFrame:
    return ledger.read_all("clips").filter(pl.col("state") == "done").sort("clip_id")


def test_selections_and_explanations_call_scores_alike() -> None:
    named = score_columns()
    for name, score in SCORES.items():
        assert (named[name].table, named[name].column) == (score.table, score.column)
    numbers = [
        (t.name, f.name)
        for t in TABLES.values()
        if t.expects == TABLES["motion"].expects and t.stateful
        for f in t.schema
        if f.type == pa.float32()
    ]
    assert sorted((c.table, c.column) for c in named.values() if c.table != "clips") == sorted(numbers)


def test_every_clip_is_told_as_the_tables_have_it(ledger: Ledger, lives: dict[str, Explanation]) -> None:
    for clip_id in _clips(ledger)["clip_id"]:
        told = lives[clip_id]
        for fact in told.scores:
            rows = {r["clip_id"]: r for r in ledger.read_all(fact.table).iter_rows(named=True)}
            assert fact.value == rows[clip_id][fact.column]
            assert (fact.state, fact.cause) == (rows[clip_id]["state"], rows[clip_id]["cause"])
            values = np.array([r[fact.column] for r in rows.values() if r["state"] == "done"], float)
            assert fact.num_scored == len(values)
            if fact.value is None:
                assert fact.percentile is None
            else:
                below, equal = (values < fact.value).sum(), (values == fact.value).sum()
                assert fact.percentile == pytest.approx(100 * (below + 0.5 * equal) / len(values))
        texts = {c["of"]: c["text"] for c in told.captions}
        row = ledger.read_all("captions").row(by_predicate=pl.col("clip_id") == clip_id, named=True)
        assert (texts["frame"], texts["video"]) == (row["frame_caption"], row["video_caption"])
        assert {c["method"] for c in told.captions} == {
            "coca-embedded",
            "coca-embedded-8-frames+flow",
            "merge",
        }


def test_a_percentile_counts_ties_half(ledger: Ledger) -> None:
    """Of the text areas, most are 0; each of those stands in the middle of its group."""
    areas = ledger.read_all("text_area", ["clip_id", "score"]).drop_nulls()
    zeros = areas.filter(pl.col("score") == 0)
    fact = next(s for s in explain(ledger, zeros["clip_id"][0]).scores if s.name == "text_area")
    assert zeros.height > 1
    assert fact.percentile == pytest.approx(50 * zeros.height / areas.height)


def test_verdict_and_thresholds_are_those_of_the_frozen_file(
    ledger: Ledger, lives: dict[str, Explanation]
) -> None:
    path = Path(ledger.store.root, f"selections/default.{ledger.plan.keys['verdicts']}.json")
    frozen = {t["score"]: t for t in json.loads(path.read_text())["thresholds"]}
    assert set(frozen) == {f.score for f in SELECTION.filters}
    for row in _verdicts(ledger).iter_rows(named=True):
        told = lives[row["clip_id"]]
        assert told.verdict["kept"] == row["kept"]
        assert told.verdict["rejected_by"] == row["rejected_by"]
        assert {s.name: s.threshold for s in told.scores if s.threshold} == frozen
        failing = {s.name for s in told.scores if s.passed is False}
        assert failing == {f.removesuffix(":missing") for f in row["failed_filters"]}


def test_a_later_change_of_the_settings_does_not_touch_the_thresholds_told(
    ledger: Ledger, tmp_path: Path
) -> None:
    root = shutil.copytree(ledger.store.root, tmp_path / "copy")
    path = root / f"selections/default.{ledger.plan.keys['verdicts']}.json"
    body = json.loads(path.read_text())
    body["thresholds"][0]["value"] = 1234.5
    path.write_text(json.dumps(body))
    told = explain(Ledger(Store(root), ledger.plan), _clips(ledger)["clip_id"][0])
    assert [s.threshold["value"] for s in told.scores if s.name == "sharpness"] == [1234.5]


def test_spans_lie_end_to_end_in_frames_and_seconds(ledger: Ledger, lives: dict[str, Explanation]) -> None:
    spans = ledger.read_all("clips").sort("video_id", "start_pts")
    for members in spans.partition_by("video_id"):
        frame, second = 0, 0.0
        for clip_id in members["clip_id"]:
            told = lives[clip_id]
            assert told.clip["first_frame"] == frame
            assert told.clip["start_s"] == pytest.approx(second)
            frame += told.clip["num_frames"]
            second = told.clip["end_s"]
        assert frame == told.video["num_frames"]
        assert second == pytest.approx(told.video["duration_s"])


def test_every_source_of_a_video_is_named_and_the_one_that_was_read(ledger: Ledger) -> None:
    clips = _clips(ledger).filter(pl.col("video_id") == hash_of(0, "good 0"))
    told = explain(ledger, clips["clip_id"][0])
    assert [Path(s["uri"]).name for s in told.sources] == ["copy of holiday.mp4", "holiday_00.mp4"]
    (read,) = [s for s in told.sources if s["read_from"]]
    assert read["uri"] == told.video["uri"]
    other = _clips(ledger).filter(pl.col("video_id") == hash_of(0, "good 1"))
    assert [Path(s["uri"]).name for s in explain(ledger, other["clip_id"][0]).sources] == ["holiday_01.mp4"]


def test_a_span_that_is_no_clip_says_why(ledger: Ledger) -> None:
    skipped = ledger.read_all("clips").filter(pl.col("cause") == "too_short")["clip_id"][0]
    told = explain(ledger, skipped)
    assert (told.clip["state"], told.clip["cause"], told.verdict) == ("skipped", "too_short", None)
    assert {s.state for s in told.scores if s.table != "clips"} == {"none"}, "it is no clip, and never scored"
    assert {s.passed for s in told.scores} == {None}
    assert "no clip: too_short" in render(told)


def test_files_are_those_that_hold_the_rows(ledger: Ledger) -> None:
    kept = _verdicts(ledger).filter("kept")["clip_id"][0]
    told = explain(ledger, kept)
    by_shard = {t.name for t in TABLES.values() if t.by_shard}
    assert {f["table"] for f in told.tables} == by_shard
    for file in told.tables:
        identity = TABLES[file["table"]].identity[0]
        wanted = kept if identity == "clip_id" else told.clip["video_id"]
        table = pq.read_table(Path(ledger.store.root, file["path"]), partitioning=None)
        assert wanted in table[identity].to_pylist()
        assert file["key"] == ledger.plan.keys[file["table"]] == file["path"].split("/")[1]
        assert file["run"] == RUN_ID
        step = STEP[file["step"]]
        assert file["version"] == step.version
        assert set(file["read"]) == set(step.reads)


def test_the_newest_generation_is_told(ledger: Ledger, tmp_path: Path) -> None:
    root = shutil.copytree(ledger.store.root, tmp_path / "copy")
    copy = Ledger(Store(root), ledger.plan)
    row = ledger.read_all("text_area").filter(pl.col("state") == "failed").row(0, named=True)
    (shard,) = [s for s in ledger.shards() if row["clip_id"] in ledger.read("clips", s)["clip_id"]]
    score = {"score": 0.25, "areas": [0.25], "text": ["again"], "engine": "rapidocr"}
    commit(copy, "text_area", shard, text_area=[{"clip_id": row["clip_id"], **score} | settled()])
    facts = [s for s in explain(copy, row["clip_id"]).scores if s.name == "text_area"]
    assert [(f.value, f.state) for f in facts] == [(0.25, "done")]
    files = {f["table"]: f["generation"] for f in explain(copy, row["clip_id"]).tables}
    assert (files["text_area"], files["motion"]) == (1, 0)


def test_ids_that_name_no_clip_or_several_are_refused_with_what_to_do(ledger: Ledger) -> None:
    ids = sorted(ledger.read_all("clips")["clip_id"])
    by_first = {c: [i for i in ids if i[0] == c] for c in "0123456789abcdef"}
    several = next(c for c, found in by_first.items() if len(found) > 1)
    with pytest.raises(WarehouseError, match="more characters") as refused:
        explain(ledger, several)
    assert by_first[several][0] in str(refused.value)
    with pytest.raises(WarehouseError, match="no clip's id begins with 'zzz'"):
        explain(ledger, "zzz")
    with pytest.raises(WarehouseError, match="no clip was named"):
        explain(ledger, "")
    assert explain(ledger, ids[0][:12]).clip["clip_id"] == ids[0]


def test_keys_of_the_json_are_documented_and_survive_a_round_trip(ledger: Ledger) -> None:
    told = explain(ledger, _clips(ledger)["clip_id"][0]).as_json()
    assert json.loads(json.dumps(told)) == json.loads(json.dumps(told, sort_keys=True))
    assert list(told) == [f.name for f in fields(Explanation)]
    assert list(told) == [
        "clip", "video", "sources", "scores", "verdict", "captions", "tables", "datasets", "checkpoints",
    ]  # fmt: skip


def test_a_terminal_obeys_no_character_of_a_file_name(ledger: Ledger) -> None:
    told = explain(ledger, _clips(ledger)["clip_id"][0])
    hostile = dict(told.sources[0]) | {"uri": "/footage/\x1b[2Jgone\n.mp4"}
    text = render(Explanation(**{**vars(told), "sources": (hostile,)}))
    assert "\x1b" not in text
    assert "\\x1b[2Jgone\\n.mp4" in text
    assert text.count("\n") == render(told).count("\n") - len(told.sources) + 1
