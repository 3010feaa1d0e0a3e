"""What else users filter footage by: contrast, black bars, frozen pictures, size, shape, frame rate, bit rate, sound.

Bars are searched in several frames together: a row or column belongs to a bar if it is black in all of them, and the
bar ends at an edge, since a dark picture that fades into its rim has no bar. A bar with subtitles in it ends where
they begin: counting lines that are dark for the most part would find bars at the rims of dark footage. Contrast is
measured inside of the bars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import cv2
import numpy as np

from curation.annotators.base import Clip, Outcome
from curation.annotators.batch import frames_of, pixels, row_of, score_batch
from warehouse.ranges import MANY, check_ranges

_BLOCK_PX = 16
_LINES_ACROSS_EDGE = 3
"""Lines over which the edge of a bar may be smeared by scaling and compression."""


@dataclass(frozen=True)
class QualityConfig:
    """What counts as black and as frozen."""

    num_frames: int = 8
    """Frames of each clip, spread evenly, in which bars are searched and contrast is measured."""
    short_side_px: int = 240
    """Every frame is scaled down to this shorter side; smaller ones keep their size."""
    black_below: float = 24.0
    """Grey level (0..255) that 98 % of the pixels of a bar's line stay under."""
    edge_above: float = 4.0
    """Mean difference of grey levels across the edge of a bar, in the frame where it is clearest."""
    frozen_below: float = 1.0
    """Two frames are the same if no block of 16 x 16 pixels differs by a larger mean (0..255)."""

    def __post_init__(self) -> None:
        check_ranges("annotators.quality", self, num_frames=(1, MANY), short_side_px=(16, 8192))


@dataclass(frozen=True)
class Bars:
    """Black bars as shares of the frame's height (top, bottom) and width (left, right)."""

    top: float
    bottom: float
    left: float
    right: float

    def inside(self, luma_HW: np.ndarray) -> np.ndarray:
        """The picture without its bars."""
        height, width = luma_HW.shape
        rows = slice(round(self.top * height), height - round(self.bottom * height))
        return luma_HW[rows, round(self.left * width) : width - round(self.right * width)]


class QualityAnnotator:
    """Plain facts of a clip's pixels and of its file, each a score of its own."""

    name: ClassVar[str] = "quality"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("videos", "grid_frames")
    config_type: ClassVar[type] = QualityConfig

    def __init__(self, config: QualityConfig) -> None:
        self._config = config

    def load(self) -> None:
        """Needs no model."""

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table quality."""
        return score_batch(clips, self._columns, list)

    def _columns(self, clip: Clip) -> dict[str, Any]:
        config = self._config
        chosen = [self._luma(pixels(f)) for f in frames_of(clip, config.num_frames)]
        bars = find_bars(np.stack(chosen), config)
        return {
            "contrast": float(np.median([bars.inside(luma).std() for luma in chosen]) / 255),
            "letterbox": bars.top + bars.bottom,
            "pillarbox": bars.left + bars.right,
            **{f"bar_{side}": share for side, share in vars(bars).items()},
            "frozen": frozen_share([self._luma(pixels(f)) for f in clip.grid], config.frozen_below),
            "fps": clip.fps,
            **_file_facts(row_of(clip, "videos")),
        }

    def _luma(self, rgb_HW3: np.ndarray) -> np.ndarray:
        """uint8 (H, W) in grey levels, at the size at which frames are compared."""
        luma_HW = cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2GRAY)
        scale = min(1.0, self._config.short_side_px / min(luma_HW.shape))
        return cv2.resize(luma_HW, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _file_facts(video: Mapping[str, Any]) -> dict[str, float | None]:
    width, height, fps, bit_rate = (video[name] for name in ("width", "height", "fps", "bit_rate"))
    return {
        "width": float(width),
        "height": float(height),
        "pixels": float(width * height),
        "aspect": width / height,
        "bits_per_pixel": bit_rate / (width * height * fps) if bit_rate and fps else None,
        "audio": float(video["has_audio"]),
    }


def find_bars(luma_THW: np.ndarray, config: QualityConfig) -> Bars:
    """Bars that all frames share; none where the whole picture is black."""
    top, bottom = _bars_along(luma_THW, config)
    left, right = _bars_along(luma_THW.transpose(0, 2, 1), config)
    return Bars(top, bottom, left, right)


def _bars_along(luma_TLP: np.ndarray, config: QualityConfig) -> tuple[float, float]:
    """Bars before the first and after the last of L lines of P pixels, as shares of L."""
    brightest = np.quantile(luma_TLP, 0.98, axis=2).max(axis=0)
    bright = np.flatnonzero(brightest >= config.black_below)
    if not len(bright):
        return 0.0, 0.0
    num_lines = luma_TLP.shape[1]
    before, after = int(bright[0]), num_lines - 1 - int(bright[-1])
    return tuple(
        lines / num_lines if lines and _edge(facing, lines) >= config.edge_above else 0.0
        for lines, facing in ((before, luma_TLP), (after, luma_TLP[:, ::-1]))
    )


def _edge(luma_TLP: np.ndarray, lines: int) -> float:
    """Mean difference of grey levels across the end of a bar of so many lines, largest over frames."""
    inner = luma_TLP[:, min(lines + _LINES_ACROSS_EDGE, luma_TLP.shape[1]) - 1].astype(np.float32)
    outer = luma_TLP[:, max(lines - _LINES_ACROSS_EDGE, 0)].astype(np.float32)
    return float(np.abs(inner - outer).mean(axis=1).max())


def frozen_share(lumas: Sequence[np.ndarray], below: float) -> float | None:
    """Share of neighbouring pictures that are the same, block by block; None for fewer than two pictures."""
    if len(lumas) < 2:
        return None
    return float(np.mean([_largest_change(a, b) < below for a, b in pairwise(lumas)]))


def _largest_change(a_HW: np.ndarray, b_HW: np.ndarray) -> float:
    """Largest mean absolute difference of any block of the two pictures."""
    columns, rows = (max(1, round(side / _BLOCK_PX)) for side in reversed(a_HW.shape))
    return float(
        cv2.resize(
            cv2.absdiff(a_HW, b_HW).astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA
        ).max()
    )
