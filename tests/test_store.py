"""The store on a local disk and on a filesystem that only knows whole objects: files appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from warehouse.errors import SettingsError, WarehouseError
from warehouse.store import Store

SCHEMA = pa.schema([("id", pa.int64()), ("blob", pa.binary())])


@pytest.fixture(params=["local", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    made = Store(tmp_path / "root")
    if request.param == "objects":  # an in-memory object store behind pyarrow's filesystem interface
        fsspec = pytest.importorskip("fsspec")
        memory = fsspec.filesystem("memory")
        memory.store.clear()
        made.filesystem, made.root, made.is_local = fs.PyFileSystem(fs.FSSpecHandler(memory)), "bucket", False
    return made


def _batches(sizes: list[int], blob: int) -> list[pa.RecordBatch]:
    start, batches = 0, []
    for size in sizes:
        rows = [{"id": i, "blob": bytes([i % 256]) * blob} for i in range(start, start + size)]
        batches.append(pa.RecordBatch.from_pylist(rows, SCHEMA))
        start += size
    return batches


def test_a_table_comes_back_with_its_metadata(store: Store) -> None:
    batches = _batches([3, 0, 5], 10)
    assert store.write_table("t/k/s.0.parquet", SCHEMA, batches, {"step": "test"}) == 8
    assert store.read_table("t/k/s.0.parquet") == pa.Table.from_batches(batches)
    assert store.read_metadata("t/k/s.0.parquet")["step"] == "test"
    assert [e.name for e in store.list("t/k")] == ["s.0.parquet"]
    assert store.is_sound("t/k/s.0.parquet")


def test_a_table_without_rows_is_still_a_table(store: Store) -> None:
    store.write_table("t/k/s.0.parquet", SCHEMA, [], {})
    assert store.read_table("t/k/s.0.parquet").num_rows == 0


def test_a_write_that_fails_leaves_nothing(store: Store) -> None:
    def broken():
        yield from _batches([2], 10)
        raise RuntimeError("the producer died")

    with pytest.raises(RuntimeError):
        store.write_table("t/k/s.0.parquet", SCHEMA, broken(), {})
    assert store.list("t/k") == []
    assert list(store.scratch().glob("*.part")) == []


@pytest.mark.parametrize("inside", ["", "/deeper/still"])
def test_a_file_is_no_place_for_a_store(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingsError, match=r"file is a file; name a folder"):
        Store(f"{tmp_path}/file{inside}")


def test_reading_what_is_not_there_says_so(store: Store) -> None:
    assert store.list("nothing") == []
    assert not store.exists("nothing")
    with pytest.raises(WarehouseError, match="cannot be read"):
        store.read_table("nothing")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.sampled_from([1, 1 << 20]))
def test_rows_keep_their_order_over_row_groups(sizes: list[int], blob: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        local = Store(folder)
        local.write_table("t", SCHEMA, _batches(sizes, blob), {})
        assert local.read_table("t", ["id"])["id"].to_pylist() == list(range(sum(sizes)))


def test_what_a_dead_process_left_is_swept_and_the_living_is_not(tmp_path: Path) -> None:
    code = """
import os, sys
from warehouse.store import Store
store = Store(sys.argv[1])
with store.placing("x") as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, env=os.environ)
    store = Store(tmp_path)
    assert len(list(store.scratch().iterdir())) == 1
    with store.placing("y") as own:
        own.write_bytes(b"mine")
        store.sweep()
        assert list(store.scratch().iterdir()) == [own]
    assert [e.path for e in store.list("")] == ["y"]
