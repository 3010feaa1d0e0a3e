"""Reads shape and colour of a generated frame from its pixels: hue of what is saturated, and its outline.

Nothing here is learnt, so that it can judge what learnt models draw and say.
"""

from __future__ import annotations

import colorsys
from functools import cache

import cv2
import numpy as np

from curation.reel.shots import COLOURS, SHAPES, fill

_MIN_CHROMA = 48  # largest minus smallest of R, G, B: backgrounds stay below
_MIN_AREA, _MAX_AREA = 0.01, 0.6  # share of the frame that a shape may cover
_PATCH_PX = 40
_PATCH_RADIUS = 0.30  # of a disc as large as the shape, as a fraction of the patch
_TURN_STEP_DEG = 5
_MIN_LIKENESS = 0.8


def read_shape_and_colour(frame_rgb: np.ndarray) -> tuple[str | None, str | None]:
    """Names of the shape and the colour in a uint8 (H, W, 3) frame; None for what cannot be told.

    Both are None where nothing saturated stands out; the shape alone where the outline resembles none that is known.
    """
    if frame_rgb.ndim != 3 or frame_rgb.shape[2] != 3 or frame_rgb.dtype != np.uint8:
        raise ValueError(f"expected a uint8 frame of H,W,3, got {frame_rgb.dtype} {frame_rgb.shape}")
    cover = _cover(frame_rgb)
    if cover is None:
        return None, None
    return _nearest_shape(cover), _nearest_colour(frame_rgb, cover)


def _cover(frame: np.ndarray) -> np.ndarray | None:
    """How much of each pixel the most saturated thing covers: float32 (H, W) in [0, 1], None if there is none."""
    levels = frame.astype(np.float32)
    chroma = cv2.GaussianBlur(levels.max(axis=2) - levels.min(axis=2), (0, 0), len(frame) / 128)
    ground, peak = np.percentile(chroma, (20, 98))
    if peak < max(_MIN_CHROMA, 1.5 * ground):
        return None
    middle = (ground + peak) / 2
    cover = np.clip((chroma - middle) / (peak - middle) + 0.5, 0, 1)  # half where the edge is
    return _largest_part(cover.astype(np.float32))


def _largest_part(cover: np.ndarray) -> np.ndarray | None:
    """Drop all but the largest part; None where it is too small or too large for a shape."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((cover > 0.3).astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if len(areas) == 0 or not _MIN_AREA < areas.max() / cover.size < _MAX_AREA:
        return None
    return cover * (labels == 1 + areas.argmax())


def _nearest_colour(frame: np.ndarray, cover: np.ndarray) -> str | None:
    red, green, blue = np.average(frame[cover > 0.9], axis=0) / 255 if (cover > 0.9).any() else (0, 0, 0)
    hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
    if saturation < 0.25:
        return None
    away = {name: abs((hue - known + 0.5) % 1 - 0.5) for name, known in _hues().items()}
    return min(away, key=away.__getitem__)


@cache
def _hues() -> dict[str, float]:
    return {name: colorsys.rgb_to_hsv(*(level / 255 for level in rgb))[0] for name, rgb in COLOURS.items()}


def _nearest_shape(cover: np.ndarray) -> str | None:
    """The shape whose turned outline correlates best with the patch, whatever place, size and turn."""
    likeness = _templates() @ _standard(_patch(cover)).ravel()
    best = int(likeness.argmax())
    return SHAPES[best // (360 // _TURN_STEP_DEG)] if likeness[best] >= _MIN_LIKENESS else None


def _patch(cover: np.ndarray) -> np.ndarray:
    """The covered area moved to the middle of a small square and scaled to the area of one disc."""
    moments = cv2.moments(cover)
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    scale = _PATCH_RADIUS * _PATCH_PX / np.sqrt(moments["m00"] / np.pi)
    half = (_PATCH_PX - 1) / 2
    move = np.array([[scale, 0, half - scale * x], [0, scale, half - scale * y]])
    return cv2.warpAffine(cover, move, (_PATCH_PX, _PATCH_PX), flags=cv2.INTER_LINEAR)


def _standard(patch: np.ndarray) -> np.ndarray:
    centred = patch - patch.mean()
    return centred / np.linalg.norm(centred)


@cache
def _templates() -> np.ndarray:
    """Every shape at every turn, as `_patch` would show it: (shapes x turns, pixels) with mean 0 and norm 1."""
    turns = np.radians(np.arange(0, 360, _TURN_STEP_DEG))
    drawn = [fill(shape, 96, (0.5, 0.5), 0.4, turn) for shape in SHAPES for turn in turns]
    blurred = [cv2.GaussianBlur(cover, (0, 0), 1.5) for cover in drawn]
    return np.stack([_standard(_patch(cover)).ravel() for cover in blurred])
