"""Generated footage: its truth against its pixels, before and after encoding."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from curation.cuts.scorer import Boundary
from curation.reel.cut_reel import FPS, Join, flash, join_shots, make_reel, whip_pan, write_reel
from tests.footage import texture


def shot(value: int, count: int = 60) -> np.ndarray:
    """Frames of one grey; the last channel tells their index."""
    pictures = np.full((count, 8, 16, 3), value, np.uint8)
    pictures[..., 2] = np.arange(count)[:, None, None]
    return pictures


def test_a_hard_cut_is_between_whole_shots() -> None:
    reel = join_shots([shot(10), shot(200)], [Join("hard", 0)])
    assert reel.cuts == (Boundary(60, 60),)
    assert np.array_equal(reel.pictures, np.concatenate([shot(10), shot(200)]))


def test_a_dissolve_mixes_frames_of_both_shots() -> None:
    reel = join_shots([shot(0), shot(100)], [Join("dissolve", 9)])
    assert reel.cuts == (Boundary(51, 60),)
    assert reel.pictures[:, 0, 0, 0].tolist() == [0] * 51 + list(range(10, 100, 10)) + [100] * 51
    assert reel.pictures[55, 0, 0, 2] == round((55 + 4) / 2)  # both shots go on


def test_a_fade_goes_through_black_and_back() -> None:
    reel = join_shots([shot(100), shot(200)], [Join("fade", 20)])
    assert reel.cuts == (Boundary(51, 71),)
    grey = reel.pictures[:, 0, 0, 0].tolist()
    assert grey[:51] == [100] * 51
    assert grey[51:71] == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0, 0, *range(20, 200, 20)]
    assert grey[71:] == [200] * 51


def test_cuts_of_several_joins_are_counted_through() -> None:
    reel = join_shots([shot(0), shot(50), shot(90)], [Join("dissolve", 10), Join("hard", 0)])
    assert reel.cuts == (Boundary(50, 60), Boundary(110, 110))
    assert reel.pictures[[49, 60, 109, 110], 0, 0, 0].tolist() == [0, 50, 50, 90]


def test_a_flash_lights_its_frames_alone() -> None:
    lit = flash(shot(55), 20, 3, 0.5)
    assert lit[20:23, ..., 0].min() == lit[20:23, ..., 0].max() == 155
    rest = np.r_[0:20, 23:60]
    assert np.array_equal(lit[rest], shot(55)[rest])


def test_a_whip_pan_shows_one_half_then_the_other() -> None:
    wide = np.repeat(texture(3, 36, 64)[None], 40, axis=0)
    turned = whip_pan(wide, 15, 6)
    change = np.abs(np.diff(turned.astype(int), axis=0)).mean((1, 2, 3))
    moving = np.flatnonzero(change > 1) + 1
    assert (moving[0], moving[-1]) == pytest.approx((15, 21), abs=1)
    halves = np.abs(turned[0].astype(int) - turned[-1]).mean()
    assert halves > 30
    middle = wide[0, 9:27]
    assert np.abs(turned[0][::2, ::2].astype(int) - middle[:, :32]).mean() < 8
    assert np.abs(turned[-1][::2, ::2].astype(int) - middle[:, 32:]).mean() < 8


def test_the_truth_holds_after_encoding(tmp_path: Path) -> None:
    """Decoded frames on either side of each transition are those of the shots."""
    shots = [np.repeat(texture(seed, 72, 128)[None], 110, axis=0) for seed in range(8)]
    reel = make_reel(shots, np.random.default_rng(5))
    assert {join.kind for join in reel.joins} == {"hard", "dissolve", "fade"}
    assert [cut.end - cut.start for cut in reel.cuts] == [join.num_frames for join in reel.joins]
    with av.open(str(write_reel(tmp_path / "reel.mp4", reel))) as container:
        assert container.streams.video[0].average_rate == FPS
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert decoded.shape == reel.pictures.shape
    assert np.abs(decoded.astype(int) - reel.pictures).mean((1, 2, 3)).max() < 12
    for cut in reel.cuts:
        across = np.abs(decoded[cut.start - 1].astype(int) - decoded[cut.end]).mean()
        assert across > 3 * np.abs(decoded[cut.start - 2].astype(int) - decoded[cut.start - 1]).mean()


def test_a_seed_makes_one_reel() -> None:
    shots = [np.repeat(texture(seed, 16, 16)[None], 110, axis=0) for seed in range(4)]
    one, same, other = (make_reel(shots, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.cuts == same.cuts != other.cuts
    assert np.array_equal(one.pictures, same.pictures)
