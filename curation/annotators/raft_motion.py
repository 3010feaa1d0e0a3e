"""How much a clip moves by RAFT, as SVD scored its high-quality set (appendix); in the unit of table motion.

Dear next to Farneback's flow, which the scan measures anyway: about 1.5 s of one core for each half second of a clip
with the small network. So it is off until its weights are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from curation.annotators.base import Clip, GridFrame, Outcome, Skipped
from curation.annotators.batch import Unscorable, pixels, score_batch
from curation.engine.places import RunsOn
from curation.motion.flow import UNIT_SECONDS, in_unit, vector_means
from curation.motion.raft import SIZE, fit_area, load_raft, raft_flow
from warehouse.errors import WeightsError
from warehouse.ranges import check_ranges

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class RaftMotionConfig:
    """Which weights, and at which size."""

    weights: str | None = None
    """Checkpoint of torchvision's raft_small or raft_large, or the authors' raft-small.pth; none: no such table."""
    width: int = SIZE[0]
    """With `height`, the area of the pictures that flow is measured on; each keeps its own shape."""
    height: int = SIZE[1]
    """See `width`."""
    num_updates: int = 12
    """Iterations of the network."""

    def __post_init__(self) -> None:
        check_ranges(
            "annotators.raft_motion", self, width=(128, 8192), height=(128, 8192), num_updates=(1, 1000)
        )

    @property
    def enabled(self) -> bool:
        """Whether curation computes the table."""
        return self.weights is not None


class RaftMotionAnnotator:
    """RAFT flow between neighbouring grid frames of a clip."""

    name: ClassVar[str] = "raft_motion"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("grid_frames",)
    config_type: ClassVar[type] = RaftMotionConfig

    def __init__(self, config: RaftMotionConfig) -> None:
        self._config = config

    @staticmethod
    def check(config: RaftMotionConfig) -> None:
        """See LoadsWeights."""
        _network(config)

    @staticmethod
    def runs_on(config: RaftMotionConfig) -> RunsOn:
        """See ChoosesPlace."""
        return "devices"

    def load(self) -> None:
        """Loads the network, onto the GPU if there is one; raises WeightsError."""
        from models.devices import best_device

        network = _network(self._config)
        self._name = "raft_small" if network.feature_encoder.conv.out_channels == 128 else "raft_large"
        self._network = network.to(best_device())

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table raft_motion; a clip with fewer than two grid frames is skipped."""
        return score_batch(clips, self._columns, list)

    def _columns(self, clip: Clip) -> dict[str, Any]:
        pairs = list(pairwise(clip.grid))
        if not pairs:
            raise Unscorable(Skipped("no_flow_pair"))
        score, dx, dy = np.mean([self._means(*pair, clip.seconds_per_tick) for pair in pairs], axis=0)
        return {"score": score, "dx": dx, "dy": dy, "num_pairs": len(pairs), "network": self._name}

    def _means(self, first: GridFrame, second: GridFrame, seconds_per_tick: float) -> np.ndarray:
        size = self._config.width, self._config.height
        a, b = (fit_area(pixels(frame), size) for frame in (first, second))
        flow_HW2 = raft_flow(self._network, a, b, self._config.num_updates)
        per_unit = float(UNIT_SECONDS) / ((second.pts - first.pts) * seconds_per_tick)
        return vector_means(in_unit(flow_HW2)) * per_unit


def _network(config: RaftMotionConfig) -> nn.Module:
    if config.weights is None:
        raise WeightsError("annotators.raft_motion.weights names no file; name a checkpoint of RAFT")
    return load_raft(config.weights)
