"""The engine against units that work, hang, crash and raise: each costs itself alone, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from curation.engine.local import run_shards
from curation.engine.places import RunsOn
from curation.engine.pool import Pool
from curation.engine.work import Outputs, Unit, in_batches, settled
from warehouse.audit import audit
from warehouse.errors import MediaError, WarehouseError
from warehouse.ledger import Ledger
from warehouse.plan import Plan, Step
from warehouse.schema import TABLES
from warehouse.store import Store

GIVE = Step("give", 1, (), ("given",))
HASH = Step("hash", 1, ("given",), ("sources",))


@dataclass(frozen=True)
class Misbehave:
    """Does to each source what its URI says."""

    isolated: bool
    timeout_s: float = 2.0
    batch: int = 1
    runs_on: RunsOn = "cores"
    model_bytes: int = 0
    step: Step = HASH

    def split(self, ledger: Ledger, shard: str, ids: Sequence[tuple]) -> Iterable[Sequence[tuple]]:
        return in_batches(ids, self.batch)

    def run(self, ledger: Ledger, unit: Unit, outputs: Outputs) -> None:
        given = {r["source_id"]: r["uri"] for r in ledger.read("given", unit.shard).iter_rows(named=True)}
        for (source_id,), spent in zip(unit.ids, unit.attempts, strict=True):
            _act(given[source_id])
            if given[source_id] != "forget":
                outputs.append(
                    "sources", [{"source_id": source_id, "uri": given[source_id]} | settled(spent + 1)]
                )


def _act(uri: str) -> None:
    if uri == "hang":
        time.sleep(60)
    if uri == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if uri == "raise":
        raise ValueError("a bug")
    if uri == "refuse":
        raise MediaError("empty", "the file is empty")
    if uri == "once" and not Path("once.done").exists():
        Path("once.done").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if uri == "slow":
        time.sleep(0.3)


def _ledger(root: Path, uris: Sequence[str]) -> Ledger:
    store = Store(root)
    plan = Plan.of([GIVE, HASH])
    plan.save(store)
    ledger = Ledger(store, plan)
    rows = [{"source_id": f"{i:03d}-{uri}", "uri": uri} for i, uri in enumerate(uris)]
    table = pa.Table.from_pylist(rows, TABLES["given"].schema)
    ledger.commit(GIVE, "group", {"given": table.to_batches()}, run_id="test")
    return ledger


def _run(ledger: Ledger, work: Misbehave, **options: object) -> dict[str, dict]:
    with Pool(2, ledger.store.scratch()) as pool:
        run_shards(work, ledger, ["group"], pool, run_id="test", **options)
    return {r["source_id"][4:]: r for r in ledger.read("sources", "group").iter_rows(named=True)}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Worker processes import this file, and start in the folder of the test."""
    root = Path(__file__).resolve().parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{root}{os.pathsep}{root / 'tests'}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("isolated", [True, False])
def test_each_unit_costs_itself_alone(tmp_path: Path, isolated: bool) -> None:
    ledger = _ledger(tmp_path / "w", ["fine", "hang", "crash", "raise", "refuse", "once", "good"])
    rows = _run(ledger, Misbehave(isolated, timeout_s=3.0))  # in which a busy machine reads a small file
    outcome = {uri: (r["state"], r["cause"], r["attempt"]) for uri, r in rows.items()}
    assert outcome == {
        "fine": ("done", None, 1),
        "good": ("done", None, 1),
        "hang": ("failed", "timeout", 3),
        "crash": ("failed", "crashed", 3),
        "raise": ("failed", "error", 1),
        "refuse": ("failed", "empty", 1),
        "once": ("done", None, 2),
    }
    assert "ValueError: a bug" in rows["raise"]["detail"]
    assert "SIGSEGV" in rows["crash"]["detail"]
    assert audit(ledger).balanced


def test_a_second_run_does_no_work_and_failures_are_retried_on_demand(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path / "w", ["fine", "raise"])
    _run(ledger, Misbehave(True))
    files = set((tmp_path / "w" / "sources").rglob("*"))
    _run(ledger, Misbehave(True))
    assert set((tmp_path / "w" / "sources").rglob("*")) == files
    rows = _run(ledger, Misbehave(True), retry_failed=True)
    assert rows["raise"]["attempt"] == 2
    assert rows["fine"]["attempt"] == 1


def test_a_crash_in_a_batch_takes_no_other_along_for_good(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path / "w", ["fine", "crash", "good", "better"])
    rows = _run(ledger, Misbehave(False, batch=4))
    assert {u for u, r in rows.items() if r["state"] == "done"} == {"fine", "good", "better"}


def test_a_step_that_forgets_an_id_is_an_error_not_a_loop(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path / "w", ["fine", "forget"])
    with pytest.raises(WarehouseError, match="001-forget"):
        _run(ledger, Misbehave(True))


_RUN = """
import sys
from test_engine import *
from test_engine import _ledger
ledger = Ledger(Store(sys.argv[1]), Plan.of([GIVE, HASH]))
with Pool(2, ledger.store.scratch()) as pool:
    run_shards(Misbehave(sys.argv[2] == "isolated", timeout_s=100), ledger, ["group"], pool, run_id="test")
"""


@pytest.mark.parametrize("how", ["isolated", "shared"])
def test_a_killed_run_leaves_no_process_behind(tmp_path: Path, how: str) -> None:
    _ledger(tmp_path / "w", ["hang", "hang", "fine"])
    run = subprocess.Popen([sys.executable, "-c", _RUN, str(tmp_path / "w"), how])
    deadline = time.monotonic() + 30
    while len(_members(run.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = _members(run.pid)
    time.sleep(1.0)
    assert len(workers) == 2
    run.kill()
    run.wait()
    while any(_in_group(group) for group in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_in_group(group) for group in workers)


def _members(parent: int) -> list[int]:
    """Children of a process; each worker leads a group of its own."""
    return [int(p) for p in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _in_group(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_two_runs_at_once_neither_lose_nor_double(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path / "w", ["slow"] * 12)
    runs = [subprocess.Popen([sys.executable, "-c", _RUN, str(tmp_path / "w"), "isolated"]) for _ in range(3)]
    assert [r.wait(timeout=60) for r in runs] == [0, 0, 0]
    assert len(ledger.parts("sources")["group"]) == 1
    assert audit(ledger).balanced
    assert audit(ledger).tables["sources"].done == 12
