"""What a clip can be recognised by after it was encoded again: a perceptual hash and the colours of its grid frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from curation.annotators.base import Clip, Outcome, Skipped
from curation.annotators.batch import Unscorable, frames_of, pixels, score_batch
from curation.selection.perceptual_hash import picture_hash
from warehouse.ranges import MANY, check_ranges

COLOUR_PX = 8
"""Side of the tiny picture that keeps a frame's colours."""


@dataclass(frozen=True)
class FingerprintsConfig:
    """How much of a clip is looked at."""

    max_frames: int = 40
    """Most frames of a clip, spread evenly; the time grid's 2 fps and the longest clip's 20 s give 40."""

    def __post_init__(self) -> None:
        check_ranges("annotators.fingerprints", self, max_frames=(1, MANY))


class FingerprintsAnnotator:
    """Hashes every grid frame of a clip; plain ones, in which there is nothing to recognise, are left out."""

    name: ClassVar[str] = "fingerprints"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("grid_frames",)
    config_type: ClassVar[type] = FingerprintsConfig

    def __init__(self, config: FingerprintsConfig) -> None:
        self._config = config

    def load(self) -> None:
        """Needs no model."""

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table fingerprints; a clip of plain pictures alone is skipped."""
        return score_batch(clips, self._columns, list)

    def _columns(self, clip: Clip) -> dict[str, Any]:
        pictures = [pixels(frame) for frame in frames_of(clip, self._config.max_frames)]
        hashes = [picture_hash(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)) for rgb in pictures]
        found = [(hash_, rgb) for hash_, rgb in zip(hashes, pictures, strict=True) if hash_ is not None]
        if not found:
            raise Unscorable(Skipped("no_structure"))
        return {
            "hashes": [hash_ for hash_, _ in found],
            "colours": np.stack([colours(rgb) for _, rgb in found]).tobytes(),
        }


def colours(rgb_HW3: np.ndarray) -> np.ndarray:
    """uint8 (COLOUR_PX, COLOUR_PX, 3): the picture's mean colours."""
    return cv2.resize(rgb_HW3, (COLOUR_PX, COLOUR_PX), interpolation=cv2.INTER_AREA)
