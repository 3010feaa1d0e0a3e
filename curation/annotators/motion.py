"""How much a clip moves: the mean optical flow of the frame pairs inside it (SVD, appendix C), and the camera's share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from curation.annotators.base import Clip, Outcome, Skipped
from curation.annotators.batch import Unscorable, row_of, score_batch
from curation.motion.camera import PARTS, SIGNED, CameraNames, camera_name
from curation.motion.flow import FlowPairs, Motion, clip_motion


@dataclass(frozen=True)
class MotionConfig:
    """The flow's rate, size and algorithm are the scan's."""

    camera: CameraNames = field(default_factory=CameraNames)
    """When the camera counts as static, panning, ..."""


class MotionAnnotator:
    """Averages the scan's flow over the pairs of frames that lie wholly inside a clip."""

    name: ClassVar[str] = "motion"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("flow",)
    config_type: ClassVar[type] = MotionConfig

    def __init__(self, config: MotionConfig) -> None:
        self._config = config

    def load(self) -> None:
        """Needs no model."""

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table motion; a clip without a pair of flow frames inside is skipped."""
        return score_batch(clips, self._columns, list)

    def _columns(self, clip: Clip) -> dict[str, Any]:
        motion = clip_motion(_pairs(row_of(clip, "flow")), clip.start_pts, clip.end_pts)
        if motion is None:
            raise Unscorable(Skipped("no_flow_pair"))
        return {
            "score": motion.magnitude,
            "dx": motion.dx,
            "dy": motion.dy,
            "num_pairs": motion.num_pairs,
            **self._camera(motion),
            "num_camera_pairs": motion.num_camera_pairs,
        }

    def _camera(self, motion: Motion) -> dict[str, Any]:
        if motion.camera is None:
            return dict.fromkeys(("camera", *PARTS))
        parts = asdict(motion.camera)
        signed = {part: parts[part] for part in SIGNED}
        return {"camera": camera_name(motion.camera.camera_motion, signed, self._config.camera), **parts}


def _pairs(row: Any) -> FlowPairs:
    """A video's row of table flow; what is null there is NaN."""
    times = {name: np.array(row[name], np.int64) for name in ("pts0", "pts1")}
    means = (f.name for f in fields(FlowPairs) if f.name not in times)
    return FlowPairs(**times, **{name: np.array(row[name], np.float32) for name in means})
