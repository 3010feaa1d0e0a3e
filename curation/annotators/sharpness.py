"""How sharp and how bright a clip is, from its pixels alone.

The variance of the Laplacian is the focus measure LAP4 of Pertuz et al., "Analysis of focus measure operators for
shape-from-focus" (2013). It depends on the picture's size, so every frame is brought to one size first, and it spans
orders of magnitude, so its logarithm is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from curation.annotators.base import Clip, Outcome
from curation.annotators.batch import frames_of, pixels, score_batch
from warehouse.ranges import MANY, check_ranges


@dataclass(frozen=True)
class SharpnessConfig:
    """What is looked at."""

    num_frames: int = 5
    """Frames of each clip, spread evenly; the median over them is kept."""
    short_side_px: int = 256
    """Every frame is scaled to this shorter side."""

    def __post_init__(self) -> None:
        check_ranges("annotators.sharpness", self, num_frames=(1, MANY), short_side_px=(16, 8192))


class SharpnessAnnotator:
    """Measures the focus of a few frames and takes the median, which one blurred frame does not move."""

    name: ClassVar[str] = "sharpness"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("grid_frames",)
    config_type: ClassVar[type] = SharpnessConfig

    def __init__(self, config: SharpnessConfig) -> None:
        self._config = config

    def load(self) -> None:
        """Needs no model."""

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table sharpness."""
        return score_batch(clips, self._columns, list)

    def _columns(self, clip: Clip) -> dict[str, Any]:
        lumas = [self._luma(pixels(frame)) for frame in frames_of(clip, self._config.num_frames)]
        return {
            "score": float(np.median([focus(luma) for luma in lumas])),
            "brightness": float(np.mean([luma.mean() for luma in lumas]) / 255),
        }

    def _luma(self, rgb_HW3: np.ndarray) -> np.ndarray:
        """float32 (H, W) in grey levels, at the size at which frames are compared."""
        luma_HW = cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2GRAY).astype(np.float32)
        scale = self._config.short_side_px / min(luma_HW.shape)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return cv2.resize(luma_HW, None, fx=scale, fy=scale, interpolation=how)


def focus(luma_HW: np.ndarray) -> float:
    """log(1 + variance of the Laplacian) of grey levels 0 to 255; 0 for a flat picture."""
    return float(np.log1p(cv2.Laplacian(luma_HW, cv2.CV_32F).var(dtype=np.float64)))
