"""Evidence of scene changes against closed forms: mixtures, wipes and motion made of known pictures."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.cuts.changes import LAGS, BlendObserver, LagObserver, Measure
from tests.footage import MILLISECOND, frames_of, texture

SIZE = (72, 128)
A, B, C = (texture(seed, *SIZE, grain=12) for seed in (1, 2, 3))


def lags(pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Measure]:
    observer = LagObserver()
    for frame in frames_of(pictures):
        observer.observe(frame)
    return {m.name: m for m in observer.finish()}


def blends(pictures: Sequence[NDArray[np.uint8]], pts: Sequence[int] | None = None) -> dict[str, Measure]:
    observer = BlendObserver(MILLISECOND)
    for frame in frames_of(pictures, pts):
        observer.observe(frame)
    return {m.name: m for m in observer.finish()}


def clearest(measures: dict[str, Measure]) -> dict[str, float]:
    """The row that explains the largest change, without the prefix of its names."""
    value = {name.removeprefix("blend_"): m.value for name, m in measures.items()}
    row = int(np.argmax(value["change"] * (1 - 2 * np.minimum(value["residual"], value["switch"]))))
    return {name: float(column[row]) for name, column in value.items()} | {
        "centre": int(measures["blend_change"].frame[row])
    }


def mix(a: NDArray[np.uint8], b: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    return np.round(a * (1 - share) + b * share).astype(np.uint8)


def dissolve(before: int, length: int, after: int, a: NDArray = A, b: NDArray = B) -> list[NDArray[np.uint8]]:
    """The transition is the `length` frames from index `before` on."""
    return [a] * before + [mix(a, b, (i + 1) / (length + 1)) for i in range(length)] + [b] * after


def wipe(before: int, length: int, after: int) -> list[NDArray[np.uint8]]:
    pictures = [A] * before
    for i in range(length):
        picture, edge = A.copy(), round(128 * (i + 1) / (length + 1))
        picture[:, :edge] = B[:, :edge]
        pictures.append(picture)
    return pictures + [B] * after


def pan(count: int, step: int) -> list[NDArray[np.uint8]]:
    field = texture(9, SIZE[0], SIZE[1] + count * step, grain=12)
    return [np.ascontiguousarray(field[:, i * step : i * step + SIZE[1]]) for i in range(count)]


def test_lags_are_distances_to_the_frames_before() -> None:
    """Grey pictures: the distance is the difference of their grey."""
    grey = np.random.default_rng(0).integers(0, 256, 30)
    measures = lags([np.full((*SIZE, 3), g, np.uint8) for g in grey])
    for lag in LAGS:
        expected = [0] * lag + [abs(int(grey[i]) - int(grey[i - lag])) for i in range(lag, 30)]
        assert measures[f"lag_{lag}"].value == pytest.approx(expected, abs=1)
        assert measures[f"lag_{lag}"].frame.tolist() == list(range(30))


def test_colour_lags_are_shares_of_pixels_over_many_frames() -> None:
    """Some columns of 32 are white; more frames than are compared at once."""
    white = np.random.default_rng(1).integers(0, 33, 150)
    columns = (np.arange(256) // 8 < white[:, None]).astype(np.uint8) * 255
    measures = lags([np.broadcast_to(row[None, :, None], (144, 256, 3)) for row in columns])
    for lag in LAGS:
        expected = np.abs(white[lag:] - white[:-lag]) / 32
        assert measures[f"colour_{lag}"].value == pytest.approx([0] * lag + expected.tolist(), abs=1e-6)
        assert measures[f"colour_{lag}"].frame.tolist() == list(range(150))


def test_colours_stay_where_pixels_move() -> None:
    """Rolled pixels keep their colours; a quarter of the picture in another colour is a quarter of change."""
    other = A.copy()
    other[:, :32] = 255 - A[:, :32] // 8
    rolled = np.roll(A, 40, axis=1)
    measures = lags([A, rolled, A, other])
    assert measures["lag_1"].value[1] > 40
    assert measures["colour_1"].value[1] < 0.05
    assert measures["colour_1"].value[3] == pytest.approx(0.25, abs=0.03)
    assert measures["colour_2"].value.tolist() == pytest.approx(
        [0, 0, 0, measures["colour_1"].value[3]], abs=0.05
    )


@pytest.mark.parametrize("grey", [31, 63, 95, 127, 223])
def test_a_little_light_is_no_change_of_colour(grey: int) -> None:
    """At an edge between bins of either kind."""
    flat = [np.full((*SIZE, 3), value, np.uint8) for value in (grey, grey + 1)]
    assert lags(flat)["colour_1"].value.tolist() == [0, 0]


def test_contrast_is_the_deviation_from_the_mean_colour() -> None:
    half = np.zeros((*SIZE, 3), np.uint8)
    half[:, :64] = 200
    measures = lags([half, np.full((*SIZE, 3), 77, np.uint8)])
    assert measures["contrast"].value == pytest.approx([100, 0], abs=1)


@pytest.mark.parametrize("length", [6, 12, 25, 40])
def test_a_dissolve_is_the_mean_of_its_ends(length: int) -> None:
    row = clearest(blends(dissolve(40, length, 40)))
    assert row["residual"] < 0.2
    assert row["likeness"] < 0.5
    assert (row["start"], row["end"]) == pytest.approx((40, 40 + length), abs=1 + length / 8)
    assert 40 <= row["centre"] < 40 + length


@pytest.mark.parametrize("into_black", [True, False])
def test_a_fade_is_a_dissolve_with_black(into_black: bool) -> None:
    black = np.zeros_like(A)
    row = clearest(blends(dissolve(40, 20, 40, *((A, black) if into_black else (black, A)))))
    assert row["residual"] < 0.2
    assert abs(row["likeness"]) < 0.3
    assert (row["start"], row["end"]) == pytest.approx((40, 60), abs=3)


def test_a_wipe_is_one_or_the_other_at_every_pixel() -> None:
    measures = blends(wipe(40, 20, 40))
    row = clearest(measures)
    assert row["switch"] < 0.1
    assert row["residual"] > 0.4
    assert (row["start"], row["end"]) == pytest.approx((40, 60), abs=4)
    assert np.all((measures["blend_switch"].frame >= 40) & (measures["blend_switch"].frame < 60))


@pytest.mark.parametrize(
    "pictures",
    [
        [A] * 80,
        [A] * 40 + [B] * 40,
        pan(80, 3),
        [mix(np.zeros_like(A), A, share) for share in np.linspace(0.5, 1, 80)],
        [np.clip(A.astype(int) + shift, 0, 255).astype(np.uint8) for shift in range(80)],
        [A] * 30 + [np.clip(A.astype(int) + 90, 0, 255).astype(np.uint8)] * 3 + [A] * 30,
    ],
    ids=["still", "cut", "pan", "brighter by gain", "brighter by offset", "flash"],
)
def test_what_is_no_blend_leaves_no_convincing_row(pictures: list[NDArray[np.uint8]]) -> None:
    measures = blends(pictures)
    convincing = (measures["blend_likeness"].value < 0.5) & (
        np.minimum(measures["blend_residual"].value / 0.3, measures["blend_switch"].value / 0.15) <= 1
    )
    assert not convincing.any()


def test_time_counts_not_frames() -> None:
    """The same dissolve in half a second, sampled at uneven times."""
    pts = np.cumsum([0, *np.random.default_rng(2).integers(8, 45, 150)])
    share = np.clip((pts - 1500) / 500, 0, 1)
    row = clearest(blends([mix(A, B, s) for s in share], pts.tolist()))
    begin, end = pts[int(row["start"])], pts[int(row["end"])]
    assert begin == pytest.approx(1500, abs=120)
    assert end == pytest.approx(2000, abs=120)


def test_rows_tell_the_right_frames_in_the_middle_of_a_long_video() -> None:
    measures = blends(dissolve(400, 20, 60))
    assert np.all((measures["blend_change"].frame >= 390) & (measures["blend_change"].frame < 430))
    assert measures["blend_change"].pts.tolist() == (measures["blend_change"].frame * 40).tolist()
    row = clearest(measures)
    assert (row["start"], row["end"]) == pytest.approx((400, 420), abs=3)


def test_a_window_needs_a_frame_at_both_ends() -> None:
    assert len(blends(dissolve(0, 3, 0))["blend_start"].frame) == 0
    assert len(blends([A])["blend_start"].frame) == 0
    assert len(blends([])["blend_start"].frame) == 0


def test_no_more_is_kept_than_twice_the_longest_window() -> None:
    observer = BlendObserver(Fraction(1, 1000))
    most = 0
    for frame in frames_of([A, B] * 200):
        observer.observe(frame)
        most = max(most, len(observer._thumbs))
    assert most <= 4 * 25 + 8
