"""What the scan measures for cut detection: scores of each frame, at several frame rates.

The scores are PySceneDetect's, of the same small pictures, between a frame and the one before it at that rate:
`content` is the mean absolute difference of hue, saturation and value, 0..255; `histogram` one minus the correlation
of luma histograms; `hash` the share of different bits of perceptual hashes; `threshold` is the mean of a picture's
pixels, 0..255, by which fades are found. Only scores are kept, no decisions, so other thresholds need no new decode.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.cuts.changes import Measure
from curation.footage.frames import SmallFrame, TimeGrid


@dataclass(frozen=True)
class LevelScores:
    """Scores at one frame rate, one row per frame that the rate takes. A first frame scores 0, but for `threshold`."""

    fps: float | None
    """None: every frame."""
    frame: NDArray[np.int32]
    """Index of the frame in the video."""
    pts: NDArray[np.int64]
    score: NDArray[np.float32]
    measure: str = "content"
    """Whose score: one of `MEASURES`."""


@dataclass(frozen=True)
class Signals:
    """All that cuts and clips are computed from: numbers per frame, no pictures. Times are pts."""

    time_base: Fraction
    """Seconds per tick of pts."""
    pts: NDArray[np.int64]
    """pts of every frame, increasing."""
    end_pts: int
    """Where the last frame ends."""
    brightness: NDArray[np.float32]
    """Mean value 0..255 of every frame."""
    damaged: NDArray[np.int32]
    """Indices of frames that the decoder marked as damaged."""
    levels: tuple[LevelScores, ...]
    measures: Mapping[str, Measure] = field(default_factory=dict)
    """Evidence of scene changes by name (`curation.cuts.changes`); none where the scan was told not to measure it."""

    def seconds(self, ticks: int) -> float:
        """Length of a span of ticks in seconds."""
        return float(ticks * self.time_base)


class LevelObserver:
    """Scores of one of `MEASURES` for the frames of one rate."""

    def __init__(self, fps: float | None, time_base: Fraction, measure: str = "content") -> None:
        self._fps, self._measure = fps, measure
        self._grid = TimeGrid(fps, time_base) if fps else None
        self._feature, self._compare = MEASURES[measure]()
        self._last: Any = None
        self._frame, self._pts, self._score = array("i"), array("q"), array("f")

    def observe(self, frame: SmallFrame) -> None:
        """Score the next frame of the video if the rate takes it."""
        if self._grid is not None and not self._grid.takes(frame.pts):
            return
        feature = self._feature(frame)
        self._score.append(self._compare(self._last, feature))
        self._frame.append(frame.index)
        self._pts.append(frame.pts)
        self._last = feature

    def finish(self) -> LevelScores:
        """All scores of the video at this rate."""
        return LevelScores(
            self._fps,
            np.array(self._frame, np.int32),
            np.array(self._pts, np.int64),
            np.array(self._score, np.float32),
            self._measure,
        )


class BrightnessObserver:
    """Mean value (the V of HSV, 0..255) of every frame: fades and black stretches."""

    def __init__(self) -> None:
        self._mean = array("f")

    def observe(self, frame: SmallFrame) -> None:
        """Measure the next frame."""
        hsv = frame.small_hsv
        self._mean.append(cv2.sumElems(hsv)[2] / (hsv.size / 3))  # a tenth of the time of cv2.mean

    def finish(self) -> NDArray[np.float32]:
        """One number per frame."""
        return np.array(self._mean, np.float32)


def content_score(hsv0_HW3: NDArray[np.uint8], hsv1_HW3: NDArray[np.uint8]) -> float:
    """PySceneDetect's content value with its default weights."""
    num_pixels = float(hsv0_HW3.shape[0] * hsv0_HW3.shape[1])
    hue, saturation, value, _ = cv2.sumElems(cv2.absdiff(hsv0_HW3, hsv1_HW3))
    return (hue / num_pixels + saturation / num_pixels + value / num_pixels) / 3.0


_Measure = tuple[Callable[[SmallFrame], Any], Callable[[Any, Any], float]]
"""What is taken of a frame, and the score of two such, the earlier one None before the first."""


def _content() -> _Measure:
    return lambda frame: frame.small_hsv, lambda last, hsv: 0.0 if last is None else content_score(last, hsv)


def _histogram() -> _Measure:
    from scenedetect.detectors import HistogramDetector

    def apart(last: NDArray[np.float32] | None, now: NDArray[np.float32]) -> float:
        return 0.0 if last is None else 1.0 - cv2.compareHist(last, now, cv2.HISTCMP_CORREL)

    return lambda frame: HistogramDetector.calculate_histogram(frame.small_bgr, bins=_BINS), apart


def _hash() -> _Measure:
    from scenedetect.detectors import HashDetector

    def apart(last: NDArray[np.bool_] | None, now: NDArray[np.bool_]) -> float:
        return 0.0 if last is None else np.count_nonzero(last != now) / now.size

    return lambda frame: HashDetector.hash_frame(frame.small_bgr, _HASH_SIDE, _HASH_LOWPASS), apart


def _threshold() -> _Measure:
    def average(frame: SmallFrame) -> float:
        return sum(cv2.sumElems(frame.small_bgr)) / frame.small_bgr.size

    return average, lambda last, now: now


_BINS, _HASH_SIDE, _HASH_LOWPASS = 128, 8, 2
"""PySceneDetect's defaults."""
MEASURES: dict[str, Callable[[], _Measure]] = {
    "content": _content,
    "histogram": _histogram,
    "hash": _hash,
    "threshold": _threshold,
}
"""What a level can measure; the content and the adaptive detector both decide by `content`."""
