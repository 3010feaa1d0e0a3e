"""Captions that imported lists brought along, clip by clip.

An entry of a list speaks of its whole footage, or of a span of it; a clip takes the captions of the entries in whose
span it lies as a whole. Half a frame is allowed for where spans are in seconds, which lists round. No pixels and no
models are needed, and what a clip takes may change with every import: so all clips are looked at each time, and the rows
that say something else than before are settled anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from curation.engine.work import settled
from warehouse.claims import claim
from warehouse.errors import WarehouseError
from warehouse.ledger import Ledger
from warehouse.listed import captioned_entries
from warehouse.plan import Step
from warehouse.schema import TABLES

LISTED_CAPTIONS = Step(
    "listed_captions", 1, ("sources", "listed", "matched", "clips"), ("listed_captions",), None
)
METHOD = "listed, "
"""What the method of every listed caption begins with."""
_REASONS = {
    "not_listed": "no imported list names its footage",
    "no_caption": "the lists that name its footage say nothing of it",
    "outside_spans": "it lies, as a whole, in no span that a list says something of",
}


def settle_listed_captions(ledger: Ledger, *, run_id: str) -> int:
    """Settles the rows of `listed_captions` that are missing, or that a later import changed.

    Returns:
        Rows written.
    """
    entries = captioned_entries(ledger)
    return sum(_settle(ledger, shard, entries, run_id) for shard in ledger.shards())


def _settle(ledger: Ledger, shard: str, entries: pl.DataFrame, run_id: str) -> int:
    with claim(ledger.store, f"{ledger.folder('listed_captions')}/{shard}", wait_s=600) as held:
        if not held:
            raise WarehouseError("another run has been writing listed captions for 10 minutes; wait for it")
        known = {r["clip_id"]: r for r in ledger.read("listed_captions", shard).iter_rows(named=True)}
        rows = [
            row | {"attempt": 1 + (before["attempt"] if before else 0)}
            for row in rows_of(_clips(ledger, shard), entries)
            if (before := known.get(row["clip_id"])) is None or any(before[c] != row[c] for c in _COMPARED)
        ]
        if not rows:
            return 0
        table = pa.Table.from_pylist(rows, TABLES["listed_captions"].schema)
        outputs = {"listed_captions": table.to_batches()}
        return ledger.commit(LISTED_CAPTIONS, shard, outputs, run_id=run_id)["listed_captions"]


_COMPARED = ("captions", "methods", "state", "cause")


def _clips(ledger: Ledger, shard: str) -> pl.DataFrame:
    """Clips of a shard with `first_frame`, counted over all spans of their video."""
    columns = ["clip_id", "video_id", "start_pts", "start_s", "duration_s", "num_frames", "state"]
    spans = ledger.read("clips", shard, columns).sort("video_id", "start_pts")
    before = pl.col("num_frames").cum_sum().over("video_id") - pl.col("num_frames")
    return spans.with_columns(first_frame=before).filter(pl.col("state") == "done")


def rows_of(clips: pl.DataFrame, entries: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """A row of `listed_captions` for each clip, in their order.

    Args:
        clips: clip_id, video_id, start_s, duration_s, first_frame, num_frames.
        entries: as `warehouse.listed.captioned_entries` gives them.
    """
    said = entries.explode("captions", empty_as_null=False).filter(pl.col("captions").str.contains(r"\S"))
    found = clips.join(said, on="video_id", maintain_order="left_right").filter(_lies_in_span())
    found = found.unique(["clip_id", "captions"], keep="first", maintain_order=True)
    method = pl.format(METHOD + "{}: {}", "format", "uri").alias("methods")
    by_clip = found.group_by("clip_id", maintain_order=True).agg("captions", method)
    captions = {row["clip_id"]: row for row in by_clip.iter_rows(named=True)}
    listed, captioned = set(entries["video_id"]), set(said["video_id"])
    for clip_id, video_id in clips.select("clip_id", "video_id").iter_rows():
        if clip_id in captions:
            yield captions[clip_id] | {"status": "ok"} | settled(1)
        else:
            yield _skipped(clip_id, _reason(video_id, listed, captioned))


def _lies_in_span() -> pl.Expr:
    """Whether a clip lies in an entry's span; frames tell where the list has them, since they are exact."""
    end_frame = pl.col("first_frame") + pl.col("num_frames")
    in_frames = (pl.col("first_frame") >= pl.col("start_frame")).fill_null(True)
    in_frames &= (end_frame <= pl.col("end_frame")).fill_null(True)
    end_s, half_s = pl.col("start_s") + pl.col("duration_s"), pl.col("duration_s") / pl.col("num_frames") / 2
    in_seconds = (pl.col("start_s") >= pl.col("start_s_right") - half_s).fill_null(True)
    in_seconds &= (end_s <= pl.col("end_s") + half_s).fill_null(True)
    has_frames = pl.col("start_frame").is_not_null() | pl.col("end_frame").is_not_null()
    return pl.when(has_frames).then(in_frames).otherwise(in_seconds)


def _reason(video_id: str, listed: set[str], captioned: set[str]) -> str:
    if video_id not in listed:
        return "not_listed"
    return "outside_spans" if video_id in captioned else "no_caption"


def _skipped(clip_id: str, reason: str) -> Mapping[str, Any]:
    nothing = {"clip_id": clip_id, "captions": None, "methods": None, "status": None}
    return nothing | settled(1, "skipped", reason, _REASONS[reason])
