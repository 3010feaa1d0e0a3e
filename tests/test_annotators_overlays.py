"""Static overlays: put over real footage that moves, over footage that does not, and burnt in by others."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from annotator_clips import check_columns, clip_of
from footage import texture
from numpy.typing import NDArray

from curation.annotators.base import Done, Outcome, Skipped
from curation.annotators.overlay_search import OverlayConfig
from curation.annotators.overlays import OverlaysAnnotator

ANNOTATOR = OverlaysAnnotator(OverlayConfig())
MOVING = {
    "videos/bedroom.mp4": 6.6,
    "videos/apple.mp4": 5.0,
    "videos/teddy.mp4": 7.0,
    "videos/cockatoo_444.mp4": 14.0,
    "videos/candle_dark_flicker.mp4": 10.0,
    "flow/mmflow_sintel_demo.mp4": 5.0,
    "videos/dj_video4.mp4": 20.0,
}
"""Single shots in which the camera moves, and how long they are in seconds."""
STILL = {
    "videos/cups.mp4": 10.0,
    "videos/traffic_camera.mp4": 20.0,
    "videos/bottles.mp4": 20.0,
    "videos/dog_eating.mp4": 13.0,
    "videos/flower_timelapse.webm": 5.0,
    "videos/ukulele_60fps.mp4": 20.0,
    "videos/meat_watermark.mp4": 9.0,
}
"""Single shots from a camera that stands, with and without overlays."""


def some(videos: Iterable[str], *fast: str) -> list[Any]:
    """All of them, those that are not named as long tests."""
    return [pytest.param(video, marks=[pytest.mark.long] * (video not in fast)) for video in videos]


def grid(path: Path, end_s: float) -> list[NDArray[np.uint8]]:
    """RGB frames at 2 fps, 480 px on the shorter side as the scan spools them."""
    frames, due_s = [], 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time >= end_s:
                break
            if frame.time >= due_s - 1e-3:
                due_s += 0.5
                scale = min(1.0, 480 / min(frame.width, frame.height))
                frames.append(
                    cv2.resize(
                        frame.to_ndarray(format="rgb24"),
                        None,
                        fx=scale,
                        fy=scale,
                        interpolation=cv2.INTER_AREA,
                    )
                )
    return frames


def with_logo(
    frames: list[NDArray], *, opacity: float, at: tuple[float, float]
) -> tuple[list[NDArray], tuple[float, ...]]:
    """White letters with a dark rim over every frame, and the box of what was drawn in shares of the frame."""
    height, width = frames[0].shape[:2]
    ink = np.zeros((round(0.09 * height), round(0.22 * width)), np.uint8)
    scale = ink.shape[1] / 140
    cv2.putText(
        ink, "CH 7 HD", (4, round(0.8 * len(ink))), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 2, cv2.LINE_AA
    )
    cover = opacity * cv2.dilate(ink, np.ones((3, 3), np.uint8))[..., None] / 255
    x0, y0 = round(at[0] * width), round(at[1] * height)
    marked = [frame.copy() for frame in frames]
    for frame in marked:
        place = frame[y0 : y0 + len(ink), x0 : x0 + ink.shape[1]]
        place[:] = (place * (1 - cover) + ink[..., None] * cover).round()
    y, x = np.nonzero(cover[..., 0])
    sides = (x0 + x.min(), y0 + y.min(), x0 + x.max() + 1, y0 + y.max() + 1)
    return marked, tuple(side / whole for side, whole in zip(sides, (width, height) * 2, strict=True))


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    sides = [max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


def overlays(frames: list[NDArray]) -> Outcome:
    (outcome,) = ANNOTATOR.annotate([clip_of(frames, quality=90)])
    return outcome


@pytest.mark.parametrize("video", some(MOVING, "videos/apple.mp4", "flow/mmflow_sintel_demo.mp4"))
def test_a_logo_over_moving_footage_is_found_and_nothing_else(test_data: Path, video: str) -> None:
    frames = grid(test_data / video, MOVING[video])
    plain = overlays(frames)
    assert isinstance(plain, Done)
    check_columns("overlays", plain)
    assert plain.columns["score"] == 0 and plain.columns["boxes"] == []
    for opacity, at in ((1.0, (0.05, 0.06)), (1.0, (0.7, 0.85)), (0.75, (0.05, 0.06)), (0.75, (0.7, 0.85))):
        marked, truth = with_logo(frames, opacity=opacity, at=at)
        found = overlays(marked)
        assert isinstance(found, Done)
        (box,) = found.columns["boxes"]
        assert overlap(tuple(box), truth) >= 0.5, (opacity, at)
        assert found.columns["score"] == pytest.approx((box[2] - box[0]) * (box[3] - box[1]))


@pytest.mark.parametrize("video", some(STILL, "videos/cups.mp4", "videos/flower_timelapse.webm"))
def test_where_the_camera_stands_nothing_is_said(test_data: Path, video: str) -> None:
    frames = grid(test_data / video, STILL[video])
    assert overlays(frames) == Skipped("scene_stands_still")
    marked, _ = with_logo(frames, opacity=1.0, at=(0.05, 0.06))
    assert overlays(marked) == Skipped("scene_stands_still")


def test_stills_and_black_pictures_are_unknown_and_so_are_short_clips() -> None:
    still = texture(1, 240, 400)
    assert overlays([still] * 8) == Skipped("scene_stands_still")
    assert overlays([np.zeros_like(still)] * 8) == Skipped("scene_stands_still")
    assert overlays([texture(seed, 240, 400) for seed in range(4)]) == Skipped("too_few_frames")


def test_a_burnt_in_logo_is_found_and_subtitles_that_change_are_not(test_data: Path) -> None:
    (truth,) = json.loads((test_data / "burnt_text.json").read_text())["videos"]
    found = overlays(grid(test_data / truth["file"], 6.0))
    assert isinstance(found, Done)
    (logo,) = (item["box_xyxy"] for item in truth["items"] if item["kind"] == "logo")
    plate = (6, 8, 178, 29)  # the black one that the letters of `logo` stand on, in pixels of 640 x 360
    assert plate[0] < logo[0] and plate[1] < logo[1] and plate[2] > logo[2] and plate[3] > logo[3]
    (box,) = found.columns["boxes"]
    assert (
        overlap(tuple(box), tuple(side / whole for side, whole in zip(plate, (640, 360) * 2, strict=True)))
        > 0.7
    )


def test_letterbox_bars_are_no_overlay_and_boxes_are_of_the_whole_frame(test_data: Path) -> None:
    frames = grid(test_data / "videos" / "bedroom.mp4", 6.6)
    marked, truth = with_logo(frames, opacity=1.0, at=(0.05, 0.06))
    bar = 60
    boxed = [cv2.copyMakeBorder(frame, bar, bar, 0, 0, cv2.BORDER_CONSTANT) for frame in marked]
    height = boxed[0].shape[0]
    left, top, right, bottom = truth
    inside = [(bar + side * (height - 2 * bar)) / height for side in (top, bottom)]
    found = overlays(boxed)
    assert isinstance(found, Done)
    (box,) = found.columns["boxes"]
    assert overlap(tuple(box), (left, inside[0], right, inside[1])) >= 0.5
