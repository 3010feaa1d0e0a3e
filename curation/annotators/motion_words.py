"""What optical flow can say in words: whether and which way the picture moves. A single frame cannot show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MotionWordsConfig:
    """From which numbers of table motion a word follows."""

    still_below: float = 0.015
    """Below this score nothing moves. Encoded shots of the reel score at most 0.002 where nothing does and at least 0.017
    where something does; a fixed camera's noise on real footage reaches 0.03."""
    directed_above: float = 0.4
    """A direction is named where the mean flow vector has at least this share of the mean length of the vectors;
    what grows, turns or moves both ways has less."""


def motion_words(motion: Mapping[str, Any], config: MotionWordsConfig) -> str:
    """'standing still', 'moving', or 'moving left', 'right', 'up' or 'down'; `motion` is a row of that table."""
    score, dx, dy = motion["score"], motion["dx"], motion["dy"]
    if score < config.still_below:
        return "standing still"
    if math.hypot(dx, dy) < config.directed_above * score:
        return "moving"
    if abs(dx) >= abs(dy):
        return "moving right" if dx > 0 else "moving left"
    return "moving down" if dy > 0 else "moving up"


def with_motion(caption: str, words: str) -> str:
    """The words behind what the caption begins with, which is what moves: before its first 'on', else at its end."""
    subject, on, place = caption.partition(" on ")
    return f"{subject} {words}{on}{place}"
