"""How much a clip moves: the mean optical flow of the frame pairs inside it (SVD, appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from curation.annotators.base import Clip, Outcome, Skipped
from curation.annotators.batch import Unscorable, row_of, score_batch
from curation.motion import FlowPairs, clip_motion


@dataclass(frozen=True)
class MotionConfig:
    """Nothing to set: the flow's rate, size and algorithm are the scan's."""


class MotionAnnotator:
    """Averages the scan's flow over the pairs of frames that lie wholly inside a clip."""

    name: ClassVar[str] = "motion"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("flow",)
    config_type: ClassVar[type] = MotionConfig

    def __init__(self, config: MotionConfig) -> None:
        self._config = config

    def load(self) -> None:
        """Needs no model."""

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table motion; a clip without a pair of flow frames inside is skipped."""
        return score_batch(clips, _columns, list)


def _columns(clip: Clip) -> dict[str, Any]:
    row = row_of(clip, "flow")
    pairs = FlowPairs(
        np.array(row["pts0"], np.int64),
        np.array(row["pts1"], np.int64),
        *(np.array(row[part], np.float32) for part in ("magnitude", "dx", "dy")),
    )
    motion = clip_motion(pairs, clip.start_pts, clip.end_pts)
    if motion is None:
        raise Unscorable(Skipped("no_flow_pair"))
    return {"score": motion.magnitude, "dx": motion.dx, "dy": motion.dy, "num_pairs": motion.num_pairs}
