"""Imports and exports whatever their format: what a list may name, what is kept of it, and where an export may lie."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import exchange
import polars as pl
import pyarrow as pa
import pytest
from conftest import ROOT
from warehouse_builder import STEPS, build_warehouse

from curation.footage.media import MediaLimits
from curation.formats.exports import RECORD, export
from curation.formats.imports import MATCH
from curation.formats.kept import choose, describe
from curation.formats.registry import find
from curation.listed_captions import settle_listed_captions
from curation.selection.explained import explain
from curation.selection.filters import SelectionConfig
from curation.selection.verdicts import select, select_step
from warehouse.audit import audit
from warehouse.errors import FormatError, SettingsError, WarehouseError
from warehouse.ledger import Ledger
from warehouse.manifest import MANIFEST, TRAIN, parse_manifest
from warehouse.plan import Plan
from warehouse.schema import TABLES


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return exchange.build(tmp_path / "w", tmp_path / "footage")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A warehouse for tests that leave it and its footage as they are."""
    folder = tmp_path_factory.mktemp("shared")
    return exchange.build(folder / "w", folder / "footage")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_exported_clips_have_their_frames_and_none_of_their_neighbours(
    shared: Ledger, tmp_path: Path
) -> None:
    done = exchange.out_of(shared, "open-sora-1.0", tmp_path / "out")
    clips = describe(choose(shared.store, "default"))
    assert (done.clips, done.failed) == (3, ())
    files = [tmp_path / "out" / "clips" / f"{c.clip_id}.mp4" for c in clips]
    assert [exchange.numbers(exchange.pictures(f)) for f in files] == exchange.KEPT
    assert [(c.start_frame, c.end_frame) for c in clips] == [(k[0], k[-1] + 1) for k in exchange.KEPT]


def test_exported_clips_keep_their_times(shared: Ledger, tmp_path: Path) -> None:
    import av

    exchange.out_of(shared, "open-sora-1.0", tmp_path / "out")
    clip = describe(choose(shared.store, "default"))[2]
    with av.open(clip.uri) as source:
        times = sorted(f.time for f in source.decode(video=0))[4:14]
    with av.open(str(tmp_path / "out" / "clips" / f"{clip.clip_id}.mp4")) as written:
        found = [f.time for f in written.decode(video=0)]
    assert found == pytest.approx([t - times[0] for t in times], abs=1e-3)


def test_an_export_is_the_same_byte_for_byte_and_takes_the_place_of_the_one_before(
    shared: Ledger, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert not exchange.out_of(shared, "open-sora", out).replaced
    first = contents(out)
    assert exchange.out_of(shared, "open-sora", out).replaced
    assert contents(out) == first
    assert json.loads(first[RECORD])["files"].keys() == first.keys() - {RECORD}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("foreign", ["notes.txt", "clips/mine.mp4", "clips.csv"])
def test_an_export_overwrites_nothing_that_it_did_not_write(
    shared: Ledger, tmp_path: Path, foreign: str
) -> None:
    out = tmp_path / "out"
    exchange.out_of(shared, "open-sora", out)
    (out / foreign).write_text("mine")
    with pytest.raises(SettingsError, match=f"{out} holds {foreign}"):
        exchange.out_of(shared, "open-sora", out)
    assert (out / foreign).read_text() == "mine"


def test_a_folder_that_is_no_export_is_not_touched(shared: Ledger, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingsError, match="is no earlier export"):
        exchange.out_of(shared, "open-sora", tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.txt": b"years of work"}


def test_a_video_that_is_gone_costs_its_clips_alone(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "footage" / "a.mp4").unlink()
    done = exchange.out_of(ledger, "open-sora-1.0", tmp_path / "out")
    assert done.clips == 1
    assert {row["cause"] for row in done.failed} == {"unreadable"}
    assert len(done.failed) == 2
    assert sorted(contents(tmp_path / "out")) == sorted(
        [
            RECORD,
            "clips.csv",
            *(f"clips/{c}.mp4" for c in json.loads((tmp_path / "out" / RECORD).read_text())["clips"]),
        ]
    )
    (tmp_path / "footage" / "b, ü.mkv").unlink()
    with pytest.raises(WarehouseError, match="none of 3 clips could be written"):
        exchange.out_of(ledger, "open-sora-1.0", tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_video_that_was_replaced_is_noticed(ledger: Ledger, tmp_path: Path) -> None:
    import footage

    footage.write_video(tmp_path / "footage" / "a.mp4", footage.numbered(20))
    done = exchange.out_of(ledger, "open-sora-1.0", tmp_path / "out")
    assert {row["cause"] for row in done.failed} == {"changed"}
    assert done.clips == 1, "a clip before the file's new end is of another film too"


def test_an_unknown_selection_names_those_that_there_are(shared: Ledger, tmp_path: Path) -> None:
    with pytest.raises(
        WarehouseError, match=r"no selection and no training run 'best'; selections here: default"
    ):
        choose(shared.store, "best")


def states(imported: object) -> list[tuple[str, str | None]]:
    return [(row["state"], row["cause"]) for row in imported.rows]


def test_what_a_list_may_name(tmp_path: Path) -> None:
    (own := tmp_path / "lists").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (own / "a.mp4").write_bytes(b"a")
    (own / "still.jpg").write_bytes(b"picture")
    (own / "folder").mkdir()
    paths = {
        "a.mp4": None, "./folder/../a.mp4": None, str(tmp_path / "secret.mp4"): None,
        "../secret.mp4": "outside_root", "folder/../../secret.mp4": "outside_root", "gone.mp4": "not_found",
        "folder": "not_a_file", "/": "not_a_file", ".": "not_a_file", "still.jpg": None,
        "http://example.org/a.mp4": "bad_uri", "s p a c e": "not_found", "x" * 5000: "not_found",
        "nul\0": "no_path", " ": "no_path", f"file://{own}/a.mp4": None, f"file://{own}/gone.mp4": "not_found",
    }  # fmt: skip
    (own / "list.csv").write_text("".join(f"{path},caption\n" for path in paths))
    ledger, imported = exchange.into(tmp_path / "w", "open-sora-1.0", own / "list.csv")
    assert dict(zip(paths, (row["cause"] for row in imported.rows), strict=True)) == paths
    given = set(ledger.read_all("given")["uri"])
    assert given == {
        str(own / "a.mp4"), str(own / "still.jpg"), str(tmp_path / "secret.mp4"), f"file://{own}/a.mp4"
    }  # fmt: skip

    _, rooted = exchange.into(tmp_path / "w2", "open-sora-1.0", own / "list.csv", root=own)
    found = dict(zip(paths, (row["cause"] for row in rooted.rows), strict=True))
    changed = {p: c for p, c in found.items() if c != paths[p]}
    assert set(changed.values()) == {"outside_root"}
    assert set(changed) == {str(tmp_path / "secret.mp4"), "/", *(p for p in paths if "://" in p)}


def test_the_same_list_again_settles_what_changed_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "list.csv").write_text("a.mp4,one\nb.mp4,two\n")
    ledger, first = exchange.into(tmp_path / "w", "open-sora-1.0", tmp_path / "list.csv")
    assert (first.new_rows, states(first)) == (2, [("done", None), ("failed", "not_found")])
    _, again = exchange.into(tmp_path / "w", "open-sora-1.0", tmp_path / "list.csv")
    assert (again.new_rows, again.list_id) == (0, first.list_id)
    (tmp_path / "b.mp4").write_bytes(b"b")
    _, third = exchange.into(tmp_path / "w", "open-sora-1.0", tmp_path / "list.csv")
    assert (third.new_rows, states(third)) == (1, [("done", None)] * 2)
    rows = ledger.read_all("listed").join(ledger.read_all("matched"), on="entry_id").sort("place")
    assert rows["attempt"].to_list() == [1, 2]
    assert rows["captions"].to_list() == [["one"], ["two"]]
    found = audit(ledger)
    assert (found.tables["matched"].expected, found.tables["matched"].done, found.problems) == (2, 2, [])
    assert found.tables["sources"].pending == 2, "imported footage waits for curation"


def test_the_audit_finds_entries_that_are_missing_and_sources_that_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "list.csv").write_text("a.mp4,one\nb.mp4,two\n")
    ledger, imported = exchange.into(tmp_path / "w", "open-sora-1.0", tmp_path / "list.csv")
    (part,) = ledger.parts("matched")[imported.list_id]
    Path(ledger.store.path(part.path)).unlink()
    assert audit(ledger).tables["matched"].pending == 2
    row = {n: imported.rows[0].get(n) for n in TABLES["matched"].schema.names} | {"source_id": "nobody"}
    matched = pa.Table.from_pylist([row], TABLES["matched"].schema)
    ledger.commit(MATCH, imported.list_id, {"matched": matched.to_batches()}, run_id="test")
    problems = {(p.table, p.kind, p.id) for p in audit(ledger).problems}
    assert problems == {
        ("matched", "missing", imported.rows[1]["entry_id"]),
        ("matched", "unknown", "source_id nobody"),
    }


def test_an_import_joins_a_warehouse_that_has_a_plan(ledger: Ledger, tmp_path: Path) -> None:
    before = ledger.plan.plan_id
    (tmp_path / "list.csv").write_text(f"{tmp_path}/footage/a.mp4,it is said\n")
    joined, imported = exchange.into(tmp_path / "w", "open-sora-1.0", tmp_path / "list.csv")
    assert joined.plan.plan_id == before
    sources = ledger.read_all("sources").filter(pl.col("source_id") == imported.rows[0]["source_id"])
    assert sources["state"].to_list() == ["done"], "a file that was given before is the same source"
    assert audit(joined).balanced


def test_nothing_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("\n\n")
    with pytest.raises(FormatError, match="lists nothing"):
        exchange.into(tmp_path / "w", "open-sora-1.0", tmp_path / "empty.csv")
    with pytest.raises(FormatError, match="cannot be read"):
        exchange.into(tmp_path / "w", "open-sora-1.0", tmp_path / "gone.csv")
    with pytest.raises(SettingsError, match=r"no format 'csv'; there are open-sora-1\.0, "):
        exchange.into(tmp_path / "w", "csv", tmp_path / "gone.csv")


def test_a_clip_tells_what_lists_say_of_its_footage(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,text\n{tmp_path}/footage/a.mp4,it is said\nb.mp4,of another\n")
    exchange.into(tmp_path / "w", "open-sora", tmp_path / "list.csv")
    settle_listed_captions(ledger, run_id="test")
    clip = describe(choose(ledger.store, "default"))[0]
    said = [c for c in explain(ledger, clip.clip_id).captions if c["of"] == "listed"]
    method = f"listed, open-sora: {tmp_path}/list.csv"
    assert said == [{"of": "listed", "text": "it is said", "method": method, "status": "ok"}]


def test_an_earlier_selection_and_a_training_run_can_be_exported(tmp_path: Path) -> None:
    built = build_warehouse(tmp_path / "w", packed=True)
    store = built.store
    again = Plan.of(
        [*[s for s in STEPS if s.name != "select"][:-2], select_step(SelectionConfig("none", ()))]
    )
    again.save(store)
    select(Ledger(store, again), SelectionConfig("none", ()), run_id="test")
    kept = built.read_all("verdicts").filter("kept")["clip_id"]
    assert choose(store, "default").clip_ids == set(kept) < choose(store, "none").clip_ids
    (path,) = (e.path for e in store.list("selections") if e.name.startswith("default."))
    assert choose(store, path).clip_ids == set(kept)

    (dataset,) = store.folders("datasets")
    manifest = parse_manifest(store.read_bytes(f"datasets/{dataset}/{MANIFEST}").decode(), dataset)
    parts = [p for b in manifest.buckets.values() for p in b.parts if p.split == TRAIN]
    train = {
        i for p in parts for i in pl.read_parquet(tmp_path / "w" / "datasets" / dataset / p.path)["clip_id"]
    }
    assert 0 < len(train) < len(kept)
    for name, digest in (("video-1", manifest.digest), ("lost", "no such dataset")):
        store.write_bytes(f"runs/{name}/run.json", json.dumps({"dataset": digest}).encode())
    for name in ("video-1", "runs/video-1", str(tmp_path / "w" / "runs" / "video-1")):
        assert choose(store, name).clip_ids == train
    with pytest.raises(
        WarehouseError, match="learnt from dataset no such dataset, which is not in this warehouse"
    ):
        choose(store, "lost")
    done = export(choose(store, "video-1"), find("huggingface"), tmp_path / "out", limits=MediaLimits())
    assert done.clips == len(train)


@pytest.mark.parametrize("fault", ["commit.before/listed", "commit.before/matched", "commit.before/given"])
def test_a_killed_import_goes_on_where_it_was(tmp_path: Path, fault: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "list.csv").write_text("a.mp4,one\nb.mp4,two\n")
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests'); import exchange; "
        f"exchange.into(Path({str(tmp_path / 'w')!r}), 'open-sora-1.0', Path({str(tmp_path / 'list.csv')!r}))"
    )
    env = os.environ | {"CUTROOM_FAULT": fault}
    assert subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT).returncode == -signal.SIGKILL
    ledger, imported = exchange.into(tmp_path / "w", "open-sora-1.0", tmp_path / "list.csv")
    assert (imported.new_rows, ledger.read_all("listed").height, ledger.read_all("matched").height) == (
        2,
        2,
        2,
    )
    assert not audit(ledger).problems


@pytest.mark.parametrize("fault", ["export.between"])
def test_a_killed_export_leaves_no_half_one(ledger: Ledger, tmp_path: Path, fault: str) -> None:
    out = tmp_path / "out"
    exchange.out_of(ledger, "open-sora", out)
    before = contents(out)
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests'); import exchange; "
        "from warehouse.ledger import Ledger; from warehouse.plan import Plan; from warehouse.store import Store; "
        f"s = Store({str(tmp_path / 'w')!r}); "
        f"exchange.out_of(Ledger(s, Plan.load(s)), 'open-sora', Path({str(out)!r}))"
    )
    env = os.environ | {"CUTROOM_FAULT": fault}
    assert subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT).returncode == -signal.SIGKILL
    exchange.out_of(ledger, "open-sora", out)
    assert contents(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["footage", "out", "w"], "and nothing is left of it"
