"""Audit has teeth: every defect planted in every table is found and named by table, key and id."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from warehouse_builder import build_warehouse

from warehouse.audit import audit
from warehouse.ledger import Ledger
from warehouse.schema import TABLES

BELOW = {"given": "sources", "listed": "matched"}
"""Tables that begin a chain, and the next in it, which tells of their defects."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return build_warehouse(tmp_path_factory.mktemp("built") / "warehouse")


@pytest.fixture
def ledger(built: Ledger, tmp_path: Path) -> Ledger:
    from warehouse.store import Store

    root = shutil.copytree(built.store.root, tmp_path / "warehouse")
    return Ledger(Store(root), built.plan)


def _file(ledger: Ledger, table: str) -> Path:
    """The file of a table with the most rows."""
    parts = [p for of_shard in ledger.parts(table).values() for p in of_shard]
    paths = [Path(ledger.store.path(p.path)) for p in parts]
    return max(paths, key=lambda path: pq.read_metadata(path).num_rows)


def _edit(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    table = pq.read_table(path, partitioning=None)
    changed = change(pl.from_arrow(table)).to_arrow().cast(table.schema)
    pq.write_table(changed, path)


def _id(table: str, row: dict[str, object]) -> str:
    return "/".join(str(row[c]) for c in TABLES[table].identity)


def test_a_sound_warehouse_balances(ledger: Ledger) -> None:
    found = audit(ledger)
    assert found.balanced, [str(p) for p in found.problems]
    for count in found.tables.values():
        assert count.expected == count.done + count.failed + count.skipped
        assert count.pending == 0
    (split,) = found.selections.values()
    assert split["in"] == split["kept"] + sum(split["rejected"].values()) == found.tables["clips"].done


@pytest.mark.parametrize("table", TABLES)
def test_a_deleted_row_is_named(ledger: Ledger, table: str) -> None:
    path = _file(ledger, table)
    lost = _id(table, pq.read_table(path, partitioning=None).slice(0, 1).to_pylist()[0])
    _edit(path, lambda rows: rows.slice(1))
    found = audit(ledger)
    assert not found.balanced
    kind, where = ("unknown", BELOW[table]) if table in BELOW else ("missing", table)
    assert any(
        (p.table, p.kind, p.key, p.id) == (where, kind, ledger.plan.keys[where], lost) for p in found.problems
    )


@pytest.mark.parametrize("table", TABLES)
def test_a_doubled_row_is_named(ledger: Ledger, table: str) -> None:
    path = _file(ledger, table)
    doubled = _id(table, pq.read_table(path, partitioning=None).slice(0, 1).to_pylist()[0])
    _edit(path, lambda rows: pl.concat([rows, rows.slice(0, 1)]))
    found = audit(ledger)
    assert not found.balanced
    assert ("doubled", table, ledger.plan.keys[table], doubled) in {
        (p.kind, p.table, p.key, p.id) for p in found.problems
    }


@pytest.mark.parametrize("table", TABLES)
def test_an_unknown_id_is_named(ledger: Ledger, table: str) -> None:
    column = TABLES[table].identity[0]
    _edit(
        _file(ledger, table),
        lambda rows: pl.concat([rows, rows.slice(0, 1).with_columns(pl.lit("f00").alias(column))]),
    )
    found = audit(ledger)
    assert not found.balanced
    where, kind = (BELOW[table], "missing") if table in BELOW else (table, "unknown")
    assert any(
        (p.table, p.kind, p.key) == (where, kind, ledger.plan.keys[where]) and p.id.startswith("f00")
        for p in found.problems
    )


@pytest.mark.parametrize("table", TABLES)
def test_a_file_cut_short_is_named(ledger: Ledger, table: str) -> None:
    path = _file(ledger, table)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    found = audit(ledger)
    assert not found.balanced
    assert any(p.kind == "damaged" and p.table == table and p.id.endswith(path.name) for p in found.problems)


@pytest.mark.parametrize("table", ["videos", "grid_frames", "captions"])
def test_a_flipped_byte_is_found(ledger: Ledger, table: str) -> None:
    path = _file(ledger, table)
    data = bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(0)
    chunk = max((group.column(i) for i in range(group.num_columns)), key=lambda c: c.total_compressed_size)
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    for part in (3, 4, 5, 6):
        data[start + chunk.total_compressed_size * part // 10] ^= 0x55
    path.write_bytes(bytes(data))
    assert any(p.kind == "damaged" and p.table == table for p in audit(ledger, deep=True).problems)


def test_a_lost_file_leaves_its_ids_pending(ledger: Ledger) -> None:
    path = _file(ledger, "motion")
    rows = pq.read_metadata(path).num_rows
    path.unlink()
    found = audit(ledger)
    assert not found.balanced
    assert found.tables["motion"].pending == rows
