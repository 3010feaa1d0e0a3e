"""Evidence of scene changes, measured on thumbnails while the video is decoded.

All distances are mean absolute differences of 32 px thumbnails whose mean colour was taken out, so that a flash or a
change of exposure, which moves all pixels alike, counts for little. Two questions are asked:

`LagObserver`, of every frame: how far is it from each of the frames before, pixel by pixel and in its colours wherever
they are? A cut is where frames on either side are alike among themselves and far from those across; motion is far in
both directions, fast motion still keeps its colours, and after a flash the picture comes back.

`BlendObserver`, ten times a second: is the picture half-way between those some time before and after? In a dissolve
or a fade it is their mean, in a wipe every pixel is one or the other's; where things move it is neither.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.footage.frames import SmallFrame, Thumb, TimeGrid

LAGS = (1, 2, 3, 4, 5, 8, 12)
BLEND_FPS = 10.0
HALF_WINDOWS_S = (0.2, 0.4, 0.7, 1.0)
_LOOSE_CHANGE, _LOOSE_LIKENESS, _LOOSE_RESIDUAL, _LOOSE_SWITCH = 0.35, 0.65, 0.35, 0.25
"""Windows beyond these are not recorded at all; decisions are made later, by `CutConfig`."""
FLOOR = 4.0
"""Added to contrasts that are divided by, so that noise in flat pictures is no structure."""


@dataclass(frozen=True)
class Measure:
    """Numbers of one kind for some frames of a video, in order of time."""

    name: str
    frame: NDArray[np.int32]
    """Index of the frame in presentation order."""
    pts: NDArray[np.int64]
    value: NDArray[np.float32]


class Columns:
    """Rows of several measures of the same frames, in compact arrays."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._frame, self._pts = array("i"), array("q")
        self._values = tuple(array("f") for _ in names)

    def add(self, frame: int, pts: int, *values: float) -> None:
        """Append one row."""
        self._frame.append(frame)
        self._pts.append(pts)
        for column, value in zip(self._values, values, strict=True):
            column.append(value)

    def measures(self) -> list[Measure]:
        """One measure for each name."""
        frame, pts = np.array(self._frame, np.int32), np.array(self._pts, np.int64)
        return [
            Measure(name, frame, pts, np.array(column, np.float32))
            for name, column in zip(self._names, self._values, strict=True)
        ]


def distance(a: NDArray, b: NDArray) -> float:
    """Mean absolute difference of two pictures of one type, 0..255."""
    return cv2.norm(a, b, cv2.NORM_L1) / a.size


class _ColourLags:
    """How often each colour occurs in the last frames, in coarse bins and in bins that begin half a bin earlier.

    The smaller of two distances counts, so that a little light that moves pixels over the edge of a bin is no change.
    They are computed for many frames at once, when these are there.
    """

    _BINS, _SHIFTED = 4**3, 5**3
    _AT_ONCE = 64

    def __init__(self) -> None:
        nothing = np.full(self._BINS + self._SHIFTED, np.nan, np.float32)
        self._shares = [nothing] * max(LAGS)
        """Of the frames that were compared last, and of those to come."""
        self._distances = [array("f") for _ in LAGS]

    def add(self, bgr: NDArray[np.uint8]) -> None:
        """Count the colours of the next frame."""
        bins = cv2.calcHist([bgr], [0, 1, 2], None, [4] * 3, [0, 256] * 3)
        shifted = cv2.calcHist([bgr], [0, 1, 2], None, [5] * 3, [-32, 288] * 3)
        self._shares.append(np.concatenate([bins.ravel(), shifted.ravel()]) * (3 / bgr.size))
        if len(self._shares) == max(LAGS) + self._AT_ONCE:
            self._compare()

    def finish(self) -> list[NDArray[np.float32]]:
        """For each of `LAGS` the distance of every frame to the one that far before it, 0 where there is none."""
        self._compare()
        return [np.array(column, np.float32) for column in self._distances]

    def _compare(self) -> None:
        shares, past = np.stack(self._shares), max(LAGS)
        for lag, column in zip(LAGS, self._distances, strict=True):
            apart = np.abs(shares[past:] - shares[past - lag : -lag])
            nearer = np.add.reduceat(apart, [0, self._BINS], axis=1).min(1) / 2
            column.extend(np.nan_to_num(nearer).tolist())
        del self._shares[:-past]


class LagObserver:
    """`contrast` of every frame, and its distances to the frames before, 0 where there is none.

    `lag_1` to `lag_12`: mean absolute difference of the pixels. `colour_1` to `colour_12`: share of the pixels, 0..1,
    whose colour the other picture has no pixel for.
    """

    def __init__(self) -> None:
        self._before: deque[NDArray[np.uint8]] = deque(maxlen=max(LAGS))
        self._colours = _ColourLags()
        self._rows = Columns("contrast", *(f"lag_{lag}" for lag in LAGS))

    def observe(self, frame: SmallFrame) -> None:
        """Measure the next frame."""
        bgr, before = frame.thumb.bgr, self._before
        lags = [distance(bgr, before[lag - 1]) if lag <= len(before) else 0.0 for lag in LAGS]
        self._rows.add(frame.index, frame.pts, frame.thumb.contrast, *lags)
        self._colours.add(bgr)
        before.appendleft(bgr)

    def finish(self) -> list[Measure]:
        """Measures of every frame."""
        rows = self._rows.measures()
        colours = zip(LAGS, self._colours.finish(), strict=True)
        return rows + [replace(rows[0], name=f"colour_{lag}", value=value) for lag, value in colours]


@dataclass(frozen=True)
class _Window:
    """What a window of frames around a centre says, before it is known where the transition begins and ends."""

    first: int
    last: int
    apart: float
    """Distance of its ends."""
    change: float
    residual: float
    switch: float
    likeness: float

    @property
    def is_linear(self) -> bool:
        return self.residual <= _LOOSE_RESIDUAL

    @property
    def rank(self) -> tuple[bool, float]:
        """Blends before switches, then by the distance that the transition explains.

        Not by its share of the contrast: that is as large in a part of a fade as in the whole.
        """
        return self.is_linear, self.apart * (1 - 2 * (self.residual if self.is_linear else self.switch))


class BlendObserver:
    """Frames that look like the middle of a transition, with where it begins and ends.

    Measures of those frames: `blend_apart` (distance of the window's ends), `blend_change` (that over their
    contrast; unrelated pictures come to about 1), `blend_residual` (distance of the middle from the mean of the ends,
    over that of the ends: 0 in a dissolve, 0.5 where nothing blends), `blend_switch` (how far each pixel of the
    middle is from the nearer end, likewise: 0 in a wipe), `blend_likeness` (correlation of the ends), `blend_unrest`
    (how much the calmer side changes in as much time as the transition takes, over the transition's own change: about
    1 in a steady motion), `blend_start` and `blend_end` (indices of the first frame of the transition and of the
    first one after it). Of the windows around a frame the one that explains the largest distance is kept.
    """

    NAMES = tuple(
        f"blend_{name}"
        for name in ("apart", "change", "residual", "switch", "likeness", "unrest", "start", "end")
    )

    def __init__(self, time_base: Fraction) -> None:
        self._grid = TimeGrid(BLEND_FPS, time_base)
        self._halves = [
            round(Fraction(half_s).limit_denominator(100) / time_base) for half_s in HALF_WINDOWS_S
        ]
        self._reach = 2 * self._halves[-1]
        self._first = 0
        self._pts: list[int] = []
        self._thumbs: list[Thumb] = []
        self._steps: list[float] = []
        self._centres: deque[int] = deque()
        self._rows = Columns(*self.NAMES)

    def observe(self, frame: SmallFrame) -> None:
        """Take the next frame; a centre is judged once its longest window is there, and as much again."""
        if self._grid.takes(frame.pts):
            self._centres.append(frame.index)
        self._pts.append(frame.pts)
        self._steps.append(distance(frame.thumb.flat, self._thumbs[-1].flat) if self._thumbs else 0.0)
        self._thumbs.append(frame.thumb)
        self._judge_until(frame.pts - self._reach)

    def finish(self) -> list[Measure]:
        """All measures, the last centres judged by the windows that fit."""
        if self._pts:
            self._judge_until(self._pts[-1])
        return self._rows.measures()

    def _judge_until(self, pts: int) -> None:
        while self._centres and self._pts[self._centres[0] - self._first] <= pts:
            centre = self._centres.popleft() - self._first
            self._judge(centre)
            self._forget(bisect_right(self._pts, self._pts[centre] - self._reach) - 1)

    def _forget(self, count: int) -> None:
        if count > 0:
            del self._pts[:count], self._thumbs[:count], self._steps[:count]
            self._first += count

    def _judge(self, centre: int) -> None:
        for window in sorted(self._windows(centre), key=lambda window: window.rank, reverse=True):
            progress = _progress(self._thumbs[window.first : window.last + 1])
            middle = centre - window.first
            if not window.is_linear and abs(progress[middle] - 0.5) > 0.25:
                continue  # before a wipe and after it every pixel is at one end too
            start, end = (window.first + row for row in _extent(progress, middle))
            says = window.apart, window.change, window.residual, window.switch, window.likeness
            where = start + self._first, end + self._first
            self._rows.add(
                centre + self._first, self._pts[centre], *says, self._unrest(start - 1, end), *where
            )
            return

    def _unrest(self, last: int, first: int) -> float:
        """Change on the calmer side over that from row `last` of the old scene to row `first` of the new one.

        A side that has fewer frames than the transition is judged by those, at their pace; 0 where none has any.
        """
        last, first = max(last, 0), min(first, len(self._thumbs) - 1)
        length = max(1, first - last)
        far = (last, max(last - length, 0)), (first, min(first + length, len(self._thumbs) - 1))
        paces = [self._apart(a, b) / abs(a - b) for a, b in far if a != b]
        return length * min(paces, default=0.0) / max(self._apart(last, first), 1e-6)

    def _apart(self, a: int, b: int) -> float:
        return distance(self._thumbs[a].flat, self._thumbs[b].flat)

    def _windows(self, centre: int) -> Iterator[_Window]:
        for half in self._halves:
            first = bisect_right(self._pts, self._pts[centre] - half) - 1
            last = bisect_left(self._pts, self._pts[centre] + half)
            if first >= 0 and last < len(self._pts):
                window = _window(self._thumbs, first, centre, last)
                if window is not None and (window.is_linear or not self._jumps(window)):
                    yield window

    def _jumps(self, window: _Window) -> bool:
        """Whether half of the way is made between two frames: a cut."""
        return max(self._steps[window.first + 1 : window.last + 1]) > window.apart / 2


def _window(thumbs: Sequence[Thumb], first: int, centre: int, last: int) -> _Window | None:
    """Evidence that the frames of a window pass from its first to its last, None where there is none at all."""
    before, middle, after = thumbs[first], thumbs[centre].flat, thumbs[last]
    apart = distance(before.flat, after.flat)
    change = apart / (max(before.contrast, after.contrast) + FLOOR)
    if change < _LOOSE_CHANGE:
        return None
    likeness = _likeness(before, after)
    if likeness > _LOOSE_LIKENESS:
        return None
    residual = distance(middle, cv2.addWeighted(before.flat, 0.5, after.flat, 0.5, 0)) / apart
    nearer = cv2.min(cv2.absdiff(middle, before.flat), cv2.absdiff(middle, after.flat))
    switch = cv2.norm(nearer, cv2.NORM_L1) / nearer.size / apart
    if residual > _LOOSE_RESIDUAL and switch > _LOOSE_SWITCH:
        return None
    return _Window(first, last, apart, change, residual, switch, likeness)


def _extent(progress: NDArray[np.float64], centre: int) -> tuple[int, int]:
    """First row of the transition and first row past it, from where it has come a quarter and three quarters."""
    before = np.flatnonzero(progress[: centre + 1] <= 0.25)
    after = np.flatnonzero(progress[centre:] >= 0.75)
    quarter = int(before[-1]) if len(before) else 0
    three_quarters = centre + int(after[0]) if len(after) else len(progress) - 1
    rest = (three_quarters - quarter) / 2  # what lies outside of the middle half, on both sides together
    return max(0, round(quarter - rest / 2) + 1), min(len(progress) - 1, round(three_quarters + rest / 2))


def _progress(window: Sequence[Thumb]) -> NDArray[np.float64]:
    """How far each frame has come from the first (0) to the last (1): its projection on their difference."""
    start = window[0].flat
    way = window[-1].flat - start
    length = float(np.vdot(way, way))
    return np.array([float(np.vdot(thumb.flat - start, way)) / length for thumb in window])


def _likeness(a: Thumb, b: Thumb) -> float:
    """Correlation of two thumbnails, -1..1; near 0 where one of them is flat."""
    product = float(np.vdot(a.flat, b.flat)) / a.flat.size
    return product / ((a.contrast**2 + FLOOR**2) * (b.contrast**2 + FLOOR**2)) ** 0.5
