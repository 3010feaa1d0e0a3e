"""Clips as files in a folder: which frames each has, what stands beside them, and what a second run does."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import exchange
import polars as pl
import pyarrow.parquet as pq
import pytest
from exchange import KEPT, numbers, pictures

from curation.footage.media import MediaLimits
from curation.formats.clip_files import Shape
from curation.formats.cut_files import SCHEMA, FileSettings, Written, _exact, write_files
from curation.formats.kept import choose, choose_all, choose_kept, describe
from curation.formats.stream_copy import Copied
from warehouse import faults
from warehouse.errors import MediaError, SettingsError, WarehouseError
from warehouse.ledger import Ledger


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    folder = tmp_path_factory.mktemp("cut_files")
    return exchange.build(folder / "w", folder / "footage")


def write(ledger: Ledger, out: Path, *settings: object) -> Written:
    return write_files(choose_kept(ledger.store), out, FileSettings(*settings), limits=MediaLimits())


def rows(out: Path) -> list[dict]:
    table = pq.read_table(out / "files")
    assert table.schema.names == SCHEMA.names
    return pl.from_arrow(table).sort("uri", "start_pts").to_dicts()


def test_exact_files_have_the_clips_frames_and_the_table_says_which(ledger: Ledger, tmp_path: Path) -> None:
    done = write(ledger, tmp_path / "out")
    assert (done.written, done.there, done.failed) == (3, 0, ())
    found = rows(tmp_path / "out")
    for row, expected in zip(found, KEPT, strict=True):
        path = tmp_path / "out" / row["file"]
        assert numbers(pictures(path)) == expected
        assert row["num_frames"] == len(expected)
        assert row["start_pts"] == row["first_pts"] <= row["last_pts"] < row["end_pts"]
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {r["clip_id"] for r in found} == choose(ledger.store, "default").clip_ids
    names = {p.relative_to(tmp_path / "out").parts[0] for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert names == {"clips", "files", "settings.json"}


def test_copies_and_what_cannot_be_copied(ledger: Ledger, tmp_path: Path) -> None:
    """Both films have one keyframe, at their start, which lies in no kept clip."""
    with pytest.raises(WarehouseError, match="none of 3 clips"):
        write(ledger, tmp_path / "out", "copy")
    assert [r["cause"] for r in rows(tmp_path / "out")] == ["no_keyframe"] * 3
    assert {r["file"] for r in rows(tmp_path / "out")} == {None}
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_second_run_writes_only_what_is_missing_or_wrong(ledger: Ledger, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(ledger, out)
    first, second, third = (out / r["file"] for r in rows(out))
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (first, second, third)}
    second.write_bytes(second.read_bytes()[:-1])
    third.unlink()
    done = write(ledger, out)
    assert (done.written, done.there) == (2, 1)
    assert first.stat().st_mtime_ns == before[first][0]
    assert [p.read_bytes() for p in (second, third)] == [before[p][1] for p in (second, third)]
    assert (write(ledger, out).written, len(rows(out))) == (0, 3)


def test_a_run_that_dies_leaves_no_half_file_and_is_gone_on_with(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def die(name: str, *detail: str) -> None:
        if name == "temporary.after" and detail[:1] == ("files",):
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "point", die)
    with pytest.raises(KeyboardInterrupt):
        write(ledger, out)
    monkeypatch.undo()
    assert not (out / "files").exists()
    assert write(ledger, out).written == 3
    assert [numbers(pictures(out / r["file"])) for r in rows(out)] == KEPT


def test_other_clips_join_the_folder(ledger: Ledger, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(ledger, out)
    done = write_files(choose_all(ledger.store), out, FileSettings(), limits=MediaLimits())
    assert (done.written, done.there, len(rows(out))) == (1, 3, 4)


@pytest.mark.parametrize(
    ("shape", "size"), [(Shape(short_px=32), (32, 32)), (Shape(size=(48, 24)), (48, 24))], ids=["scaled", "cropped"]
)  # fmt: skip
def test_scaled_and_cropped(ledger: Ledger, tmp_path: Path, shape: Shape, size: tuple[int, int]) -> None:
    write(ledger, tmp_path / "out", "exact", shape)
    for row, expected in zip(rows(tmp_path / "out"), KEPT, strict=True):
        frames = pictures(tmp_path / "out" / row["file"])
        assert frames[0].shape[1::-1] == size
        assert numbers(frames) == expected


def test_pictures_are_scaled_up_only_where_it_is_asked_for(ledger: Ledger, tmp_path: Path) -> None:
    """The films are 64 pixels wide and high."""
    for size in ((128, 64), (64, 66), (66, 32)):
        with pytest.raises(WarehouseError, match=f"pictures are 64x64, and {size[0]}x{size[1]} is larger"):
            write(ledger, tmp_path / f"small {size}", "exact", Shape(size=size))
        assert {row["cause"] for row in rows(tmp_path / f"small {size}")} == {"too_small"}
    write(ledger, tmp_path / "same", "exact", Shape(size=(64, 64)))
    write(ledger, tmp_path / "large", "exact", Shape(size=(128, 96), enlarge=True))
    for row, expected in zip(rows(tmp_path / "large"), KEPT, strict=True):
        frames = pictures(tmp_path / "large" / row["file"])
        assert frames[0].shape == (96, 128, 3)
        assert numbers(frames) == expected


def test_a_clip_that_is_too_small_takes_no_other_along(tmp_path: Path) -> None:
    limits = {"limits": MediaLimits(), "place": lambda clip: tmp_path / clip.clip_id}
    ledger = exchange.build(tmp_path / "w", tmp_path / "footage")
    clips = describe(choose_kept(ledger.store))
    same = [clip for clip in clips if clip.uri == clips[0].uri]
    claimed = [replace(same[0], width=32), *same[1:]]
    shape = FileSettings("exact", Shape(size=(48, 48)))
    made = {clip.clip_id: type(what) for clip, what in _exact(claimed, shape, **limits)}
    assert len(same) == 2
    assert made == {claimed[0].clip_id: MediaError, claimed[1].clip_id: Copied}


@pytest.mark.parametrize("size", [(10_000, 10_000), (2, 20_000_000), (8192, 4354)])
def test_a_size_that_no_file_holds_is_refused_at_once(size: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match=r"H\.264 holds at most 35,651,584, such as 8192x4352"):
        Shape(size=size, enlarge=True)
    Shape(size=(8192, 4352))


def test_settings_that_do_not_fit(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="mode exact to scale"):
        FileSettings("copy", Shape(short_px=64))
    with pytest.raises(SettingsError, match="even pixels"):
        Shape(size=(63, 64))
    write(ledger, tmp_path / "out")
    with pytest.raises(SettingsError, match="name another folder"):
        write(ledger, tmp_path / "out", "exact", Shape(short_px=32))
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="something else"):
        write(ledger, other)
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["mode"] == "exact"


def test_a_source_that_is_gone_fails_its_clips_alone(tmp_path: Path) -> None:
    ledger = exchange.build(tmp_path / "w", tmp_path / "footage")
    shutil.move(tmp_path / "footage" / "a.mp4", tmp_path / "gone.mp4")
    done = write(ledger, tmp_path / "out")
    assert (done.written, {r["cause"] for r in done.failed}) == (1, {"unreadable"})
