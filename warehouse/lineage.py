"""A clip's whole life, from the files: where it came from, what it scored, why it was kept, and what it went into.

Everything is read under one plan. Scores are compared with those of all clips of the warehouse; thresholds are those of
the frozen selection, so what is told here stays true when a later selection asks for something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.descendants import checkpoints_with, datasets_with
from warehouse.errors import WarehouseError
from warehouse.ledger import Ledger, Part
from warehouse.schema import TABLES
from warehouse.table import Table

PassedFilters = Callable[[Ledger, str, str], Mapping[str, bool | None]]
"""Of a shard's clip, by score, whether it passes a filter of the frozen selection; None where the filter lets it be."""
MAX_MATCHES_NAMED = 5
_BULKY = ("jpeg", "latents", "text", "mask", "hashes", "colours")


@dataclass(frozen=True)
class ScoreColumn:
    """A number that clips are compared by: the table and column that hold it, its unit and its meaning."""

    table: str
    column: str
    unit: str
    meaning: str
    has_model: bool
    """The table says which weights made the score."""


def score_name(table: str, column: str) -> str:
    """What selections call a score: its table for a column named `score`, else the column without its unit."""
    return table if column == "score" else column.removesuffix("_s")


def score_columns() -> dict[str, ScoreColumn]:
    """Every number of a clip that has a percentile, by `score_name`; `<table>.<column>` where that name is taken."""
    found: dict[str, ScoreColumn] = {}
    annotations = [t for t in TABLES.values() if t.stateful and t.expects == TABLES["motion"].expects]
    for table in (TABLES["clips"], *annotations):
        for field in table.fields:
            if pa.types.is_floating(field.type) and field.name != "start_s":
                name = score_name(table.name, field.name)
                column = _score_column(table, field)
                found[f"{table.name}.{field.name}" if name in found else name] = column
    return found


def _score_column(table: Table, field: pa.Field) -> ScoreColumn:
    said = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
    has_model = "model" in table.schema.names
    return ScoreColumn(table.name, field.name, said.get("unit", ""), said.get("meaning", ""), has_model)


@dataclass(frozen=True)
class ScoreFact:
    """One score of a clip.

    `value` is null when the clip has none: then `state` and `cause` say why (`pending`: not computed yet).
    `percentile`: 0 to 100, the share of scored clips with a lower value, ties counted half; `num_scored` clips have
    the score. `model`: which weights made it, null where none did. `threshold`: the frozen selection's, with its
    `value`, the `better` end, the share to `drop` and the `reference_clips` it came from; null when the selection does
    not filter by this score. `passed`: null without a threshold, and where the filter lets the clip be: it has one frame
    and the score is of time, or its step found that it can have no such score. A value that is missing does not pass.
    """

    name: str
    table: str
    column: str
    value: float | None
    unit: str
    meaning: str
    percentile: float | None
    num_scored: int
    model: str | None
    state: str
    cause: str | None
    detail: str | None
    threshold: Mapping[str, Any] | None
    passed: bool | None


@dataclass(frozen=True)
class Explanation:
    """Everything that the warehouse knows about one clip. `as_json` has one key per field."""

    clip: Mapping[str, Any]
    """clip_id, video_id, stream, start_pts, end_pts, start_s, end_s, duration_s, first_frame (in presentation order,
    from 0), num_frames, scene, and state, cause, detail: a skipped one is a span that is no clip, with the reason."""
    video: Mapping[str, Any]
    """The row of `videos`, without its lists."""
    sources: tuple[Mapping[str, Any], ...]
    """All files with this content: source_id, uri, bytes, and whether the video was `read_from` it."""
    scores: tuple[ScoreFact, ...]
    verdict: Mapping[str, Any] | None
    """kept, rejected_by, failed_filters, near_duplicate_of (the clip that is kept in its place), near_duplicate_by,
    selection, path (of the frozen file); null when nothing judged the clip."""
    captions: tuple[Mapping[str, Any], ...]
    """of (frame, video, summary, or listed: what an imported list says), text, method, status."""
    tables: tuple[Mapping[str, Any], ...]
    """Each file that tells of the clip: table, key, step, version, run, generation, path, read (digests by table)."""
    datasets: tuple[Mapping[str, Any], ...]
    """Packed datasets with the clip: name, path, digest, selection, bucket, split."""
    checkpoints: tuple[Mapping[str, Any], ...]
    """Training runs under ``runs/`` that the clip went into: path, stage, digest, is_done, and either the `dataset`
    with the clip in its training split, or the run that the weights were `inherited_from`."""

    def as_json(self) -> dict[str, Any]:
        """What ``cutroom explain --json`` prints."""
        return asdict(self)


@dataclass(frozen=True)
class FrozenSelection:
    """Thresholds of the plan's selection as they were frozen to the file at `path`."""

    name: str
    path: str
    thresholds: tuple[Mapping[str, Any], ...]


def frozen_selection(ledger: Ledger) -> FrozenSelection | None:
    """The plan's frozen selection; None while nothing has been selected."""
    plan = ledger.plan
    if "select" not in plan.config or not ledger.store.exists(plan.selection_path):
        return None
    thresholds = json.loads(ledger.store.read_bytes(plan.selection_path))["thresholds"]
    return FrozenSelection(plan.config["select"]["name"], plan.selection_path, tuple(thresholds))


def explain(ledger: Ledger, clip_id_or_prefix: str, passed_filters: PassedFilters) -> Explanation:
    """Tells the life of one clip.

    Args:
        clip_id_or_prefix: a clip's id, or as much of its beginning as is needed to tell it from all others.
        passed_filters: the rules of whoever selects; asked for a clip that was or could be judged.

    Raises:
        WarehouseError: no clip's id begins so, or several do.
    """
    shard, clip_id = _find_clip(ledger, clip_id_or_prefix)
    life = _Life(ledger, shard, clip_id)
    selection = frozen_selection(ledger)
    is_judged = selection is not None and life.rows["clips"]["state"] == "done"
    passed = passed_filters(ledger, shard, clip_id) if is_judged else {}
    datasets = tuple(datasets_with(ledger.store, clip_id))
    return Explanation(
        clip=life.clip(),
        video={k: v for k, v in life.rows["videos"].items() if not isinstance(v, list)},
        sources=tuple(life.sources()),
        scores=tuple(life.scores(selection, passed)),
        verdict=life.verdict(selection),
        captions=tuple(life.captions()),
        tables=tuple(life.tables()),
        datasets=datasets,
        checkpoints=tuple(checkpoints_with(ledger.store, datasets)),
    )


def _find_clip(ledger: Ledger, prefix: str) -> tuple[str, str]:
    """Shard and id of the one clip whose id begins with `prefix`."""
    if not prefix:
        raise WarehouseError("no clip was named: give a clip's id, or its first characters")
    begins = pc.starts_with(pc.field("clip_id"), prefix)
    found = {
        clip_id: shard
        for shard in ledger.shards()
        for clip_id in ledger.read("clips", shard, ["clip_id"], filters=begins)["clip_id"]
    }
    if not found:
        raise WarehouseError(
            f"no clip's id begins with {prefix!r} under the current plan of {ledger.store.uri}; ids are in the column "
            "clip_id of the table `clips`, and under every example of the report"
        )
    if len(found) > 1:
        named = ", ".join(sorted(found)[:MAX_MATCHES_NAMED])
        raise WarehouseError(
            f"{len(found)} clips' ids begin with {prefix!r}, expected one: {named}"
            f"{', ...' if len(found) > MAX_MATCHES_NAMED else ''}; give more characters"
        )
    ((clip_id, shard),) = found.items()
    return shard, clip_id


class _Life:
    """The rows of one clip and of its video in all tables of the plan, each with the file that holds it."""

    def __init__(self, ledger: Ledger, shard: str, clip_id: str) -> None:
        self.ledger, self.shard, self.clip_id = ledger, shard, clip_id
        self.rows: dict[str, dict[str, Any]] = {}
        self.files: dict[str, Part] = {}
        self._collect("clips", clip_id)
        self.video_id = self.rows["clips"]["video_id"]
        for table in TABLES.values():
            if table.by_shard and table.name != "clips":
                self._collect(table.name, clip_id if table.identity[0] == "clip_id" else self.video_id)

    def _collect(self, name: str, id_: str) -> None:
        """Remembers the row of an id in its newest file, and that file; of many rows (frames), the first."""
        if name not in self.ledger.plan.keys:
            return
        table = TABLES[name]
        columns = [c for c in table.schema.names if c not in _BULKY]
        for part in reversed(self.ledger.parts(name).get(self.shard, [])):
            found = self.ledger.store.read_table(part.path, columns, [(table.identity[0], "=", id_)])
            if found.num_rows:
                self.rows[name], self.files[name] = found.slice(0, 1).to_pylist()[0], part
                return

    def clip(self) -> dict[str, Any]:
        row = self.rows["clips"]
        before = (pc.field("video_id") == self.video_id) & (pc.field("start_pts") < row["start_pts"])
        spans = self.ledger.read("clips", self.shard, ["num_frames"], filters=before)
        place = {"end_s": row["start_s"] + row["duration_s"], "first_frame": int(spans["num_frames"].sum())}
        return row | place

    def sources(self) -> Iterator[dict[str, Any]]:
        columns = ["source_id", "uri", "bytes"]
        for group in self.ledger.groups():
            rows = self.ledger.read("sources", group, columns, [("video_id", "=", self.video_id)])
            for row in rows.sort("uri").iter_rows(named=True):
                yield row | {"read_from": row["uri"] == self.rows["shards"]["uri"]}

    def scores(
        self, selection: FrozenSelection | None, passed: Mapping[str, bool | None]
    ) -> Iterator[ScoreFact]:
        thresholds = {t["score"]: t for t in selection.thresholds} if selection else {}
        for name, spec in score_columns().items():
            if spec.table in self.ledger.plan.keys:
                yield self._score(name, spec, thresholds.get(name), passed.get(name))

    def _score(
        self, name: str, spec: ScoreColumn, threshold: Mapping[str, Any] | None, passed: bool | None
    ) -> ScoreFact:
        is_clip = self.rows["clips"]["state"] == "done"
        row = self.rows.get(spec.table, {"state": "pending" if is_clip else "none"})
        threshold = threshold if is_clip else None  # what is no clip is never judged
        value = row.get(spec.column)
        rows = self.ledger.read_all(spec.table, [spec.column, "state"])
        everyone = rows.filter(pl.col("state") == "done")[spec.column].drop_nulls()
        return ScoreFact(
            name=name,
            table=spec.table,
            column=spec.column,
            value=value,
            unit=spec.unit,
            meaning=spec.meaning,
            percentile=None if value is None else _percentile(everyone, value),
            num_scored=len(everyone),
            model=row.get("model"),
            state=row["state"],
            cause=row.get("cause"),
            detail=row.get("detail"),
            threshold=threshold,
            passed=passed,
        )

    def verdict(self, selection: FrozenSelection | None) -> dict[str, Any] | None:
        row = self.rows.get("verdicts")
        if row is None or selection is None:
            return None
        told = ("kept", "rejected_by", "failed_filters", "near_duplicate_of", "near_duplicate_by")
        said = {k: row[k] for k in told}
        return said | {"selection": selection.name, "path": selection.path}

    def captions(self) -> Iterator[dict[str, Any]]:
        of_frames, summary = self.rows.get("captions", {}), self.rows.get("summaries", {})
        for of, row, text, prefix in (
            ("frame", of_frames, "frame_caption", "frame_"),
            ("video", of_frames, "video_caption", "video_"),
            ("summary", summary, "summary", ""),
        ):
            if row.get(text) is not None:
                yield {
                    "of": of,
                    "text": row[text],
                    "method": row[f"{prefix}method"],
                    "status": row[f"{prefix}status"],
                }
        listed = self.rows.get("listed_captions", {})
        for text, method in zip(listed.get("captions") or (), listed.get("methods") or (), strict=True):
            yield {"of": "listed", "text": text, "method": method, "status": listed["status"]}

    def tables(self) -> Iterator[dict[str, Any]]:
        for name in TABLES:
            if name in self.files:
                yield _file_facts(self.ledger, name, self.files[name])


def _percentile(everyone: pl.Series, value: float) -> float:
    """Share (0 to 100) of values below `value`, those equal to it counted half."""
    return 100 * ((everyone < value).mean() + (everyone == value).mean() / 2)


def _file_facts(ledger: Ledger, name: str, part: Part) -> dict[str, Any]:
    """What a file's metadata says about how it was made."""
    said = ledger.store.read_metadata(part.path)
    return {
        "table": name,
        "key": said["cutroom.key"],
        "step": said["cutroom.step"],
        "version": int(said["cutroom.version"]),
        "run": said["cutroom.run"],
        "generation": part.generation,
        "path": part.path,
        "read": {
            k.removeprefix("cutroom.read."): v for k, v in said.items() if k.startswith("cutroom.read.")
        },
    }
