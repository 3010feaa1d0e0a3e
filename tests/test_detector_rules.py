"""The rules of the cascade's detectors beside PySceneDetect's own: the same pixels give the same cuts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from scenedetect import FrameTimecode, detect
from scenedetect.common import Timecode
from scenedetect.detector import SceneDetector
from scenedetect.detectors import (
    AdaptiveDetector,
    ContentDetector,
    HashDetector,
    HistogramDetector,
    ThresholdDetector,
)

from curation.cuts.boundaries import (
    Calibration,
    CutConfig,
    Level,
    cascade_cuts,
    merge_cuts,
    seconding_only,
)
from curation.cuts.detector_rules import DEFAULTS, detections
from curation.cuts.detectors import MEASURES, LevelObserver, LevelScores, Signals
from curation.footage.frames import TimeGrid
from curation.scan import ScanConfig, scan_video
from curation.scan_work import signal_rows
from tests.footage import MILLISECOND, frames_of, natural, write_video
from warehouse.errors import SettingsError

Picture = NDArray[np.uint8]
MIN_SCENE_S = 0.6
THEIRS: dict[str, Callable[[float], SceneDetector]] = {
    "content": lambda limit: ContentDetector(threshold=limit, min_scene_len=MIN_SCENE_S),
    "adaptive": lambda limit: AdaptiveDetector(adaptive_threshold=limit, min_scene_len=MIN_SCENE_S),
    "histogram": lambda limit: HistogramDetector(threshold=limit, min_scene_len=MIN_SCENE_S),
    "hash": lambda limit: HashDetector(threshold=limit, min_scene_len=MIN_SCENE_S),
    "threshold": lambda limit: ThresholdDetector(threshold=limit, min_scene_len=MIN_SCENE_S),
}
OTHER_LIMITS = {"content": 12.0, "adaptive": 2.0, "histogram": 0.05, "hash": 0.2, "threshold": 40.0}
ALL = ScanConfig(
    level_fps=(None,),
    evidence=False,
    detectors=(("histogram", None), ("hash", None), ("threshold", None)),
)


def scenes() -> list[Picture]:
    """Still and moving scenes with hard cuts, one too soon after another, a dissolve, and fades through black."""
    shown: list[Picture] = []
    for seed, count in enumerate((30, 40, 9, 35, 50)):
        field = natural(seed, 72, 128 + count)
        shown += [field[:, i : i + 128] for i in range(count)]
    share = (np.arange(20) + 1) / 21
    after = natural(99, 72, 128)
    shown += [np.round(shown[-1] * (1 - s) + after * s).astype(np.uint8) for s in share]
    light = np.concatenate(
        [np.ones(20), np.linspace(1, 0, 15), np.zeros(7), np.linspace(0, 1, 12), np.ones(30)]
    )
    shown += [np.round(after * level).astype(np.uint8) for level in light]
    shown += [np.zeros((72, 128, 3), np.uint8)] * 6 + [natural(7, 72, 128)] * 30
    return [np.ascontiguousarray(picture) for picture in shown]


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small enough that neither side shrinks it, and coded so that both sides get the very pixels."""
    path = tmp_path_factory.mktemp("rules") / "scenes.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 72, "bgr0"
        for picture in scenes():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def signals(lossless: Path) -> Signals:
    return scan_video(lossless, ALL).signals


def ours(levels: Sequence[LevelScores], detector: str, limit: float, time_base: Fraction) -> list[int]:
    """Frames at which our rule cuts."""
    measure = "content" if detector == "adaptive" else detector
    level = next(level for level in levels if level.measure == measure)
    least = ceil(Fraction(MIN_SCENE_S).limit_denominator(1_000_000) / time_base)
    return [int(level.frame[row]) for row, _ in detections(level, detector, limit, least)]


@pytest.mark.parametrize("detector", THEIRS)
@pytest.mark.parametrize("limits", [DEFAULTS, OTHER_LIMITS], ids=["defaults", "lower"])
def test_cuts_are_those_of_scenedetects_detect(
    lossless: Path, signals: Signals, detector: str, limits: dict[str, float]
) -> None:
    theirs = detect(str(lossless), THEIRS[detector](limits[detector]), backend="pyav")
    expected = [start.frame_num for start, _ in theirs[1:]]
    assert ours(signals.levels, detector, limits[detector], signals.time_base) == expected
    assert len(expected) >= 2


@pytest.mark.parametrize("fps", [8.0, 2.0])
@pytest.mark.parametrize("detector", THEIRS)
def test_at_a_lower_rate_they_are_those_of_a_detector_that_saw_only_its_frames(
    detector: str, fps: float
) -> None:
    """Frames 40 ms apart. Threshold's cut lies between frames of the rate, so it is compared by its count."""
    measure = "content" if detector == "adaptive" else detector
    observer, grid = LevelObserver(fps, MILLISECOND, measure), TimeGrid(fps, MILLISECOND)
    limit = OTHER_LIMITS[detector]
    theirs, expected = THEIRS[detector](limit), []
    for frame in frames_of(scenes()):
        observer.observe(frame)
        if grid.takes(frame.pts):
            now = FrameTimecode(Timecode(frame.pts, MILLISECOND), fps=25.0)
            expected += [cut.frame_num for cut in theirs.process_frame(now, frame.small_bgr)]
    found = ours([observer.finish()], detector, limit, MILLISECOND)
    assert expected
    if detector == "threshold":
        assert len(found) == len(expected)
        assert np.abs(np.subtract(found, expected)).max() <= 25 / fps
    else:
        assert found == expected


@pytest.mark.parametrize("measure", ["histogram", "hash"])
def test_scores_are_theirs(measure: str) -> None:
    from scenedetect import StatsManager

    stats = StatsManager()
    detector = THEIRS[measure](DEFAULTS[measure])
    detector.stats_manager = stats
    observer = LevelObserver(None, MILLISECOND, measure)
    expected = [0.0]
    for frame in frames_of(scenes()):
        observer.observe(frame)
        now = FrameTimecode(frame.index, 25.0)
        detector.process_frame(now, frame.small_bgr)
        if frame.index:
            (key,) = detector.get_metrics()
            (value,) = stats.get_metrics(now, [key])
            expected.append(1 - value if measure == "histogram" else value)
    assert np.allclose(observer.finish().score, expected, atol=1e-6)


def test_every_level_may_stand_in_the_cascade_with_its_own_threshold(signals: Signals) -> None:
    for detector in THEIRS:
        frames = [
            {cut.frame for cut in merge_cuts(signals, CutConfig(levels=(Level(detector, None, limit),)))}
            for limit in (None, OTHER_LIMITS[detector])
        ]
        assert frames[0], detector
        assert all(cut.type == "hard" for cut in merge_cuts(signals, CutConfig(levels=(Level(detector),))))
    both = merge_cuts(signals, CutConfig(levels=(Level("hash"), Level("threshold"))))
    alone = [merge_cuts(signals, CutConfig(levels=(Level(name),))) for name in ("hash", "threshold")]
    assert {cut.frame for cut in both} == {cut.frame for cuts in alone for cut in cuts}


def test_each_measure_is_a_signal_of_its_own(signals: Signals) -> None:
    names = [row["signal"] for row in signal_rows("video", signals)]
    assert set(MEASURES) < set(names)
    assert len(names) == len(set(names))


def test_a_level_that_was_not_measured_is_refused(signals: Signals) -> None:
    with pytest.raises(SettingsError, match=r"hash at 8\.0 fps.*scan\.detectors"):
        cascade_cuts(signals, CutConfig(levels=(Level("hash", 8.0),)))
    with pytest.raises(SettingsError, match="no detector 'edges'; known: content"):
        Level("edges")


@pytest.mark.parametrize("fps", [None, 1.0])
def test_a_video_that_begins_black_is_not_cut_at_its_first_frame(fps: float | None) -> None:
    """100 frames, 25 a second; as the rate sees them, the dark stretch is the first frame alone."""
    observer = LevelObserver(fps, MILLISECOND, "threshold")
    for frame in frames_of([np.full((36, 64, 3), 200 * bool(n), np.uint8) for n in range(100)]):
        observer.observe(frame)
    pts = np.arange(100, dtype=np.int64) * 40
    signals = Signals(
        MILLISECOND, pts, 4000, np.ones(100, np.float32), np.zeros(0, np.int32), (observer.finish(),)
    )
    level = CutConfig(levels=(Level("threshold", fps),), min_scene_s=0.04)
    assert cascade_cuts(signals, level) == []


@pytest.mark.parametrize("detector", DEFAULTS)
@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_a_threshold_that_every_frame_reaches_is_refused(detector: str, threshold: float) -> None:
    with pytest.raises(
        SettingsError, match=f"detector {detector}: its threshold is {threshold:g}.*more than 0"
    ):
        Level(detector, None, threshold)


@pytest.mark.parametrize(("least", "most"), [(0.0, 2.2), (-1.0, 2.2), (3.0, 2.2)])
def test_a_calibration_that_allows_such_a_threshold_is_refused(least: float, most: float) -> None:
    with pytest.raises(SettingsError, match="expected 0 < least <= most"):
        Calibration(least=least, most=most)


def restless(seed: int, count: int, noise: float) -> list[Picture]:
    """Two scenes of one noise level; the second has other colours."""
    generator = np.random.default_rng(seed)
    fields = natural(seed, 72, 128).astype(float), natural(seed + 1, 72, 128).astype(float)
    chosen = (fields[i // (count // 2)] for i in range(count))
    shown = (field + generator.normal(0, noise, field.shape) for field in chosen)
    return [np.clip(picture, 0, 255).astype(np.uint8) for picture in shown]


@pytest.mark.parametrize("detector", ["adaptive", "histogram", "hash", "threshold"])
def test_a_calibration_is_refused_beside_detectors_that_it_was_not_measured_for(detector: str) -> None:
    levels = (Level("content", None), Level(detector, None))
    with pytest.raises(SettingsError, match=f"cuts.levels has {detector}: .* set it to null"):
        CutConfig(levels=levels, calibration=Calibration())
    CutConfig(levels=levels)
    CutConfig(levels=levels[:1], calibration=Calibration())


def test_settings_that_find_no_cut_while_evidence_decides_are_named() -> None:
    assert seconding_only(CutConfig(), measured=True) is None
    changed = CutConfig(levels=(Level("content", None, 10.0),), calibration=Calibration())
    said = seconding_only(changed, measured=True)
    assert said.startswith("cuts.levels, cuts.calibration only change how sure a cut is")
    assert seconding_only(CutConfig(min_scene_s=2.0), measured=True).startswith("cuts.min_scene_s only")
    assert seconding_only(changed, measured=False) is None
    assert seconding_only(replace(changed, evidence=None), measured=True) is None
    assert seconding_only(CutConfig(join_s=1.0), measured=True) is None, "it is evidence's too"


def test_what_is_named_truly_moves_no_cut_and_does_without_evidence(tmp_path: Path) -> None:
    reel = [natural(n // 20, 96, 160) for n in range(80)]
    signals = scan_video(write_video(tmp_path / "cuts.mp4", reel)).signals
    frames = {
        name: [[cut.frame for cut in merge_cuts(signals, config)] for config in (with_evidence, without)]
        for name, with_evidence in {
            "default": CutConfig(),
            "deaf": CutConfig(levels=(Level("content", None, 250.0),)),
            "long": CutConfig(min_scene_s=60.0),
        }.items()
        for without in [replace(with_evidence, evidence=None)]
    }
    assert [by_evidence for by_evidence, _ in frames.values()] == [[20, 40, 60]] * 3
    assert [by_levels for _, by_levels in frames.values()] == [[20, 40, 60], [], []]


def test_calibration_follows_the_scores_of_the_video(tmp_path: Path) -> None:
    """Calm footage gets the lowest threshold, restless footage a higher one, so that its unrest is no cut."""
    calibration = Calibration()
    assert calibration.threshold(np.zeros(100, np.float32), 27.0) == pytest.approx(0.75 * 27)
    assert calibration.threshold(np.full(100, 15, np.float32), 27.0) == pytest.approx(30)
    assert calibration.threshold(np.full(100, 200, np.float32), 27.0) == pytest.approx(2.2 * 27)
    assert calibration.threshold(np.zeros(1, np.float32), 27.0) == 27.0
    noisy = write_video(tmp_path / "noisy.mp4", restless(3, 80, 45), options={"qscale": "1"})
    found = scan_video(noisy, ScanConfig(level_fps=(None,), evidence=False)).signals
    config = CutConfig(levels=(Level(threshold=12.0),), min_scene_s=0)
    assert len(merge_cuts(found, config)) > 20
    calibrated = CutConfig(levels=config.levels, calibration=Calibration(most=5.0, factor=1.2), min_scene_s=0)
    assert [cut.frame for cut in merge_cuts(found, calibrated)] == [40]
