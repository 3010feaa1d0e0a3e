"""Captions of a clip's middle frame and of the whole clip, each with the method that wrote it (SVD, section 3.1).

The summary of both is a table of its own; see `summaries`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from curation.annotators.base import Clip, Failed, Outcome, operational
from curation.annotators.batch import first_middle_last, frames_of, pixels, score_batch
from curation.annotators.caption_decoding import DecodingConfig
from curation.annotators.clip_model import EMBEDDED, check_clip, load_clip
from curation.annotators.coca import Caption, CocaCaptioner
from curation.annotators.motion_words import MotionWordsConfig
from curation.annotators.video_captioners import CocaOverFrames, VideoCaptioner, VideoView
from curation.annotators.video_models import VideoModel, VideoModelConfig
from curation.engine.places import RunsOn
from models.weight_files import check_weights
from warehouse.ranges import MANY, check_ranges


@dataclass(frozen=True)
class CaptionsConfig:
    """Who describes the middle frame, and who the clip."""

    model: str = EMBEDDED
    """The CoCa: 'embedded', an open_clip architecture, 'hf-hub:owner/name' or 'local-dir:folder'."""
    pretrained: str | None = None
    """Weights of an architecture: one of open_clip's tags, or a file."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How the CoCa's captions are searched for."""
    num_frames: int = 8
    """Frames of each clip that the clip's caption is made from, spread evenly."""
    motion: MotionWordsConfig = field(default_factory=MotionWordsConfig)
    """When the CoCa's caption of a clip says that something moves."""
    video: VideoModelConfig | None = None
    """The video model that describes the clip; without one the CoCa's captions of the frames vote."""
    batch_size: int = operational(64)
    """Pictures that go through the CoCa at once."""

    def __post_init__(self) -> None:
        check_ranges("annotators.captions", self, num_frames=(1, MANY), batch_size=(1, MANY))


PUBLISHED = CaptionsConfig(
    model="coca_ViT-L-14",
    pretrained="mscoco_finetuned_laion2B-s13B-b90k",
    decoding=DecodingConfig(num_beams=6, min_tokens=5, max_tokens=20, repetition_penalty=1.2),
    video=VideoModelConfig(),
)
"""The paper's kind of captioners: CoCa on the middle frame, a BLIP-2 based video model on the clip."""


class CaptionsAnnotator:
    """Writes both captions of each clip, all clips of a batch together."""

    name: ClassVar[str] = "captions"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("grid_frames", "motion")
    config_type: ClassVar[type] = CaptionsConfig

    def __init__(self, config: CaptionsConfig) -> None:
        self._config = config
        self._coca: CocaCaptioner
        self._video: VideoCaptioner

    @staticmethod
    def check(config: CaptionsConfig) -> None:
        """See LoadsWeights."""
        check_clip(config.model, config.pretrained)
        if config.video is not None:
            check_weights(config.video.model, needs="config.json")

    @staticmethod
    def runs_on(config: CaptionsConfig) -> RunsOn:
        """See ChoosesPlace."""
        return "devices"

    def load(self) -> None:
        """Loads the models; raises WeightsError."""
        config = self._config
        clip = load_clip(config.model, config.pretrained)
        self._coca = CocaCaptioner(clip, config.decoding, config.batch_size)
        if config.video is None:
            self._video = CocaOverFrames(self._coca, config.num_frames, config.motion)
        else:
            self._video = VideoModel(config.video)

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table captions."""
        return score_batch(clips, self._view, self._columns)

    def _view(self, clip: Clip) -> tuple[np.ndarray, VideoView]:
        middle = pixels(first_middle_last(clip)[1])
        shown = frames_of(clip, self._config.num_frames)
        times_s = [(frame.pts - clip.start_pts) * clip.seconds_per_tick for frame in shown]
        frames = [pixels(frame) for frame in shown]
        # A clip too short for a pair of flow frames has no motion, and its caption then has no word of it.
        return middle, VideoView(frames, times_s, clip.rows.get("motion") or None)

    def _columns(self, views: list[tuple[np.ndarray, VideoView]]) -> list[Mapping[str, Any] | Failed]:
        of_frames = self._coca.caption([middle for middle, _ in views])
        of_videos = self._video.caption([video for _, video in views])
        return [
            self._row(frame, video, method)
            for frame, (video, method) in zip(of_frames, of_videos, strict=True)
        ]

    def _row(self, frame: Caption, video: Caption, video_method: str) -> Mapping[str, Any] | Failed:
        if not frame.text and not video.text:
            return Failed("empty_caption", "neither the frame's caption nor the clip's has a word")
        return {
            "frame_caption": frame.text or None,
            "frame_method": f"coca-{self._coca.name}",
            "frame_status": frame.status if frame.text else "failed",
            "video_caption": video.text or None,
            "video_method": video_method,
            "video_status": video.status if video.text else "failed",
        }
