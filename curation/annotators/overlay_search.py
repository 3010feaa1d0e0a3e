"""Overlays: what stays at its place in the picture while the scene moves behind it, as logos and watermarks do.

An overlay's outline has the same gradient in every frame, opaque or not, and the scene's has not; so a pixel counts
where most frames have nearly the median gradient (after Dekel et al. 2017, section 3.1). Whether the scene moves is asked
cell by cell: where many textured cells keep their outlines, the camera stands, and an overlay cannot be told from a wall.
What a camera flies towards stays as well: a far skyline in the middle of a slow zoom is taken for an overlay.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_CELLS = 8
_MARGIN_PX = 3
"""Rims of pictures and of bars stay where they are."""
_CELL_STAYS = 0.15
"""Share of its outlines that a cell keeps if its scene stands still, or an overlay crosses it."""
_FRAMES_THAT_AGREE = 0.75


@dataclass(frozen=True)
class OverlayConfig:
    """What counts as fixed, and as one overlay."""

    num_frames: int = 16
    """Frames of each clip, spread evenly."""
    least_frames: int = 5
    """Clips with fewer grid frames are skipped: chance keeps outlines in place over a few."""
    short_side_px: int = 240
    """Every frame is scaled to this shorter side."""
    edge_above: float = 10.0
    """Median gradient, in grey levels a pixel, from which a pixel belongs to an outline."""
    deviation_below: float = 0.4
    """Share of the median gradient by which three quarters of the frames may differ from it."""
    join_px: int = 11
    """Outlines this near to each other are one overlay, as letters of a word are."""
    least_share: float = 0.0008
    """Share of the frame that the box of an overlay covers at least."""
    least_outline_px: int = 24
    """Pixels of fixed outline in an overlay."""
    still_cells: float = 0.3
    """Where more of the textured cells than this keep their outlines, the scene does not move."""


@dataclass(frozen=True)
class Box:
    """Sides as shares of the picture's width (left, right) and height (top, bottom)."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Share of the picture."""
        return (self.right - self.left) * (self.bottom - self.top)


def find_overlays(luma_THW: NDArray[np.uint8], config: OverlayConfig) -> list[Box] | None:
    """Boxes of the overlays, the largest first; None where the scene stands still or shows nothing."""
    gradient_THW2 = np.stack([_gradient(luma) for luma in luma_THW])
    median_HW2 = np.median(gradient_THW2, axis=0)
    strength_HW = np.hypot(median_HW2[..., 0], median_HW2[..., 1])
    deviation_THW = np.linalg.norm(gradient_THW2 - median_HW2, axis=-1)
    agree_HW = (deviation_THW < config.deviation_below * strength_HW).mean(axis=0) >= _FRAMES_THAT_AGREE
    fixed_HW = agree_HW & (strength_HW > config.edge_above)
    for rim in (np.s_[:_MARGIN_PX], np.s_[-_MARGIN_PX:], np.s_[:, :_MARGIN_PX], np.s_[:, -_MARGIN_PX:]):
        fixed_HW[rim] = False
    outlines_HW = (np.linalg.norm(gradient_THW2, axis=-1) > config.edge_above).mean(axis=0)
    if _is_still(fixed_HW, outlines_HW, config.still_cells):
        return None
    return _boxes(fixed_HW, config)


def _gradient(luma_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[H, W, 2] in grey levels a pixel."""
    smooth = cv2.GaussianBlur(luma_HW, (3, 3), 0)
    return np.stack([cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3) / 8 for order in ((1, 0), (0, 1))], -1)


def _is_still(fixed_HW: NDArray[np.bool_], outlines_HW: NDArray[np.float64], still_cells: float) -> bool:
    """Whether most cells that have outlines keep theirs, or hardly any cell has outlines."""
    size = (_CELLS, _CELLS)
    there = cv2.resize(outlines_HW.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    kept = cv2.resize(fixed_HW.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    textured = there > 0.01
    if textured.sum() < _CELLS:
        return True
    return bool((kept[textured] > _CELL_STAYS * there[textured]).mean() > still_cells)


def _boxes(fixed_HW: NDArray[np.bool_], config: OverlayConfig) -> list[Box]:
    kernel = np.ones((config.join_px, config.join_px), np.uint8)
    joined = cv2.morphologyEx(fixed_HW.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    _, labels_HW = cv2.connectedComponents(joined)
    found = [_box(labels_HW == label, fixed_HW, config) for label in range(1, labels_HW.max() + 1)]
    return sorted((box for box in found if box), key=lambda box: -box.area)


def _box(part_HW: NDArray[np.bool_], fixed_HW: NDArray[np.bool_], config: OverlayConfig) -> Box | None:
    """Around the outlines within one part, or None where they are too few to be an overlay."""
    height, width = fixed_HW.shape
    y, x = np.nonzero(part_HW & fixed_HW)
    if len(y) < config.least_outline_px:
        return None
    box = Box(x.min() / width, y.min() / height, (x.max() + 1) / width, (y.max() + 1) / height)
    return box if box.area >= config.least_share else None
