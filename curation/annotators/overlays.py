"""Logos, watermarks and lower thirds: what stays at its place in a clip's picture while the scene moves behind it.

Where the scene stands still nothing can be said, and the clip is skipped with that reason. Black bars are cut off first:
their rims stay in place too. Boxes and shares are of the whole frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import shapely

from curation.annotators.base import Clip, Outcome, Skipped
from curation.annotators.batch import Unscorable, frames_of, pixels, score_batch
from curation.annotators.overlay_search import Box, OverlayConfig, find_overlays
from curation.annotators.quality import Bars, QualityConfig, find_bars


class OverlaysAnnotator:
    """Boxes of a clip's static overlays, and the share of the frame that they cover."""

    name: ClassVar[str] = "overlays"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("grid_frames",)
    config_type: ClassVar[type] = OverlayConfig

    def __init__(self, config: OverlayConfig) -> None:
        self._config = config

    def load(self) -> None:
        """Needs no model."""

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table overlays; clips of too few frames, or whose scene stands still, are skipped."""
        return score_batch(clips, self._columns, list)

    def _columns(self, clip: Clip) -> dict[str, Any]:
        frames = frames_of(clip, self._config.num_frames)
        if len(frames) < self._config.least_frames:
            raise Unscorable(Skipped("too_few_frames"))
        luma_THW = np.stack([self._luma(pixels(frame)) for frame in frames])
        bars = find_bars(luma_THW, QualityConfig())
        found = find_overlays(np.stack([bars.inside(luma) for luma in luma_THW]), self._config)
        if found is None:
            raise Unscorable(Skipped("scene_stands_still"))
        boxes = [_of_whole_frame(box, bars) for box in found]
        covered = shapely.union_all([shapely.box(*box) for box in boxes])
        return {"score": float(covered.area), "boxes": boxes, "num_frames": len(frames)}

    def _luma(self, rgb_HW3: np.ndarray) -> np.ndarray:
        """uint8 (H, W) in grey levels."""
        luma_HW = cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2GRAY)
        scale = self._config.short_side_px / min(luma_HW.shape)
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return cv2.resize(luma_HW, None, fx=scale, fy=scale, interpolation=method)


def _of_whole_frame(box: Box, bars: Bars) -> list[float]:
    """left, top, right, bottom as shares of a frame with its bars."""
    width, height = 1 - bars.left - bars.right, 1 - bars.top - bars.bottom
    return [
        bars.left + box.left * width,
        bars.top + box.top * height,
        bars.left + box.right * width,
        bars.top + box.bottom * height,
    ]
