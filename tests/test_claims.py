"""Claims exclude each other between threads and processes, and outlive no owner."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from warehouse import claims, owner
from warehouse.claims import claim
from warehouse.store import Store

_COUNT = """
import sys, pathlib, time
from warehouse.claims import claim
from warehouse.store import Store
store, counter = Store(sys.argv[1]), pathlib.Path(sys.argv[1], "counter")
for _ in range(20):
    with claim(store, "counter", wait_s=60) as held:
        assert held
        value = int(counter.read_text())
        time.sleep(0.002)
        counter.write_text(str(value + 1))
"""


def test_one_holder_at_a_time_over_processes(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    runs = [subprocess.Popen([sys.executable, "-c", _COUNT, str(tmp_path)]) for _ in range(4)]
    assert [r.wait(timeout=120) for r in runs] == [0] * 4
    assert counter.read_text() == "80"


def test_a_held_thing_is_refused_and_then_free(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with claim(store, "shard") as first:
        assert first
        with ThreadPoolExecutor(1) as other, claim(store, "other") as elsewhere:
            assert elsewhere
            assert other.submit(_try, store).result() is False
    assert _try(store)


def _try(store: Store) -> bool:
    with claim(store, "shard") as held:
        return held


def test_a_dead_owner_holds_nothing(tmp_path: Path) -> None:
    code = """
import os, sys
from warehouse.claims import claim
from warehouse.store import Store
with claim(Store(sys.argv[1]), "shard"):
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(Store(tmp_path).list("claims/shard")) == 1
    assert _try(Store(tmp_path))


def test_an_owner_elsewhere_counts_while_its_file_is_renewed(tmp_path: Path, monkeypatch) -> None:
    store = Store(tmp_path)
    store.write_bytes("claims/shard/another_host-1-2-abc", b"")
    assert not _try(store)
    monkeypatch.setattr(claims, "LEASE_S", 0.05)
    time.sleep(0.1)
    assert _try(store)


def test_a_renewed_claim_outlives_its_lease(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(claims, "LEASE_S", 0.2)
    monkeypatch.setattr(owner, "HOST", "here")
    store = Store(tmp_path)
    with claim(store, "shard") as held:
        assert held
        monkeypatch.setattr(owner, "HOST", "there")  # to this one the holder is on another machine
        time.sleep(0.6)
        assert not _try(store)
        monkeypatch.setattr(owner, "HOST", "here")
