"""From the scan's scores to the cuts of a video; other settings need no new decode.

The cascade: SVD runs content detectors at three frame rates, because a slow fade shows only between frames that lie
far apart; how it merges them is not published. Here a cut found at f frames a second says that the scene changed
within (t - 1/f, t]; intervals that overlap or lie less than `join_s` apart are one change. If a detector that sees
every frame found it, its points are hard cuts; else the whole interval is a gradual one.

Where the scan measured evidence (`curation.cuts.changes`), the evidence decides and the cascade seconds it: low rates
find fades, but motion too, and evidence tells the two apart. Where TransNet V2 looked too (`curation.cuts.transnet`), it
adds what it is sure of and says how far a transition reaches. `benchmarks/cuts.py` compares them all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil

from curation.cuts.detector_rules import Calibration, Level, detections
from curation.cuts.detectors import LevelScores, Signals
from curation.cuts.transitions import EvidenceConfig, Transition, blends, flashes, hard_cuts
from curation.cuts.transnet import ONE, TransNetConfig, transnet_cuts
from warehouse.errors import SettingsError
from warehouse.ranges import MANY, check_ranges


@dataclass(frozen=True)
class CutConfig:
    """Thresholds over what the scan measured."""

    levels: tuple[Level, ...] = (
        Level("content", None, 27.0),
        Level("content", 8.0, 20.0),
        Level("content", 2.0, 27.0),
    )
    """Detectors of the cascade, each with its frame rate and threshold. Where evidence decides, as it does by default,
    they find no cut: their thresholds change only how sure a cut is that they find too."""
    calibration: Calibration | None = None
    """Gives every video thresholds of its own for the content detectors, from its scores; null is the same for all. It
    changes as little as `levels` where evidence decides, and is refused beside other detectors."""
    min_scene_s: float = 0.6
    """Shortest time between two cuts of one detector of `levels`."""
    join_s: float = 0.5
    """Intervals of different detectors that lie closer are one change of scene."""
    evidence: EvidenceConfig | None = field(default_factory=EvidenceConfig)
    """Decides where the scan measured evidence; null leaves it to the levels."""
    transnet: TransNetConfig | None = field(default_factory=TransNetConfig)
    """What TransNet V2 adds where the scan let it look; null is nothing."""

    def __post_init__(self) -> None:
        check_ranges("cuts", self, min_scene_s=(0, MANY), join_s=(0, MANY))
        others = sorted({level.detector for level in self.levels} - {"content"})
        if self.calibration is not None and others:
            raise SettingsError(
                f"cuts.calibration is set and cuts.levels has {', '.join(others)}: its quantile, factor and bounds were "
                "measured for content alone (adaptive compares each frame with its neighbours by itself, threshold is "
                "no difference between frames); set it to null, or keep levels of content"
            )


_SECONDING = ("levels", "calibration", "min_scene_s")
"""Settings of the cascade."""


def seconding_only(config: CutConfig, measured: bool) -> str | None:
    """A warning where settings differ from their defaults that find no cut, since evidence decides; else None.

    Args:
        measured: the scan measures evidence (`scan.evidence`).
    """
    if config.evidence is None or not measured:
        return None
    default = CutConfig()
    changed = [f"cuts.{name}" for name in _SECONDING if getattr(config, name) != getattr(default, name)]
    if not changed:
        return None
    return (
        f"{', '.join(changed)} only change how sure a cut is: measured evidence decides where cuts are (cuts.evidence). "
        "cuts.evidence=null leaves it to the levels"
    )


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
    """`hard` or `gradual`; or `flash`, a flash of light in [start_pts, end_pts) with one scene on both sides."""
    confidence: float
    """0.5 at the threshold, 0.75 at twice the threshold, towards 1; half the doubt for each other finder that agrees."""

    @property
    def parts_scenes(self) -> bool:
        """Whether another scene begins here."""
        return self.type != "flash"


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
    """All cuts and flashes of a video in order of time, none at its first frame."""
    config = config or CutConfig()
    cuts = cascade_cuts(signals, config)
    lit: list[Cut] = []
    if config.evidence is not None and "contrast" in signals.measures:
        cuts = evidence_cuts(signals, cuts, config)
        found = flashes(signals.measures, signals.brightness, config.evidence)
        lit = _apart_from([_cut_of(flash, "flash", signals) for flash in found], cuts, 0)
    if config.transnet is not None and ONE in signals.measures:
        cuts = learned_cuts(signals, cuts, lit, config)
    return sorted([*cuts, *lit], key=lambda cut: cut.frame)


def check_measured(config: CutConfig, measured: Collection[tuple[str, float | None]]) -> None:
    """Raises SettingsError for a detector and rate of the levels that the scan does not measure."""
    for level in config.levels:
        if _wanted(level) not in measured:
            raise SettingsError(
                f"cuts.levels has {level.detector} at {level.fps} fps, but the scan measures {list(measured)}: "
                "scan.level_fps says at which rates content is measured, scan.detectors what else is"
            )


def _wanted(level: Level) -> tuple[str, float | None]:
    return "content" if level.detector == "adaptive" else level.detector, level.fps


def cascade_cuts(signals: Signals, config: CutConfig) -> list[Cut]:
    """Cuts by the levels alone. Raises SettingsError for a detector and rate that the scan did not measure."""
    measured = {(level.measure, level.fps): level for level in signals.levels}
    found: list[_Found] = []
    check_measured(config, measured)
    for level in config.levels:
        found += _detections(measured[_wanted(level)], level, signals, config)
    cuts = [cut for cluster in _clusters(found, config.join_s, signals) for cut in _resolve(cluster, signals)]
    return sorted(cuts, key=lambda cut: cut.frame)


def evidence_cuts(signals: Signals, cascade: Sequence[Cut], config: CutConfig) -> list[Cut]:
    """Cuts by measured evidence; those near one of the cascade are surer."""
    hard = hard_cuts(signals.measures, config.evidence)
    gradual = blends(signals.measures, hard, config.evidence)
    cuts = [_cut_of(change, "hard", signals) for change in hard]
    cuts += [_cut_of(change, "gradual", signals) for change in gradual]
    slack = _ticks(config.join_s, signals)
    return [
        _seconded(cut) if any(_touch(cut, other, slack) for other in cascade) else cut
        for cut in sorted(cuts, key=lambda cut: cut.frame)
    ]


def learned_cuts(signals: Signals, cuts: Sequence[Cut], lit: Sequence[Cut], config: CutConfig) -> list[Cut]:
    """The cuts with what TransNet V2 says of them, and its own where there are none and no flash is.

    A gradual transition that both found reaches as far as the network says.
    """
    learned = [
        _cut_of(change, "hard" if change.start == change.end else "gradual", signals)
        for change in transnet_cuts(signals.measures, config.transnet)
    ]
    slack = _ticks(config.join_s, signals) // 2
    told = [_told(cut, [other for other in learned if _touch(cut, other, slack)]) for cut in cuts]
    return [*told, *_apart_from(learned, [*cuts, *lit], slack)]


def _told(cut: Cut, others: Sequence[Cut]) -> Cut:
    """A cut with what others that touch it say."""
    same = [other for other in others if other.type == cut.type]
    if cut.type == "gradual" and len(same) == 1:
        cut = replace(same[0], confidence=cut.confidence)
    return _seconded(cut) if others else cut


def _apart_from(cuts: Sequence[Cut], others: Sequence[Cut], slack: int) -> list[Cut]:
    return [cut for cut in cuts if not any(_touch(cut, other, slack) for other in others)]


def _ticks(length_s: float, signals: Signals) -> int:
    return round(length_s / float(signals.time_base))


def _touch(cut: Cut, other: Cut, slack: int) -> bool:
    return cut.start_pts - slack <= other.end_pts and other.start_pts <= cut.end_pts + slack


def _seconded(cut: Cut) -> Cut:
    return replace(cut, confidence=(1 + cut.confidence) / 2)


def _detections(scores: LevelScores, level: Level, signals: Signals, config: CutConfig) -> Iterator[_Found]:
    min_ticks = ceil(Fraction(config.min_scene_s).limit_denominator(1_000_000) / signals.time_base)
    limit = level.limit
    if config.calibration is not None and level.detector == "content":
        limit = config.calibration.threshold(scores.score, limit)
    for row, strength in detections(scores, level.detector, limit, min_ticks):
        frame = int(scores.frame[row])
        first = frame if level.fps is None else int(scores.frame[row - 1]) + 1
        yield _Found(first, frame, strength, level.fps is None)


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


def _cut_of(change: Transition, kind: str, signals: Signals) -> Cut:
    return _cut(change.start, change.end, kind, change.strength, signals)


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
