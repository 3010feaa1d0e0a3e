"""What is done, derived from the files alone: shards, generations, settled and pending ids, and how results commit."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from warehouse import faults
from warehouse.errors import WarehouseError
from warehouse.plan import Plan, Step, digest
from warehouse.schema import MAX_ATTEMPTS, TABLES, TRANSIENT_CAUSES
from warehouse.store import Store
from warehouse.table import Expects

_FILE = re.compile(r"(?P<shard>[0-9a-z]+)\.(?P<generation>\d+)\.parquet")


@dataclass(frozen=True)
class Part:
    """One Parquet file of a table."""

    path: str
    shard: str
    generation: int


@dataclass(frozen=True)
class Pending:
    """Ids of a shard that a step has yet to settle, each with the attempts that were already spent on it."""

    attempts: Mapping[tuple, int]

    def __len__(self) -> int:
        return len(self.attempts)


class Ledger:
    """The tables of one plan in one store."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self.store = store
        self.plan = plan

    def folder(self, table: str) -> str:
        """Where the table's files lie under this plan."""
        if table not in self.plan.keys:
            raise WarehouseError(f"the plan has no table {table!r}; it has {', '.join(self.plan.keys)}")
        return f"{table}/{self.plan.keys[table]}"

    def parts(self, table: str) -> dict[str, list[Part]]:
        """Files of a table by shard, oldest generation first."""
        found: dict[str, list[Part]] = defaultdict(list)
        for entry in self.store.list(self.folder(table)):
            if match := _FILE.fullmatch(entry.name):
                found[match["shard"]].append(Part(entry.path, match["shard"], int(match["generation"])))
        return {shard: sorted(parts, key=lambda p: p.generation) for shard, parts in sorted(found.items())}

    def shards(self) -> list[str]:
        """All shards of videos."""
        return list(self.parts("shards"))

    def groups(self) -> list[str]:
        """All groups of sources."""
        return list(self.parts("given"))

    def read(
        self, table: str, shard: str, columns: list[str] | None = None, filters: object = None
    ) -> pl.DataFrame:
        """A shard's rows, the highest generation of each id; empty if there is no file."""
        return self._read(table, self._parts_of(table, shard), columns, filters)

    def read_all(self, table: str, columns: list[str] | None = None) -> pl.DataFrame:
        """All shards' rows, the highest generation of each id."""
        parts = [p for of_shard in self.parts(table).values() for p in of_shard]
        return self._read(table, parts, columns, None)

    def _parts_of(self, table: str, shard: str) -> list[Part]:
        return self.parts(table).get(shard, [])

    def _read(
        self, table: str, parts: list[Part], columns: list[str] | None, filters: object
    ) -> pl.DataFrame:
        spec = TABLES[table]
        names = columns or spec.schema.names
        wanted = list(dict.fromkeys([*spec.identity, *names]))
        if not parts:
            return pl.from_arrow(pa.schema([spec.schema.field(n) for n in names]).empty_table())
        frames = [pl.from_arrow(self.store.read_table(p.path, wanted, filters)) for p in parts]
        newest = pl.concat(
            [f.with_columns(_generation=p.generation) for f, p in zip(frames, parts, strict=True)]
        )
        if any(p.generation for p in parts):
            last = pl.col("_generation") == pl.col("_generation").max().over(*spec.identity)
            newest = newest.filter(last)
        return newest.select(names)

    def expected(self, table: str, shard: str) -> list[tuple]:
        """Ids that the table must hold for a shard, in order, from the rows that it answers for."""
        expects = TABLES[table].expects
        if expects is None:
            return self._ids(table, self.read(table, shard, list(TABLES[table].identity)))
        columns = list(expects.columns) + ([expects.where[0]] if expects.where else [])
        return expected_ids(expects, self.read(expects.table, shard, columns))

    def _ids(self, table: str, rows: pl.DataFrame) -> list[tuple]:
        return rows.select(TABLES[table].identity).unique().sort(TABLES[table].identity).rows()

    def pending(self, step: Step, shard: str, *, retry_failed: bool = False) -> Pending:
        """Ids of a shard without a final row in the step's ledger table."""
        table = TABLES[step.ledger_table]
        columns = [*table.identity, *(["state", "cause", "attempt"] if table.stateful else [])]
        settled: dict[tuple, int | None] = {}
        for row in self.read(table.name, shard, columns).iter_rows(named=True):
            settled[tuple(row[c] for c in table.identity)] = _attempts_to_retry(row, retry_failed)
        attempts = {i: settled.get(i, 0) for i in self.expected(table.name, shard)}
        return Pending({i: spent for i, spent in attempts.items() if spent is not None})

    def next_generation(self, step: Step, shard: str) -> int:
        """One more than any generation that a table of the step has for the shard, committed or orphaned."""
        parts = [p for table in step.writes for p in self._parts_of(table, shard)]
        return 1 + max((p.generation for p in parts), default=-1)

    def commit(
        self, step: Step, shard: str, outputs: Mapping[str, Iterable[pa.RecordBatch]], *, run_id: str
    ) -> dict[str, int]:
        """Writes what a step settled for a shard as its next generation; the ledger table's file comes last.

        Returns:
            Rows written, by table.
        """
        generation = self.next_generation(step, shard)
        rows = {}
        for table in step.writes:
            spec = TABLES[table]
            path = f"{self.folder(table)}/{shard}.{generation}.parquet"
            faults.point("commit.before", table)
            rows[table] = self.store.write_table(
                path, spec.schema, outputs[table], self._lineage(step, table, shard, run_id)
            )
            faults.point("commit.after", table)
        return rows

    def _lineage(self, step: Step, table: str, shard: str, run_id: str) -> dict[str, str]:
        """What stands in a file's metadata: what it is, and digests of what was read for it."""
        read = {t: self.digest(t, shard) for t in step.reads}
        lineage = {"table": table, "key": self.plan.keys[table], "shard": shard, "step": step.name}
        return {
            **{f"cutroom.{k}": v for k, v in lineage.items()},
            **{f"cutroom.read.{t}": d for t, d in read.items()},
            "cutroom.version": str(step.version),
            "cutroom.run": run_id,
        }

    def digest(self, table: str, shard: str) -> str:
        """Digest of the names and sizes of a shard's files; files never change once they are there."""
        prefix = f"{shard}."
        entries = self.store.list(self.folder(table))
        return digest([[e.name, e.bytes] for e in entries if e.name.startswith(prefix)])


def expected_ids(expects: Expects, rows: pl.DataFrame) -> list[tuple]:
    """Ids that follow from the rows of the table that `expects` names, sorted, each once."""
    if expects.where:
        rows = rows.filter(pl.col(expects.where[0]) == pl.lit(expects.where[1]))
    rows = rows.select(expects.columns)
    if expects.explode:
        rows = rows.explode(expects.columns[-1], empty_as_null=False)
    return rows.drop_nulls().unique().sort(expects.columns).rows()


def _attempts_to_retry(row: Mapping[str, object], retry_failed: bool) -> int | None:
    """Attempts already spent on a row that is to be tried again; None for a row that is final."""
    if row.get("state") != "failed":
        return None
    spent = int(row["attempt"])  # type: ignore[call-overload]
    again = retry_failed or (row["cause"] in TRANSIENT_CAUSES and spent < MAX_ATTEMPTS)
    return spent if again else None
