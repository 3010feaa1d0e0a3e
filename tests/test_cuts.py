"""Cuts of the content detectors beside PySceneDetect's own: on the same pixels, and end to end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scenedetect import FrameTimecode, SceneManager, StatsManager, open_video
from scenedetect.common import Timecode
from scenedetect.detector import SceneDetector
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from curation.cuts.boundaries import CutConfig
from curation.cuts.detector_rules import adaptive_cuts, content_cuts
from curation.cuts.detectors import LevelObserver
from curation.footage.frames import Decoder, Frame, Scaler, TimeGrid
from curation.footage.media import open_video as open_media
from curation.footage.media import probe_opened
from curation.scan import ScanConfig, _sizes, scan_video

MIN_SCENE_S = CutConfig().min_scene_s
RATES = tuple((level.fps, level.limit) for level in CutConfig().levels)


@dataclass(frozen=True)
class Theirs:
    """A detector of PySceneDetect that is shown the frames of one rate."""

    detector: SceneDetector
    grid: TimeGrid | None
    cuts: list[int]

    def observe(self, frame: Frame, time_base: Fraction, start_pts: int) -> None:
        if self.grid is None or self.grid.takes(frame.pts):
            time = FrameTimecode(Timecode(frame.pts - start_pts, time_base), fps=25.0)
            found = self.detector.process_frame(time, frame.small_bgr)
            self.cuts.extend(cut.pts + start_pts for cut in found)


def frames(path: Path) -> Iterator[tuple[Frame, Decoder]]:
    with open_media(path) as media:
        decoder, scaler, sizes = Decoder(media), Scaler(), None
        for decoded in decoder:
            sizes = sizes or _sizes(probe_opened(media, decoded.rotation), decoded, ScanConfig())
            yield Frame(decoded, sizes, scaler), decoder


def cuts_on_the_same_pixels(path: Path) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """pts of the cuts by detector: ours, and theirs. A detector that was shown less than it looks back on says none."""
    ours: dict[float | None, LevelObserver] = {}
    theirs: dict[str, Theirs] = {}
    for frame, decoder in frames(path):
        base = decoder.time_base
        if not ours:
            start = frame.pts
            ours = {fps: LevelObserver(fps, base) for fps, _ in RATES}
            for fps, threshold in RATES:
                detector = ContentDetector(threshold=threshold, min_scene_len=MIN_SCENE_S)
                theirs[f"content {fps}"] = Theirs(detector, TimeGrid(fps, base) if fps else None, [])
            theirs["adaptive"] = Theirs(AdaptiveDetector(min_scene_len=MIN_SCENE_S), None, [])
        for observer in ours.values():
            observer.observe(frame)
        for their in theirs.values():
            their.observe(frame, base, start)
    levels = {fps: observer.finish() for fps, observer in ours.items()}
    min_ticks = least_ticks(base)
    found = {
        f"content {fps}": levels[fps].pts[content_cuts(levels[fps].score, levels[fps].pts, at, min_ticks)]
        for fps, at in RATES
    }
    native = levels[None]
    found["adaptive"] = native.pts[adaptive_cuts(native.score, native.pts, 3.0, min_ticks)]
    return {n: pts.tolist() for n, pts in found.items()}, {n: t.cuts for n, t in theirs.items()}


def least_ticks(time_base: Fraction) -> int:
    return ceil(Fraction(MIN_SCENE_S).limit_denominator(1_000_000) / time_base)


def films(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "videos").rglob("*") if p.is_file() and p.suffix != ".srt")


def test_the_same_pixels_give_the_same_cuts(test_data: Path) -> None:
    """On a few files that cover many cuts, none, variable rate and B-frames; all files in the long test."""
    paths = films(test_data)
    assert len(paths) > 20
    assert compare(paths[::9]) >= 5


@pytest.mark.long
def test_the_same_pixels_give_the_same_cuts_on_every_file(test_data: Path) -> None:
    assert compare(films(test_data)) >= 100


def compare(paths: list[Path]) -> int:
    """Number of cuts on which both agree; fails where they do not."""
    count = 0
    for path in paths:
        ours, theirs = cuts_on_the_same_pixels(path)
        assert ours == theirs, path.name
        count += sum(map(len, ours.values()))
    return count


@pytest.mark.long
def test_end_to_end_no_more_than_one_cut_in_twenty_differs(test_data: Path) -> None:
    """PySceneDetect reads and shrinks the frames itself; each cut that only one finds is listed with both scores."""
    total, differ = 0, []
    for path in films(test_data):
        ours, theirs = our_cuts(path), their_cuts(path)
        total += max(len(ours.cuts), len(theirs.cuts))
        differ += differing(path.name, ours, theirs)
    print(f"{len(differ)} of {total} cuts differ", *differ, sep="\n")
    assert total >= 50
    assert len(differ) <= 0.05 * total, differ


def test_a_differing_cut_is_listed_with_both_scores(test_data: Path) -> None:
    """A cut that a stricter threshold misses on our side: its line has the score that each side gave the frame."""
    path = test_data / "videos" / "bikes.mp4"
    ours, theirs = our_cuts(path), their_cuts(path)
    assert differing(path.name, ours, theirs) == []
    weakest = min(theirs.cuts, key=theirs.score.get)
    lines = differing(path.name, our_cuts(path, threshold=near(ours.score, weakest) + 0.1), theirs)
    assert len(lines) == 1
    said = re.fullmatch(r"bikes\.mp4 ([\d.]+) s: ours ([\d.]+), theirs ([\d.]+)", lines[0])
    assert said is not None, lines
    time_s, our_score, their_score = map(float, said.groups())
    assert time_s == pytest.approx(weakest, abs=1e-3)
    assert their_score == pytest.approx(theirs.score[weakest], abs=0.01)
    assert our_score == pytest.approx(their_score, abs=2)


class Scored(NamedTuple):
    """Times of cuts in seconds from the first frame, the content score by time, and how long a frame lasts."""

    cuts: list[float]
    score: dict[float, float]
    frame_s: float


def differing(name: str, ours: Scored, theirs: Scored) -> list[str]:
    """A line for each cut that only one side has."""
    lone = [t for t in ours.cuts if not any(abs(t - other) <= theirs.frame_s for other in theirs.cuts)]
    lone += [t for t in theirs.cuts if not any(abs(t - other) <= theirs.frame_s for other in ours.cuts)]
    return [
        f"{name} {t:.3f} s: ours {near(ours.score, t):.2f}, theirs {near(theirs.score, t):.2f}" for t in lone
    ]


def our_cuts(path: Path, threshold: float = 27.0) -> Scored:
    signals = scan_video(path).signals
    native = next(level for level in signals.levels if level.fps is None)
    seconds = ((native.pts - native.pts[0]) * float(signals.time_base)).tolist()
    rows = content_cuts(native.score, native.pts, threshold, least_ticks(signals.time_base))
    score = dict(zip(seconds, native.score.tolist(), strict=True))
    return Scored([seconds[row] for row in rows], score, float(np.median(np.diff(seconds))))


class Kept(ContentDetector):
    """Their detector, which notes the time and the statistics of every frame that it scored."""

    def __init__(self, stats: StatsManager) -> None:
        super().__init__(threshold=27.0, min_scene_len=MIN_SCENE_S)
        self.scored: dict[float, float] = {}
        self._kept = stats

    def process_frame(self, timecode: FrameTimecode, frame_img: np.ndarray) -> list[FrameTimecode]:
        found = super().process_frame(timecode, frame_img)
        if self._kept.metrics_exist(timecode, ["content_val"]):
            (self.scored[timecode.seconds],) = self._kept.get_metrics(timecode, ["content_val"])
        return found


def their_cuts(path: Path) -> Scored:
    stats = StatsManager()
    manager, detector = SceneManager(stats), Kept(stats)
    manager.add_detector(detector)
    video = open_video(str(path), backend="pyav")
    manager.detect_scenes(video)
    scenes = manager.get_scene_list()
    start = scenes[0][0].seconds if scenes else 0.0
    score = {t - start: value for t, value in detector.scored.items()}
    return Scored(
        [scene[0].seconds - start for scene in scenes[1:]], score, 1 / float(video.frame_rate) + 1e-3
    )


def near(score: dict[float, float], time_s: float) -> float:
    """The largest score within a tenth of a second."""
    return max((s for t, s in score.items() if abs(t - time_s) < 0.1), default=float("nan"))
