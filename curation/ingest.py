"""From what the user named to shards of videos: list the sources, hash them, group what is new.

Three steps: `give` writes down what was asked for, before anything is opened; `hash` reads every source once and finds
its content's identity; `assign` puts videos that no shard holds yet into new shards, in the order of their URIs, so
that a run that was stopped goes on exactly where it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import quote

import polars as pl
import pyarrow as pa
from pyarrow import fs

from curation.engine.places import RunsOn
from curation.engine.work import Outputs, Unit, in_batches, settled
from curation.footage.media import MediaLimits, content_hash, probe
from curation.footage.pictures import SUFFIXES
from warehouse.claims import claim
from warehouse.errors import MediaError, WarehouseError
from warehouse.ledger import Ledger
from warehouse.plan import CURRENT, Step, digest
from warehouse.ranges import MANY, check_ranges
from warehouse.schema import TABLES

_SUFFIXES = """
264 265 3g2 3gp asf avi dv f4v flv h264 h265 hevc ivf m1v m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf nut obu ogm ogv rm
rmvb ts vob webm wmv y4m
"""
VIDEO_SUFFIXES = frozenset("." + suffix for suffix in _SUFFIXES.split())
_MENDED_BY_COMING = ("not_found", "changed")
GROUP_SIZE = 4096
GIVE = Step("give", 1, (), ("given",))
HASH = Step("hash", 2, ("given",), ("sources",))
ASSIGN = Step("assign", 1, ("sources",), ("shards",))


@dataclass(frozen=True)
class ShardSize:
    """A shard is full when it reaches one of these; part of no key, since a shard that exists never changes."""

    hours: float = 2.0
    """Hours of footage."""
    gib: float = 8.0
    """Size of the video files, in GiB."""
    videos: int = 512
    """Number of videos."""

    def __post_init__(self) -> None:
        check_ranges("shard", self, hours=(1e-3, MANY), gib=(1e-3, MANY), videos=(1, MANY))


@dataclass(frozen=True)
class IngestConfig:
    """What is taken out of folders; part of no key. Files that are named themselves are always taken."""

    pictures: Literal["apart", "all", "none"] = "apart"
    """Still pictures, by the ends of their names: apart takes those of folders that hold no video, since beside videos
    they are mostly posters and thumbnails. What was taken once stays."""


_DEFAULT_INGEST = IngestConfig()


@dataclass(frozen=True)
class Given:
    """Groups of sources that hold any of the footage, and what was left out of it."""

    groups: tuple[str, ...]
    pictures_left_out: int = 0
    warehouses_left_out: tuple[str, ...] = ()
    """Warehouses in the folders: their files are no footage, samples of training runs least of all."""


def open_source(uri: str) -> Path | pa.NativeFile:
    """A local path, or a seekable file of the object store."""
    if "://" not in uri:
        return local_path(uri)
    filesystem, path = fs.FileSystem.from_uri(uri)
    return filesystem.open_input_file(path)


def local_path(uri: str) -> Path:
    """The path that a local URI stands for; bytes that are no UTF-8 stand in it as ``\\udcff``, since tables hold text."""
    if "\\udc" not in uri or os.path.lexists(uri):
        return Path(uri)
    return Path(re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), uri))


def is_unchanged(uri: str, source_id: str) -> bool:
    """Whether the file is still the one that was given, by its size and the time of its last change."""
    rows = _list_remote(uri) if "://" in uri else [_given(uri, local_path(uri), named=True)]
    return any(row["source_id"] == source_id for row in rows)


CHANGED = "its size or time changed since it was listed; curate it again when it is written to its end"


def list_sources(footage: Iterable[str]) -> list[dict[str, object]]:
    """Rows of `given` for files, folders (searched recursively) and object-store prefixes, by URI, each once."""
    rows = {row["uri"]: row for place in footage for row in _list_place(place)}
    return [rows[uri] for uri in sorted(rows)]


def _list_place(place: str) -> Iterator[dict[str, object]]:
    if "://" in place:
        yield from _list_remote(place)
        return
    path = Path(place).expanduser().absolute()
    if not path.is_dir():
        yield _given(str(path), path, named=True)
        return
    for folder, _, files in os.walk(path):
        for name in files:
            path = Path(folder, name)
            yield _given(str(path), path, named=False)


def _given(uri: str, path: Path, *, named: bool) -> dict[str, object]:
    try:
        stat = path.stat()
        size, modified = stat.st_size, stat.st_mtime_ns
    except OSError:
        size = modified = None
    uri = uri.encode("utf-8", "backslashreplace").decode()
    return _row(uri, size, modified, named)


def _list_remote(place: str) -> Iterator[dict[str, object]]:
    filesystem, path = fs.FileSystem.from_uri(place)
    prefix = place.removesuffix("/")[: -len(quote(path))]
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.Directory:
        for found in filesystem.get_file_info(fs.FileSelector(path, recursive=True)):
            if found.type == fs.FileType.File:
                yield _row(prefix + quote(found.path), found.size, found.mtime_ns, False)
    else:
        yield _row(place, info.size, info.mtime_ns, True)


def _row(uri: str, size: int | None, modified_ns: int | None, named: bool) -> dict[str, object]:
    source_id = digest([uri, size, modified_ns], 32)
    return {"source_id": source_id, "uri": uri, "named": named, "bytes": size, "modified_ns": modified_ns}


def places_not_there(footage: Iterable[str]) -> list[str]:
    """Those of the named files, folders and prefixes that are not there, in their order."""
    return [place for place in footage if not _is_there(place)]


def _is_there(place: str) -> bool:
    if "://" not in place:
        return os.access(Path(place).expanduser(), os.F_OK)
    filesystem, path = fs.FileSystem.from_uri(place)
    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def give(
    ledger: Ledger, footage: Sequence[str], *, run_id: str, config: IngestConfig = _DEFAULT_INGEST
) -> Given:
    """Writes down the sources that are new to the warehouse.

    Raises:
        WarehouseError: nothing was named, or the named folders hold no file at all, or pictures alone that are left out.
    """
    found, warehouses = _outside_of_warehouses(list_sources(footage))
    rows = _wanted(found, config)
    left_out = len(found) - len(rows)
    if not rows:
        said = f"nothing but {left_out} pictures that ingest.pictures leaves out" if left_out else "no file"
        beside = f" beside the warehouse {', '.join(warehouses)}" if warehouses else ""
        raise WarehouseError(
            f"{said} found in {', '.join(footage) or 'nothing'}{beside}; name video files or folders of them"
        )
    give_rows(ledger, rows, run_id=run_id)
    wanted = {r["source_id"] for r in rows}
    groups = (
        g
        for g in ledger.groups()
        if not wanted.isdisjoint(ledger.read("given", g, ["source_id"])["source_id"])
    )
    return Given(tuple(groups), left_out, warehouses)


def _outside_of_warehouses(
    rows: list[dict[str, object]],
) -> tuple[list[dict[str, object]], tuple[str, ...]]:
    """Rows of files that are named themselves or lie in no warehouse, and the warehouses that were found."""
    found = [str(row["uri"]) for row in rows if not row["named"]]
    roots = tuple(uri.removesuffix(CURRENT) for uri in found if uri.endswith(f"/{CURRENT}"))
    outside = [row for row in rows if row["named"] or not str(row["uri"]).startswith(roots)]
    return outside, tuple(root.removesuffix("/") for root in roots)


def _wanted(rows: list[dict[str, object]], config: IngestConfig) -> list[dict[str, object]]:
    """Rows without the pictures that `config` leaves out."""
    if config.pictures == "all":
        return rows
    paths = [PurePosixPath(str(row["uri"])) for row in rows]
    with_videos = {path.parent for path in paths if path.suffix.lower() in VIDEO_SUFFIXES}
    return [
        row
        for row, path in zip(rows, paths, strict=True)
        if row["named"]
        or path.suffix.lower() not in SUFFIXES
        or (config.pictures == "apart" and path.parent not in with_videos)
    ]


def give_rows(ledger: Ledger, rows: Sequence[dict[str, object]], *, run_id: str) -> None:
    """Writes down rows of `list_sources` that are new to the warehouse."""
    with claim(ledger.store, "given", wait_s=600) as held:
        if not held:
            raise WarehouseError(
                "another run has been listing its footage for 10 minutes; end it or wait for it"
            )
        known = set(ledger.read_all("given", ["source_id"])["source_id"])
        new = [r for r in rows if r["source_id"] not in known]
        for start in range(0, len(new), GROUP_SIZE):
            group = new[start : start + GROUP_SIZE]
            name = digest([r["source_id"] for r in group])
            table = pa.Table.from_pylist(group, TABLES["given"].schema)
            ledger.commit(GIVE, name, {"given": table.to_batches()}, run_id=run_id)


@dataclass(frozen=True)
class HashWork:
    """Finds each source's content hash, and how long its header says it lasts."""

    limits: MediaLimits
    timeout_s: float = 3600.0
    step: Step = HASH
    isolated: bool = True
    runs_on: RunsOn = "cores"
    model_bytes: int = 0

    def split(self, ledger: Ledger, shard: str, ids: Sequence[tuple]) -> Iterable[Sequence[tuple]]:
        return in_batches(ids, 16)

    def run(self, ledger: Ledger, unit: Unit, outputs: Outputs) -> None:
        ids = [i for (i,) in unit.ids]
        given = ledger.read("given", unit.shard).filter(pl.col("source_id").is_in(ids))
        rows = {r["source_id"]: r for r in given.iter_rows(named=True)}
        spent = dict(zip(ids, unit.attempts, strict=True))
        outputs.append("sources", [self._hash(rows[i], spent[i] + 1) for i in ids])

    def _hash(self, given: dict, attempt: int) -> dict[str, object]:
        row = {k: given[k] for k in ("source_id", "uri", "bytes")}
        if not given["named"] and Path(given["uri"]).suffix.lower() not in VIDEO_SUFFIXES | SUFFIXES:
            detail = "found in a folder, and named neither like a video nor like a picture"
            return row | settled(attempt, "skipped", "not_a_video_name", detail)
        if given["bytes"] is None:
            return row | settled(attempt, "failed", "not_found", _why_absent(given["uri"]))
        try:
            video_id = content_hash(open_source(given["uri"]))
            unchanged = is_unchanged(given["uri"], given["source_id"])
        except (MediaError, OSError) as error:
            failed = MediaError.of(error)
            return row | settled(attempt, "failed", failed.cause, failed.detail)
        if not unchanged:
            return row | settled(attempt, "failed", "changed", CHANGED)
        return row | {"video_id": video_id, "duration_s": self._duration_s(given["uri"])} | settled(attempt)

    def _duration_s(self, uri: str) -> float | None:
        """The header's word; a video that cannot be opened is refused with its cause when it is scanned."""
        try:
            return probe(open_source(uri), self.limits).duration_s
        except (MediaError, OSError):
            return None


def _why_absent(uri: str) -> str:
    """Why a file that was given could not be looked at."""
    if "://" in uri:
        return f"there is no such file: {uri}"
    try:
        local_path(uri).stat()
    except OSError as error:
        return f"there is no such file: {uri} ({error.strerror or error})"
    return f"there was no such file when it was listed: {uri}"


def settle_given_again(ledger: Ledger, *, run_id: str) -> int:
    """Settles as skipped (`given_again`) failed sources whose file has come since, or was written to its end.

    The file then has a source of its own, with its size and time; what was wrong with the earlier one is over.

    Returns:
        Rows written.
    """
    sources = ledger.read_all("sources", ["source_id", "uri", "state", "cause"])
    come = set(sources.filter(pl.col("state") == "done")["uri"])
    over = (
        (pl.col("state") == "failed") & pl.col("cause").is_in(_MENDED_BY_COMING) & pl.col("uri").is_in(come)
    )
    ids = set(sources.filter(over)["source_id"])
    return sum(_settle_over(ledger, group, ids, run_id) for group in ledger.groups()) if ids else 0


def _settle_over(ledger: Ledger, group: str, ids: set[str], run_id: str) -> int:
    with claim(ledger.store, f"{ledger.folder('sources')}/{group}", wait_s=600) as held:
        if not held:
            raise WarehouseError("another run has been hashing its footage for 10 minutes; wait for it")
        rows = ledger.read("sources", group).filter(
            pl.col("source_id").is_in(ids) & (pl.col("state") == "failed")
        )
        if rows.is_empty():
            return 0
        detail = "its file has come since, and is a source of its own"
        again = [
            r | settled(r["attempt"] + 1, "skipped", "given_again", detail)
            for r in rows.iter_rows(named=True)
        ]
        table = pa.Table.from_pylist(again, TABLES["sources"].schema)
        return ledger.commit(HASH, group, {"sources": table.to_batches()}, run_id=run_id)["sources"]


def assign(ledger: Ledger, size: ShardSize, *, run_id: str) -> list[str]:
    """Puts videos that no shard holds yet into new shards; returns all shards."""
    with claim(ledger.store, "shards", wait_s=600) as held:
        if not held:
            raise WarehouseError("another run has been forming shards for 10 minutes; end it or wait for it")
        sources = ledger.read_all("sources").filter(pl.col("state") == "done").sort("uri")
        known = ledger.read_all("shards", ["video_id"])
        new = sources.unique("video_id", keep="first", maintain_order=True).join(
            known, on="video_id", how="anti"
        )
        for members in _fill(new.sort("uri").iter_rows(named=True), size):
            table = pa.Table.from_pylist(members, TABLES["shards"].schema)
            name = digest([m["video_id"] for m in members])
            ledger.commit(ASSIGN, name, {"shards": table.to_batches()}, run_id=run_id)
    return ledger.shards()


def _fill(videos: Iterable[dict], size: ShardSize) -> Iterator[list[dict]]:
    """Fills one shard after the other."""
    members: list[dict] = []
    for video in videos:
        members.append(video)
        hours = sum(m["duration_s"] or 0.0 for m in members) / 3600
        gib = sum(m["bytes"] for m in members) / 2**30
        if hours >= size.hours or gib >= size.gib or len(members) >= size.videos:
            yield members
            members = []
    if members:
        yield members
