"""Frames on a fixed time grid, spooled as JPEG, and the choice of those that stand for a clip."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from curation.footage.frames import Frame, TimeGrid


@dataclass(frozen=True)
class GridFrame:
    """One spooled picture, as displayed (upright, square pixels)."""

    pts: int
    jpeg: bytes
    width: int
    height: int


class GridObserver:
    """Hands the frames of the grid to `spool` as they come, so none is kept in memory."""

    def __init__(
        self, fps: float, time_base: Fraction, quality: int, spool: Callable[[GridFrame], None]
    ) -> None:
        self._grid = TimeGrid(fps, time_base)
        self._quality = quality
        self._spool = spool
        self._pts = array("q")

    def observe(self, frame: Frame) -> None:
        """Take the next frame of the video; only those of the grid cost anything."""
        if not self._grid.takes(frame.pts):
            return
        height, width = frame.grid_bgr.shape[:2]
        self._spool(GridFrame(frame.pts, encode_jpeg(frame.grid_bgr, self._quality), width, height))
        self._pts.append(frame.pts)

    def finish(self) -> NDArray[np.int64]:
        """pts of the spooled frames, increasing."""
        return np.array(self._pts, np.int64)


def encode_jpeg(bgr_HW3: NDArray[np.uint8], quality: int = 90) -> bytes:
    """JPEG bytes of a BGR picture."""
    done, coded = cv2.imencode(".jpg", bgr_HW3, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"a picture of shape {bgr_HW3.shape} cannot be written as JPEG")
    return coded.tobytes()


def decode_jpeg(jpeg: bytes) -> NDArray[np.uint8]:
    """RGB picture [H, W, 3] of JPEG bytes; raises ValueError where they hold none."""
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if bgr is None:
        raise ValueError(f"{len(jpeg)} bytes are not a JPEG picture")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def pick(grid_pts: ArrayLike, start_pts: int, end_pts: int, count: int) -> list[int]:
    """Indices into `grid_pts` (increasing) of `count` frames in [start_pts, end_pts), evenly spread.

    The first and the last one inside are always among them (count 1: the middle one, 3: first, middle, last). With
    fewer than `count` inside all of them are returned, with none an empty list.
    """
    if count < 1:
        raise ValueError(f"count is {count}, expected at least 1")
    first, stop = np.searchsorted(np.asarray(grid_pts, np.int64), [start_pts, end_pts]).tolist()
    inside = stop - first
    if inside <= count:
        return list(range(first, stop))
    if count == 1:
        return [first + inside // 2]
    return [first + round(i * (inside - 1) / (count - 1)) for i in range(count)]
