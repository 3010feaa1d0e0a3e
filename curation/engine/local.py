"""Runs a step over shards on this machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from curation.engine.pool import Finished, Pool
from curation.engine.work import Unit, Work, failed_rows
from warehouse.claims import claim
from warehouse.errors import WarehouseError
from warehouse.ledger import Ledger, Pending
from warehouse.schema import TABLES

Progress = Callable[[int, int], None]
"""Called with units done and units known, as they change."""


@dataclass
class Tally:
    """What a run of a step over some shards did."""

    committed: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows written, by shard and table."""
    failures: dict[str, int] = field(default_factory=dict)
    """Units that ended without rows of their own, by cause."""


def run_shards(
    work: Work,
    ledger: Ledger,
    shards: Sequence[str],
    pool: Pool,
    *,
    run_id: str,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> Tally:
    """Settles every id of the shards that the step has yet to settle; returns when none is pending.

    A shard is claimed while it is worked on; one that another run holds is waited for and then looked at again.
    """
    tally = Tally()
    todo = list(shards)
    while todo:
        held_by_others = []
        for shard in todo:
            with claim(ledger.store, f"{ledger.folder(work.step.ledger_table)}/{shard}") as held:
                if held:
                    _settle(work, ledger, shard, pool, tally, run_id, retry_failed, progress)
                else:
                    held_by_others.append(shard)
        if held_by_others:
            time.sleep(0.5)
        todo = held_by_others
    return tally


def _settle(
    work: Work,
    ledger: Ledger,
    shard: str,
    pool: Pool,
    tally: Tally,
    run_id: str,
    retry_failed: bool,
    progress: Progress | None,
) -> None:
    """Passes over a shard until nothing is pending: the first for all, further ones for transient failures."""
    before: Pending | None = None
    while pending := _pending(work, ledger, shard, retry_failed):
        _check_progress(work, shard, before, pending)
        before = pending
        units = list(_units(work, ledger, shard, pending))
        finished = _run_units(work, ledger, units, pool, progress)
        for cause in (f.failure[0] for f in finished if f.failure):
            tally.failures[cause] = tally.failures.get(cause, 0) + 1
        finished.sort(key=lambda f: f.unit.ids)
        outputs = {t: _batches(t, work, finished) for t in work.step.writes}
        tally.committed[shard] = ledger.commit(work.step, shard, outputs, run_id=run_id)
        for done in finished:
            shutil.rmtree(done.folder)
        retry_failed = False


def _pending(work: Work, ledger: Ledger, shard: str, retry_failed: bool) -> Pending:
    """Ids without a final row, and those whose row is out of date (see `work.Renews`)."""
    pending = ledger.pending(work.step, shard, retry_failed=retry_failed)
    if find := getattr(work, "outdated", None):
        return Pending(dict.fromkeys(find(ledger, shard), 0) | dict(pending.attempts))
    return pending


def _run_units(
    work: Work, ledger: Ledger, units: list[Unit], pool: Pool, progress: Progress | None
) -> list[Finished]:
    """Runs units; one of several ids that fails as a whole is run again id by id."""
    finished, again = [], []
    for done in pool.run(work, ledger, units):
        if done.failure and len(done.unit.ids) > 1:
            again += [
                Unit(done.unit.shard, (i,), (n,))
                for i, n in zip(done.unit.ids, done.unit.attempts, strict=True)
            ]
        else:
            finished.append(done)
        if progress:
            progress(len(finished), len(units) + len(again))
    return finished + (_run_units(work, ledger, again, pool, progress) if again else [])


def _check_progress(work: Work, shard: str, before: Pending | None, now: Pending) -> None:
    """A step that leaves an id without a row would be run for ever; say so instead."""
    if before and (left := [i for i, spent in now.attempts.items() if before.attempts.get(i) == spent]):
        raise WarehouseError(
            f"step {work.step.name!r} ran over shard {shard} and left {len(left)} of its ids without a row, "
            f"{left[0]} among them; every id must end done, failed or skipped"
        )


def _units(work: Work, ledger: Ledger, shard: str, pending: Pending) -> Iterator[Unit]:
    """Fresh ids in the work's own units; ids that failed before go alone."""
    fresh = [i for i, spent in pending.attempts.items() if spent == 0]
    for ids in work.split(ledger, shard, fresh):
        yield Unit(shard, tuple(ids), (0,) * len(ids))
    for id_, spent in pending.attempts.items():
        if spent:
            yield Unit(shard, (id_,), (spent,))


def _batches(table: str, work: Work, finished: Sequence[Finished]) -> Iterator[pa.RecordBatch]:
    """A table's rows of all units in the order of their ids; rows for the units that failed."""
    schema = TABLES[table].schema
    for done in finished:
        if done.failure:
            if table == work.step.ledger_table:
                rows = failed_rows(work.step, done.unit, *done.failure)
                yield from pa.Table.from_pylist(rows, schema).to_batches()
        elif (file := done.folder / f"{table}.arrows").exists():
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
                yield from stream
