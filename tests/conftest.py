"""Fixtures that several tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Tests run one process a core: threads of one that wait for each other spin against those of the others, and a test
# of seconds takes minutes. Set before any library reads it, and inherited by every program that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# A shell starts what it runs in the background deaf to Ctrl-C, and so would be the commands that tests stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real footage and ground truth; the test skips where it is missing."""
    folder = Path(os.environ.get("CUTROOM_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not (folder / "MANIFEST.md").exists():
        pytest.skip(f"real footage not found at {folder} (set CUTROOM_TEST_DATA)")
    return folder
