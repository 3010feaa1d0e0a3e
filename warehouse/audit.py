"""Proves, over a whole warehouse and from ids alone, that nothing is missing, doubled, unknown or cut short.

Every table of the plan is compared with the rows that it answers for (`schema.Expects`). A shard's file that lacks an
id names it as missing; an id whose shard has no file yet is pending; a file that cannot be read to its last page is
damaged. A warehouse balances when there is no problem and nothing is pending.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import polars as pl

from warehouse import datasets
from warehouse.errors import WarehouseError
from warehouse.ledger import Ledger, Part, expected_ids
from warehouse.schema import TABLES
from warehouse.table import Table

MAX_NAMED = 20


@dataclass(frozen=True)
class Problem:
    """One defect: in which table under which key, what it is, and which id or file it concerns."""

    table: str
    key: str
    kind: str
    """missing, doubled, unknown or damaged"""
    id: str

    def __str__(self) -> str:
        return f"{self.table}/{self.key}: {self.kind} {self.id}"


@dataclass
class TableCount:
    """How a table's ids stand; `in` is what it must answer for."""

    expected: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    pending: int = 0
    causes: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, object]:
        states = {"in": self.expected, "done": self.done, "failed": self.failed, "skipped": self.skipped}
        return states | {"pending": self.pending, "causes": dict(sorted(self.causes.items()))}


@dataclass
class Audit:
    """The outcome over all tables."""

    tables: dict[str, TableCount] = field(default_factory=dict)
    selections: dict[str, dict[str, object]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        return not self.problems and not any(t.pending for t in self.tables.values())

    def as_json(self) -> dict[str, object]:
        """What ``cutroom audit --json`` prints."""
        return {
            "balanced": self.balanced,
            "tables": {name: count.as_json() for name, count in self.tables.items()},
            "selections": self.selections,
            "problems": [asdict(p) for p in self.problems],
        }


def audit(ledger: Ledger, *, deep: bool = False) -> Audit:
    """Audits every table of the plan; `deep` also reads every page of every file against its checksum."""
    result = Audit()
    for name in sorted(ledger.plan.keys.keys() - TABLES.keys()):
        says = "table: no annotator of this name is known here; name its file in CUTROOM_ANNOTATORS"
        result.problems.append(Problem(name, ledger.plan.keys[name], "unknown", says))
    for name in TABLES:
        if name in ledger.plan.keys:
            if deep:
                _verify(ledger, TABLES[name], result.problems)
            result.tables[name] = _audit_table(ledger, TABLES[name], result.problems)
            result.problems += _dangling(ledger, TABLES[name])
    if "verdicts" in result.tables:
        result.selections[ledger.plan.config["select"]["name"]] = _split(ledger, result.problems)
    if "pack" in ledger.plan.config:
        key = ledger.plan.keys["latents"]
        result.problems += [Problem("dataset", key, kind, what) for kind, what in datasets.defects(ledger)]
    result.problems = list(dict.fromkeys(result.problems))
    return result


def _verify(ledger: Ledger, table: Table, problems: list[Problem]) -> None:
    """Names files that have a page which does not match its checksum, where reading the ids alone would not tell."""
    for part in (p for of_shard in ledger.parts(table.name).values() for p in of_shard):
        if not ledger.store.is_sound(part.path):
            problems.append(Problem(table.name, ledger.plan.keys[table.name], "damaged", part.path))


def _dangling(ledger: Ledger, table: Table) -> Iterator[Problem]:
    """Names values that refer to ids which the other table does not have."""
    if table.references is None:
        return
    column, other = table.references
    ids = TABLES[other].identity[0]

    def values(table: Table, column: str) -> set[str]:
        parts = [p for of_shard in ledger.parts(table.name).values() for p in of_shard]
        rows = _read_parts(ledger, table, parts, [], list(dict.fromkeys([*table.identity, column])))
        return set(_newest(rows, table)[column].drop_nulls())

    for value in sorted(values(table, column) - values(TABLES[other], ids))[:MAX_NAMED]:
        yield Problem(table.name, ledger.plan.keys[table.name], "unknown", f"{column} {value}")


def _audit_table(ledger: Ledger, table: Table, problems: list[Problem]) -> TableCount:
    """Compares a table shard by shard with what it answers for."""
    count = TableCount()
    for scope, expected, parts in _scopes(ledger, table, problems):
        rows = _read_parts(ledger, table, parts, problems)
        _compare(ledger, table, scope, expected, rows, count, problems)
    return count


def _scopes(
    ledger: Ledger, table: Table, problems: list[Problem]
) -> Iterator[tuple[str, set[tuple] | None, list[Part]]]:
    """Pairs of expected ids and files to compare: one per shard or group; the whole table where ids cross groups."""
    by_shard = ledger.parts(table.name)
    if table.expects is None:
        yield from ((shard, None, parts) for shard, parts in by_shard.items())
        return
    parent = TABLES[table.expects.table]
    parents = ledger.parts(parent.name)
    if table.by_shard != parent.by_shard:
        expected = {i for p in parents.values() for i in _expected(ledger, table, p)}
        yield "*", expected, [p for parts in by_shard.values() for p in parts]
        return
    for shard in sorted({*parents, *by_shard}):
        yield shard, set(_expected(ledger, table, parents.get(shard, []))), by_shard.get(shard, [])


def _expected(ledger: Ledger, table: Table, parts: list[Part]) -> list[tuple]:
    """Ids that a table must hold, from its parent's readable files; damage there is named when the parent is audited."""
    expects = table.expects
    parent = TABLES[expects.table]
    columns = list(dict.fromkeys([*parent.identity, *expects.columns, *(expects.where or ())[:1]]))
    return expected_ids(expects, _newest(_read_parts(ledger, parent, parts, [], columns), parent))


def _read_parts(
    ledger: Ledger, table: Table, parts: list[Part], problems: list[Problem], columns: list[str] | None = None
) -> pl.DataFrame:
    """Rows of all files with their generation. Damaged files are named and left out."""
    columns = columns or [*table.identity, *(["state", "cause"] if table.stateful else [])]
    schema = {n: pl.Schema(table.schema)[n] for n in columns}
    frames = [pl.DataFrame(schema=schema).with_columns(_generation=pl.lit(0))]
    for part in parts:
        try:
            frame = pl.from_arrow(ledger.store.read_table(part.path, columns))
        except WarehouseError:
            problems.append(Problem(table.name, ledger.plan.keys[table.name], "damaged", part.path))
            continue
        frames.append(frame.with_columns(_generation=pl.lit(part.generation)))
    return pl.concat(frames, how="vertical_relaxed")


def _newest(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    return rows.filter(pl.col("_generation") == pl.col("_generation").max().over(*table.identity))


def _compare(
    ledger: Ledger,
    table: Table,
    scope: str,
    expected: set[tuple] | None,
    rows: pl.DataFrame,
    count: TableCount,
    problems: list[Problem],
) -> None:
    key = ledger.plan.keys[table.name]

    def name_all(kind: str, ids: set[tuple]) -> None:
        problems.extend(
            Problem(table.name, key, kind, "/".join(map(str, i))) for i in sorted(ids)[:MAX_NAMED]
        )

    newest = _newest(rows, table)
    counted = Counter(newest.select(table.identity).iter_rows())
    found = set(counted)
    expected = found if expected is None else expected
    name_all("doubled", {i for i, n in counted.items() if n > 1})
    name_all("unknown", found - expected)
    absent = expected - found
    if absent and (rows.height or (scope == "*" and found)):
        name_all("missing", absent)
    count.expected += len(expected)
    count.pending += len(absent)
    known = newest.unique(table.identity)
    _count_states(known, table, count)


def _count_states(rows: pl.DataFrame, table: Table, count: TableCount) -> None:
    if not table.stateful:
        count.done += rows.height
        return
    states = Counter(rows["state"])
    count.done += states["done"]
    count.failed += states["failed"]
    count.skipped += states["skipped"]
    count.causes.update(c for c in rows["cause"] if c is not None)


def _split(ledger: Ledger, problems: list[Problem]) -> dict[str, object]:
    """How the current selection splits its clips; damaged files were named when their table was audited.

    A clip that fell for another that is not kept names the latter as unknown.
    """
    table = TABLES["verdicts"]
    parts = [p for of_shard in ledger.parts(table.name).values() for p in of_shard]
    columns = ["clip_id", "kept", "rejected_by", "near_duplicate_of"]
    verdicts = _newest(_read_parts(ledger, table, parts, [], columns), table)
    rejected = verdicts.filter(~pl.col("kept"))
    named = set(rejected["near_duplicate_of"].drop_nulls()) - set(verdicts.filter("kept")["clip_id"])
    key = ledger.plan.keys[table.name]
    problems.extend(Problem(table.name, key, "unknown", clip_id) for clip_id in sorted(named)[:MAX_NAMED])
    return {
        "in": verdicts.height,
        "kept": int(verdicts["kept"].sum()),
        "rejected": dict(sorted(Counter(rejected["rejected_by"]).items())),
    }
