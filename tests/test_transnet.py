"""The scan's TransNet V2 beside the package's own prediction, and what its chances say of known footage."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from curation.cuts.boundaries import CutConfig, merge_cuts
from curation.cuts.changes import Measure
from curation.cuts.clips import spans
from curation.cuts.detectors import Signals
from curation.cuts.transitions import Transition
from curation.cuts.transnet import MANY, ONE, TransNetConfig, TransNetObserver, load_network, transnet_cuts
from curation.scan import ScanConfig, scan_video
from curation.scan_work import signal_rows
from tests.footage import frames_of, natural, texture, write_video


def pictures(count: int) -> list[np.ndarray]:
    """Scenes of 20 frames, of the size that the network sees."""
    return [texture(index // 20, 27, 48) for index in range(count)]


@pytest.mark.parametrize("count", [1, 49, 50, 51, 130])
def test_chances_are_those_of_the_package_for_the_same_frames(count: int) -> None:
    shown = pictures(count)
    observer = TransNetObserver()
    for frame in frames_of(shown):
        observer.observe(frame)
    ours = {measure.name: measure for measure in observer.finish()}
    theirs = load_network().predict_frames(torch.from_numpy(np.stack(shown)), quiet=True)
    for name, chance in zip((ONE, MANY), theirs, strict=True):
        assert ours[name].frame.tolist() == list(range(count))
        assert np.allclose(ours[name].value, chance.numpy(), atol=1e-6)
    if count == 130:
        assert np.flatnonzero(ours[ONE].value > 0.5).tolist() == [19, 39, 59, 79, 99, 119]


def test_loading_the_network_leaves_the_process_as_it_was() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    strict = torch.are_deterministic_algorithms_enabled()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    load_network()
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert torch.are_deterministic_algorithms_enabled() == strict


def measures(one: dict[int, float], many: dict[int, float], count: int = 40) -> dict[str, Measure]:
    """Chances of some frames; all others have none."""
    frame = np.arange(count, dtype=np.int32)
    found = {}
    for name, chances in ((ONE, one), (MANY, many)):
        value = np.zeros(count, np.float32)
        value[list(chances)] = list(chances.values())
        found[name] = Measure(name, frame, frame.astype(np.int64), value)
    return found


@pytest.mark.parametrize(
    ("one", "many", "expected"),
    [
        ({9: 0.9}, {9: 0.9}, [(10, 10)]),
        ({9: 0.5}, {9: 0.9}, []),
        ({9: 0.75, 10: 0.9}, {9: 0.9, 10: 0.9}, [(11, 11)]),
        ({15: 0.9}, dict.fromkeys(range(10, 20), 0.5), [(10, 20)]),
        ({12: 0.9, 17: 0.8}, dict.fromkeys(range(10, 20), 0.5), [(10, 20)]),
        ({9: 0.9, 29: 0.9}, {}, [(10, 10), (30, 30)]),
        ({38: 0.9}, dict.fromkeys(range(30, 40), 0.5), []),
    ],
    ids=["hard", "weak", "peak", "gradual", "one transition", "unmarked", "at the end"],
)
def test_cuts_from_chances(one: dict, many: dict, expected: list[tuple[int, int]]) -> None:
    found = transnet_cuts(measures(one, many), TransNetConfig(threshold=0.7, extent=0.2))
    assert [(change.start, change.end) for change in found] == expected
    assert all(change.strength >= 1 for change in found)


def test_strength_is_the_chance_over_the_threshold() -> None:
    (change,) = transnet_cuts(measures({9: 0.8}, {}), TransNetConfig(threshold=0.4))
    assert change == Transition(10, 10, pytest.approx(2))


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Signals:
    """A cut at frame 40, a dissolve over frames 80 to 99; the pictures of all three scenes have one colour mix."""
    a, b, c = (natural(seed, 96, 160).astype(float) for seed in (1, 2, 3))
    share = np.clip((np.arange(140) - 79) / 21, 0, 1)
    shown = [a] * 40 + [b * (1 - s) + c * s for s in share[40:]]
    video = tmp_path_factory.mktemp("transnet") / "video.mp4"
    write_video(video, [picture.astype(np.uint8) for picture in shown])
    return scan_video(video, ScanConfig(transnet=True, evidence=False, level_fps=(None,))).signals


def test_alone_it_finds_cuts_and_dissolves_with_their_type(signals: Signals) -> None:
    cuts = merge_cuts(signals, CutConfig(levels=(), evidence=None, transnet=TransNetConfig(threshold=0.4)))
    assert [(cut.type, cut.frame) for cut in cuts] == [("hard", 40), ("gradual", pytest.approx(100, abs=2))]
    assert cuts[1].start_pts < cuts[1].end_pts
    assert all(0.5 <= cut.confidence < 1 for cut in cuts)
    assert {span.reason for span in spans(signals, cuts)} >= {"gradual_edge"}


def test_as_a_level_it_seconds_what_others_found_and_adds_the_rest(signals: Signals) -> None:
    config = CutConfig(levels=CutConfig().levels[:1], transnet=TransNetConfig(threshold=0.4))
    (hard,) = merge_cuts(signals, CutConfig(levels=config.levels, transnet=None))
    both = merge_cuts(signals, config)
    assert [cut.type for cut in both] == ["hard", "gradual"]
    assert (both[0].frame, both[0].pts) == (hard.frame, hard.pts)
    assert both[0].confidence == pytest.approx((1 + hard.confidence) / 2)


def test_its_chances_are_rows_of_frame_scores(signals: Signals) -> None:
    names = {row["signal"] for row in signal_rows("video", signals)}
    assert {f"change.{ONE}", f"change.{MANY}"} < names


def test_memory_holds_one_window(tmp_path: Path) -> None:
    observer = TransNetObserver()
    held = []
    for frame in frames_of(pictures(260)):
        observer.observe(frame)
        held.append(len(observer._window))
    assert max(held) < 100
