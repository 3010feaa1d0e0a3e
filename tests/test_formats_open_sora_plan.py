"""Lists of Open-Sora-Plan: spans and files there and back, and annotations that mean harm."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import exchange
import pytest

from curation.formats.base import Clip, Entry
from curation.formats.kept import choose, describe
from curation.formats.open_sora_plan import read
from curation.formats.plain_pickle import load_plain
from warehouse.errors import FormatError
from warehouse.ledger import Ledger

KIND = "open-sora-plan"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    folder = tmp_path_factory.mktemp("exchange")
    return exchange.build(folder / "w", folder / "footage")


@pytest.fixture(scope="module")
def clips(ledger: Ledger) -> list[Clip]:
    return describe(choose(ledger.store, "default"))


def written(folder: Path, items: Any, name: str = "anno.json", root: str = "") -> Path:
    """A data.txt beside an annotation."""
    dump = pickle.dumps if name.endswith(".pkl") else lambda x: json.dumps(x).encode()
    (folder / name).write_bytes(items if isinstance(items, bytes) else dump(items))
    (folder / "data.txt").write_text(f"{root},{name}\n")
    return folder / "data.txt"


def test_spans_come_back(ledger: Ledger, clips: list[Clip], tmp_path: Path) -> None:
    done = exchange.out_of(ledger, KIND, tmp_path / "out")
    assert [row["cause"] for row in done.failed] == ["wrong_container"], "its loader reads .mp4 alone"
    other, imported = exchange.into(tmp_path / "w", KIND, done.path / "data.txt")
    given = dict(other.read_all("given", ["source_id", "uri"]).iter_rows())
    assert [given[r["source_id"]] for r in imported.rows] == [c.uri for c in clips[:2]]
    assert [(r["start_frame"], r["end_frame"]) for r in imported.rows] == [(4, 14), (14, 26)]
    assert [r["captions"] for r in imported.rows] == [
        [exchange.CAPTIONS[0], "video 0", "frame 0"],
        [exchange.CAPTIONS[1], "video 1", "frame 1"],
    ]


def test_files_come_back(ledger: Ledger, clips: list[Clip], tmp_path: Path) -> None:
    done = exchange.out_of(ledger, KIND, tmp_path / "out", media="video")
    assert (done.clips, done.failed) == (3, ())
    other, imported = exchange.into(tmp_path / "w", KIND, done.path / "data.txt")
    given = dict(other.read_all("given", ["source_id", "uri"]).iter_rows())
    files = [Path(given[r["source_id"]]) for r in imported.rows]
    assert [exchange.numbers(exchange.pictures(f)) for f in files] == exchange.KEPT


def test_what_its_loader_computes_are_the_clips_frames(ledger: Ledger, tmp_path: Path) -> None:
    """Open-Sora-Plan takes frames cut[0] to cut[0] + num_frames of root/path, and needs resolution and fps."""
    out = exchange.out_of(ledger, KIND, tmp_path / "out").path
    root, annotation = (out / "data.txt").read_text().strip().split(",")
    items = json.loads(Path(annotation).read_text())
    for item, expected in zip(items, exchange.KEPT[:2], strict=True):
        frames = exchange.pictures(Path(os.path.join(root, item["path"])))  # noqa: PTH118 (as its loader does)
        chosen = frames[item["cut"][0] : item["cut"][0] + item["num_frames"]]
        assert exchange.numbers(chosen) == expected
        assert (item["resolution"], item["fps"]) == ({"height": 64, "width": 64}, 25.0)
        assert item["path"].endswith(".mp4")
    assert [item["aesthetic"] for item in items] == pytest.approx([4, 4 + 1 / 3])


@pytest.mark.parametrize("name", ["anno.json", "anno.pkl"])
def test_json_and_pickle_say_the_same(tmp_path: Path, name: str) -> None:
    items = [
        {
            "path": "a/b.mp4",
            "cap": "one",
            "fps": 24.0,
            "cut": [3, 40],
            "resolution": {"height": 2, "width": 4},
        },
        {"path": "c.mp4", "cap": ["two", "", "deux"], "motion": None},
        {"path": "d.jpg"},
    ]
    first, second, third = read(written(tmp_path, items, name, "videos"))
    assert first == Entry(
        f"{name}, item 0",
        "a/b.mp4",
        "videos",
        ("one",),
        start_frame=3,
        end_frame=40,
        columns={"fps": 24.0, "cut": [3, 40], "resolution": {"height": 2, "width": 4}},
    )
    assert (second.captions, second.columns) == (("two", "deux"), {"motion": None})
    assert (third.path, third.captions) == ("d.jpg", ())


def test_a_list_that_windows_wrote_is_read(tmp_path: Path) -> None:
    written(tmp_path, [{"path": "a.mp4", "cap": "one"}])
    (tmp_path / "data.txt").write_bytes(b"\xef\xbb\xbfC/videos,anno.json\r\n\r\n")
    (entry,) = read(tmp_path / "data.txt")
    assert (entry.root, entry.path, entry.captions) == ("C/videos", "a.mp4", ("one",))


def test_a_cut_is_understood_or_refused(tmp_path: Path) -> None:
    """Passed over, it would hand the caption of a span to the whole film."""
    cuts = [[3.0, 40.0], None, [3], ["a", 5], {"start": 1}, 7]
    entries = list(read(written(tmp_path, [{"path": "a.mp4", "cap": "x", "cut": cut} for cut in cuts])))
    assert [(e.start_frame, e.end_frame, e.cause) for e in entries] == [
        (3, 40, None), (None, None, None), *[(None, None, "bad_item")] * 4
    ]  # fmt: skip


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "pwned"
    for number, content in enumerate(
        (
            *(pickle.dumps([Evil(marker)], protocol) for protocol in range(6)),
            f"cos\nmkdir\n(V{marker}\ntR.".encode(),
            f"(V{marker}\nios\nmkdir\n.".encode(),
            b"cbuiltins\nexec\n(Vraise SystemExit\ntR.",
        )
    ):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(content)
        with pytest.raises(
            FormatError, match=r"no pickle of plain data: it asks for .*\. Write the list as JSON"
        ):
            load_plain(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists(), "the pickle does harm where it is let"


def test_a_refused_annotation_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps([Evil(tmp_path / "pwned")]))
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps([{"path": "a.mp4"}])[:-5])
    (tmp_path / "map.json").write_text('{"path": "a.mp4"}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "bad.json").write_bytes(b'[{"path": "caf\xe9"}]')
    (tmp_path / "good.json").write_text('[{"path": "a.mp4", "cap": "fine"}]')
    names = ("evil.pkl", "cut.pkl", "map.json", "deep.json", "bad.json", "gone.json")
    lines = [f",{n}".encode() for n in names]
    lines += [b"no comma", b"caf\xe9,good.json", b"", b",good.json"]
    (tmp_path / "data.txt").write_bytes(b"\n".join(lines))
    _, imported = exchange.into(tmp_path / "w", KIND, tmp_path / "data.txt")
    assert [(r["place"], r["cause"]) for r in imported.rows] == [
        *((f"line {n}", "bad_annotation") for n in range(1, 7)),
        ("line 7", "wrong_columns"),
        ("line 8", "not_utf8"),
        ("good.json, item 0", None),
    ]
    assert "holds a dict, expected a list of items" in imported.rows[2]["detail"]
    assert not (tmp_path / "pwned").exists()


def test_bad_items_cost_themselves_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    loop: list = []
    loop.append(loop)
    items = [
        "a.mp4", None, {"cap": "nameless"}, {"path": 7}, {"path": "a.mp4", "cap": 7}, {"path": "a.mp4", "cap": [None]},
        {"path": "a.mp4", "cap": "half a pair \ud800"}, {"path": "a.mp4", "cut": [0, 2**70]},
        {"path": "a.mp4", "x": loop}, {"path": "a.mp4", "cut": "0-9"},
        {"path": "a.mp4", "mask": b"\0", "set": {1}, "nan": float("nan")},
    ]  # fmt: skip
    _, imported = exchange.into(tmp_path / "w", KIND, written(tmp_path, items, "anno.pkl"))
    assert [r["cause"] for r in imported.rows] == ["bad_item"] * 10 + [None]
    kept = json.loads(imported.rows[10]["columns"])
    assert (kept["mask"], kept["nan"]) == ("b'\\x00'", None)


def test_an_item_may_not_leave_its_root(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    items = [{"path": "../secret.mp4"}, {"path": "x/../../secret.mp4"}, {"path": "gone.mp4"}]
    _, imported = exchange.into(tmp_path / "w", KIND, written(tmp_path, items, root="videos"))
    assert [r["cause"] for r in imported.rows] == ["outside_root", "outside_root", "not_found"]
