"""Where PySceneDetect's detectors cut, decided from the scores that the scan stored: one rule for each detector.

The rules are theirs, restated over arrays, because their classes decide while they look at pictures. Rows are those
of a level, the frames that the detector was shown; times are ticks of pts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curation.cuts.detectors import LevelScores
from warehouse.errors import SettingsError

DEFAULTS = {"content": 27.0, "adaptive": 3.0, "histogram": 0.2, "hash": 0.35, "threshold": 12.0}
"""PySceneDetect's thresholds."""
_NEIGHBOURS = 2
"""Frames on either side that the adaptive detector compares a frame with; PySceneDetect's `window_width`."""
MIN_CONTENT = 15.0
"""Content score below which the adaptive detector never cuts; PySceneDetect's `min_content_val`."""


@dataclass(frozen=True)
class Level:
    """A detector of the cascade."""

    detector: Literal["content", "adaptive", "histogram", "hash", "threshold"] = "content"
    """PySceneDetect's detector of that name."""
    fps: float | None = None
    """Frames a second that it sees; null is every frame. The scan must have measured that rate."""
    threshold: float | None = None
    """In the detector's own unit; null is PySceneDetect's default."""

    def __post_init__(self) -> None:
        if self.detector not in DEFAULTS:
            raise SettingsError(f"there is no detector {self.detector!r}; known: {', '.join(DEFAULTS)}")
        if self.limit <= 0:
            raise SettingsError(
                f"detector {self.detector}: its threshold is {self.limit:g}, expected more than 0, which every frame "
                f"reaches; null is PySceneDetect's, {DEFAULTS[self.detector]:g}"
            )

    @property
    def limit(self) -> float:
        """The threshold that holds."""
        return DEFAULTS[self.detector] if self.threshold is None else self.threshold


@dataclass(frozen=True)
class Calibration:
    """A threshold for each video from its own scores: `factor` times a quantile of them, within bounds."""

    quantile: float = 0.95
    factor: float = 2.0
    least: float = 0.75
    """Lowest threshold, over the one that is set."""
    most: float = 2.2
    """Highest threshold, likewise."""

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most:
            raise SettingsError(
                f"calibration: `least` is {self.least:g} and `most` is {self.most:g}, expected 0 < least <= most: "
                "a threshold of 0 is reached by every frame"
            )

    def threshold(self, score: NDArray[np.float32], limit: float) -> float:
        """The threshold for one video; the one that is set where there are no scores to learn from."""
        if len(score) < 2:
            return limit
        own = self.factor * float(np.quantile(score[1:], self.quantile))  # a first frame has no score
        return min(max(own, self.least * limit), self.most * limit)


def detections(scores: LevelScores, detector: str, limit: float, min_ticks: int) -> list[tuple[int, float]]:
    """(row, score over threshold, at least 1) of every cut of a detector."""
    if detector == "threshold":
        return fade_cuts(scores.score, scores.pts, limit, min_ticks)
    if detector == "adaptive":
        ratio = adaptive_ratios(scores.score)
        rows = adaptive_cuts(scores.score, scores.pts, limit, min_ticks)
        return [(row, float(ratio[row]) / limit) for row in rows]
    rule = content_cuts if detector == "content" else step_cuts
    return [
        (row, float(scores.score[row]) / limit) for row in rule(scores.score, scores.pts, limit, min_ticks)
    ]


def step_cuts(
    score: NDArray[np.float32], pts: NDArray[np.int64], threshold: float, min_ticks: int
) -> list[int]:
    """Rows at which the histogram and the hash detector cut: a score of `threshold`, `min_ticks` after the cut before.

    The first frame of the video counts as a cut before.
    """
    return _spaced(np.flatnonzero(score >= threshold), pts, min_ticks)


def _spaced(rows: NDArray[np.intp], pts: NDArray[np.int64], min_ticks: int) -> list[int]:
    """Those of the rows that come `min_ticks` after the one before; the first frame counts as one before."""
    found: list[int] = []
    last = int(pts[0]) if len(pts) else 0
    for row in rows.tolist():
        if row and pts[row] - last >= min_ticks:
            found.append(row)
            last = int(pts[row])
    return found


def fade_cuts(
    average: NDArray[np.float32], pts: NDArray[np.int64], threshold: float, min_ticks: int
) -> list[tuple[int, float]]:
    """(row, strength) of the cuts of PySceneDetect's ThresholdDetector: half-way through each dark stretch.

    Dark is an average below the whole part of `threshold`. The stretch must end, at least `min_ticks` after the end of
    the one before (after the first frame, for the first). Strength is 1 at the threshold, 2 in black.
    """
    limit = int(threshold)
    dark = np.concatenate([[False], average < limit, [False]])
    starts, stops = np.flatnonzero(dark[1:] & ~dark[:-1]), np.flatnonzero(dark[:-1] & ~dark[1:])
    cuts: list[tuple[int, float]] = []
    last = int(pts[0]) if len(pts) else 0
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        if stop < len(pts) and pts[stop] - last >= min_ticks:
            last = int(pts[stop])
            if row := start + round((stop - start) / 2):  # nothing lies before the first frame
                cuts.append((row, 2 - float(average[start:stop].min()) / limit))
    return cuts


def content_cuts(
    score: NDArray[np.float32], pts: NDArray[np.int64], threshold: float, min_ticks: int
) -> list[int]:
    """Rows at which PySceneDetect's ContentDetector cuts: those whose score reaches `threshold`.

    Its rule for cuts closer than `min_ticks`, after the first one of the video: they are merged, and the last one of
    them cuts once they have lasted that long and as much time without any has passed.
    """
    above = score >= threshold
    if min_ticks <= 0:
        return np.flatnonzero(above).tolist()
    cuts: list[int] = []
    last, merging_since = 0, None
    times = pts.tolist()
    for row, is_above in enumerate(above.tolist()):
        long_enough = times[row] - times[last] >= min_ticks
        if is_above:
            last = row
        if merging_since is not None:
            if long_enough and not is_above and times[last] - times[merging_since] >= min_ticks:
                merging_since = None
                cuts.append(last)
        elif is_above and long_enough:
            cuts.append(row)
        elif is_above and cuts:
            merging_since = row
    return cuts


def adaptive_cuts(
    score: NDArray[np.float32], pts: NDArray[np.int64], ratio: float, min_ticks: int
) -> list[int]:
    """Rows at which PySceneDetect's AdaptiveDetector cuts.

    A score of at least `MIN_CONTENT` that is `ratio` times the mean of its neighbours, at least `min_ticks` after the cut
    before (after the first frame, for the first).
    """
    stands_out = (adaptive_ratios(score) >= ratio) & (score >= MIN_CONTENT)
    return _spaced(np.flatnonzero(stands_out), pts, min_ticks)


def adaptive_ratios(score: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each score over the mean of its neighbours on both sides, 255 at most; 0 where neighbours are missing."""
    width, ratios = _NEIGHBOURS, np.zeros(len(score))
    if len(score) < 2 * width + 1:
        return ratios
    windows = np.lib.stride_tricks.sliding_window_view(score.astype(np.float64), 2 * width + 1)
    target = windows[:, width]
    around = np.delete(windows, width, axis=1).sum(1) / (2.0 * width)
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.minimum(target / around, 255.0)
    ratios[width:-width] = np.where(np.abs(around) < 1e-5, np.where(target >= MIN_CONTENT, 255.0, 0.0), inner)
    return ratios
