"""CLIP image embeddings of a clip's first, middle and last frame (SVD, section 3.1), for those who read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from curation.annotators.base import Clip, Outcome, operational
from curation.annotators.batch import first_middle_last, pixels, score_batch
from curation.annotators.clip_model import EMBEDDED, ClipModel, check_clip, load_clip
from curation.engine.places import RunsOn
from warehouse.ranges import MANY, check_ranges


@dataclass(frozen=True)
class EmbeddingsConfig:
    """Which model embeds."""

    model: str = EMBEDDED
    """'embedded', an open_clip architecture, 'hf-hub:owner/name' or 'local-dir:folder'."""
    pretrained: str | None = None
    """Weights of an architecture: one of open_clip's tags, or a file."""
    batch_size: int = operational(64)
    """Pictures that go through the model at once."""

    def __post_init__(self) -> None:
        check_ranges("annotators.embeddings", self, batch_size=(1, MANY))


class EmbeddingsAnnotator:
    """Embeds three frames of each clip, all clips of a batch together."""

    name: ClassVar[str] = "embeddings"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("grid_frames",)
    config_type: ClassVar[type] = EmbeddingsConfig

    def __init__(self, config: EmbeddingsConfig) -> None:
        self._config = config
        self._clip: ClipModel

    @staticmethod
    def check(config: EmbeddingsConfig) -> None:
        """See LoadsWeights."""
        check_clip(config.model, config.pretrained)

    @staticmethod
    def runs_on(config: EmbeddingsConfig) -> RunsOn:
        """See ChoosesPlace."""
        return "devices"

    def load(self) -> None:
        """Loads the model; raises WeightsError."""
        self._clip = load_clip(self._config.model, self._config.pretrained)

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table embeddings."""
        return score_batch(clips, _pictures, self._columns)

    def _columns(self, pictures: list[list[np.ndarray]]) -> list[dict[str, Any]]:
        flat = [picture for three in pictures for picture in three]
        embedded_N3D = self._clip.embed_images(flat, self._config.batch_size).reshape(len(pictures), 3, -1)
        return [
            {"model": self._clip.name, "first": first, "middle": middle, "last": last}
            for first, middle, last in embedded_N3D.tolist()
        ]


def _pictures(clip: Clip) -> list[np.ndarray]:
    return [pixels(frame) for frame in first_middle_last(clip)]
