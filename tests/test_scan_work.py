"""What a scan measured comes back from its rows as it was: the cuts of a warehouse are those of the scan."""

from __future__ import annotations

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
from curation.engine.work import Outputs, Unit
from curation.footage.media import MediaLimits
from curation.ingest import ASSIGN, GIVE, HASH, HashWork, ShardSize, assign, give
from curation.scan import ScanConfig, ScanResult, scan_video
from curation.scan_work import ScanWork, cut_struct, signal_rows, signals_of, video_columns
from tests.footage import texture, write_video
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.schema import TABLES
from warehouse.store import Store


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
    assert (cut.type, cut.frame, cut_struct(cut)["type"]) == ("flash", 33, "flash")
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
    work = ScanWork(ScanConfig(), MediaLimits())
    plan, store = Plan.of([GIVE, HASH, ASSIGN, work.step]), Store(tmp_path / "w")
    ledger = Ledger(store, plan)
    (group,) = give(ledger, [str(video)], run_id="test")
    hashing, folder = HashWork(MediaLimits()), tmp_path / "rows"
    folder.mkdir()
    hashing.run(
        ledger, Unit(group, tuple(ledger.pending(HASH, group).attempts), (0,)), rows := Outputs(folder)
    )
    rows.close()
    with pa.ipc.open_stream(folder / "sources.arrows") as stream:
        ledger.commit(HASH, group, {"sources": stream.read_all().to_batches()}, run_id="test")
    (shard,) = assign(ledger, ShardSize(), run_id="test")
    work.run(
        ledger, Unit(shard, tuple(ledger.pending(work.step, shard).attempts), (0,)), rows := Outputs(folder)
    )
    rows.close()
    with pa.ipc.open_stream(folder / "videos.arrows") as stream:
        assert stream.read_all()["cause"].to_pylist() == ["truncated"]
    assert not (folder / "grid_frames.arrows").exists()
