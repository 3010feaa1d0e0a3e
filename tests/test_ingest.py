"""Ingest: every file given is a source, one content is one video, and nothing depends on the order of footage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import curation.ingest
from curation.engine.local import run_shards
from curation.engine.pool import Pool
from curation.engine.work import Outputs, Unit
from curation.footage.media import MediaLimits
from curation.ingest import (
    ASSIGN,
    GIVE,
    HASH,
    HashWork,
    IngestConfig,
    ShardSize,
    assign,
    give,
    settle_given_again,
)
from warehouse.audit import audit
from warehouse.errors import WarehouseError
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.store import Store


def _ledger(root: Path) -> Ledger:
    store, plan = Store(root), Plan.of([GIVE, HASH, ASSIGN])
    plan.save(store)
    return Ledger(store, plan)


def _ingest(ledger: Ledger, *footage: Path, size: ShardSize = ShardSize(videos=2)) -> list[str]:  # noqa: B008
    groups = give(ledger, [str(f) for f in footage], run_id="test").groups
    with Pool(2, ledger.store.scratch()) as pool:
        run_shards(HashWork(MediaLimits()), ledger, groups, pool, run_id="test")
    return assign(ledger, size, run_id="test")


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    folder = tmp_path / "footage"
    (folder / "deep" / "er").mkdir(parents=True)
    for i in range(5):
        (folder / "deep" / f"{i}.mp4").write_bytes(bytes([i]) * 1000)
    (folder / "deep" / "er" / "copy of 3.mkv").write_bytes(bytes([3]) * 1000)
    (folder / "notes.txt").write_text("not a video")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.mp4").symlink_to(folder / "nowhere")
    (folder / "odd 'näme' \n$(x).mp4").write_bytes(b"odd")
    return folder


def test_many_sources_of_one_content_are_one_video(tmp_path: Path, footage: Path) -> None:
    ledger = _ledger(tmp_path / "w")
    _ingest(ledger, footage, tmp_path / "never.mp4")
    sources = ledger.read_all("sources")
    by_name = {Path(r["uri"]).name: r for r in sources.iter_rows(named=True)}
    assert by_name["3.mp4"]["video_id"] == by_name["copy of 3.mkv"]["video_id"]
    states = {n: (r["state"], r["cause"]) for n, r in by_name.items() if r["state"] != "done"}
    assert (
        states
        == {
            "notes.txt": ("skipped", "not_a_video_name"),
            "gone.mp4": ("failed", "not_found"),
            "never.mp4": ("failed", "not_found"),
        }
        or "loop" not in by_name
    )
    assert ledger.read_all("shards").height == 6
    assert audit(ledger).balanced


def test_shards_are_full_in_order_and_never_change(tmp_path: Path, footage: Path) -> None:
    ledger = _ledger(tmp_path / "w")
    first = _ingest(ledger, footage)
    assert sorted(ledger.read("shards", s).height for s in first) == [2, 2, 2]
    (footage / "new.mp4").write_bytes(b"new")
    second = _ingest(ledger, footage)
    assert set(first) < set(second)
    assert len(second) == 4
    assert audit(ledger).balanced


def test_the_order_of_footage_does_not_matter(tmp_path: Path, footage: Path) -> None:
    one, other = _ledger(tmp_path / "a"), _ledger(tmp_path / "b")
    places = [footage / "deep", footage / "gone.mp4", footage / "deep" / "1.mp4"]
    assert _ingest(one, *places) == _ingest(other, *reversed(places))
    assert one.read_all("sources").sort("uri").equals(other.read_all("sources").sort("uri"))


def test_a_changed_file_is_a_new_source(tmp_path: Path, footage: Path) -> None:
    ledger = _ledger(tmp_path / "w")
    _ingest(ledger, footage / "deep")
    (footage / "deep" / "1.mp4").write_bytes(b"something else")
    _ingest(ledger, footage / "deep")
    changed = ledger.read_all("sources").filter(pl.col("uri").str.ends_with("/1.mp4"))
    assert changed["video_id"].n_unique() == changed.height == 2
    assert audit(ledger).balanced


def test_a_file_that_was_not_there_is_no_failure_once_it_has_come(tmp_path: Path) -> None:
    ledger, late, never = _ledger(tmp_path / "w"), tmp_path / "late.mp4", tmp_path / "never.mp4"
    _ingest(ledger, late, never)
    assert settle_given_again(ledger, run_id="test") == 0
    late.write_bytes(b"here")
    _ingest(ledger, late, never)
    assert settle_given_again(ledger, run_id="test") == 1
    assert settle_given_again(ledger, run_id="test") == 0
    rows = ledger.read_all("sources", ["uri", "state", "cause"]).sort("uri", "state").rows()
    assert rows == [
        (str(late), "done", None),
        (str(late), "skipped", "given_again"),
        (str(never), "failed", "not_found"),
    ]
    assert audit(ledger).balanced


def test_sources_that_never_were_hashed_are_pending(tmp_path: Path, footage: Path) -> None:
    ledger = _ledger(tmp_path / "w")
    give(ledger, [str(footage)], run_id="test")
    found = audit(ledger)
    assert found.tables["sources"].pending == found.tables["given"].done > 0
    assert not found.balanced


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WarehouseError, match="no file found"):
        give(_ledger(tmp_path / "w"), [str(tmp_path / "empty")], run_id="test")


def test_footage_in_an_object_store_is_read_through_its_filesystem(tmp_path: Path, footage: Path) -> None:
    local, remote = _ledger(tmp_path / "a"), _ledger(tmp_path / "b")
    _ingest(local, footage / "deep")
    groups = give(remote, [f"file://{footage / 'deep'}"], run_id="test").groups
    with Pool(2, remote.store.scratch()) as pool:
        run_shards(HashWork(MediaLimits()), remote, groups, pool, run_id="test")
    ids = [set(x.read_all("sources")["video_id"]) for x in (local, remote)]
    assert ids[0] == ids[1]


def test_a_store_that_cannot_be_listed_costs_its_own_source_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files can be read; then the store does not answer for one of them."""
    uris = []
    for name in ("good", "lost"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").write_bytes(name.encode())
        uris.append(f"file://{tmp_path / name / 'a.mp4'}")
    ledger, folder = _ledger(tmp_path / "w"), tmp_path / "rows"
    (group,) = give(ledger, uris, run_id="test").groups
    folder.mkdir()
    listed = curation.ingest._list_remote

    def unanswered(place: str) -> Iterator[dict[str, object]]:
        if place == uris[1]:
            raise OSError("the store does not answer")
        return listed(place)

    monkeypatch.setattr(curation.ingest, "_list_remote", unanswered)
    unit = Unit(group, tuple(ledger.pending(HASH, group).attempts), (0, 0))
    HashWork(MediaLimits()).run(ledger, unit, outputs := Outputs(folder))
    outputs.close()
    with pa.ipc.open_stream(folder / "sources.arrows") as stream:
        rows = {row["uri"]: row for row in stream.read_all().to_pylist()}
    assert [(rows[uri]["state"], rows[uri]["cause"]) for uri in uris] == [
        ("done", None),
        ("failed", "io_error"),
    ]
    assert rows[uris[1]]["video_id"] is None


@pytest.fixture(autouse=True)
def _cleanup(tmp_path: Path):
    yield
    shutil.rmtree(tmp_path / "footage", ignore_errors=True)


def test_pictures_beside_videos_are_left_out_and_counted_unless_they_are_asked_for(tmp_path: Path) -> None:
    for name in ("film/a.MP4", "film/poster.JPG", "film/notes.txt", "film/stills/1.png", "photos/2.webp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())
    whole = [str(tmp_path / "in")]

    def given(pictures: str, *footage: str) -> tuple[set[str], int]:
        ledger = _ledger(tmp_path / f"w {pictures} {len(footage)}")
        told = give(ledger, [*footage] or whole, run_id="test", config=IngestConfig(pictures))
        names = {Path(uri).name for uri in ledger.read_all("given")["uri"]}
        assert told.groups == tuple(ledger.groups())
        return names, told.pictures_left_out

    everything = {"a.MP4", "poster.JPG", "notes.txt", "1.png", "2.webp"}
    assert given("apart") == (everything - {"poster.JPG"}, 1)
    assert given("all") == (everything, 0)
    assert given("none") == ({"a.MP4", "notes.txt"}, 3)
    named = str(tmp_path / "in/film/poster.JPG"), str(tmp_path / "in/film/a.MP4")
    assert given("none", *named) == ({"a.MP4", "poster.JPG"}, 0), "named themselves"
    photos = str(tmp_path / "in/photos")
    assert given("apart", photos) == ({"2.webp"}, 0)
    with pytest.raises(
        WarehouseError, match=r"nothing but 1 pictures that ingest\.pictures leaves out found"
    ):
        given("none", photos)


def test_pictures_left_out_earlier_come_in_when_they_are_asked_for(tmp_path: Path) -> None:
    footage = tmp_path / "in"
    footage.mkdir()
    for name in ("a.mp4", "b.png"):
        (footage / name).write_bytes(name.encode())
    ledger = _ledger(tmp_path / "w")
    for pictures, count in (("apart", 1), ("all", 2), ("none", 2)):
        give(ledger, [str(footage)], run_id="test", config=IngestConfig(pictures))
        assert ledger.read_all("given").height == count, "what was taken once stays"


def test_files_of_a_warehouse_among_the_footage_are_no_footage(tmp_path: Path) -> None:
    for name in ("a.mp4", "w/runs/video-1/samples/000.mp4", "w/plans.mp4", "w2/x.mp4", "old/runs/1.mp4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())
    ledger = _ledger(tmp_path / "in" / "w")
    _ledger(tmp_path / "in" / "old")
    for _ in range(2):
        given = give(ledger, [str(tmp_path / "in")], run_id="test")
        assert set(given.warehouses_left_out) == {str(tmp_path / "in" / n) for n in ("w", "old")}
        names = {str(Path(uri).relative_to(tmp_path / "in")) for uri in ledger.read_all("given")["uri"]}
        assert names == {"a.mp4", "w2/x.mp4"}
    named = tmp_path / "in/w/runs/video-1/samples/000.mp4"
    give(ledger, [str(named)], run_id="test")
    assert str(named) in set(ledger.read_all("given")["uri"]), "named itself"
    with pytest.raises(WarehouseError, match=r"no file found in .*/in/w beside the warehouse"):
        give(ledger, [str(tmp_path / "in" / "w")], run_id="test")
