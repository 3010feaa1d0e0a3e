"""The benchmark of cuts runs as a program, and what it measures keeps to the aims."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "cuts.py"
DETECTORS = ("content", "adaptive", "histogram", "hash", "threshold")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_cuts_are_found_and_better_than_by_any_single_detector(test_data: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"CUTROOM_TEST_DATA": str(test_data)},
    )
    report = json.loads(done.stdout)
    generated, real = report["generated"], report["real"]
    for ours in (generated["cutroom"], generated["left_out"]):
        assert ours["hard"]["recall"] >= 0.98
        assert ours["gradual"]["recall"] >= 0.9
        assert ours["all"]["precision"] >= 0.9
    for rows in (generated, real):
        for name in DETECTORS:
            assert rows["cutroom"]["all"]["f1"] > rows[name]["all"]["f1"]
    assert real["cutroom"]["all"]["f1"] >= 0.9
    assert real["left_out"]["all"]["f1"] >= 0.9
    assert real["with_transnet_left_out"]["all"]["f1"] >= 0.95
    for learned in (generated["with_transnet"], generated["crossed"]):
        assert learned["all"]["f1"] > max(generated[name]["all"]["f1"] for name in ("cutroom", "cascade"))
    for rows in (generated, real):
        assert rows["with_transnet"]["all"]["f1"] > rows["transnetv2"]["all"]["f1"]


def test_without_footage_it_says_what_to_set(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK)],
        capture_output=True,
        text=True,
        env=os.environ | {"CUTROOM_TEST_DATA": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "CUTROOM_TEST_DATA" in done.stderr
