"""Takes a list into a warehouse: what it says is kept in `listed`, its files become sources, and `matched` ties the two.

Which files a list may name: relative paths start from its root (the list's own folder, unless the format or the user
names another) and may not leave it; absolute paths are taken as they are, unless the user named a root, which then
holds everything. An entry that cannot be used is a row like any other, with its cause.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from curation.engine.work import settled
from curation.formats.base import Entry, Format, malformed
from curation.formats.films import film_inside, film_of_frames
from curation.ingest import ASSIGN, GIVE, HASH, give_rows, list_sources
from warehouse.claims import claim
from warehouse.errors import FormatError, MediaError, WarehouseError
from warehouse.ledger import Ledger
from warehouse.listed import import_numbers, newest_lists
from warehouse.plan import Plan, Step, digest
from warehouse.schema import TABLES
from warehouse.store import Store

_SPAN = ("start_s", "end_s", "start_frame", "end_frame")
LIST = Step("list", 1, (), ("listed",))
MATCH = Step("match", 2, ("given", "listed"), ("matched",))


@dataclass(frozen=True)
class Imported:
    """What an import found."""

    list_id: str
    rows: tuple[Mapping[str, Any], ...]
    """Rows of `listed` and `matched` joined, in the order of the list, without the import's number."""
    new_rows: int
    """Those of `matched` that this import wrote."""

    @property
    def states(self) -> Counter[str]:
        """Entries by state, and by cause as ``failed: <cause>``."""
        counts = Counter(dict.fromkeys(("done", "failed", "skipped"), 0))
        counts.update(row["state"] for row in self.rows)
        counts.update(f"{row['state']}: {row['cause']}" for row in self.rows if row["cause"])
        return counts

    @property
    def num_spans(self) -> int:
        """Entries that can be used and are of a span of their footage."""
        return sum(any(row[n] is not None for n in _SPAN) for row in self._done)

    @property
    def columns_without_captions(self) -> list[str]:
        """What the usable entries tell instead, where none of them has a caption: one may stand under another name."""
        if any(row["captions"] for row in self._done):
            return []
        return sorted({name for row in self._done for name in json.loads(row["columns"])})

    @property
    def _done(self) -> list[Mapping[str, Any]]:
        return [row for row in self.rows if row["state"] == "done"]

    @property
    def problems(self) -> list[Mapping[str, Any]]:
        """Rows of entries that could not be used."""
        return [row for row in self.rows if row["state"] != "done"]


def import_plan(store: Store) -> Plan:
    """The warehouse's plan with the tables of imported lists, saved; a first one where there is none."""
    ingest = Plan.of([GIVE, LIST, MATCH, HASH, ASSIGN])
    plan = Plan.current(store) or ingest
    added = Plan.of([GIVE, LIST, MATCH])
    if plan.keys.get("matched") != added.keys["matched"]:
        plan = Plan(
            {**added.keys, **plan.keys, "matched": added.keys["matched"]},
            {**added.reads, **plan.reads},
            {**added.config, **plan.config},
        )
    plan.save(store)
    return plan


def import_list(
    ledger: Ledger, kind: Format, path: Path, *, run_id: str, root: Path | None = None, fps: float = 25.0
) -> Imported:
    """Reads a list, gives its files to the warehouse, and keeps what it says of them.

    The same list again settles what is new to it: files that came, went or changed since.

    Args:
        root: relative paths start here, and nothing outside of it is taken.
        fps: rate of footage that is listed as single frames, which say nothing of it.

    Raises:
        FormatError: it is no list of this format, or it is empty.
    """
    if kind.read is None:
        raise FormatError(f"{kind.name} lists can be written, not read")
    path = path.expanduser().absolute()
    entries = [_sound(entry) for entry in kind.read(path)]
    if not entries:
        raise FormatError(f"{path} lists nothing; expected a list in the format {kind.name}")
    list_id = digest([kind.name, str(path), [vars(e) | {"columns": _as_text(e.columns)} for e in entries]])
    head = {"list_id": list_id, "format": kind.name, "uri": str(path)}
    listed = [head | _listed(list_id, number, entry) for number, entry in enumerate(entries)]
    with claim(ledger.store, f"listed/{list_id}", wait_s=600) as held:
        if not held:
            raise WarehouseError(f"another run has been importing {path} for 10 minutes; wait for it")
        if not ledger.read("listed", list_id, ["entry_id"]).height:
            _commit(ledger, LIST, list_id, listed, run_id)
        own = path if path.is_dir() else path.parent
        found = [_find(ledger, entry, own, root, fps) for entry in entries]
        sources = list_sources(f for f in found if isinstance(f, str))
        if sources:
            give_rows(ledger, sources, run_id=run_id)
        ids = {row["uri"]: row["source_id"] for row in sources}
        matched = [_matched(row["entry_id"], place, ids) for row, place in zip(listed, found, strict=True)]
        new = _to_settle(ledger, list_id, matched)
        if new:
            _commit(ledger, MATCH, list_id, new, run_id)
    return Imported(list_id, tuple(a | b for a, b in zip(listed, matched, strict=True)), len(new))


@dataclass(frozen=True)
class _Unusable:
    state: str
    cause: str
    detail: str


def _find(ledger: Ledger, entry: Entry, own: Path, root: Path | None, fps: float) -> str | _Unusable:
    """The URI of an entry's footage, or why there is none that can be used."""
    if entry.cause is not None:
        return _Unusable("failed", entry.cause, entry.detail or "")
    if entry.frames or entry.inside:
        return _film(ledger.store, entry, fps)
    if entry.path is None:
        return _Unusable("skipped", "no_footage", "it holds features alone, and names no footage")
    place = _place(entry, own, root)
    if isinstance(place, _Unusable) or "://" in place:
        return place
    return _check_local(place)


def _film(store: Store, entry: Entry, fps: float) -> str | _Unusable:
    """The URI of footage that the scan cannot read where it lies, brought into the warehouse."""
    try:
        if entry.inside:
            return film_inside(store, *entry.inside, Path(entry.path or "").suffix.lower())
        return film_of_frames(store, entry.frames, fps)
    except (MediaError, OSError) as error:
        failed = MediaError.of(error)
        return _Unusable("failed", failed.cause, failed.detail)


def _place(entry: Entry, own: Path, root: Path | None) -> str | _Unusable:
    """Where an entry's file should be: an absolute path, or a URI of an object store that answers."""
    path = entry.path or ""
    if not path.strip() or "\0" in path:
        return _Unusable("failed", "no_path", f"its path is {path!r}")
    if "://" in path:
        return _remote(path) if root is None else _outside(path, root)
    within = (root or (own / entry.root if entry.root else own)).absolute()
    place = os.path.normpath(within / path)
    if (root or not Path(path).is_absolute()) and not Path(place).is_relative_to(os.path.normpath(within)):
        return _outside(path, within)
    return place


def _outside(path: str, root: Path) -> _Unusable:
    return _Unusable(
        "failed", "outside_root", f"{path} lies outside of {root}; name another root with --root"
    )


def _remote(uri: str) -> str | _Unusable:
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
        kind = filesystem.get_file_info(path).type
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        return _Unusable("failed", "bad_uri", f"{uri} is no place that can be read: {error}")
    except OSError as error:
        return _Unusable("failed", "io_error", f"{uri}: {error}")
    if kind != fs.FileType.File:
        return _Unusable("failed", "not_found", f"there is no file {uri}")
    return uri


def _check_local(place: str) -> str | _Unusable:
    """A folder is refused: given as footage it would bring all that is below it."""
    try:
        Path(place).stat()
    except OSError as error:
        return _Unusable("failed", "not_found", f"{place}: {error.strerror}")
    return place if Path(place).is_file() else _Unusable("failed", "not_a_file", f"{place} is no file")


def _as_text(columns: Mapping[str, Any]) -> str:
    return json.dumps(_plain(columns), ensure_ascii=False, sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    """A value as JSON has it, which knows no infinities and no NaN: those are null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sound(entry: Entry) -> Entry:
    """The entry, or in its place one that says what in it cannot be kept; lists from elsewhere may hold anything."""
    try:
        text = [
            entry.where,
            entry.path or "",
            entry.root or "",
            entry.detail or "",
            *entry.captions,
            *entry.frames,
        ]
        "".join([*text, _as_text(entry.columns)]).encode()
        if any(abs(n) >= 2**63 for n in (entry.start_frame, entry.end_frame) if n is not None):
            raise ValueError("a frame's number is out of all bounds")
    except (UnicodeEncodeError, ValueError, RecursionError) as error:
        where = entry.where.encode("utf-8", "backslashreplace").decode()
        return malformed(where, "bad_item", f"it cannot be kept: {type(error).__name__}: {error}"[:300])
    return entry


def _listed(list_id: str, number: int, entry: Entry) -> dict[str, Any]:
    return {
        "entry_id": digest([list_id, number], 32),
        "place": entry.where,
        "path": entry.path,
        "captions": list(entry.captions),
        "columns": _as_text(entry.columns),
        **{n: getattr(entry, n) for n in _SPAN},
    }


def _matched(entry_id: str, found: str | _Unusable, sources: Mapping[str, str]) -> dict[str, Any]:
    row = {"entry_id": entry_id, "source_id": None}
    if isinstance(found, _Unusable):
        return row | settled(1, found.state, found.cause, found.detail)
    return row | {"source_id": sources[found.encode("utf-8", "backslashreplace").decode()]} | settled(1)


def _to_settle(ledger: Ledger, list_id: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that are new or changed; all of them where another version of the list has been imported since."""
    lists = import_numbers(ledger)
    if is_superseded := list_id in set(lists["list_id"]) - set(newest_lists(ledger)):
        known = dict(ledger.read("matched", list_id, ["entry_id", "attempt"]).iter_rows())
        rows = [row | {"attempt": known.get(row["entry_id"], 0) + 1} for row in rows]
    new = rows if is_superseded else _changed(ledger, list_id, rows)
    number = (lists["import_number"].max() or 0) + 1
    return [row | {"import_number": number} for row in new]


def _changed(ledger: Ledger, list_id: str, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows that are new, or that say something else than before; each with its attempt."""
    known = {r["entry_id"]: r for r in ledger.read("matched", list_id).iter_rows(named=True)}
    for row in rows:
        before = known.get(row["entry_id"])
        if before is None:
            yield row
        elif any(before[c] != row[c] for c in ("state", "cause", "source_id")):
            yield row | {"attempt": before["attempt"] + 1}


def _commit(ledger: Ledger, step: Step, list_id: str, rows: Sequence[dict[str, Any]], run_id: str) -> None:
    (table,) = step.writes
    batches = pa.Table.from_pylist(list(rows), TABLES[table].schema).to_batches()
    ledger.commit(step, list_id, {table: batches}, run_id=run_id)
