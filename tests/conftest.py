"""Fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real footage and ground truth; the test skips where it is missing."""
    folder = Path(os.environ.get("CUTROOM_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not (folder / "MANIFEST.md").exists():
        pytest.skip(f"real footage not found at {folder} (set CUTROOM_TEST_DATA)")
    return folder
