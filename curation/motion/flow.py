"""Optical flow on the scan's time grid, and the motion of a clip (SVD, section C and appendix; see `UNIT`).

Farneback flow between consecutive grid frames (2 fps) on pictures of `flow_short_px`, the mean over pixels of the
length of each flow vector, and the signed means of its parts. The mean of lengths says how much moves; the signed
means only whether it moves together (a camera pan), and cancel out otherwise. `curation.motion.camera` parts the camera's
share of each pair's flow from that of what it films.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.footage.frames import Frame, TimeGrid
from curation.motion.camera import PARTS, CameraMotion, camera_motion

UNIT = "pixels of a picture whose shorter side is 16 px, per 0.5 s"
_UNIT_SHORT_PX = 16
UNIT_SECONDS = Fraction(1, 2)
_PAIRS_AT_ONCE = 8
"""Farneback's flow takes the processor's caches for itself: what is measured of it is faster done together."""


@dataclass(frozen=True)
class FlowPairs:
    """Flow between neighbouring grid frames, one row per pair, in order of time. Lengths in `UNIT`."""

    pts0: NDArray[np.int64]
    pts1: NDArray[np.int64]
    magnitude: NDArray[np.float32]
    """Mean over pixels of the length of the flow vector."""
    dx: NDArray[np.float32]
    """Signed mean to the right of the displayed picture."""
    dy: NDArray[np.float32]
    """Signed mean downwards in the displayed picture."""
    camera_motion: NDArray[np.float32]
    """This and the following: see `CameraMotion`; NaN for a pair that no camera explains."""
    object_motion: NDArray[np.float32]
    camera_dx: NDArray[np.float32]
    camera_dy: NDArray[np.float32]
    camera_zoom: NDArray[np.float32]
    camera_roll: NDArray[np.float32]


@dataclass(frozen=True)
class Motion:
    """Motion of a span: means over its flow pairs, in `UNIT`."""

    magnitude: float
    dx: float
    dy: float
    num_pairs: int
    camera: CameraMotion | None
    """Means over the pairs that a camera explains; None where there are none."""
    num_camera_pairs: int


class FlowObserver:
    """Flow between each frame of the grid and the one before."""

    def __init__(self, fps: float, time_base: Fraction) -> None:
        self._grid = TimeGrid(fps, time_base)
        self._time_base = time_base
        self._waiting: list[tuple[int, NDArray[np.uint8]]] = []
        self._pts0, self._pts1 = array("q"), array("q")
        self._means = array("f")

    def observe(self, frame: Frame) -> None:
        """Take the next frame of the video; only those of the grid cost anything."""
        if self._grid.takes(frame.pts):
            self._waiting.append((frame.pts, frame.flow_gray))
            if len(self._waiting) > _PAIRS_AT_ONCE:
                self._measure()

    def _measure(self) -> None:
        pairs = list(pairwise(self._waiting))
        flows = [farneback(gray0, gray1) for (_, gray0), (_, gray1) in pairs]
        for ((pts0, gray0), (pts1, gray1)), flow_HW2 in zip(pairs, flows, strict=True):
            per_unit = float(UNIT_SECONDS / ((pts1 - pts0) * self._time_base))
            self._pts0.append(pts0)
            self._pts1.append(pts1)
            self._means.extend((pair_means(gray0, gray1, flow_HW2) * per_unit).tolist())
        del self._waiting[:-1]

    def finish(self) -> FlowPairs:
        """All pairs of the video."""
        self._measure()
        means = np.array(self._means, np.float32).reshape(-1, 3 + len(PARTS))
        return FlowPairs(np.array(self._pts0, np.int64), np.array(self._pts1, np.int64), *means.T.copy())


def pair_means(
    gray0_HW: NDArray[np.uint8], gray1_HW: NDArray[np.uint8], flow_HW2: NDArray[np.float32]
) -> NDArray[np.float64]:
    """`flow_means`, and the parts of `CameraMotion` (NaN where there is none), all in pixels as there."""
    camera = camera_motion(gray0_HW, gray1_HW, flow_HW2)
    parts = [np.nan] * len(PARTS) if camera is None else [getattr(camera, part) for part in PARTS]
    return np.array([*vector_means(flow_HW2), *parts]) * (_UNIT_SHORT_PX / min(gray0_HW.shape))


def flow_means(gray0_HW: NDArray[np.uint8], gray1_HW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(mean length, mean dx, mean dy) of Farneback flow in pixels of a picture with a 16 px shorter side."""
    return vector_means(in_unit(farneback(gray0_HW, gray1_HW)))


def farneback(gray0_HW: NDArray[np.uint8], gray1_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Flow [H, W, 2] in pixels, to the right and down, with SVD's settings."""
    return cv2.calcOpticalFlowFarneback(gray0_HW, gray1_HW, None, 0.5, 3, 15, 3, 5, 1.2, 0)


def in_unit(flow_HW2: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flow in pixels of a picture with a 16 px shorter side."""
    return flow_HW2 * np.float32(_UNIT_SHORT_PX / min(flow_HW2.shape[:2]))


def vector_means(flow_HW2: NDArray[np.float32]) -> NDArray[np.float64]:
    """(mean length, mean dx, mean dy) of flow vectors. Lengths do not cancel, however vectors oppose each other."""
    length_HW = cv2.magnitude(flow_HW2[..., 0], flow_HW2[..., 1])
    return np.array([cv2.mean(length_HW)[0], *cv2.mean(flow_HW2)[:2]])


def clip_motion(flow: FlowPairs, start_pts: int, end_pts: int) -> Motion | None:
    """Motion within [start_pts, end_pts), or None where no pair of frames lies wholly inside.

    A pair that straddles the edge of the span compares two scenes, so it does not count.
    """
    inside = (flow.pts0 >= start_pts) & (flow.pts1 < end_pts)
    if not inside.any():
        return None
    means = (float(part[inside].mean(dtype=np.float64)) for part in (flow.magnitude, flow.dx, flow.dy))
    known = inside & ~np.isnan(flow.camera_motion)
    parts = {part: float(getattr(flow, part)[known].mean(dtype=np.float64)) for part in PARTS if known.any()}
    return Motion(
        *means,
        int(inside.sum()),
        camera=CameraMotion(**parts) if parts else None,
        num_camera_pairs=int(known.sum()),
    )
