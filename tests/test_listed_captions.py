"""Captions of imported lists: which clips take them, what a later import changes, and the way out again."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exchange
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import served

from curation.captions.choosing import choose_caption
from curation.captions.cleaning import CleaningConfig
from curation.formats.kept import choose, describe
from curation.listed_captions import settle_listed_captions
from curation.reel.sample_reel import make_reel, read_truth
from screen.report.examples import MethodRow, caption_methods
from tasks.encoding import EncodeConfig, TextWork
from tasks.selecting import why_no_clip
from warehouse.audit import audit
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.store import Store

DOG = "my own caption of a dog"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Two films with two clips each: frames 4 to 13, and 14 to 25."""
    return exchange.build(tmp_path / "w", tmp_path / "footage")


def listed(folder: Path, *rows: tuple[object, ...], name: str = "list.csv") -> Path:
    """An Open-Sora list of paths and captions."""
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([("path", "text"), *rows])
    return folder / name


def take(folder: Path, kind: str, path: Path) -> int:
    """Imports a list, and gives the clips what it says; rows that were written."""
    ledger, _ = exchange.into(folder / "w", kind, path)
    return settle_listed_captions(ledger, run_id="test")


def said(ledger: Ledger) -> dict[tuple[str, int], list[str] | str]:
    """Listed captions, or why there are none, by the film's name and the clip's first frame."""
    rows = ledger.read_all("listed_captions").join(
        ledger.read_all("clips", ["clip_id", "scene"]), on="clip_id"
    )
    names = {r["clip_id"]: Path(r["uri"]).stem[0] for r in _with_uri(ledger)}
    return {
        (names[r["clip_id"]], exchange.SPANS[r["scene"]][0]): r["captions"] or r["cause"]
        for r in rows.iter_rows(named=True)
    }


def _with_uri(ledger: Ledger) -> list[dict[str, Any]]:
    videos = ledger.read_all("videos", ["video_id", "uri"])
    return ledger.read_all("clips", ["clip_id", "video_id"]).join(videos, on="video_id").to_dicts()


def test_a_clip_takes_the_captions_of_its_footage_and_of_spans_that_it_lies_in(
    ledger: Ledger, tmp_path: Path
) -> None:
    film, nothing = tmp_path / "footage" / "a.mp4", "not_listed"
    assert set(said(ledger).values()) == {nothing}
    spans = {
        "whole": (None, None), "open": (14, None), "exact": (4, 14), "late": (5, 14), "early": (4, 13),
        "both": (4, 26), "blank": (None, None),
    }  # fmt: skip
    rows = [
        {"path": str(film), "text": " " if name == "blank" else name, "start_frame": first, "end_frame": end}
        for name, (first, end) in spans.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    assert take(tmp_path, "huggingface", tmp_path / "list.parquet") == 2
    assert said(ledger) == {
        ("a", 4): ["whole", "exact", "both"], ("a", 14): ["whole", "open", "both"],
        ("b", 4): nothing, ("b", 14): nothing,
    }  # fmt: skip
    assert audit(ledger).balanced


@pytest.mark.parametrize(
    ("off_by_frames", "is_taken"), [(0, True), (0.4, True), (-0.4, True), (0.6, False), (-3, True)]
)
def test_spans_in_seconds_may_be_off_by_half_a_frame(
    ledger: Ledger, tmp_path: Path, off_by_frames: float, is_taken: bool
) -> None:
    (clip, *_) = describe(choose(ledger.store, "default"))
    start_s = clip.start_s + off_by_frames * clip.duration_s / clip.num_frames
    rows = [{"path": clip.uri, "text": "said", "start_s": start_s, "end_s": clip.end_s}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    take(tmp_path, "huggingface", tmp_path / "list.parquet")
    assert said(ledger)["a", 4] == (["said"] if is_taken else "outside_spans")


def test_a_later_import_settles_what_it_changes_and_nothing_else(ledger: Ledger, tmp_path: Path) -> None:
    steady, uneven = sorted((tmp_path / "footage").iterdir())
    first = listed(tmp_path, (steady, "one"), (uneven, "two"))
    assert take(tmp_path, "open-sora", first) == 4
    assert take(tmp_path, "open-sora", first) == 0
    assert take(tmp_path, "open-sora", listed(tmp_path, (steady, "one, mended"), (uneven, "two"))) == 2
    assert said(ledger)["a", 4] == ["one, mended"], "the earlier version of the list still speaks"
    assert take(tmp_path, "open-sora", listed(tmp_path, (steady, "one"), (uneven, "two"))) == 2
    assert said(ledger)["a", 4] == ["one"], "what was imported last is not what counts"
    assert take(tmp_path, "open-sora", listed(tmp_path, (uneven, ""), name="other.csv")) == 0
    assert take(tmp_path, "open-sora", listed(tmp_path, (uneven, "three"), name="other.csv")) == 2
    assert said(ledger)["b", 4] == ["two", "three"], "another list takes nothing back"
    assert take(tmp_path, "open-sora", listed(tmp_path, (steady, ""))) == 4
    assert (said(ledger)["a", 4], said(ledger)["b", 14]) == ("no_caption", ["three"])
    assert audit(ledger).balanced


def test_a_listed_caption_comes_before_what_models_wrote() -> None:
    row = {f"{k}_{c}": f"{k} {c}" for k in ("frame", "video", "summary") for c in ("caption", "method")}
    both = row | {"listed_captions": ["one", "two"], "listed_methods": ["first list", "second list"]}
    drawn = Counter(choose_caption(str(n), both, (0.5, 0.25, 0.25)) for n in range(2000))
    assert set(drawn) == {("one", "first list"), ("two", "second list")}
    assert 900 < drawn["one", "first list"] < 1100, "four deviations of a fair draw are 90"
    bad = both | {"listed_captions": ["http://example.com", "the dog"]}
    cleaned = {choose_caption(str(n), bad, (0, 0, 1), CleaningConfig()) for n in range(9)}
    assert cleaned == {("the dog", "second list")}
    none = row | {"listed_captions": None, "listed_methods": None}
    assert choose_caption("c", none, (0, 0, 1)) == ("summary caption", "summary method")


def test_text_is_out_of_date_where_lists_say_something_else(ledger: Ledger, tmp_path: Path) -> None:
    (shard,) = ledger.shards()
    encoded = ledger.read_all("text_embeddings").sort("clip_id")
    ids = encoded["clip_id"].to_list()
    steady = tmp_path / "footage" / "a.mp4"
    assert TextWork(EncodeConfig()).outdated(ledger, shard) == []
    take(tmp_path, "open-sora", listed(tmp_path, (steady, "one")))
    of_list = {(r["clip_id"],) for r in _with_uri(ledger) if r["uri"] == str(steady) and r["clip_id"] in ids}
    work = TextWork(EncodeConfig())
    assert set(work.outdated(ledger, shard)) == of_list != {(i,) for i in ids}
    assert TextWork(EncodeConfig(listed_captions=False)).outdated(ledger, shard) == []
    chosen = work._choose(ledger, shard, ids)
    rows = [
        r | {"caption": chosen[r["clip_id"]][0], "caption_method": chosen[r["clip_id"]][1]}
        for r in encoded.iter_rows(named=True)
    ]
    exchange._commit(ledger, "encode_text", "0", text_embeddings=rows)
    assert work.outdated(ledger, shard) == []
    take(tmp_path, "open-sora", listed(tmp_path, (steady, "")))
    assert set(work.outdated(ledger, shard)) == of_list, "a caption that was taken back is still the text"


def test_the_report_tells_which_lists_captions_are_from(ledger: Ledger, tmp_path: Path) -> None:
    path = listed(tmp_path, (tmp_path / "footage" / "a.mp4", "one"))
    take(tmp_path, "open-sora", path)
    row = MethodRow("listed", f"listed, open-sora: {path}", 2, 0)
    assert row in caption_methods(ledger) and not row.is_embedded


def test_a_warehouse_without_a_clip_says_what_became_of_its_footage(ledger: Ledger) -> None:
    short = {"state": "skipped", "cause": "too_short"}
    spans = [r | short for r in ledger.read_all("clips").iter_rows(named=True)]
    exchange._commit(ledger, "cut", "0", clips=spans, cuts=ledger.read_all("cuts").to_dicts())
    assert why_no_clip(ledger) == (
        "no clip was found, so there is nothing to select from: 8 spans: too_short (shorter than `ClipConfig.min_s`)"
    )


def _of_open_sora(out: Path) -> list[tuple[str, list[str]]]:
    with next(out.glob("*.csv")).open(newline="") as file:
        return [(r["path"], [r["text"]]) for r in csv.DictReader(file)]


def _of_open_sora_plan(out: Path) -> list[tuple[str, list[str]]]:
    root, items = (out / "data.txt").read_text().strip().split(",")
    return [(root + i["path"], i["cap"]) for i in json.loads((out / Path(items).name).read_text())]


def _of_huggingface(out: Path) -> list[tuple[str, list[str]]]:
    rows = pq.read_table(next(out.glob("data/*.parquet"))).to_pylist()
    return [(r["path"], [r["text"]]) for r in rows]


def _write_plan(folder: Path, path: Path, captions: list[str]) -> Path:
    item = {"path": str(path), "cap": captions}
    (folder / "items.json").write_text(json.dumps([item]))
    (folder / "data.txt").write_text(f"/,{folder}/items.json\n")
    return folder / "data.txt"


def _write_parquet(folder: Path, path: Path, captions: list[str]) -> Path:
    pq.write_table(pa.Table.from_pylist([{"path": str(path), "text": captions[0]}]), folder / "l.parquet")
    return folder / "l.parquet"


FORMATS: dict[str, tuple[list[str], Callable[..., Path], Callable[[Path], list[tuple[str, list[str]]]]]] = {
    "open-sora": ([DOG], lambda folder, path, said: listed(folder, (path, *said)), _of_open_sora),
    "open-sora-plan": ([DOG, "a dog of mine"], _write_plan, _of_open_sora_plan),
    "huggingface": ([DOG], _write_parquet, _of_huggingface),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_imported_comes_out_again(ledger: Ledger, tmp_path: Path, kind: str) -> None:
    captions, write, read = FORMATS[kind]
    film = tmp_path / "footage" / "a.mp4"
    assert take(tmp_path, kind, write(tmp_path, film, captions)) == 2
    files = {"media": "source"} if kind != "open-sora-plan" else {}
    exchange.out_of(ledger, kind, tmp_path / "out", **files)
    by_path = read(tmp_path / "out")
    of_film = [said for path, said in by_path if path == str(film)]
    assert of_film == [captions, captions]
    assert all(DOG not in said for path, said in by_path if path != str(film))
    exchange.out_of(ledger, kind, tmp_path / "other", caption="summary", **files)
    assert all(said[0] in exchange.CAPTIONS for _, said in read(tmp_path / "other"))


@pytest.mark.long
def test_the_whole_way_from_a_list_to_a_list_and_to_what_is_encoded(tmp_path: Path) -> None:
    make_reel(tmp_path / "reel", num_films=3, shots_per_film=3, seed=7, side_px=64, num_workers=2)
    films = [str(tmp_path / "reel" / f.file) for f in read_truth(tmp_path / "reel")]
    settings = {"CUTROOM_CLIPS__MIN_S": "1", "CUTROOM_SELECTION__FILTERS": "[]", "CUTROOM_WORKERS": "2"}
    settings["CUTROOM_SELECTION__DUPLICATES"] = '{"drop": false}'
    env = served.clean_environment(tmp_path / "home", **settings)

    def cutroom(*arguments: object) -> dict[str, Any]:
        done = served.cutroom(*arguments, "-w", tmp_path / "w", "--json", env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    for film, (kind, (captions, write, _)) in zip(films, FORMATS.items(), strict=True):
        cutroom("import-data", kind, write(tmp_path, film, captions))
    cutroom("curate")
    for film, (kind, (captions, _, read)) in zip(films, FORMATS.items(), strict=True):
        cutroom("export-data", kind, "default", tmp_path / f"out-{kind}", "--spans")
        of_film = [said for path, said in read(tmp_path / f"out-{kind}") if path == film]
        assert len(of_film) > 1 and all(said == captions for said in of_film)
    assert cutroom("encode")["new_rows"] and cutroom("encode")["new_rows"] == {}
    store = Store(str(tmp_path / "w"))
    ledger = Ledger(store, Plan.load(store))
    texts = ledger.read_all("text_embeddings", ["clip_id", "caption"])
    assert set(texts["caption"]) == {DOG, "a dog of mine"}
    cutroom("import-data", "open-sora", listed(tmp_path, (films[0], "no dog at all")))
    changed = cutroom("encode")["new_rows"]
    now = ledger.read_all("text_embeddings", ["clip_id", "caption"])
    renewed = now.filter(pl.col("caption") == "no dog at all").height
    assert changed == {"text_embeddings": renewed} and 1 < renewed < now.height
    assert now.height == texts.height and audit(ledger).balanced
