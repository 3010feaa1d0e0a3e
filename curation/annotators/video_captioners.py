"""Who describes a whole clip: the interface, and the captioner that needs no video model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from curation.annotators.coca import Caption, CocaCaptioner
from curation.annotators.motion_words import MotionWordsConfig, motion_words, with_motion


@dataclass(frozen=True)
class VideoView:
    """What a video captioner is shown of a clip."""

    frames_HW3: Sequence[np.ndarray]
    """uint8 RGB, spread evenly over the clip, in order; at least one."""
    times_s: Sequence[float]
    """When each of them is shown, in seconds from the start of the clip; increasing."""
    motion: Mapping[str, Any] | None
    """The clip's row in table motion, if it has one."""


class VideoCaptioner(Protocol):
    """Describes clips."""

    def caption(self, videos: Sequence[VideoView]) -> list[tuple[Caption, str]]:
        """Each clip's caption and the method that made it, in order."""


class CocaOverFrames:
    """Lets a CoCa's captions of the frames vote, and adds what the flow says about motion."""

    def __init__(self, coca: CocaCaptioner, num_frames: int, motion: MotionWordsConfig) -> None:
        self._coca = coca
        self._motion = motion
        self._method = f"coca-{coca.name}-{num_frames}-frames"

    def caption(self, videos: Sequence[VideoView]) -> list[tuple[Caption, str]]:
        """See VideoCaptioner."""
        captions = iter(self._coca.caption([frame for video in videos for frame in video.frames_HW3]))
        return [self._of_clip([next(captions) for _ in video.frames_HW3], video.motion) for video in videos]

    def _of_clip(self, captions: list[Caption], motion: Mapping[str, Any] | None) -> tuple[Caption, str]:
        chosen = elect(captions)
        if motion is None or not chosen.text:
            return chosen, self._method
        text = with_motion(chosen.text, motion_words(motion, self._motion))
        return replace(chosen, text=text), f"{self._method}+flow"


def elect(captions: Sequence[Caption]) -> Caption:
    """The caption that most frames have; of those with as many votes, the one that its model finds likeliest."""
    votes = Counter(caption.text for caption in captions)
    return max(captions, key=lambda caption: (votes[caption.text], caption.mean_log_prob or 0.0))
