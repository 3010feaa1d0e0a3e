from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from annotator_clips import check_columns, clip_of, video_frames

from curation.annotators.base import Done, Failed, Skipped
from curation.annotators.sharpness import SharpnessAnnotator, SharpnessConfig, focus

ANNOTATOR = SharpnessAnnotator(SharpnessConfig())


def score(frames: list[np.ndarray]) -> float:
    (outcome,) = ANNOTATOR.annotate([clip_of(frames)])
    assert isinstance(outcome, Done)
    return outcome.columns["score"]


def test_focus_of_a_chequered_board_has_a_closed_form() -> None:
    # Every pixel differs from its four neighbours by 2a, so the Laplacian is +-8a and its variance 64 a^2.
    board = np.indices((64, 64)).sum(0) % 2
    amplitude = 3.0
    assert focus((2 * board - 1).astype(np.float32) * amplitude) == pytest.approx(np.log1p(64 * amplitude**2))
    assert focus(np.full((64, 64), 100, np.float32)) == 0


@pytest.mark.parametrize("video", ["bear.mp4", "rio_aerial.mp4", "bedroom.mp4"])
def test_orders_real_frames_by_how_much_they_were_blurred(test_data: Path, video: str) -> None:
    (frame,) = video_frames(test_data / "videos" / video, [20])
    blurred = [frame] + [cv2.GaussianBlur(frame, (0, 0), sigma) for sigma in (1.0, 2.0, 4.0, 8.0)]
    scores = [score([f]) for f in blurred]
    assert scores == sorted(scores, reverse=True)
    assert min(np.diff(scores[::-1])) > 0.1


@pytest.mark.parametrize("video", ["rio_aerial.mp4", "traffic_camera.mp4", "cups.mp4"])
def test_depends_little_on_the_size_of_a_picture(test_data: Path, video: str) -> None:
    (frame,) = video_frames(test_data / "videos" / video, [20])
    half = cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    unscaled = [focus(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(np.float32)) for f in (frame, half)]
    assert abs(score([half]) - score([frame])) < 0.6 * abs(unscaled[1] - unscaled[0])


def test_one_blurred_frame_does_not_move_the_median_and_brightness_is_mean_luma(test_data: Path) -> None:
    frames = video_frames(test_data / "videos" / "bear.mp4", [10, 20, 30, 40, 50])
    spoiled = [*frames[:4], cv2.GaussianBlur(frames[4], (0, 0), 8)]
    assert score(spoiled) == pytest.approx(score(frames), abs=0.2)
    (outcome,) = ANNOTATOR.annotate([clip_of([np.full((90, 160, 3), 51, np.uint8)])])
    assert isinstance(outcome, Done)
    check_columns("sharpness", outcome)
    assert outcome.columns["brightness"] == pytest.approx(0.2, abs=0.005)


def test_a_broken_picture_fails_its_clip_alone() -> None:
    grey = np.full((90, 160, 3), 128, np.uint8)
    good, broken, empty = ANNOTATOR.annotate(
        [clip_of([grey]), clip_of([grey, b"no jpeg", grey]), clip_of([])]
    )
    assert isinstance(good, Done)
    assert isinstance(broken, Failed) and broken.cause == "broken_frame" and "pts 500" in broken.detail
    assert empty == Skipped("no_grid_frame")
