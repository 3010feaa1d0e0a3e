"""Scene changes found in sequences whose changes are known, and none found where nothing but motion or light changes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curation.cuts.changes import BlendObserver, LagObserver, Measure
from curation.cuts.transitions import EvidenceConfig, Transition, blends, flashes, hard_cuts
from tests.footage import MILLISECOND, frames_of, natural

Picture = NDArray[np.uint8]
HEIGHT, WIDTH = 72, 128


def measure(pictures: Sequence[Picture]) -> dict[str, Measure]:
    observers = LagObserver(), BlendObserver(MILLISECOND)
    for frame in frames_of(pictures):
        for observer in observers:
            observer.observe(frame)
    return {m.name: m for observer in observers for m in observer.finish()}


def found(
    pictures: Sequence[Picture], config: EvidenceConfig | None = None
) -> tuple[list[int], list[Transition]]:
    """Frames of hard cuts, and gradual transitions."""
    config, measures = config or EvidenceConfig(), measure(pictures)
    cuts = hard_cuts(measures, config)
    return [cut.end for cut in cuts], blends(measures, cuts, config)


def still(seed: int, count: int) -> list[Picture]:
    return [natural(seed, HEIGHT, WIDTH)] * count


def pan(seed: int, count: int, step: int = 1) -> list[Picture]:
    field = natural(seed, HEIGHT, WIDTH + count * step)
    return [np.ascontiguousarray(field[:, i * step : i * step + WIDTH]) for i in range(count)]


def zoom(seed: int, count: int) -> list[Picture]:
    field = natural(seed, HEIGHT, WIDTH)
    centre = WIDTH / 2, HEIGHT / 2
    turns = (cv2.getRotationMatrix2D(centre, 0.5 * i, 1 + 0.01 * i) for i in range(count))
    return [cv2.warpAffine(field, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT) for turn in turns]


def held(pictures: Sequence[Picture], times: int) -> list[Picture]:
    """Animation on twos, threes, ...: every drawing is shown several times."""
    return [pictures[i // times * times] for i in range(len(pictures))]


def flash(pictures: Sequence[Picture], start: int, length: int, by: int = 110) -> list[Picture]:
    lit = [np.clip(p.astype(int) + by, 0, 255).astype(np.uint8) for p in pictures[start : start + length]]
    return [*pictures[:start], *lit, *pictures[start + length :]]


def mixed(before: Sequence[Picture], after: Sequence[Picture], length: int) -> list[Picture]:
    """The last `length` frames of one scene dissolve into the first of the other."""
    share = (np.arange(length) + 1) / (length + 1)
    blend = [
        np.round(a * (1 - s) + b * s).astype(np.uint8)
        for a, b, s in zip(before[-length:], after[:length], share, strict=True)
    ]
    return [*before[:-length], *blend, *after[length:]]


SCENES = {"still": still, "pan": pan, "zoom": zoom}


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(SCENES)), st.integers(14, 45)), min_size=1, max_size=5),
    st.integers(0, 1000),
)
def test_hard_cuts_are_found_to_the_frame(scenes: list[tuple[str, int]], seed: int) -> None:
    pictures, truth = [], []
    for index, (kind, count) in enumerate(scenes):
        truth.append(len(pictures))
        pictures += SCENES[kind](10_000 * index + seed, count)
    cuts, gradual = found(pictures)
    assert cuts == truth[1:]
    assert gradual == []


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["still", "zoom"]), st.integers(8, 36), st.integers(0, 1000))
def test_a_dissolve_is_found_once_and_where_it_is(after: str, length: int, seed: int) -> None:
    """Random pictures may be alike by chance, so likeness is no bar here."""
    pictures = mixed(still(seed, 60), SCENES[after](seed + 5000, 60), length)
    cuts, gradual = found(pictures, EvidenceConfig(blend_likeness=0.8))
    assert cuts == []
    assert len(gradual) == 1
    assert (gradual[0].start, gradual[0].end) == pytest.approx((60 - length, 60), abs=3 + length / 5)


def test_most_dissolves_between_moving_scenes_are_found_and_nothing_else() -> None:
    generator, hits = np.random.default_rng(4), 0
    for seed in range(40):
        before, after = generator.choice(sorted(SCENES), 2)
        length = int(generator.integers(8, 36))
        cuts, gradual = found(mixed(SCENES[before](seed, 60), SCENES[after](seed + 5000, 60), length))
        assert cuts == []
        assert len(gradual) <= 1
        hits += any(abs(t.end - 60) <= 3 + length / 5 for t in gradual)
    assert hits >= 30


@pytest.mark.parametrize("colour", [0, 255])
def test_a_fade_out_and_a_fade_in_are_two_transitions(colour: int) -> None:
    blank = [np.full((HEIGHT, WIDTH, 3), colour, np.uint8)] * 30
    out = mixed(pan(1, 60, 1), [*blank, *blank], 20)
    pictures = [*out[:-20], *mixed(blank, pan(2, 60, 1), 20)]
    cuts, gradual = found(pictures)
    assert cuts == []
    begin = len(out) - 20 + 10
    assert [(t.start, t.end) for t in gradual] == [
        pytest.approx((40, 60), abs=5),
        pytest.approx((begin, begin + 20), abs=5),
    ]


def test_a_hard_cut_is_not_a_gradual_transition_too() -> None:
    """Half of the way in a cut, the rest in a dissolve right after it."""
    first, second = still(1, 60), still(2, 60)
    middle = np.round(0.45 * first[0] + 0.55 * second[0]).astype(np.uint8)
    cuts, gradual = found([*first, *mixed([middle] * 12, second, 10)])
    assert cuts == [60]
    assert all(t.start >= 60 for t in gradual)


def test_a_cut_from_black_is_hard() -> None:
    black = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 30
    assert found([*black, *pan(3, 40), *black]) == ([30, 70], [])


@pytest.mark.parametrize(
    "pictures",
    [
        still(1, 90),
        pan(2, 90, 1),
        pan(3, 90, 6),
        zoom(4, 90),
        held(pan(5, 90, 3), 2),
        held(pan(6, 90, 3), 3),
        held(zoom(7, 90), 4),
        flash(pan(8, 90), 40, 1),
        flash(still(9, 90), 40, 3),
        flash(still(10, 90), 40, 9),
        [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 90,
        [np.full((HEIGHT, WIDTH, 3), round(60 + i), np.uint8) for i in range(90)],
        [(p * g).astype(np.uint8) for p, g in zip(pan(11, 90, 1), np.linspace(0.4, 1, 90), strict=True)],
    ],
    ids=[
        *("still", "slow pan", "fast pan", "zoom", "on twos", "on threes", "on fours"),
        *("flash", "long flash", "very long flash", "black", "grey fade", "slow light"),
    ],
)
def test_one_scene_stays_one(pictures: list[Picture]) -> None:
    assert found(pictures) == ([], [])


def test_noise_is_no_change() -> None:
    generator = np.random.default_rng(0)
    dark = [generator.integers(0, 12, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(60)]
    assert found(dark) == ([], [])


@pytest.mark.parametrize("length", [5, 6, 8])
def test_cuts_of_a_quick_montage_are_found(length: int) -> None:
    """Where a second has four cuts and more, a cut is no further than what is usual around it."""
    shots = [pan(20 + seed, length, 1) for seed in range(16)]
    cuts, _ = found([picture for shot in shots for picture in shot])
    truth = set(range(length, 16 * length, length))
    assert set(cuts) <= truth and len(cuts) >= 0.8 * len(truth)


def test_a_cut_inside_fast_motion_stands_out() -> None:
    cuts, _ = found([*pan(1, 40, 5), *pan(77, 40, 5)])
    assert cuts == [40]


def shaken(seed: int, count: int, reach: int = 30) -> list[Picture]:
    """Every frame somewhere else: by pixels, each is as far from the one before as from another scene."""
    field = natural(seed, HEIGHT + reach, WIDTH + reach)
    field[..., seed % 3] //= 3  # scenes have colours of their own
    places = np.random.default_rng(seed).integers(0, reach, (count, 2))
    return [np.ascontiguousarray(field[y : y + HEIGHT, x : x + WIDTH]) for y, x in places]


def test_a_cut_between_shaken_scenes_is_found_by_its_colours() -> None:
    pictures = [*shaken(3, 40), *shaken(4, 40)]
    step = measure(pictures)["lag_1"].value
    assert step[40] < 2.3 * np.sort(np.delete(step[28:53], 12))[-3]  # its pixels do not tell it
    assert found(pictures)[0] == [40]


@pytest.mark.parametrize("length", [1, 3, 6])
def test_a_flash_over_a_shaken_scene_is_no_cut(length: int) -> None:
    assert found(flash(shaken(4, 80), 40, length)) == ([], [])


def test_a_new_scene_of_the_same_colours_is_a_cut() -> None:
    first = still(5, 40)
    assert found([*first, *(np.ascontiguousarray(p[:, ::-1]) for p in first)])[0] == [40]


def test_thresholds_are_ordered() -> None:
    """A stricter setting finds a part of what a looser one finds."""
    measures = measure([*pan(1, 40), *pan(50, 40), *mixed(pan(60, 50), pan(70, 50), 20)])
    finds = [
        len(hard_cuts(measures, EvidenceConfig(cut_change=change, cut_ratio=change * 6)))
        for change in (0.2, 0.6, 5.0)
    ]
    assert finds == sorted(finds, reverse=True)
    assert finds[0] >= 2 > finds[-1] == 0


def test_strength_is_one_at_the_threshold() -> None:
    measures = measure([*still(1, 40), *still(2, 40)])
    (cut,) = hard_cuts(measures, EvidenceConfig(cut_change=0.4, cut_ratio=0.01, montage_change=99))
    (at_limit,) = hard_cuts(
        measures, EvidenceConfig(cut_change=0.4 * cut.strength, cut_ratio=0.01, montage_change=99)
    )
    assert at_limit.strength == pytest.approx(1)
    assert (
        hard_cuts(
            measures, EvidenceConfig(cut_change=0.401 * cut.strength, cut_ratio=0.01, montage_change=99)
        )
        == []
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_very_short_videos(count: int) -> None:
    assert found(still(1, count)) == ([], [])


def lit(pictures: Sequence[Picture]) -> list[tuple[int, int]]:
    """Frames of the flashes that are found."""
    brightness = np.array([picture.max(2).mean() for picture in pictures], np.float32)
    found = flashes(measure(pictures), brightness, EvidenceConfig())
    return [(flash.start, flash.end) for flash in found]


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(["still", "zoom"]),
    st.lists(st.integers(1, 8), min_size=1, max_size=3),
    st.integers(70, 110),
    st.integers(0, 1000),
)
def test_flashes_are_found_to_the_frame(kind: str, lengths: list[int], by: int, seed: int) -> None:
    pictures, truth = SCENES[kind](seed, 40 * len(lengths) + 20), []
    for index, length in enumerate(lengths):
        truth.append((40 * index + 20, 40 * index + 20 + length))
        pictures = flash(pictures, truth[-1][0], length, by)
    values = [picture.max(2).mean() for picture in pictures]
    assume(min(values[start] - values[start - 1] for start, _ in truth) > 15)  # some scenes are nearly white
    assert lit(pictures) == truth


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_short_flash_in_a_pan_is_found(length: int) -> None:
    assert lit(flash(pan(2, 60), 20, length, 90)) == [(20, 20 + length)]


@pytest.mark.parametrize(
    "pictures",
    [
        [*still(1, 40), *still(2, 40)],
        [*flash(still(1, 40), 0, 40, -90), *still(2, 40)],
        flash(still(1, 80), 40, 40),
        flash(still(1, 80), 30, 20),
        mixed(still(1, 60), still(2, 60), 20),
        pan(3, 80, 3),
        flash(still(1, 80), 40, 5, -110),
        [*still(1, 40), *flash(still(2, 6), 0, 6), *still(3, 40)],
    ],
    ids=[
        "cut",
        "cut to light",
        "light on",
        "lit for long",
        "dissolve",
        "pan",
        "dark for a moment",
        "short bright scene",
    ],
)
def test_what_is_no_flash(pictures: list[Picture]) -> None:
    assert lit(pictures) == []
