"""Cosines between a clip's frames and its captions: all nine, as SVD has them (section 3.1).

The summary is what a trainer reads, so its mean over the frames is the score. A softmax over one caption, which some
reimplementations take, is 1 whatever the caption says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from curation.annotators.aesthetics import FRAMES
from curation.annotators.base import Clip, Failed, Outcome, operational
from curation.annotators.batch import row_of, score_batch
from curation.annotators.clip_model import EMBEDDED, ClipModel, check_clip, load_clip
from curation.engine.places import RunsOn
from warehouse.ranges import MANY, check_ranges


@dataclass(frozen=True)
class SimilarityConfig:
    """Whose text tower reads the captions: that of the model which embedded the frames."""

    model: str = EMBEDDED
    """As embeddings.model."""
    pretrained: str | None = None
    """As embeddings.pretrained."""
    batch_size: int = operational(256)
    """Captions that go through the model at once."""

    def __post_init__(self) -> None:
        check_ranges("annotators.similarity", self, batch_size=(1, MANY))


class SimilarityAnnotator:
    """Embeds the three captions of each clip and compares them with its three embedded frames."""

    name: ClassVar[str] = "similarity"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("embeddings", "captions", "summaries")
    config_type: ClassVar[type] = SimilarityConfig

    def __init__(self, config: SimilarityConfig) -> None:
        self._config = config
        self._clip: ClipModel

    @staticmethod
    def check(config: SimilarityConfig) -> None:
        """See LoadsWeights."""
        check_clip(config.model, config.pretrained)

    @staticmethod
    def runs_on(config: SimilarityConfig) -> RunsOn:
        """See ChoosesPlace."""
        return "devices"

    def load(self) -> None:
        """Loads the model; raises WeightsError."""
        self._clip = load_clip(self._config.model, self._config.pretrained)

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table similarity."""
        return score_batch(clips, _inputs, self._columns)

    def _columns(
        self, inputs: list[tuple[Mapping[str, Any], list[str | None]]]
    ) -> list[dict[str, Any] | Failed]:
        flat = [caption or "" for _, captions in inputs for caption in captions]
        texts_N3D = self._clip.embed_texts(flat, self._config.batch_size).reshape(len(inputs), 3, -1)
        return [
            self._compare(row, captions, text_3D)
            for (row, captions), text_3D in zip(inputs, texts_N3D, strict=True)
        ]

    def _compare(
        self, row: Mapping[str, Any], captions: Sequence[str | None], text_3D: np.ndarray
    ) -> dict[str, Any] | Failed:
        if row["model"] != self._clip.name:
            return Failed(
                "wrong_space", f"embeddings are of {row['model']!r}, similarity is set to {self._clip.name!r}"
            )
        frames_3D = np.array([row[frame] for frame in FRAMES], np.float32)
        cosines_33 = frames_3D @ text_3D.T
        return {
            "model": self._clip.name,
            "score": float(cosines_33[:, 2].mean()),
            "cosines": [
                None if caption is None else cosine
                for of_frame in cosines_33.tolist()
                for caption, cosine in zip(captions, of_frame, strict=True)
            ],
        }


def _inputs(clip: Clip) -> tuple[Mapping[str, Any], list[str | None]]:
    captions = row_of(clip, "captions")
    summary = row_of(clip, "summaries")
    texts = [captions["frame_caption"], captions["video_caption"], summary["summary"]]
    return row_of(clip, "embeddings"), texts
