"""What a scan measured comes back from its rows as it was: the cuts of a warehouse are those of the scan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from curation import scan_work
from curation.cuts.boundaries import merge_cuts
from curation.cuts.clips import ClipConfig, spans
from curation.engine.work import Outputs, Unit, Work
from curation.footage.media import MediaLimits
from curation.ingest import ASSIGN, GIVE, HASH, HashWork, ShardSize, assign, give
from curation.scan import ScanConfig, ScanResult, scan_video
from curation.scan_work import ScanWork, signal_rows, signals_of, video_columns
from tests.footage import texture, write_video
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.schema import TABLES
from warehouse.store import Store

SCAN = ScanWork(ScanConfig(), MediaLimits())


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> ScanResult:
    """A cut at frame 40, a dissolve over frames 80 to 99; 25 fps."""
    a, b, c = (texture(seed, 96, 160).astype(float) for seed in (1, 2, 3))
    share = np.clip((np.arange(140) - 79) / 21, 0, 1)
    pictures = [a] * 40 + [b * (1 - s) + c * s for s in share[40:]]
    video = tmp_path_factory.mktemp("scan_work") / "video.mp4"
    return scan_video(write_video(video, [picture.astype(np.uint8) for picture in pictures]))


def stored(scanned: ScanResult) -> tuple[Mapping, pl.DataFrame]:
    """The video's row, and its rows of `frame_scores` in the table's types."""
    rows = list(signal_rows("video", scanned.signals))
    return video_columns(scanned), pl.from_arrow(pa.Table.from_pylist(rows, TABLES["frame_scores"].schema))


def assigned(video: Path, root: Path) -> tuple[Ledger, str]:
    """A warehouse in which the video is hashed and in a shard."""
    plan = Plan.of([GIVE, HASH, ASSIGN, SCAN.step])
    ledger = Ledger(Store(root), plan)
    (group,) = give(ledger, [str(video)], run_id="test").groups
    sources = rows_of(HashWork(MediaLimits()), ledger, group, root.with_name("hashed"), "sources")
    ledger.commit(HASH, group, {"sources": sources.to_batches()}, run_id="test")
    (shard,) = assign(ledger, ShardSize(), run_id="test")
    return ledger, shard


def scan(ledger: Ledger, shard: str, folder: Path) -> list[dict]:
    return rows_of(SCAN, ledger, shard, folder, "videos").to_pylist()


def rows_of(work: Work, ledger: Ledger, shard: str, folder: Path, table: str) -> pa.Table:
    """What a step says of all that it has to do in a shard, done in this process."""
    folder.mkdir()
    ids = tuple(ledger.pending(work.step, shard).attempts)
    work.run(ledger, Unit(shard, ids, (0,) * len(ids)), outputs := Outputs(folder))
    outputs.close()
    with pa.ipc.open_stream(folder / f"{table}.arrows") as stream:
        return stream.read_all()


def test_all_measures_come_back(scanned: ScanResult) -> None:
    signals, given = signals_of(*stored(scanned)), scanned.signals
    assert set(signals.measures) == set(given.measures) >= {"lag_1", "lag_12", "contrast", "blend_start"}
    for name, measure in given.measures.items():
        for column in ("frame", "pts", "value"):
            assert np.array_equal(getattr(signals.measures[name], column), getattr(measure, column))
    for level, other in zip(signals.levels, given.levels, strict=True):
        assert np.array_equal(level.score, other.score)


def test_cuts_from_the_table_are_those_of_the_scan(scanned: ScanResult) -> None:
    cuts = merge_cuts(signals_of(*stored(scanned)))
    assert cuts == merge_cuts(scanned.signals)
    assert [(cut.type, cut.frame) for cut in cuts] == [("hard", 40), ("gradual", pytest.approx(100, abs=3))]


def test_a_scan_without_evidence_is_cut_by_its_levels(scanned: ScanResult) -> None:
    bare = replace(scanned, signals=replace(scanned.signals, measures={}))
    signals = signals_of(*stored(bare))
    assert signals.measures == {}
    assert merge_cuts(signals) == merge_cuts(bare.signals)


def test_every_signal_is_named_in_the_video_row(scanned: ScanResult) -> None:
    video, rows = stored(scanned)
    assert video["signals"] == rows["signal"].to_list()
    assert len(set(video["signals"])) == len(video["signals"])


def test_a_flash_is_recorded_and_splits_no_clip(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Frames 30 to 32 of one scene are lit; 25 fps."""
    scene = texture(5, 96, 160)
    light = np.clip(scene.astype(int) + 120, 0, 255).astype(np.uint8)
    shown = [light if 30 <= index < 33 else scene for index in range(80)]
    video = tmp_path_factory.mktemp("flash") / "video.mp4"
    signals = scan_video(write_video(video, shown)).signals
    (cut,) = merge_cuts(signals)
    assert (cut.type, cut.frame) == ("flash", 33)
    assert np.searchsorted(signals.pts, [cut.start_pts, cut.end_pts]).tolist() == [30, 33]
    (span,) = spans(signals, [cut], ClipConfig(trim_s=0.2))
    assert (span.reason, span.num_frames, span.scene_index) == (None, 80, 0)
    split = spans(signals, [replace(cut, type="hard")], ClipConfig(min_s=0.5))
    assert len(split) > 1


def test_a_video_that_fails_late_leaves_no_frames_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More is spooled than fits in memory before the end of the file turns out to be missing."""
    monkeypatch.setattr(scan_work, "_SPOOL_BYTES", 1)
    video = write_video(tmp_path / "video.mp4", [texture(i // 10, 64, 96) for i in range(100)])
    video.write_bytes(video.read_bytes()[:-3000])
    ledger, shard = assigned(video, tmp_path / "w")
    (row,) = scan(ledger, shard, tmp_path / "rows")
    assert row["cause"] == "truncated"
    assert not (tmp_path / "rows" / "grid_frames.arrows").exists()


def test_a_file_that_was_only_touched_is_still_its_video(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", [texture(1, 64, 96)] * 10)
    ledger, shard = assigned(video, tmp_path / "w")
    os.utime(video, ns=(0, 0))
    (row,) = scan(ledger, shard, tmp_path / "rows")
    assert (row["state"], row["num_frames"]) == ("done", 10)


def test_a_file_of_other_content_is_not_its_video(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", [texture(1, 64, 96)] * 10)
    ledger, shard = assigned(video, tmp_path / "w")
    write_video(video, [texture(2, 64, 96)] * 10)
    (row,) = scan(ledger, shard, tmp_path / "rows")
    assert (row["state"], row["cause"]) == ("failed", "changed")
