"""Footage whose cuts are known exactly: shots of real videos, joined and disturbed in known ways.

Joins are hard cuts, dissolves (each picture a mixture of both shots) and fades through black. Disturbances change the
picture as much as a cut does and are none: flashes, whip pans, and shots that stand still. Shots are uint8 arrays
[T, H, W, 3] of one size; all randomness comes from the generator that is passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from curation.cuts.scorer import Boundary

FPS = 25
JOINS = {"hard": 0.5, "dissolve": 0.3, "fade": 0.2}
"""Kinds of joins and their shares."""
DISTURBANCES = {"none": 0.4, "flash": 0.25, "whip_pan": 0.2, "static": 0.15}
_QUIET_FRAMES = 12
"""Frames of a shot between a join and a disturbance."""
_VIEW = 0.5
"""Share of a picture's width and height that a whip pan shows at a time."""


@dataclass(frozen=True)
class Join:
    """How one shot gives way to the next, over `num_frames` pictures that belong to neither (0: a hard cut)."""

    kind: str
    num_frames: int


@dataclass(frozen=True)
class Reel:
    """Pictures [T, H, W, 3] and where their cuts are."""

    pictures: NDArray[np.uint8]
    cuts: tuple[Boundary, ...]
    joins: tuple[Join, ...]


def make_reel(shots: Sequence[NDArray[np.uint8]], generator: np.random.Generator) -> Reel:
    """Join shots of at least 60 frames in order, at random; 20 frames of each are in no join."""
    shots = [_disturbed(shot, generator) for shot in shots]
    kinds = generator.choice(list(JOINS), len(shots) - 1, p=list(JOINS.values())).tolist()
    most = [(min(len(a), len(b)) - 20) // 2 for a, b in pairwise(shots)]
    return join_shots(shots, [_join(k, m, generator) for k, m in zip(kinds, most, strict=True)])


def _join(kind: str, most_frames: int, generator: np.random.Generator) -> Join:
    """Dissolves take 0.3 to 2 s, fades out and in 0.6 to 2 s, where the shots are long enough."""
    if kind == "hard":
        return Join(kind, 0)
    length_s = generator.uniform(0.3 if kind == "dissolve" else 0.6, 2.0)
    return Join(kind, min(most_frames, round(length_s * FPS)))


def join_shots(shots: Sequence[NDArray[np.uint8]], joins: Sequence[Join]) -> Reel:
    """Shots one after the other; a dissolve takes the frames that it needs from both, a fade nearly half from each."""
    pieces, cuts, length = [], [], 0
    rest = shots[0]
    for join, shot in zip(joins, shots[1:], strict=True):
        before, mixed, rest = _joined(rest, shot, join)
        pieces += [before, mixed]
        cuts.append(Boundary(length + len(before), length + len(before) + len(mixed)))
        length = cuts[-1].end
    return Reel(np.concatenate([*pieces, rest]), tuple(cuts), tuple(joins))


def _joined(
    before: NDArray[np.uint8], after: NDArray[np.uint8], join: Join
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """What is left of the first shot, the pictures of the join, and what is left of the second."""
    count = join.num_frames
    if join.kind == "hard":
        return before, before[:0], after
    if join.kind == "dissolve":
        share = _shares(count)
        mixed = before[len(before) - count :] * (1 - share) + after[:count] * share
        return before[: len(before) - count], np.round(mixed).astype(np.uint8), after[count:]
    half = round(0.45 * count)  # what is left between is black
    black = np.zeros((count - 2 * half, *before.shape[1:]), np.float32)
    dark = [before[len(before) - half :] * (1 - _shares(half)), black, after[:half] * _shares(half)]
    return before[: len(before) - half], np.round(np.concatenate(dark)).astype(np.uint8), after[half:]


def _shares(count: int) -> NDArray[np.float32]:
    """[count, 1, 1, 1], evenly between 0 and 1, neither of them included."""
    return (np.arange(1, count + 1, dtype=np.float32) / (count + 1))[:, None, None, None]


def _disturbed(shot: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    kind = generator.choice(list(DISTURBANCES), p=list(DISTURBANCES.values()))
    middle = len(shot) // 2 + int(generator.integers(-_QUIET_FRAMES // 2, _QUIET_FRAMES // 2 + 1))
    if kind == "flash":
        return flash(shot, middle, int(generator.integers(1, 5)), float(generator.uniform(0.4, 0.95)))
    if kind == "whip_pan":
        return whip_pan(shot, middle - 4, int(generator.integers(5, 10)))
    return np.repeat(shot[:1], len(shot), axis=0) if kind == "static" else shot


def flash(shot: NDArray[np.uint8], start: int, num_frames: int, share: float) -> NDArray[np.uint8]:
    """The shot with some of its frames lit: `share` of the way to white."""
    lit = shot.copy()
    part = lit[start : start + num_frames]
    part[:] = np.round(part + (255.0 - part) * share).astype(np.uint8)
    return lit


def whip_pan(shot: NDArray[np.uint8], start: int, num_frames: int) -> NDArray[np.uint8]:
    """The left half of the shot; from frame `start` on the camera turns to its right half within `num_frames`."""
    height, width = shot.shape[1:3]
    view_width, view_height = round(width * _VIEW), round(height * _VIEW)
    place = np.clip((np.arange(-start, len(shot) - start) + 1) / (num_frames + 1), 0, 1)
    place = (place * place * (3 - 2 * place)) * (width - view_width)  # starts and stops smoothly
    speed = np.abs(np.gradient(place))
    top = (height - view_height) // 2
    turned = np.empty_like(shot)
    for index, picture in enumerate(shot):
        blurred = cv2.blur(picture, (max(1, round(speed[index] * 0.7)), 1))
        left = round(place[index])
        view = blurred[top : top + view_height, left : left + view_width]
        turned[index] = cv2.resize(view, (width, height), interpolation=cv2.INTER_LINEAR)
    return turned


def write_reel(path: Path, reel: Reel, crf: int = 23) -> Path:
    """Encode the reel as H.264, `FPS` frames a second; RGB."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width = reel.pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for index, picture in enumerate(reel.pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
