"""Spans: every moment of a video in exactly one of them, whatever its times and cuts."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from curation.cuts.boundaries import Cut
from curation.cuts.clips import REASONS, ClipConfig, Span, spans
from curation.cuts.detectors import Signals
from warehouse.errors import SettingsError

TICK = Fraction(1, 1000)


def signals(pts: NDArray[np.int64], black: tuple[int, ...] = (), damaged: tuple[int, ...] = ()) -> Signals:
    """Milliseconds; the last frame lasts 40 of them."""
    brightness = np.full(len(pts), 100, np.float32)
    brightness[list(black)] = 2
    return Signals(TICK, pts, int(pts[-1]) + 40, brightness, np.array(damaged, np.int32), ())


def cut(pts: NDArray[np.int64], frame: int, first: int | None = None) -> Cut:
    """A cut whose transition begins at frame `first` (default: a hard one)."""
    start = int(pts[frame if first is None else first])
    kind = "hard" if first is None else "gradual"
    return Cut(frame, int(pts[frame]), 0.0, start, int(pts[frame]), kind, 0.9)


@st.composite
def videos(draw: st.DrawFn) -> tuple[Signals, list[Cut], ClipConfig]:
    steps = draw(st.lists(st.one_of(st.integers(1, 90), st.integers(1, 9000)), max_size=80))
    pts = np.cumsum([draw(st.integers(-5000, 5000)), *steps])
    index = st.integers(0, len(pts) - 1)
    black, damaged = draw(st.sets(index, max_size=6)), draw(st.sets(index, max_size=6))
    frames = sorted(draw(st.sets(st.integers(1, len(pts)), max_size=6)) & set(range(1, len(pts))))
    cuts, last = [], 0
    for frame in frames:
        first = draw(st.one_of(st.none(), st.integers(last + 1, frame)))
        cuts.append(cut(pts, frame, first))
        last = frame
    config = ClipConfig(
        min_s=draw(st.sampled_from([0.0, 0.2, 1.0])),
        max_s=draw(st.sampled_from([2.0, 4.0])),
        trim_s=draw(st.sampled_from([0.0, 0.1])),
        min_frames=draw(st.integers(1, 4)),
    )
    return signals(pts, tuple(black), tuple(damaged)), cuts, config


@given(videos())
def test_every_moment_lies_in_exactly_one_span(video: tuple[Signals, list[Cut], ClipConfig]) -> None:
    given_signals, cuts, config = video
    found = spans(given_signals, cuts, config)
    assert found[0].start_pts == given_signals.pts[0]
    assert found[-1].end_pts == given_signals.end_pts
    assert [s.end_pts for s in found[:-1]] == [s.start_pts for s in found[1:]]
    assert all(s.start_pts < s.end_pts for s in found)
    assert {s.start_pts for s in found} <= set(given_signals.pts.tolist())
    for s in found:
        inside = (given_signals.pts >= s.start_pts) & (given_signals.pts < s.end_pts)
        assert s.num_frames == inside.sum() > 0
        assert s.reason is None or s.reason in REASONS


@given(videos())
def test_clips_keep_every_promise(video: tuple[Signals, list[Cut], ClipConfig]) -> None:
    given_signals, cuts, config = video
    pts = given_signals.pts
    dark, broken = pts[given_signals.brightness < config.black_below], pts[given_signals.damaged]
    for s in spans(given_signals, cuts, config):
        if s.reason is not None:
            continue
        if len(pts) > 1:  # a still picture has neither a length nor frames enough, and is a clip
            length_s = (s.end_pts - s.start_pts) / 1000
            assert config.min_s <= length_s <= config.max_s
            assert s.num_frames >= config.min_frames
        for c in cuts:
            assert not s.start_pts < c.pts < s.end_pts
            inside = pts[(pts >= s.start_pts) & (pts < s.end_pts)]
            trim = config.trim_s * 1000
            assert not np.any((inside >= c.start_pts - trim) & (inside < c.end_pts + trim))
        for bad in (dark, broken):
            assert not np.any((bad >= s.start_pts) & (bad < s.end_pts))


@given(videos())
def test_scenes_are_counted_by_their_cuts(video: tuple[Signals, list[Cut], ClipConfig]) -> None:
    given_signals, cuts, config = video
    for s in spans(given_signals, cuts, config):
        assert s.scene_index == sum(c.pts <= s.start_pts for c in cuts)


def test_no_cut_is_one_clip() -> None:
    pts = np.arange(0, 5000, 40)
    assert spans(signals(pts), []) == [Span(0, 5000, 125, 0, None)]


def test_a_long_scene_is_split_evenly() -> None:
    pts = np.arange(0, 50_000, 40)
    found = spans(signals(pts), [], ClipConfig(max_s=20.0))
    assert [s.end_pts - s.start_pts for s in found] == pytest.approx([50_000 / 3] * 3, abs=40)
    assert {s.reason for s in found} == {None}


@given(st.integers(101, 4000), st.integers(20, 90))
def test_parts_of_a_long_steady_scene_are_as_many_as_needed_and_even(count: int, step: int) -> None:
    found = spans(signals(np.arange(count) * step), [], ClipConfig(min_s=1.0, max_s=2.0))
    lengths = [s.end_pts - s.start_pts for s in found]
    assert all(s.reason is None for s in found)
    total = (count - 1) * step + 40
    assert -(-total // 2000) <= len(found) <= total // (2000 - max(step, 40)) + 1
    assert max(lengths) - min(lengths) <= 2 * max(step, 40)


def test_a_transition_belongs_to_neither_scene() -> None:
    pts = np.arange(0, 8000, 40)
    found = spans(signals(pts), [cut(pts, 110, first=100)])
    assert [(s.start_pts, s.end_pts, s.reason) for s in found] == [
        (0, 4000, None),
        (4000, 4400, "gradual_edge"),
        (4400, 8000, None),
    ]
    assert [s.scene_index for s in found] == [0, 0, 1]


def test_a_hard_cut_leaves_no_gap() -> None:
    pts = np.arange(0, 8000, 40)
    found = spans(signals(pts), [cut(pts, 100)])
    assert [(s.start_pts, s.end_pts, s.reason) for s in found] == [(0, 4000, None), (4000, 8000, None)]


def test_edges_of_cuts_can_be_trimmed() -> None:
    pts = np.arange(0, 8000, 40)
    found = spans(signals(pts), [cut(pts, 100)], ClipConfig(trim_s=0.2))
    assert [(s.start_pts, s.end_pts, s.reason) for s in found] == [
        (0, 3800, None),
        (3800, 4000, "edge_trim"),
        (4000, 4200, "edge_trim"),
        (4200, 8000, None),
    ]


def test_black_and_damaged_frames_are_named() -> None:
    pts = np.arange(0, 12_000, 40)
    found = spans(signals(pts, tuple(range(100, 120)), (200, 201)), [])
    assert [(s.num_frames, s.reason) for s in found] == [
        (100, None),
        (20, "black"),
        (80, None),
        (2, "damaged"),
        (98, None),
    ]


def test_what_is_too_short_or_too_sparse_says_so() -> None:
    pts = np.concatenate([np.arange(0, 1000, 40), [1000, 10_000, 40_000]])
    found = spans(signals(pts), [cut(pts, 25)], ClipConfig(min_s=2, max_s=20))
    assert found[0].reason == "too_short"
    assert "sparse" in [s.reason for s in found]
    assert all(s.reason for s in found)


@pytest.mark.parametrize(("min_s", "max_s"), [(2.0, 3.9), (-1.0, 5.0)])
def test_bounds_that_contradict_each_other_are_refused(min_s: float, max_s: float) -> None:
    with pytest.raises(SettingsError, match="min_s is"):
        ClipConfig(min_s=min_s, max_s=max_s)
