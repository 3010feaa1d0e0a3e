"""From cuts to clips: every moment of a video lies in exactly one span, a clip or a span with the reason why not.

Frames get a label (a transition, black, damaged, or none), runs of one label within one scene become spans, and what
has no label becomes clips if its length allows. Lengths are pts, never counts of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray

from curation.cuts.boundaries import Cut
from curation.cuts.detectors import Signals
from warehouse.errors import SettingsError
from warehouse.ranges import MANY, check_ranges

REASONS = {
    "gradual_edge": "part of a fade, dissolve or wipe between two scenes",
    "black": "darker than `ClipConfig.black_below`",
    "damaged": "the decoder marked the frames as damaged",
    "edge_trim": "within `ClipConfig.trim_s` of a cut",
    "too_short": "shorter than `ClipConfig.min_s`",
    "sparse": "too few frames: fewer than `ClipConfig.min_frames`, or one frame lasts longer than `max_s`",
}


@dataclass(frozen=True)
class ClipConfig:
    """Which spans of a scene are clips."""

    min_s: float = 2.0
    """Shortest clip in seconds."""
    max_s: float = 20.0
    """Longest clip in seconds; what is longer is split evenly."""
    trim_s: float = 0.0
    """Seconds left out on either side of every cut."""
    min_frames: int = 2
    """Fewest frames of a clip."""
    black_below: float = 8.0
    """Mean brightness (0..255) under which a frame counts as black."""

    def __post_init__(self) -> None:
        check_ranges("clips", self, trim_s=(0, MANY), min_frames=(1, MANY), black_below=(0, 255))
        if not 0 <= self.min_s <= self.max_s / 2:
            raise SettingsError(
                f"min_s is {self.min_s} and max_s {self.max_s}: expected 0 <= min_s <= max_s / 2, "
                "or splitting a long scene could give clips that are too short"
            )


@dataclass(frozen=True)
class Span:
    """A half-open stretch [start_pts, end_pts) of one scene."""

    start_pts: int
    end_pts: int
    num_frames: int
    scene_index: int
    reason: str | None
    """None for a clip, else one of `REASONS`."""


def spans(signals: Signals, cuts: Sequence[Cut], config: ClipConfig | None = None) -> list[Span]:
    """Spans of a video in order, covering [first pts, end_pts) without gap or overlap; a flash parts nothing."""
    config = config or ClipConfig()
    cuts = [cut for cut in cuts if cut.parts_scenes]
    scene, label = _label_frames(signals, cuts, config)
    changes = np.flatnonzero((np.diff(scene) != 0) | (label[1:] != label[:-1])) + 1
    edges = [0, *changes.tolist(), len(signals.pts)]
    found: list[Span] = []
    for first, stop in pairwise(edges):
        for lo, hi in [(first, stop)] if label[first] else _split(signals, first, stop, config.max_s):
            span = _span(signals, lo, hi, int(scene[first]), str(label[first]) or None)
            found.append(span if span.reason else _judge(span, signals, config))
    return found


def _label_frames(
    signals: Signals, cuts: Sequence[Cut], config: ClipConfig
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Scene and reason ('' for none) of every frame; where two reasons hold, the later of these wins."""
    pts = signals.pts
    label = np.full(len(pts), "", dtype="U16")
    trim = config.trim_s / float(signals.time_base)
    for cut in cuts:
        label[(pts >= cut.start_pts - trim) & (pts < cut.end_pts + trim)] = "edge_trim"
    for cut in cuts:
        label[(pts >= cut.start_pts) & (pts < cut.end_pts)] = "gradual_edge"
    label[signals.brightness < config.black_below] = "black"
    label[signals.damaged] = "damaged"
    scene = np.searchsorted(
        np.array([cut.frame for cut in cuts], np.int64), np.arange(len(pts)), side="right"
    )
    return scene, label


def _split(signals: Signals, first: int, stop: int, max_s: float) -> list[tuple[int, int]]:
    """Frame ranges of [first, stop), as few as can be and even but for a frame, none longer than `max_s`.

    Frames that lie too far apart for that make some longer all the same.
    """
    length_s = signals.seconds(_pts_at(signals, stop) - int(signals.pts[first]))
    fewest = max(1, ceil(length_s / max_s))
    for num_parts in range(fewest, 2 * fewest + 1):  # the length of frames may take a few parts more
        ranges = _even_ranges(signals, first, stop, num_parts)
        if all(signals.seconds(_pts_at(signals, hi) - int(signals.pts[lo])) <= max_s for lo, hi in ranges):
            return ranges
    return _even_ranges(signals, first, stop, fewest)


def _even_ranges(signals: Signals, first: int, stop: int, num_parts: int) -> list[tuple[int, int]]:
    start, end = int(signals.pts[first]), _pts_at(signals, stop)
    wanted = start + (end - start) * np.arange(1, num_parts) / num_parts
    inner = np.unique(first + np.searchsorted(signals.pts[first:stop], wanted))
    return list(pairwise([first, *inner[(inner > first) & (inner < stop)].tolist(), stop]))


def _judge(span: Span, signals: Signals, config: ClipConfig) -> Span:
    """A span without label as a clip, or with the reason that its length gives."""
    if len(signals.pts) == 1:
        return span
    length_s = signals.seconds(span.end_pts - span.start_pts)
    if length_s < config.min_s:
        reason = "too_short"
    elif span.num_frames < config.min_frames or length_s > config.max_s:
        reason = "sparse"
    else:
        return span
    return Span(span.start_pts, span.end_pts, span.num_frames, span.scene_index, reason)


def _span(signals: Signals, first: int, stop: int, scene: int, reason: str | None) -> Span:
    return Span(int(signals.pts[first]), _pts_at(signals, stop), stop - first, scene, reason)


def _pts_at(signals: Signals, index: int) -> int:
    return int(signals.pts[index]) if index < len(signals.pts) else signals.end_pts
