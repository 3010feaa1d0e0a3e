"""Cuts of the content detectors beside PySceneDetect's own: on the same pixels, and end to end."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from scenedetect import FrameTimecode, SceneManager, StatsManager, open_video
from scenedetect.common import Timecode
from scenedetect.detector import SceneDetector
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from curation.cut_detectors import LevelObserver
from curation.cuts import CutConfig, adaptive_cuts, content_cuts
from curation.frames import Decoder, Frame, Scaler, TimeGrid
from curation.media import open_video as open_media
from curation.media import probe_opened
from curation.scan import ScanConfig, _sizes, scan_video

MIN_SCENE_S = CutConfig().min_scene_s
RATES = CutConfig().thresholds


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
    found["adaptive"] = native.pts[adaptive_cuts(native.score, native.pts, 3.0, 15.0, min_ticks)]
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
        ours, score = our_cuts(path)
        theirs, their_score, frame_s = their_cuts(path)
        total += max(len(ours), len(theirs))
        lone = [t for t in ours if not any(abs(t - other) <= frame_s for other in theirs)]
        lone += [t for t in theirs if not any(abs(t - other) <= frame_s for other in ours)]
        differ += [
            f"{path.name} {t:.3f} s: ours {near(score, t):.2f}, theirs {near(their_score, t):.2f}"
            for t in lone
        ]
    print(f"{len(differ)} of {total} cuts differ", *differ, sep="\n")
    assert total >= 50
    assert len(differ) <= 0.05 * total, differ


def our_cuts(path: Path) -> tuple[list[float], dict[float, float]]:
    signals = scan_video(path).signals
    native = next(level for level in signals.levels if level.fps is None)
    seconds = ((native.pts - native.pts[0]) * float(signals.time_base)).tolist()
    rows = content_cuts(native.score, native.pts, 27.0, least_ticks(signals.time_base))
    return [seconds[row] for row in rows], dict(zip(seconds, native.score.tolist(), strict=True))


def their_cuts(path: Path) -> tuple[list[float], dict[float, float], float]:
    stats = StatsManager()
    manager = SceneManager(stats)
    manager.add_detector(ContentDetector(threshold=27.0, min_scene_len=MIN_SCENE_S))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        video = open_video(str(path), backend="pyav")
        manager.detect_scenes(video)
    scenes = manager.get_scene_list()
    start = scenes[0][0].seconds if scenes else 0.0
    cuts = [scene[0].seconds - start for scene in scenes[1:]]
    known = getattr(stats, "_frame_metrics", {})
    score = {t.seconds - start: m["content_val"] for t, m in known.items() if "content_val" in m}
    return cuts, score, 1 / float(video.frame_rate) + 1e-3


def near(score: dict[float, float], time_s: float) -> float:
    """The largest score within a tenth of a second."""
    return max((s for t, s in score.items() if abs(t - time_s) < 0.1), default=float("nan"))
