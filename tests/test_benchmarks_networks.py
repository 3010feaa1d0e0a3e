"""The benchmark of networks compares the same functions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_both_sides_compute_the_same() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "networks.py"), "--repeats", "1", "--json"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    networks = json.loads(done.stdout)["networks"]
    assert set(networks) == {"sd21", "svd-i2v", "dit-xl-2", "pixart-xl-2", "latte-t2v"}
    for name, row in networks.items():
        assert row["difference"] < 1e-4, name
        assert row["ours_s"] > 0 and row["theirs_s"] > 0
