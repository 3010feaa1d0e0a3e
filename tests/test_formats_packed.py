"""WebDataset tars and Hugging Face's Parquet, read back by programs that are not ours."""

from __future__ import annotations

import io
import json
import tarfile
from itertools import groupby
from pathlib import Path

import av
import exchange
import polars as pl
import pyarrow.parquet as pq
import pytest

from curation.formats import huggingface, webdataset
from curation.formats.base import Clip
from curation.formats.kept import choose, describe
from warehouse.errors import FormatError
from warehouse.ledger import Ledger


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    folder = tmp_path_factory.mktemp("exchange")
    return exchange.build(folder / "w", folder / "footage")


@pytest.fixture(scope="module")
def clips(ledger: Ledger) -> list[Clip]:
    return describe(choose(ledger.store, "default"))


def numbers_of(video: bytes) -> list[int]:
    with av.open(io.BytesIO(video)) as container:
        return exchange.numbers([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def samples(tar: Path) -> dict[str, dict[str, bytes]]:
    """Samples of a tar as WebDataset groups them: neighbours of one name, the suffix beginning at its first dot."""
    with tarfile.open(tar) as file:
        members = [(m.name.split(".", 1), file.extractfile(m).read(), m) for m in file]
    assert all((m.mtime, m.uid, m.gid, m.uname) == (0, 0, 0, "") for _, _, m in members)
    return {
        k: {name[1]: data for name, data, _ in group} for k, group in groupby(members, key=lambda m: m[0][0])
    }


def test_webdataset_samples_are_the_clips(ledger: Ledger, clips: list[Clip], tmp_path: Path) -> None:
    out = exchange.out_of(ledger, "webdataset", tmp_path / "out").path
    assert sorted(p.name for p in out.iterdir()) == ["clips-000000.tar", "export.json"]
    found = samples(out / "clips-000000.tar")
    assert list(found) == [c.clip_id for c in clips]
    for sample, clip, caption, expected in zip(
        found.values(), clips, exchange.CAPTIONS, exchange.KEPT, strict=True
    ):
        assert set(sample) == {"mp4", "txt", "json"}
        assert numbers_of(sample["mp4"]) == expected
        assert sample["txt"].decode() == caption
        facts = json.loads(sample["json"])
        assert (facts["start_frame"], facts["num_frames"], facts["uri"]) == (
            expected[0],
            len(expected),
            clip.uri,
        )
        assert facts["captions"]["frame"] == clip.captions["frame"]


def test_webdataset_is_cut_into_shards(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webdataset, "SHARD_BYTES", 1)
    out = exchange.out_of(ledger, "webdataset", tmp_path / "out").path
    tars = sorted(out.glob("*.tar"))
    assert [len(samples(t)) for t in tars] == [1, 1, 1]
    before = [t.read_bytes() for t in tars]
    exchange.out_of(ledger, "webdataset", tmp_path / "out")
    assert [t.read_bytes() for t in tars] == before


def test_webdataset_comes_back(ledger: Ledger, clips: list[Clip], tmp_path: Path) -> None:
    out = exchange.out_of(ledger, "webdataset", tmp_path / "out").path
    other, imported = exchange.into(tmp_path / "w", "webdataset", out)
    assert [(r["path"], r["state"]) for r in imported.rows] == [(f"{c.clip_id}.mp4", "done") for c in clips]
    assert [r["captions"] for r in imported.rows] == [[c] for c in exchange.CAPTIONS]
    columns = [json.loads(r["columns"]) for r in imported.rows]
    assert [(c["start_frame"], c["num_frames"]) for c in columns] == [(4, 10), (14, 12), (4, 10)]
    given = dict(other.read_all("given", ["source_id", "uri"]).iter_rows())
    films = [Path(given[r["source_id"]]) for r in imported.rows]
    assert [f.read_bytes() for f in films] == [s["mp4"] for s in samples(out / "clips-000000.tar").values()]
    assert exchange.into(tmp_path / "w", "webdataset", out)[1].new_rows == 0


def test_webdataset_loses_no_video_of_a_sample(tmp_path: Path) -> None:
    """Names with dots before the number make one sample of all; captions of editors have marks and line ends."""
    members = {"clip.0001.mp4": b"a", "clip.0001.txt": b"\xef\xbb\xbfone\r\n", "clip.0002.mp4": b"b",
               "clip.0002.txt": b"two", "x/d.mp4": b"c", "x/d.left.png": b"d", "x/d.txt": b" three\n"}  # fmt: skip
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for path, content in members.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    assert [(e.path, e.captions, e.cause) for e in webdataset.read(tmp_path / "a.tar")] == [
        ("clip.0001.mp4", ("one",), None),
        ("clip.0002.mp4", ("two",), None),
        ("x/d.mp4", ("three",), None),
    ]


def test_tars_that_mean_harm_cost_themselves_alone(tmp_path: Path) -> None:
    def tar(name: str, members: dict[str, bytes], **odd: object) -> None:
        with tarfile.open(tmp_path / name, "w") as file:
            for path, content in members.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                for attribute, value in odd.items():
                    setattr(member, attribute, value)
                file.addfile(member, io.BytesIO(content) if not odd else None)

    tar(
        "a.tar",
        {"../../evil.mp4": b"video", "b.txt": b"alone", "c.mp4": b"x", "c.txt": b"caf\xe9", "d.jpg": b"x"},
    )
    tar("b.tar", {"e.mp4": b"", "f.mp4": b"x", "f.json": b"[" * 99_999, "g.mp4": b"x", "g.json": b"[1]"})
    tar("c.tar", {"h.mp4": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    tar("d.tar", {"i.mp4": b"fine", "j.mp4": b"y" * 4096})
    (tmp_path / "d.tar").write_bytes((tmp_path / "d.tar").read_bytes()[:2048])
    (tmp_path / "e.tar").write_bytes(b"not a tar at all" * 100)
    tar("f.tar", {"k.mp4": b"x", "k.txt": b"y" * (1 << 21)})
    other, imported = exchange.into(tmp_path / "w", "webdataset", tmp_path)
    causes = {r["place"]: r["cause"] for r in imported.rows}
    assert causes == {
        "a.tar, ../../evil": None, "a.tar, b": "no_path", "a.tar, c": "bad_item", "a.tar, d": None,
        "b.tar, e": None, "b.tar, f": "bad_item", "b.tar, g": None, "c.tar, h": "no_path", "d.tar, i": None,
        "d.tar": "bad_tar", "e.tar": "bad_tar", "f.tar, k": "bad_item",
    }  # fmt: skip
    inside = tmp_path / "w" / "imported"
    assert all(Path(uri).parent == inside for uri in other.read_all("given")["uri"])


def test_parquet_of_spans_comes_back(ledger: Ledger, clips: list[Clip], tmp_path: Path) -> None:
    out = exchange.out_of(ledger, "huggingface", tmp_path / "out").path
    rows = pl.read_parquet(out / "data" / "train-00000-of-00001.parquet")
    assert rows["text"].to_list() == list(exchange.CAPTIONS)
    assert rows["caption_frame"].to_list() == ["frame 0", "frame 1", "frame 2"]
    assert rows.select("path", "start_s", "end_s", "start_frame", "end_frame").rows() == [
        (c.uri, c.start_s, c.end_s, c.start_frame, c.end_frame) for c in clips
    ]
    assert rows["motion"].to_list() == [1.0, 1.0, 1.0]
    other, imported = exchange.into(tmp_path / "w", "huggingface", out)
    given = dict(other.read_all("given", ["source_id", "uri"]).iter_rows())
    assert [given[r["source_id"]] for r in imported.rows] == [c.uri for c in clips]
    assert [r["captions"] for r in imported.rows] == [[c] for c in exchange.CAPTIONS]
    spans = [(r["start_s"], r["end_s"], r["start_frame"], r["end_frame"]) for r in imported.rows]
    assert spans == [(c.start_s, c.end_s, c.start_frame, c.end_frame) for c in clips]


def test_parquet_with_whole_seconds_is_of_spans(tmp_path: Path) -> None:
    table = {"path": ["a.mp4"] * 2, "text": ["x"] * 2, "start_s": [3, 4], "end_s": [float("nan"), 5.5]}
    pl.DataFrame(table).write_parquet(tmp_path / "a.parquet")
    spans = [(e.start_s, e.end_s) for e in huggingface.read(tmp_path / "a.parquet")]
    assert spans == [(3.0, None), (4.0, 5.5)]


def test_parquet_with_the_videos_inside(
    ledger: Ledger, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface, "PART_BYTES", 1)
    out = exchange.out_of(ledger, "huggingface", tmp_path / "out", media="video").path
    files = sorted((out / "data").iterdir())
    assert [f.name for f in files] == [f"train-{n:05d}-of-00003.parquet" for n in range(3)]
    assert sorted(p.name for p in out.iterdir()) == ["data", "export.json"]
    tables = [pq.read_table(f) for f in files]
    videos = [t["video"].to_pylist()[0] for t in tables]
    assert [numbers_of(v["bytes"]) for v in videos] == exchange.KEPT
    assert [v["path"] for v in videos] == [f"{c.clip_id}.mp4" for c in clips]
    features = json.loads(tables[0].schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == tables[0].column_names
    assert features["video"] == {"_type": "Video"}
    assert features["start_frame"] == {"dtype": "int64", "_type": "Value"}
    _, imported = exchange.into(tmp_path / "w", "huggingface", out)
    assert [r["cause"] for r in imported.rows] == ["embedded_video"] * 3


def test_parquet_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(FormatError, match=r"holds no data/\*\.parquet"):
        exchange.into(tmp_path / "w", "huggingface", tmp_path)
    pl.DataFrame({"path": ["a.mp4", None, "b.mp4"], "start_frame": [1, 2, None]}).write_parquet(
        tmp_path / "x.parquet"
    )
    _, imported = exchange.into(tmp_path / "w", "huggingface", tmp_path / "x.parquet")
    assert [(r["cause"], r["start_frame"]) for r in imported.rows] == [
        ("not_found", 1),
        ("no_path", 2),
        ("not_found", None),
    ]
    odd = {
        "path": ["a"] * 4,
        "start_frame": [1.5, float("nan"), None, 2.0],
        "start_s": [1, 2, 3, 4],
        "text": [7] * 4,
    }
    pl.DataFrame(odd).write_parquet(tmp_path / "odd.parquet")
    _, imported = exchange.into(tmp_path / "w", "huggingface", tmp_path / "odd.parquet")
    assert [(r["start_frame"], r["start_s"], r["captions"]) for r in imported.rows] == [
        (None, 1.0, ["7"]), (None, 2.0, ["7"]), (None, 3.0, ["7"]), (2, 4.0, ["7"])
    ]  # fmt: skip
