"""The curation flow, killed at named points and at random times and run again, leaves the rows of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from curation.reel.sample_reel import make_reel
from warehouse.audit import audit
from warehouse.faults import VARIABLE
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.schema import TABLES
from warehouse.store import Store

POINTS = (
    "temporary.before/plans",
    "temporary.after/given",
    "rename.after/sources",
    "commit.before/shards",
    "rename.after/frame_scores",
    "temporary.after/grid_frames",
    "commit.before/videos",
    "rename.after/videos",
    "commit.after/clips",
    "temporary.after/motion",
    "rename.after/selections",
    "commit.after/verdicts",
)
QUICK = ("commit.before/videos",)


def _curate(footage: Path, warehouse: Path, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.cli", "curate", str(footage), "--warehouse", str(warehouse)]
    sizes = {"CUTROOM_SHARD__VIDEOS": "2", "CUTROOM_CLIPS__MIN_S": "0.5", "CUTROOM_WORKERS": "2"}
    environ = {k: v for k, v in os.environ.items() if k != VARIABLE} | sizes | environment
    with warehouse.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)


def _finish(footage: Path, warehouse: Path) -> float:
    """Seconds that a run to the end takes."""
    began = time.monotonic()
    assert _curate(footage, warehouse).wait(timeout=300) == 0, warehouse.with_suffix(".log").read_text()
    return time.monotonic() - began


def _rows(warehouse: Path) -> dict[str, pl.DataFrame]:
    store = Store(warehouse)
    ledger = Ledger(store, Plan.load(store))
    found = audit(ledger, deep=True)
    assert found.balanced, [str(p) for p in found.problems]
    return {t: ledger.read_all(t).sort(TABLES[t].identity) for t in ledger.plan.keys}


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    make_reel(folder, num_films=3, shots_per_film=2, seed=5, side_px=64)
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder


@pytest.fixture(scope="module")
def whole(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, pl.DataFrame], float]:
    """Rows of an uninterrupted run, and the seconds that it took."""
    warehouse = tmp_path_factory.mktemp("whole") / "warehouse"
    took_s = _finish(footage, warehouse)
    return _rows(warehouse), took_s


def _check_resumed(footage: Path, warehouse: Path, expected: dict[str, pl.DataFrame]) -> None:
    _finish(footage, warehouse)
    rows = _rows(warehouse)
    assert rows.keys() == expected.keys()
    for table, frame in expected.items():
        assert rows[table].rows() == frame.rows(), table
    assert not list((warehouse / "tmp").iterdir())


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=[] if p in QUICK else pytest.mark.long) for p in POINTS]
)
def test_killed_at_a_named_point(point: str, footage: Path, whole: tuple, tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    run = _curate(footage, warehouse, **{VARIABLE: point})
    assert run.wait(timeout=300) == -signal.SIGKILL, "the run never came to this point"
    _check_resumed(footage, warehouse, whole[0])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_a_random_time(seed: int, footage: Path, whole: tuple, tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    run = _curate(footage, warehouse)
    time.sleep(random.Random(seed).uniform(0.05, 1.0) * whole[1])
    run.kill()
    run.wait()
    _check_resumed(footage, warehouse, whole[0])


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: not even the plan can be written."""
    (tmp_path / "a.mp4").write_bytes(b"no video")
    command = f"{sys.executable} -m flows.cli curate {tmp_path}/a.mp4 -w {tmp_path}/w"
    done = subprocess.run(["bash", "-c", f"ulimit -f 4; exec {command}"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no more can be written to the disk" in done.stderr and "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "w").rglob("*") if path.is_file()]
