"""What the engine runs: a step declared as data, how its ids split into units, and the code for one unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pyarrow as pa

from curation.engine.places import RunsOn
from warehouse.ledger import Ledger
from warehouse.plan import Step
from warehouse.schema import TABLES


@dataclass(frozen=True)
class Unit:
    """What one process works through at a time: ids of one shard, each with the attempts spent on it before."""

    shard: str
    ids: tuple[tuple, ...]
    attempts: tuple[int, ...]


class Work(Protocol):
    """A step with its code. It is pickled to worker processes, so it holds settings, never models or files."""

    step: Step
    timeout_s: float
    """A unit that takes longer is killed and fails with the cause `timeout`."""
    isolated: bool
    """Each unit gets a process of its own; otherwise a process keeps its models and takes one unit after another."""

    runs_on: RunsOn
    """What does the work, which says how many processes take its units at once."""
    model_bytes: int
    """Memory that its models take in each process without an accelerator; 0 where that is little, or not known."""

    def split(self, ledger: Ledger, shard: str, ids: Sequence[tuple]) -> Iterable[Sequence[tuple]]:
        """The units of a shard at the first attempt; later ones go id by id, so that a bad one takes no other along."""

    def run(self, ledger: Ledger, unit: Unit, outputs: Outputs) -> None:
        """Settles every id of the unit: appends rows, the ledger table's with their state."""


class Renews(Protocol):
    """What a work has besides whose rows follow from others that may be settled anew."""

    def outdated(self, ledger: Ledger, shard: str) -> list[tuple]:
        """Ids with a row that would say something else now; it is settled once more, as if it had none."""


class Outputs:
    """Rows of one unit on their way to the commit, one Arrow stream file per table: a unit of any size fits in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, pa.ipc.RecordBatchStreamWriter] = {}

    def append(self, table: str, rows: Sequence[Mapping[str, Any]] | pa.Table) -> None:
        """Adds rows; columns that are not given are null."""
        schema = TABLES[table].schema
        if not isinstance(rows, pa.Table):
            rows = pa.Table.from_pylist([dict(r) for r in rows], schema)
        if table not in self._writers:
            self._writers[table] = pa.ipc.new_stream(self.folder / f"{table}.arrows", schema)
        self._writers[table].write_table(rows.select(schema.names).cast(schema))

    def clear(self) -> None:
        """Takes back all rows so far: the unit fails, and what it has said of its ids must not count."""
        self.close()
        for table in self._writers:
            (self.folder / f"{table}.arrows").unlink()
        self._writers.clear()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def in_batches(ids: Sequence[tuple], size: int) -> Iterator[Sequence[tuple]]:
    """Neighbouring ids in units of at most `size`."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def by_video(ledger: Ledger, shard: str, ids: Sequence[tuple]) -> list[list[tuple]]:
    """Clip ids grouped by their video, in order of time within it, so that what lies together is read together."""
    columns = ["clip_id", "video_id", "start_pts"]
    clips = ledger.read("clips", shard, columns).filter(pl.col("clip_id").is_in([i for (i,) in ids]))
    groups = clips.sort("video_id", "start_pts").group_by("video_id", maintain_order=True).agg("clip_id")
    return [[(i,) for i in group] for group in groups["clip_id"]]


def settled(
    attempt: int, state: str = "done", cause: str | None = None, detail: str | None = None
) -> dict[str, Any]:
    """The state columns of a row; `attempt` counts this time too."""
    return {"state": state, "cause": cause, "detail": detail, "attempt": attempt}


def failed_rows(step: Step, unit: Unit, cause: str, detail: str) -> list[dict[str, Any]]:
    """Rows for a unit whose process did not live to tell."""
    identity = TABLES[step.ledger_table].identity
    return [
        dict(zip(identity, id_, strict=True)) | settled(spent + 1, "failed", cause, detail)
        for id_, spent in zip(unit.ids, unit.attempts, strict=True)
    ]
