"""Folders of frames: out exactly, in byte for byte, and odd ones with their cause."""

from __future__ import annotations

import os
from pathlib import Path

import av
import exchange
import footage
import numpy as np
import pytest
from PIL import Image

from curation.footage.media import probe
from curation.formats.latte import read
from curation.scan import ScanConfig, scan_video
from warehouse.errors import FormatError
from warehouse.ledger import Ledger


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    folder = tmp_path_factory.mktemp("exchange")
    return exchange.build(folder / "w", folder / "footage")


def frames_in(
    folder: Path, count: int = 12, suffix: str = "jpg", size: int = 32, name: str = "x_{}"
) -> list[Path]:
    folder.mkdir(parents=True)
    files = [folder / f"{name.format(n)}.{suffix}" for n in range(count)]
    for file, picture in zip(files, footage.numbered(count, size, size), strict=True):
        Image.fromarray(picture).save(file)
    return files


def test_exported_frames_are_the_clips_and_come_back(ledger: Ledger, tmp_path: Path) -> None:
    done = exchange.out_of(ledger, "latte", tmp_path / "out")
    assert (done.clips, done.failed) == (3, ())
    entries = {e.path: e for e in read(done.path / "clips")}
    found = [
        [footage.read_number(np.asarray(Image.open(f)), exchange.COUNT) for f in entry.frames]
        for entry in entries.values()
    ]
    assert sorted(found) == sorted(exchange.KEPT)
    other, imported = exchange.into(tmp_path / "w", "latte", done.path / "clips", fps=25)
    given = dict(other.read_all("given", ["source_id", "uri"]).iter_rows())
    films = [Path(given[r["source_id"]]) for r in imported.rows]
    assert [exchange.numbers(exchange.pictures(f)) for f in films] == found
    assert exchange.out_of(ledger, "latte", tmp_path / "out").num_bytes == done.num_bytes


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_folder_becomes_a_video_of_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    files = frames_in(tmp_path / "root" / "deep" / "film", suffix=suffix)
    ledger, imported = exchange.into(tmp_path / "w", "latte", tmp_path / "root", fps=24000 / 1001)
    (uri,) = ledger.read_all("given")["uri"]
    assert (imported.rows[0]["path"], imported.rows[0]["state"]) == ("deep/film", "done")
    with av.open(uri) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    assert packets == [f.read_bytes() for f in files], "also in the order of numbers, not of names"
    facts = probe(Path(uri))
    assert (facts.display_size, facts.num_frames) == ((32, 32), 12)
    assert facts.fps == pytest.approx(24000 / 1001)
    result = scan_video(Path(uri), ScanConfig())
    assert (result.num_frames, result.duration_s) == (12, pytest.approx(12 * 1001 / 24000))
    _, again = exchange.into(tmp_path / "w", "latte", tmp_path / "root", fps=24000 / 1001)
    assert (again.new_rows, ledger.read_all("given").height) == (0, 1)


def test_odd_folders_cost_themselves_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    frames_in(root / "a fine")
    frames_in(root / "b nameless", name="frame{}")
    frames_in(root / "c sizes")
    Image.new("RGB", (16, 16)).save(root / "c sizes" / "x_5.jpg")
    frames_in(root / "d torn")[3].write_bytes(b"not a picture")
    frames_in(root / "e liar")
    Image.new("RGB", (32, 32)).save(root / "e liar" / "x_99.jpg", format="png")
    frames_in(root / "f twice")
    Image.new("RGB", (32, 32)).save(root / "f twice" / "y_0.jpg")
    frames_in(root / "g pipe")[0].unlink()
    os.mkfifo(root / "g pipe" / "x_0.jpg")
    frames_in(root / "h link")[0].unlink()
    (root / "h link" / "x_0.jpg").symlink_to("/etc/passwd")
    frames_in(root / "i bare", name="{}")
    (root / "j empty").mkdir()
    (root / "train_list.txt").write_text("a fine/x_0.jpg")
    _, imported = exchange.into(tmp_path / "w", "latte", root)
    assert [(r["place"], r["cause"]) for r in imported.rows] == [
        ("a fine", None), ("b nameless", "bad_frame_name"), ("c sizes", "frames_differ"), ("d torn", "invalid_data"),
        ("e liar", "frames_differ"), ("f twice", "bad_frame_name"), ("g pipe", "not_a_file"),
        ("h link", "invalid_data"), ("i bare", None),
    ]  # fmt: skip
    for place, said in ((tmp_path / "gone", "is no folder"), (root / "j empty", "lists nothing")):
        with pytest.raises(FormatError, match=said):
            exchange.into(tmp_path / "w", "latte", place)


def test_frames_stand_upright(tmp_path: Path) -> None:
    from curation.footage.media import MediaLimits
    from curation.formats.base import Clip
    from curation.formats.clip_files import FrameFolder, write_clips

    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:24] = 255
    film = footage.write_video(tmp_path / "r.mp4", [picture] * 4, rotation_deg=90)
    clip = Clip("c", "v", str(film), 0, 4, 0.0, 0.16, 0, 4, 25.0, 48, 96, {}, {})
    ((_, error),) = write_clips(
        str(film), [clip], MediaLimits(), lambda clip, source: FrameFolder(tmp_path / "out", clip, source)
    )
    assert error is None
    shown = np.asarray(Image.open(tmp_path / "out" / "c_000000.jpg")).mean(axis=2)
    assert shown.shape == (96, 48)
    turned = np.rot90(picture, 1).mean(axis=2)
    assert abs(shown - turned).mean() < 8
