"""Camera and object motion against footage filmed off real photographs, by a camera whose every move is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from annotator_clips import check_columns, clip_of, video_frames
from footage import texture, write_video
from numpy.typing import NDArray

from curation.annotators.base import Done
from curation.annotators.motion import MotionAnnotator, MotionConfig
from curation.motion.camera import CameraNames, camera_motion, camera_name
from curation.motion.flow import farneback
from curation.scan import scan_video
from curation.scan_work import flow_row

HEIGHT, WIDTH, FPS, SECONDS = 240, 400, 25, 2
UNIT = 16 / HEIGHT
PHOTOGRAPHS = {"rio_aerial.mp4": 10, "bedroom.mp4": 10, "traffic_camera.mp4": 10, "bear.mp4": 10}


@dataclass(frozen=True)
class Move:
    """What the camera does in half a second: shifts in shorter sides of its picture, growth, and turn."""

    right: float = 0.0
    down: float = 0.0
    zoom: float = 1.0
    clockwise_deg: float = 0.0


MOVES = {
    "static": Move(),
    "pan_left": Move(right=-0.04),
    "pan_right": Move(right=0.04),
    "tilt_up": Move(down=-0.04),
    "tilt_down": Move(down=0.04),
    "zoom_in": Move(zoom=1.04),
    "zoom_out": Move(zoom=1 / 1.04),
    "roll": Move(clockwise_deg=2.5),
}


LONG = ("traffic_camera.mp4", "bear.mp4")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in PHOTOGRAPHS],
)
def photograph(request: pytest.FixtureRequest, test_data: Path) -> NDArray[np.uint8]:
    """A frame of real footage, 720 px high."""
    (frame,) = video_frames(test_data / "videos" / request.param, [PHOTOGRAPHS[request.param]])
    return cv2.resize(frame, None, fx=720 / frame.shape[0], fy=720 / frame.shape[0])


def places(move: Move, halves: float) -> NDArray[np.float64]:
    """[2, 3]: from the camera's picture, seen from its middle, to the photograph, after so many half seconds."""
    angle, scale = np.deg2rad(move.clockwise_deg * halves), 1.5 / move.zoom**halves
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([turn, 1.5 * HEIGHT * halves * np.array([move.right, move.down])])


def film(photograph: NDArray, move: Move, halves: float) -> NDArray[np.uint8]:
    """What the camera sees; half a second before the middle of the shot it looks at the middle of the photograph."""
    matrix = places(move, halves - SECONDS)
    middle = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    matrix[:, 2] += np.array(photograph.shape[1::-1]) / 2 - matrix[:, :2] @ middle
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(photograph, matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT)


def content_flow(move: Move) -> NDArray[np.float64]:
    """[H, W, 2]: how far the photograph moves in the camera's picture in half a second."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    from_middle = np.stack([x - (WIDTH - 1) / 2, y - (HEIGHT - 1) / 2, np.ones_like(x)], axis=-1)
    before, after = (np.vstack([places(move, halves), (0, 0, 1)]) for halves in (0, 1))
    return (from_middle @ (np.linalg.inv(after) @ before).T - from_middle)[..., :2]


def shoot(
    folder: Path, photograph: NDArray, move: Move, thing: NDArray | None = None, step: float = 0.0
) -> dict:
    """Columns of table motion for a shot; `thing` crosses the picture to the right by `step` px each half second."""
    pictures = []
    for index in range(FPS * SECONDS + 1):
        halves = 2 * index / FPS
        view = film(photograph, move, halves)
        if thing is not None:
            put(view, thing, 120 + step * halves, 80)
        pictures.append(view)
    video = write_video(folder / "shot.mp4", pictures)
    clip = clip_of(pictures[:1], rows={"flow": flow_row("v", scan_video(video).flow)})
    whole = type(clip)(**{**vars(clip), "end_pts": 10**9})
    (outcome,) = MotionAnnotator(MotionConfig()).annotate([whole])
    assert isinstance(outcome, Done)
    check_columns("motion", outcome)
    return dict(outcome.columns)


def put(view: NDArray, thing: NDArray, x: float, y: float) -> None:
    """Draws `thing` with its corner at a place between pixels."""
    matrix = np.array([[1, 0, x], [0, 1, y]])
    cv2.warpAffine(thing, matrix, (WIDTH, HEIGHT), dst=view, borderMode=cv2.BORDER_TRANSPARENT)


@pytest.mark.parametrize("name", MOVES)
def test_the_cameras_move_is_named_and_measured_and_is_no_object(
    tmp_path: Path, photograph: NDArray, name: str
) -> None:
    found = shoot(tmp_path, photograph, MOVES[name])
    truth = np.linalg.norm(content_flow(MOVES[name]), axis=2).mean() * UNIT
    assert found["camera"] == name
    assert found["num_camera_pairs"] == 2 * SECONDS
    assert found["camera_motion"] == pytest.approx(truth, rel=0.1, abs=0.02)
    assert found["object_motion"] < 0.02


@pytest.mark.parametrize("name", ["static", "pan_left", "tilt_down", "zoom_in", "roll"])
def test_what_moves_by_itself_is_told_from_the_camera(tmp_path: Path, photograph: NDArray, name: str) -> None:
    """A thing of a ninth of the picture that crosses it. What it is about to cover counts as its own, so a little more
    than its motion is found."""
    thing, step = texture(5, 90, 120, 10), -10.0 if name == "pan_left" else 10.0
    found = shoot(tmp_path, photograph, MOVES[name], thing, step)
    flow = content_flow(MOVES[name])
    assert found["camera"] == name
    assert found["camera_motion"] == pytest.approx(
        np.linalg.norm(flow, axis=2).mean() * UNIT, rel=0.1, abs=0.02
    )
    own = np.linalg.norm(np.array([step, 0]) - flow, axis=2)[80:170, 100:220].mean()
    own *= UNIT * thing[..., 0].size / (HEIGHT * WIDTH)
    assert 0.85 * own < found["object_motion"] < 1.4 * own


def test_the_signs_of_the_parts_are_those_of_the_content(photograph: NDArray) -> None:
    signs = {"pan_right": "dx", "tilt_down": "dy", "zoom_out": "zoom", "roll": "roll"}
    for name, part in signs.items():
        greys = [
            cv2.cvtColor(cv2.resize(film(photograph, MOVES[name], i), (160, 96)), cv2.COLOR_RGB2GRAY)
            for i in (0, 1)
        ]
        parts = vars(camera_motion(*greys, farneback(*greys)))
        others = [abs(parts[f"camera_{other}"]) for other in signs.values() if other != part]
        assert -parts[f"camera_{part}"] == pytest.approx(parts["camera_motion"], rel=0.05), name
        assert max(others) < 0.15 * parts["camera_motion"], name


def test_pictures_without_a_common_motion_have_no_camera() -> None:
    greys = [cv2.cvtColor(texture(seed, 96, 160), cv2.COLOR_RGB2GRAY) for seed in (1, 2)]
    assert camera_motion(*greys, farneback(*greys)) is None


def test_an_empty_picture_stands_still() -> None:
    black = np.zeros((96, 160), np.uint8)
    assert set(vars(camera_motion(black, black, farneback(black, black))).values()) == {0.0}


@pytest.mark.parametrize(
    ("length", "parts", "name"),
    [
        (0.04, (0.04, 0, 0, 0), "static"),
        (1.0, (0.85, 0.5, 0, 0), "pan_left"),
        (1.0, (0.7, 0.7, 0, 0), "mixed"),
        (1.0, (0.1, 0.2, -0.1, 0), "mixed"),
        (1.0, (0, -0.9, 0, 0), "tilt_down"),
        (1.0, (0, 0, -0.9, 0.1), "zoom_out"),
        (1.0, (0, 0, 0, -0.9), "roll"),
    ],
)
def test_names_follow_the_strongest_part(length: float, parts: tuple[float, ...], name: str) -> None:
    names = (f"camera_{part}" for part in ("dx", "dy", "zoom", "roll"))
    assert camera_name(length, dict(zip(names, parts, strict=True)), CameraNames()) == name


@pytest.mark.long
@pytest.mark.parametrize(
    ("video", "name"),
    [
        ("traffic_camera.mp4", "static"),
        ("bottles.mp4", "static"),
        ("car_topdown.mp4", "static"),
        ("flower_timelapse.webm", "static"),
    ],
)
def test_real_cameras(test_data: Path, video: str, name: str) -> None:
    flow = flow_row("v", scan_video(test_data / "videos" / video).flow)
    clip = clip_of([np.zeros((8, 8, 3), np.uint8)], rows={"flow": flow})
    (outcome,) = MotionAnnotator(MotionConfig()).annotate(
        [type(clip)(**{**vars(clip), "start_pts": -(10**9), "end_pts": 10**12})]
    )
    assert outcome.columns["camera"] == name
