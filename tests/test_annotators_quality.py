"""Quality signals against footage whose bars, frozen share, contrast and file facts are known."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from annotator_clips import check_columns, clip_of, video_frames
from footage import texture, write_video

from curation.annotators.base import Done, Failed, Skipped
from curation.annotators.quality import QualityAnnotator, QualityConfig
from curation.scan import scan_video
from curation.scan_work import video_columns

ANNOTATOR = QualityAnnotator(QualityConfig())
VIDEO = {"width": 1280, "height": 720, "fps": 25.0, "bit_rate": 2_304_000.0, "has_audio": True}


def quality(frames: list[np.ndarray], video: Mapping[str, Any] = VIDEO) -> Mapping[str, Any]:
    (outcome,) = ANNOTATOR.annotate([clip_of(frames, rows={"videos": video})])
    assert isinstance(outcome, Done)
    check_columns("quality", outcome)
    return outcome.columns


def bars(columns: Mapping[str, Any]) -> list[float]:
    return [columns[f"bar_{side}"] for side in ("top", "bottom", "left", "right")]


def framed(picture: np.ndarray, top: int, bottom: int, left: int, right: int, noise: int = 3) -> np.ndarray:
    """The picture between bars of nearly black noise."""
    height, width = picture.shape[0] + top + bottom, picture.shape[1] + left + right
    canvas = np.random.default_rng(top).integers(0, noise + 1, (height, width, 3)).astype(np.uint8)
    canvas[top : height - bottom, left : width - right] = picture
    return canvas


@pytest.mark.parametrize(
    "margins", [(0, 0, 0, 0), (60, 60, 0, 0), (0, 0, 90, 90), (24, 72, 48, 12), (30, 30, 60, 60)]
)
def test_bars_of_known_width_are_found_on_each_side(margins: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = margins
    frames = [
        framed(texture(seed, 480 - top - bottom, 640 - left - right), *margins, noise=6) for seed in range(4)
    ]
    found = quality(frames)
    assert bars(found) == pytest.approx([top / 480, bottom / 480, left / 640, right / 640], abs=1 / 240)
    assert found["letterbox"] == pytest.approx(found["bar_top"] + found["bar_bottom"])
    assert found["pillarbox"] == pytest.approx(found["bar_left"] + found["bar_right"])


def test_a_bar_is_black_in_every_frame_and_ends_at_an_edge() -> None:
    night = texture(0, 240, 320)
    night[:80] = 4
    day = texture(1, 240, 320)
    assert bars(quality([night, night]))[0] == pytest.approx(1 / 3, abs=0.01)
    assert bars(quality([night, day])) == [0, 0, 0, 0], "one frame with a picture there"
    dusk = np.clip(np.arange(240)[:, None, None] * 0.4, 0, 255) * np.ones((1, 320, 3))
    assert bars(quality([dusk.astype(np.uint8)])) == [0, 0, 0, 0], "it fades, without an edge"
    assert bars(quality([np.zeros((240, 320, 3), np.uint8)])) == [0, 0, 0, 0], "nothing but black"


@pytest.mark.parametrize(
    ("video", "truth"),
    [
        ("dovi_hevc_10bit.mp4", (0.029, 0.029, 0, 0)),
        ("chaplin.mp4", (0, 0, 0.112, 0.112)),
        ("bbb_480p_30s.mp4", (0, 0, 0, 0)),
        ("candle_dark_flicker.mp4", (0, 0, 0, 0)),
    ],
)
def test_bars_of_real_footage(test_data: Path, video: str, truth: tuple[float, ...]) -> None:
    frames = video_frames(test_data / "videos" / video, [60, 80, 100, 120, 140])
    assert bars(quality(frames)) == pytest.approx(truth, abs=0.005)


def test_contrast_of_two_grey_levels_is_half_their_distance_whatever_the_bars() -> None:
    board = np.kron(np.indices((12, 16)).sum(0) % 2, np.ones((20, 20)))
    picture = np.repeat((60 + 80 * board)[..., None], 3, axis=2).astype(np.uint8)
    assert quality([picture])["contrast"] == pytest.approx(40 / 255, abs=0.003)
    assert quality([framed(picture, 60, 60, 0, 0)])["contrast"] == pytest.approx(40 / 255, abs=0.006)
    assert quality([np.full((240, 320, 3), 128, np.uint8)])["contrast"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("frozen", [0, 3, 10])
def test_the_share_of_frozen_frames_is_that_of_the_pairs_that_are_equal(frozen: int) -> None:
    moving = [texture(seed, 120, 160) for seed in range(11 - frozen)]
    assert quality([*moving, *[moving[-1]] * frozen])["frozen"] == pytest.approx(frozen / 10)
    assert quality(moving[:1])["frozen"] is None


def test_something_small_that_moves_is_not_frozen_and_compression_noise_is() -> None:
    still = texture(0, 480, 640)
    ball = [cv2.circle(still.copy(), (100 + 8 * i, 200), 6, (255, 255, 255), -1) for i in range(4)]
    assert quality(ball)["frozen"] == 0
    rng = np.random.default_rng(0)
    noisy = [np.clip(still + rng.normal(0, 1, still.shape), 0, 255).astype(np.uint8) for _ in range(4)]
    assert quality(noisy)["frozen"] == 1


def test_facts_of_the_file_are_those_of_what_was_written(tmp_path: Path) -> None:
    pictures = [texture(seed, 120, 320) for seed in range(30)]
    path = write_video(tmp_path / "wide.mp4", pictures, time_base=Fraction(1, 15), sound=True)
    video = video_columns(scan_video(path))
    found = quality(pictures[:2], video)
    assert found["aspect"] == pytest.approx(320 / 120) and found["audio"] == 1
    assert [found[n] for n in ("width", "height", "pixels")] == [320, 120, 38400]
    assert found["fps"] == 24, "the clip's own"
    assert 0.8 < found["bits_per_pixel"] * (320 * 120 * 30) / (8 * path.stat().st_size) < 1
    silent = write_video(tmp_path / "silent.mp4", pictures, time_base=Fraction(1, 15))
    assert quality(pictures[:2], video_columns(scan_video(silent)))["audio"] == 0
    assert quality(pictures[:2], VIDEO)["bits_per_pixel"] == pytest.approx(0.1)
    assert quality(pictures[:2], {**VIDEO, "bit_rate": None})["bits_per_pixel"] is None


def test_a_broken_picture_or_a_missing_row_costs_its_clip_alone() -> None:
    grey, rows = np.full((90, 160, 3), 128, np.uint8), {"videos": VIDEO}
    good, broken, empty, unknown = ANNOTATOR.annotate(
        [clip_of([grey], rows=rows), clip_of([b"no"], rows=rows), clip_of([], rows=rows), clip_of([grey])]
    )
    assert isinstance(good, Done) and empty == Skipped("no_grid_frame")
    assert isinstance(broken, Failed) and broken.cause == "broken_frame"
    assert isinstance(unknown, Failed) and unknown.cause == "missing_input"
