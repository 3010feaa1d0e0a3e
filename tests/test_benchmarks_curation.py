"""The benchmark of curation runs as a program and tells the cost of every annotator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from curation.annotators.registry import ANNOTATORS

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "curation.py"


def run(*arguments: object, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARK), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"CUTROOM_TEST_DATA": str(data)},
    )


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_annotator_has_its_cost(test_data: Path) -> None:
    done = run(test_data / "videos" / "bear.mp4", "--json", data=test_data)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    steps = {row["step"]: row for row in report["steps"]}
    assert set(steps) == {"bare_decode", "scan", "text_area (easyocr)", *ANNOTATORS}
    assert steps["scan"]["cpu_s_per_minute"] > steps["bare_decode"]["cpu_s_per_minute"] > 0
    assert {row["clips"].get("done") for name, row in steps.items() if name in ANNOTATORS} == {1}
    assert {name for name, row in steps.items() if row["model"] == "embedded"} == {
        "embeddings",
        "aesthetics",
        "captions",
        "similarity",
    }
    assert steps["raft_motion"]["cpu_s_per_minute"] > 100 * steps["motion"]["cpu_s_per_minute"]
    assert "embedded" in report["setup"]["models"] and report["setup"]["videos"] == ["bear.mp4"]


def test_without_footage_it_says_what_to_set(tmp_path: Path) -> None:
    done = run(data=tmp_path)
    assert done.returncode == 1
    assert "CUTROOM_TEST_DATA" in done.stderr
