"""Scene changes from the evidence of `curation.changes`: hard cuts, and dissolves, fades and wipes.

Every number is a ratio to the contrast of the pictures themselves, so the same thresholds hold for dark and bright
footage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation.changes import FLOOR, LAGS, Measure

_SIDE = 3
"""Frames on either side of a cut that are compared; as many as the lags allow."""


@dataclass(frozen=True)
class EvidenceConfig:
    """When measured evidence is a change of scene."""

    cut_change: float = 0.4
    """Least distance across a cut, over the contrast of its sides; unrelated pictures come to about 1."""
    cut_ratio: float = 2.5
    """Least distance across a cut, over that between frames on one side."""
    blend_change: float = 0.45
    """Least distance between the ends of a transition, over their contrast."""
    blend_likeness: float = 0.5
    """Largest correlation between the ends of a transition."""
    blend_residual: float = 0.3
    """Largest distance of a dissolve's middle from the mean of its ends, over that of the ends."""
    wipe_switch: float = 0.15
    """Largest distance of a wipe's pixels from the nearer end, over that of the ends."""


@dataclass(frozen=True)
class Transition:
    """A change of scene: frames [start, end) belong to neither scene; end is the first of the new one."""

    start: int
    end: int
    strength: float
    """Evidence over its threshold, at least 1."""


def hard_cuts(measures: Mapping[str, Measure], config: EvidenceConfig) -> list[Transition]:
    """Cuts between two frames, in order."""
    across, within, least = _sides(measures)
    contrast = measures["contrast"].value
    change = across / (_side_contrast(contrast) + FLOOR)
    ratio = across / (np.maximum(within, _usual_step(measures["lag_1"].value)) + 1.0)
    strength = np.minimum(change / config.cut_change, ratio / config.cut_ratio)
    strong = np.flatnonzero((strength >= 1) & (least >= across / 2) & ~_returns(measures, across))
    return [
        Transition(int(i), int(i), float(strength[i]))
        for i in strong
        if ratio[i] >= ratio[max(0, i - _SIDE) : i + _SIDE + 1].max()
    ]


def _sides(measures: Mapping[str, Measure]) -> tuple[NDArray, NDArray, NDArray]:
    """Of every frame as the first of a new scene: mean distance across, mean distance within, least one across."""
    lags = {lag: measures[f"lag_{lag}"].value for lag in LAGS}
    across = [_shifted(lags[p + q + 1], p + q + 1, q) for p in range(_SIDE) for q in range(_SIDE)]
    left = [_shifted(lags[lag], lag, offset) for lag in range(1, _SIDE) for offset in range(lag - _SIDE, 0)]
    right = [_shifted(lags[lag], lag, offset) for lag in range(1, _SIDE) for offset in range(lag, _SIDE)]
    return _nanmean(across), _nanmean(left + right), np.nan_to_num(np.fmin.reduce(across))


def _returns(measures: Mapping[str, Measure], across: NDArray) -> NDArray[np.bool_]:
    """Whether the picture from before a change comes back soon after it, or did so with it: a flash."""
    back = np.zeros(len(across), bool)
    for lag in LAGS[1:]:
        apart = measures[f"lag_{lag}"].value
        for offset in (0, lag - 1):  # the change is the end of the flash, or its begin
            distance = _shifted(apart, lag, offset)
            back |= distance < across / 3
    return back


def _shifted(values: NDArray, lag: int, offset: int) -> NDArray:
    """values[i + offset] at i; nan where there is no such frame, or none `lag` before it."""
    count = len(values)
    index = np.arange(count) + offset
    valid = (index >= lag) & (index < count)
    return np.where(valid, values[np.clip(index, 0, count - 1)], np.nan)


def _nanmean(rows: Sequence[NDArray]) -> NDArray:
    table = np.stack(rows)
    known = np.isfinite(table)
    return np.where(known, table, 0).sum(0) / np.maximum(known.sum(0), 1)


def _usual_step(step: NDArray) -> NDArray:
    """Third largest step among the frames around each: what motion does even where most frames are held."""
    reach = 12
    padded = np.pad(step, reach)
    around = np.delete(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), reach, axis=1)
    return np.partition(around, -3, axis=1)[:, -3]


def _side_contrast(contrast: NDArray) -> NDArray:
    """Larger of the mean contrasts of the frames before and from each frame on."""
    padded = np.pad(contrast, _SIDE, mode="edge")
    means = np.convolve(padded, np.ones(_SIDE) / _SIDE, mode="valid")
    return np.maximum(means[: len(contrast)], means[_SIDE : _SIDE + len(contrast)])


def blends(
    measures: Mapping[str, Measure], cuts: Sequence[Transition], config: EvidenceConfig
) -> list[Transition]:
    """Gradual transitions, in order: of rows that overlap the one that explains most; none across a hard cut."""
    value = {
        name.removeprefix("blend_"): m.value for name, m in measures.items() if name.startswith("blend_")
    }
    error = np.minimum(value["residual"] / config.blend_residual, value["switch"] / config.wipe_switch)
    start, end = value["start"].astype(int), value["end"].astype(int)
    at = [cut.end for cut in cuts]
    holds_cut = np.searchsorted(at, end, "right") > np.searchsorted(at, start, "left")
    change, likeness = value["change"], value["likeness"]
    convincing = (error <= 1) & (likeness <= config.blend_likeness) & (change >= config.blend_change)
    explained = np.where(convincing & ~holds_cut, change * (2 - error), 0)
    found: list[Transition] = []
    for row in np.argsort(-explained, kind="stable")[: np.count_nonzero(explained)].tolist():
        if all(end[row] <= other.start or other.end <= start[row] for other in found):
            strength = float(change[row] / config.blend_change)
            found.append(Transition(int(start[row]), int(end[row]), strength))
    return sorted(found, key=lambda transition: transition.start)
