"""From the scan's scores to the cuts of a video; other settings need no new decode.

The cascade: SVD runs content detectors at three frame rates, because a slow fade shows only between frames that lie
far apart; how it merges them is not published. Here a cut found at f frames a second says that the scene changed
within (t - 1/f, t]; intervals that overlap or lie less than `join_s` apart are one change. If a detector that sees
every frame found it, its points are hard cuts; else the whole interval is a gradual one.

Where the scan measured evidence (`curation.changes`), the evidence decides and the cascade seconds it: low rates
find fades, but motion too, and evidence tells the two apart. `benchmarks/cuts.py` compares them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray

from curation.cut_detectors import LevelScores, Signals
from curation.transitions import EvidenceConfig, blends, hard_cuts
from warehouse.errors import SettingsError


@dataclass(frozen=True)
class CutConfig:
    """Thresholds over what the scan measured."""

    thresholds: tuple[tuple[float | None, float], ...] = ((None, 27.0), (8.0, 20.0), (2.0, 27.0))
    """(frame rate, content score from which a frame starts a new scene); None is every frame."""
    min_scene_s: float = 0.6
    """Shortest time between two cuts of one content detector."""
    join_s: float = 0.5
    """Intervals of different detectors that lie closer are one change of scene."""
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    """Decides where the scan measured evidence."""


@dataclass(frozen=True)
class Cut:
    """A change of scene."""

    frame: int
    """Index of the first frame that is wholly of the new scene, in presentation order."""
    pts: int
    time_s: float
    """Seconds from the first frame of the video to `frame`."""
    start_pts: int
    """Frames in [start_pts, end_pts) belong to the transition; empty for a hard cut."""
    end_pts: int
    type: str
    """`hard` or `gradual`."""
    confidence: float
    """0.5 at the threshold, 0.75 at twice the threshold, towards 1; half the doubt where the cascade agrees."""


@dataclass(frozen=True)
class _Found:
    """One detection: the first frame after the change, and the first that may already be part of it."""

    first: int
    frame: int
    strength: float
    """Score over threshold, at least 1."""
    exact: bool
    """Found by a detector that saw every frame."""


def merge_cuts(signals: Signals, config: CutConfig | None = None) -> list[Cut]:
    """All cuts of a video in order of time, none at its first frame."""
    config = config or CutConfig()
    cascade = cascade_cuts(signals, config)
    return evidence_cuts(signals, cascade, config) if signals.measures else cascade


def cascade_cuts(signals: Signals, config: CutConfig) -> list[Cut]:
    """Cuts by the content detectors alone. Raises SettingsError for a rate that the scan did not measure."""
    levels = {level.fps: level for level in signals.levels}
    missing = [fps for fps, _ in config.thresholds if fps not in levels]
    if missing:
        raise SettingsError(f"thresholds for {missing} fps, but the scan measured {sorted(map(str, levels))}")
    found: list[_Found] = []
    for fps, threshold in config.thresholds:
        found += _detections(levels[fps], threshold, config.min_scene_s, signals)
    cuts = [cut for cluster in _clusters(found, config.join_s, signals) for cut in _resolve(cluster, signals)]
    return sorted(cuts, key=lambda cut: cut.frame)


def evidence_cuts(signals: Signals, cascade: Sequence[Cut], config: CutConfig) -> list[Cut]:
    """Cuts by measured evidence; those near one of the cascade are surer."""
    hard = hard_cuts(signals.measures, config.evidence)
    gradual = blends(signals.measures, hard, config.evidence)
    cuts = [_cut(change.start, change.end, "hard", change.strength, signals) for change in hard]
    cuts += [_cut(change.start, change.end, "gradual", change.strength, signals) for change in gradual]
    slack = round(config.join_s / float(signals.time_base))
    return [
        _seconded(cut) if any(_touch(cut, other, slack) for other in cascade) else cut
        for cut in sorted(cuts, key=lambda cut: cut.frame)
    ]


def _touch(cut: Cut, other: Cut, slack: int) -> bool:
    return cut.start_pts - slack <= other.end_pts and other.start_pts <= cut.end_pts + slack


def _seconded(cut: Cut) -> Cut:
    return replace(cut, confidence=(1 + cut.confidence) / 2)


def content_cuts(
    score: NDArray[np.float32], pts: NDArray[np.int64], threshold: float, min_ticks: int
) -> list[int]:
    """Rows at which PySceneDetect's ContentDetector cuts: those whose score reaches `threshold`.

    Its rule for cuts closer than `min_ticks`, after the first one of the video: they are merged, and the last one of
    them cuts once they have lasted that long and as much time without any has passed.
    """
    above = score >= threshold
    if min_ticks <= 0:
        return np.flatnonzero(above).tolist()
    cuts: list[int] = []
    last, merging_since = 0, None
    times = pts.tolist()
    for row, is_above in enumerate(above.tolist()):
        long_enough = times[row] - times[last] >= min_ticks
        if is_above:
            last = row
        if merging_since is not None:
            if long_enough and not is_above and times[last] - times[merging_since] >= min_ticks:
                merging_since = None
                cuts.append(last)
        elif is_above and long_enough:
            cuts.append(row)
        elif is_above and cuts:
            merging_since = row
    return cuts


def adaptive_cuts(
    score: NDArray[np.float32],
    pts: NDArray[np.int64],
    ratio: float,
    min_score: float,
    min_ticks: int,
    width: int = 2,
) -> list[int]:
    """Rows at which PySceneDetect's AdaptiveDetector cuts.

    A score of at least `min_score` that is `ratio` times the mean of its `width` neighbours on either side, at least
    `min_ticks` after the cut before (after the first frame, for the first).
    """
    if len(score) < 2 * width + 1:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(score.astype(np.float64), 2 * width + 1)
    target = windows[:, width]
    around = np.delete(windows, width, axis=1).sum(1) / (2.0 * width)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(np.abs(around) < 1e-5, np.where(target >= min_score, 255.0, 0.0), target / around)
    cuts: list[int] = []
    last_pts = int(pts[0])
    for row in (np.flatnonzero((ratios >= ratio) & (target >= min_score)) + width).tolist():
        if pts[row] - last_pts >= min_ticks:
            cuts.append(row)
            last_pts = int(pts[row])
    return cuts


def _detections(
    level: LevelScores, threshold: float, min_scene_s: float, signals: Signals
) -> Iterator[_Found]:
    min_ticks = ceil(Fraction(min_scene_s).limit_denominator(1_000_000) / signals.time_base)
    for row in content_cuts(level.score, level.pts, threshold, min_ticks):
        first = int(level.frame[row]) if level.fps is None else int(level.frame[row - 1]) + 1
        yield _Found(first, int(level.frame[row]), float(level.score[row]) / threshold, level.fps is None)


def _clusters(found: list[_Found], join_s: float, signals: Signals) -> Iterator[list[_Found]]:
    cluster: list[_Found] = []
    reach = 0
    for item in sorted(found, key=lambda item: (item.first, item.frame)):
        gap = signals.seconds(int(signals.pts[item.first]) - int(signals.pts[reach]))
        if cluster and gap >= join_s:
            yield cluster
            cluster, reach = [], 0
        cluster.append(item)
        reach = max(reach, item.frame)
    if cluster:
        yield cluster


def _resolve(cluster: list[_Found], signals: Signals) -> list[Cut]:
    exact = [item for item in cluster if item.exact]
    if exact:
        return [_cut(item.frame, item.frame, "hard", item.strength, signals) for item in exact]
    first, last = min(item.first for item in cluster), max(item.frame for item in cluster)
    return [_cut(first, last, "gradual", max(item.strength for item in cluster), signals)]


def _cut(first: int, frame: int, kind: str, strength: float, signals: Signals) -> Cut:
    pts = int(signals.pts[frame])
    return Cut(
        frame=frame,
        pts=pts,
        time_s=signals.seconds(pts - int(signals.pts[0])),
        start_pts=int(signals.pts[first]),
        end_pts=pts,
        type=kind,
        confidence=1.0 - 0.5 / strength,
    )
