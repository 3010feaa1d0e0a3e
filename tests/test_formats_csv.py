"""Lists of Open-Sora and MindONE: what was exported is what is imported, and bad lines cost themselves alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import exchange
import polars as pl
import pytest

from curation.formats.base import Clip, Entry
from curation.formats.kept import choose, describe
from curation.formats.registry import find
from warehouse.errors import FormatError, SettingsError
from warehouse.ledger import Ledger


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    folder = tmp_path_factory.mktemp("exchange")
    return exchange.build(folder / "w", folder / "footage")


@pytest.fixture(scope="module")
def clips(ledger: Ledger) -> list[Clip]:
    return describe(choose(ledger.store, "default"))


def read(tmp_path: Path, kind: str, content: str | bytes) -> list[Entry]:
    path = tmp_path / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(find(kind).read(path))


def brief(entries: list[Entry]) -> list[tuple]:
    """Place and cause of what cannot be used, path and captions of the rest."""
    return [(e.where, e.cause) if e.cause else (e.path, *e.captions) for e in entries]


@pytest.mark.parametrize("kind", ["open-sora-1.0", "open-sora", "mindone"])
def test_files_of_clips_come_back_with_their_captions(
    ledger: Ledger, clips: list[Clip], tmp_path: Path, kind: str
) -> None:
    out = exchange.out_of(ledger, kind, tmp_path / "out").path
    other, imported = exchange.into(tmp_path / "w", kind, out / "clips.csv")
    assert [r["state"] for r in imported.rows] == ["done"] * 3
    assert [r["captions"] for r in imported.rows] == [[c] for c in exchange.CAPTIONS]
    given = dict(other.read_all("given", ["source_id", "uri"]).iter_rows())
    files = [given[r["source_id"]] for r in imported.rows]
    assert files == [str(out / "clips" / f"{c.clip_id}.mp4") for c in clips]
    if kind == "open-sora-1.0":
        assert [json.loads(r["columns"]) for r in imported.rows] == [{"num_frames": n} for n in (10, 12, 10)]


def test_spans_of_sources_come_back(ledger: Ledger, clips: list[Clip], tmp_path: Path) -> None:
    out = exchange.out_of(ledger, "open-sora", tmp_path / "out", media="source").path
    assert sorted(p.name for p in out.iterdir()) == ["clips.csv", "export.json"]
    other, imported = exchange.into(tmp_path / "w", "open-sora", out / "clips.csv")
    given = dict(other.read_all("given", ["source_id", "uri"]).iter_rows())
    assert [given[r["source_id"]] for r in imported.rows] == [c.uri for c in clips]
    assert [(r["start_frame"], r["end_frame"]) for r in imported.rows] == [(4, 14), (14, 26), (4, 14)]
    assert [r["start_s"] for r in imported.rows] == pytest.approx([c.start_s for c in clips], abs=6e-4)
    assert [r["end_s"] for r in imported.rows] == pytest.approx([c.end_s for c in clips], abs=6e-4)
    with pytest.raises(SettingsError, match=r"open-sora-1\.0 point to video, not to source"):
        exchange.out_of(ledger, "open-sora-1.0", tmp_path / "x", media="source")


def test_another_csv_reader_finds_the_columns_that_open_sora_needs(
    ledger: Ledger, clips: list[Clip], tmp_path: Path
) -> None:
    out = exchange.out_of(ledger, "open-sora", tmp_path / "out").path
    rows = pl.read_csv(out / "clips.csv")
    assert rows["text"].to_list() == list(exchange.CAPTIONS)
    assert rows["num_frames"].to_list() == [10, 12, 10]
    assert rows["aes"].to_list() == pytest.approx([4, 4 + 1 / 3, 4 + 2 / 3])
    assert rows.select("height", "width", "aspect_ratio", "resolution").rows() == [(64, 64, 1.0, 4096)] * 3
    assert rows["fps"].to_list()[:2] == [25.0, 25.0]
    headless = exchange.out_of(ledger, "open-sora-1.0", tmp_path / "headless").path
    with (headless / "clips.csv").open(newline="") as file:
        found = list(csv.reader(file))
    assert [(row[1], int(row[2])) for row in found] == list(zip(exchange.CAPTIONS, (10, 12, 10), strict=True))
    assert all((headless / row[0]).is_file() for row in found)


def test_the_preferred_caption_is_a_choice(ledger: Ledger, tmp_path: Path) -> None:
    out = exchange.out_of(ledger, "mindone", tmp_path / "out", caption="frame").path
    assert pl.read_csv(out / "clips.csv")["caption"].to_list() == ["frame 0", "frame 1", "frame 2"]


def test_bad_lines_without_a_header_cost_themselves_alone(tmp_path: Path) -> None:
    content = (
        b'\xef\xbb\xbfa.mp4,fine\n\nb.mp4\nc.mp4,one, two, three\nd.mp4,"one, two\nand ""three""",16\n'
        b"e.mp4,caf\xe9,16\nf.mp4,x,many\n" + b"g.mp4," + b"y" * 200_000 + b"\n"
        b'h.mp4,"so" he said\ni.mp4,"",-1\nj.mp4,\nk.mp4,"never closed\nl.mp4,lost with it\n'
    )
    assert brief(read(tmp_path, "open-sora-1.0", content)) == [
        ("a.mp4", "fine"),
        ("line 3", "wrong_columns"),
        ("line 4", "wrong_columns"),
        ("d.mp4", 'one, two\nand "three"'),
        ("line 7", "not_utf8"),
        ("line 8", "bad_number"),
        ("line 9", "bad_csv"),
        ("line 10", "bad_csv"),
        ("line 11", "bad_number"),
        ("j.mp4",),
        ("lines 13 to 14", "bad_csv"),
    ]


def test_numbers_out_of_all_bounds_are_no_numbers(tmp_path: Path) -> None:
    (first,) = read(tmp_path, "open-sora-1.0", "a.mp4,x," + "9" * 5000)
    assert first.cause == "bad_number"
    (second,) = read(tmp_path, "open-sora", "path,start_frame,end_frame\na.mp4,٣," + "9" * 5000)
    assert (second.start_frame, second.end_frame) == (None, None)


def test_lists_of_data_frames_lose_nothing(tmp_path: Path) -> None:
    """A column of whole numbers with one missing is written as floats; people put a blank after a comma."""
    headless = read(tmp_path, "open-sora-1.0", "a.mp4,one,130.0\nb.mp4,two,\nc.mp4,three,1.5\n")
    assert brief(headless) == [("a.mp4", "one"), ("b.mp4", "two"), ("line 3", "bad_number")]
    assert [dict(e.columns) for e in headless[:2]] == [{"num_frames": 130}, {}]
    (spaced,) = read(tmp_path, "open-sora", "path, text ,start_frame,end_frame\na.mp4,said,83.0,171.0\n")
    assert (spaced.captions, spaced.start_frame, spaced.end_frame) == (("said",), 83, 171)


def test_a_header_that_is_not_utf8_says_so(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"header.*not in UTF-8"):
        read(tmp_path, "open-sora", "path,text\na,b\n".encode("utf-16"))


def test_bad_lines_with_a_header_cost_themselves_alone(tmp_path: Path) -> None:
    content = "text,path,aes\nfine,a.mp4,5.5\nshort,b.mp4\nlong,c.mp4,1,2\n,d.mp4,\nnameless,,3\n"
    entries = read(tmp_path, "open-sora", content)
    assert brief(entries) == [
        ("a.mp4", "fine"),
        ("line 3", "wrong_columns"),
        ("line 4", "wrong_columns"),
        ("d.mp4",),
        ("line 6", "no_path"),
    ]
    assert [dict(e.columns) for e in entries] == [{"aes": "5.5"}, {}, {}, {}, {"aes": "3"}]


@pytest.mark.parametrize("kind", ["open-sora", "mindone"])
def test_a_header_must_name_the_footage_once(tmp_path: Path, kind: str) -> None:
    for content in ("name,text\na,b\n", "", "path,path,video,video\na,b,c,d\n", "\xff"):
        with pytest.raises(FormatError, match="header"):
            read(tmp_path, kind, content.encode("latin1"))


def test_classes_and_further_columns_are_kept(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, "mindone", "video,caption,class,mood\nx/y.gif,a dance,7,calm\n")
    assert (entry.path, entry.captions, dict(entry.columns)) == (
        "x/y.gif", ("a dance",), {"class": "7", "mood": "calm"}
    )  # fmt: skip


def test_open_soras_parquet_is_read_with_its_types(tmp_path: Path) -> None:
    path = tmp_path / "meta.parquet"
    pl.DataFrame(
        {"path": ["a.mp4", None], "text": ["one", "two"], "fps": [24.0, None], "num_frames": [51, 8]}
    ).write_parquet(path)
    first, second = find("open-sora").read(path)
    assert (first.path, first.captions, dict(first.columns)) == (
        "a.mp4",
        ("one",),
        {"fps": 24.0, "num_frames": 51},
    )
    assert (second.where, second.cause) == ("row 2", "no_path")
    path.write_bytes(b"PAR1 not at all")
    with pytest.raises(FormatError, match="cannot be read as Parquet"):
        list(find("open-sora").read(path))


@pytest.mark.parametrize(
    ("timestamp", "span"),
    [
        ("[('00:00:01.500', '01:02:03.250')]", (1.5, 3723.25)),
        ("[('00:00:01.500', '00:00:02.000'), ('00:00:02.000', '00:00:03.000')]", (None, None)),
        ("__import__('os').system('touch pwned')", (None, None)),
        ("(" * 10_000, (None, None)),
        ("[(1, 2)]", (None, None)),
        ("", (None, None)),
    ],
)
def test_timestamps_are_read_as_plain_data(tmp_path: Path, timestamp: str, span: tuple) -> None:
    (entry,) = read(tmp_path, "open-sora", f'path,timestamp\na.mp4,"{timestamp}"\n')
    assert (entry.start_s, entry.end_s) == span
