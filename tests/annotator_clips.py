"""Clips as annotators see them, made from arrays or from real footage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from curation.annotators.base import Clip, GridFrame, Outcome
from curation.footage.grid_frames import encode_jpeg
from warehouse.schema import TABLES
from warehouse.table import STATE_COLUMNS

TICK_S = 1 / 1000
STEP = 500


def clip_of(
    frames: Sequence[np.ndarray | bytes],
    *,
    clip_id: str = "c0",
    rows: Mapping[str, Mapping[str, Any]] | None = None,
    quality: int = 95,
) -> Clip:
    """A clip whose grid frames, half a second apart, are these RGB pictures (or these bytes as they are)."""
    jpegs = [f if isinstance(f, bytes) else encode_jpeg(f[..., ::-1], quality) for f in frames]
    grid = tuple(GridFrame(STEP * i, jpeg) for i, jpeg in enumerate(jpegs))
    return Clip(clip_id, "v0", 0, STEP * max(len(grid), 1), TICK_S, 24.0, grid, rows or {})


def video_frames(path: Path, numbers: Sequence[int]) -> list[np.ndarray]:
    """RGB frames of a video by their index in presentation order."""
    found = {}
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in numbers:
                found[number] = frame.to_ndarray(format="rgb24")
            if number >= max(numbers):
                break
    return [found[n] for n in numbers]


def picture(path: Path) -> np.ndarray:
    """RGB of an image file."""
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def check_columns(table: str, outcome: Outcome) -> None:
    """Asserts that a Done outcome has exactly the table's own columns, of types that the table can store."""
    import pyarrow as pa

    own = [f for f in TABLES[table].fields if f.name != "clip_id"]
    assert set(outcome.columns) == {f.name for f in own} - {f.name for f in STATE_COLUMNS}
    pa.Table.from_pylist([dict(outcome.columns)], schema=pa.schema(own)).validate(full=True)
