"""Scene changes from the evidence of `curation.cuts.changes`: hard cuts, and dissolves, fades and wipes.

Every number is a ratio to the contrast of the pictures themselves, so the same thresholds hold for dark and bright
footage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curation.cuts.changes import FLOOR, LAGS, Measure

_SIDE = 3
"""Frames on either side of a cut that are compared; as many as the lags allow."""
_PIXEL_FLOOR, _COLOUR_FLOOR = 1.0, 0.03
"""Distances that noise makes; in the units of `lag_1` and `colour_1`."""


@dataclass(frozen=True)
class EvidenceConfig:
    """When measured evidence is a change of scene."""

    cut_change: float = 0.4
    """Least distance across a cut, over the contrast of its sides; unrelated pictures come to about 1."""
    cut_ratio: float = 2.5
    """Least distance across a cut, over that between frames on one side; mean of pixels' and colours'."""
    montage_change: float = 0.8
    """Least distance across a cut, over the contrast of its sides, where `cut_ratio` is to the three frames on either side
    alone: in a quick montage cuts are what is usual around."""
    blend_change: float = 0.45
    """Least distance between the ends of a transition, over their contrast."""
    blend_likeness: float = 0.5
    """Largest correlation between the ends of a transition."""
    blend_residual: float = 0.3
    """Largest distance of a dissolve's middle from the mean of its ends, over that of the ends."""
    blend_unrest: float = 0.8
    """Largest change of the calmer side of a transition in as much time, over its own; steady motion comes to 1."""
    wipe_switch: float = 0.15
    """Largest distance of a wipe's pixels from the nearer end, over that of the ends."""
    flash_rise: float = 12.0
    """Least rise of the mean brightness (0..255) with which a flash of light begins and ends."""


@dataclass(frozen=True, order=True)
class Transition:
    """A change of scene: frames [start, end) belong to neither scene; end is the first of the new one."""

    start: int
    end: int
    strength: float
    """Evidence over its threshold, at least 1."""


def hard_cuts(measures: Mapping[str, Measure], config: EvidenceConfig) -> list[Transition]:
    """Cuts between two frames, in order."""
    pixels, colours = _sides(measures, "lag"), _sides(measures, "colour")
    change = pixels.across / (_side_contrast(measures["contrast"].value) + FLOOR)
    lasting = (pixels.least >= pixels.across / 2) & ~_returns(measures, pixels.across, colours.across)
    usual = _ratio(pixels, colours, "usual")
    cuts = _peaks(np.minimum(change / config.cut_change, usual / config.cut_ratio) * lasting, usual, _SIDE)
    near = _ratio(pixels, colours, "near")
    quick = _peaks(
        np.minimum(change / config.montage_change, near / config.cut_ratio) * lasting, near, _SIDE - 1
    )
    taken = {cut.start + offset for cut in cuts for offset in range(1 - _SIDE, _SIDE)}
    return sorted([*cuts, *(cut for cut in quick if cut.start not in taken)])


def _ratio(pixels: _Sides, colours: _Sides, to: Literal["usual", "near"]) -> NDArray:
    """How much further than frames that belong together those across are: mean of pixels' and colours'."""
    moved = pixels.across / (getattr(pixels, to) + _PIXEL_FLOOR)
    recoloured = colours.across / (getattr(colours, to) + _COLOUR_FLOOR)
    return np.maximum(np.sqrt(moved * recoloured), moved / 2)  # two scenes may have the same colours


def _peaks(strength: NDArray, ratio: NDArray, reach: int) -> list[Transition]:
    """Cuts where the strength suffices and no ratio within `reach` frames is larger."""
    return [
        Transition(int(i), int(i), float(strength[i]))
        for i in np.flatnonzero(strength >= 1)
        if ratio[i] >= ratio[max(0, i - reach) : i + reach + 1].max()
    ]


class _Sides(NamedTuple):
    """Of every frame as the first of a new scene, in one kind of distance."""

    across: NDArray
    """Mean distance between frames on either side."""
    least: NDArray
    """Least distance across."""
    near: NDArray
    """Mean distance between frames on one side."""
    usual: NDArray
    """What is usual here without a cut: `near`, or the steps of the frames around if larger."""


def _sides(measures: Mapping[str, Measure], kind: str) -> _Sides:
    lags = {lag: measures[f"{kind}_{lag}"].value for lag in LAGS}
    across = [_shifted(lags[p + q + 1], p + q + 1, q) for p in range(_SIDE) for q in range(_SIDE)]
    left = [_shifted(lags[lag], lag, offset) for lag in range(1, _SIDE) for offset in range(lag - _SIDE, 0)]
    right = [_shifted(lags[lag], lag, offset) for lag in range(1, _SIDE) for offset in range(lag, _SIDE)]
    near = _nanmean(left + right)
    usual = np.maximum(near, _usual_step(lags[1]))
    return _Sides(_nanmean(across), np.nan_to_num(np.fmin.reduce(across)), near, usual)


def _returns(measures: Mapping[str, Measure], pixels: NDArray, colours: NDArray) -> NDArray[np.bool_]:
    """Whether the picture from before a change comes back soon after it, or did so with it: a flash."""
    back = np.zeros(len(pixels), bool)
    for lag in LAGS[1:]:
        for offset in (0, lag - 1):  # the change is the end of the flash, or its begin
            apart = _shifted(measures[f"lag_{lag}"].value, lag, offset)
            recoloured = _shifted(measures[f"colour_{lag}"].value, lag, offset)
            back |= _is_back(apart, pixels, recoloured, colours)
    return back


def flashes(
    measures: Mapping[str, Measure], brightness: NDArray[np.float32], config: EvidenceConfig
) -> list[Transition]:
    """Flashes of light, in order: frames [start, end) that are brighter than both sides, which show one picture.

    The picture of the frame before comes back at most 12 frames later, by the same measure as in `_returns`.
    """
    rise = np.diff(brightness.astype(np.float64), prepend=brightness[:1])
    found: list[Transition] = []
    for start in np.flatnonzero(rise >= config.flash_rise).tolist():
        if start == 0 or (found and start < found[-1].end):
            continue
        soon = brightness[start : start + LAGS[-1]]
        over = np.flatnonzero(soon <= brightness[start - 1] + rise[start] / 2)
        if len(over) and _comes_back(measures, start, start + int(over[0])):
            strength = float(rise[start]) / config.flash_rise
            found.append(Transition(start, start + int(over[0]), strength))
    return found


def _comes_back(measures: Mapping[str, Measure], start: int, end: int) -> bool:
    """Whether the picture before `start` is there again at `end` or shortly after."""
    pixels, colours = measures["lag_1"].value[start], measures["colour_1"].value[start]
    for lag in LAGS:
        row = start - 1 + lag
        if end <= row < len(measures["lag_1"].value):
            apart, recoloured = measures[f"lag_{lag}"].value[row], measures[f"colour_{lag}"].value[row]
            if _is_back(apart, pixels, recoloured, colours):
                return True
    return False


def _is_back(apart: NDArray, pixels: NDArray, recoloured: NDArray, colours: NDArray) -> NDArray[np.bool_]:
    """Whether two frames show one picture, given the distances that the change between them made.

    Where things move meanwhile the pixels come back in part, and the colours do.
    """
    return (apart < pixels / 3) | ((apart < pixels / 2) & (recoloured < colours / 3))


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
    calm = value["unrest"] <= config.blend_unrest
    convincing = calm & (error <= 1) & (likeness <= config.blend_likeness) & (change >= config.blend_change)
    explained = np.where(convincing & ~holds_cut, value["apart"] * (2 - error), 0)
    found: list[Transition] = []
    for row in np.argsort(-explained, kind="stable")[: np.count_nonzero(explained)].tolist():
        if all(end[row] <= other.start or other.end <= start[row] for other in found):
            strength = float(change[row] / config.blend_change)
            found.append(Transition(int(start[row]), int(end[row]), strength))
    return sorted(found, key=lambda transition: transition.start)
