"""The frames that stand for a clip in training: which ones, in which bucket, and their pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, log
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.footage.frames import Decoder, Scaler
from curation.footage.media import MediaLimits, open_video
from warehouse.errors import MediaError, SettingsError


@dataclass(frozen=True)
class Bucket:
    """A shape of training clips, in frames and pixels."""

    num_frames: int
    height: int
    width: int

    @classmethod
    def parse(cls, name: str) -> Bucket:
        """From a name such as ``8x64x64``."""
        try:
            num_frames, height, width = (int(part) for part in name.split("x"))
        except ValueError:
            raise SettingsError(
                f"bucket {name!r}: expected frames x height x width, such as '8x64x64'"
            ) from None
        return cls(num_frames, height, width)

    def __str__(self) -> str:
        return f"{self.num_frames}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Sampled:
    """Frames chosen from a clip: their bucket, their pts, and the rate at which they really lie."""

    bucket: Bucket
    pts: tuple[int, ...]
    fps: float


def sample(
    pts: NDArray[np.int64], time_base: Fraction, fps: float, aspect: float, buckets: Sequence[Bucket]
) -> Sampled | None:
    """Frames around the middle of a clip, `1/fps` apart, in the longest bucket that fits and the nearest in shape.

    Args:
        pts: of all frames of the clip, increasing.
        aspect: displayed width over height.

    Returns:
        None where the clip is too short, or has too few frames a second, for every bucket.
    """
    by_preference = sorted(buckets, key=lambda b: (-b.num_frames, abs(log(b.width / b.height / aspect))))
    for bucket in by_preference:
        chosen = _spread(pts, bucket.num_frames, 1 / (Fraction(fps).limit_denominator(1000) * time_base))
        if chosen is not None:
            ticks = int(chosen[-1] - chosen[0])
            rate = (bucket.num_frames - 1) / float(ticks * time_base) if ticks else fps
            return Sampled(bucket, tuple(chosen.tolist()), rate)
    return None


def _spread(pts: NDArray[np.int64], count: int, step: Fraction) -> NDArray[np.int64] | None:
    """The frames nearest to `count` times that lie `step` ticks apart around the middle; None if they do not fit."""
    needed = float(step * (count - 1))
    slack = float(pts[-1] - pts[0]) - needed
    if slack < -float(step) / 2:
        return None
    times = pts[0] + max(slack, 0.0) / 2 + np.arange(count) * float(step)
    after = (
        np.clip(np.searchsorted(pts, times), 1, len(pts) - 1) if len(pts) > 1 else np.zeros(count, np.int64)
    )
    nearest = (
        np.where(times - pts[after - 1] <= pts[after] - times, after - 1, after) if len(pts) > 1 else after
    )
    chosen = pts[nearest]
    return chosen if len(np.unique(chosen)) == count else None


def read_clips(
    source: Path | BinaryIO,
    wanted: Mapping[str, Sampled],
    display_size: tuple[int, int],
    limits: MediaLimits,
) -> dict[str, NDArray[np.uint8]]:
    """Pixels of the chosen frames of several clips of one video, in one decode.

    Args:
        display_size: displayed (width, height), after rotation.

    Returns:
        uint8 RGB (frames, height, width, 3) by clip: scaled to cover the bucket's size, cropped around the centre.

    Raises:
        MediaError: the video cannot be decoded, or no longer has the frames.
    """
    users: dict[int, list[tuple[str, int]]] = {}
    for clip_id, sampled in wanted.items():
        for position, pts in enumerate(sampled.pts):
            users.setdefault(pts, []).append((clip_id, position))
    found: dict[str, dict[int, NDArray[np.uint8]]] = {clip_id: {} for clip_id in wanted}
    last, scaler = max(users), Scaler()
    with open_video(source, limits) as media:
        for frame in Decoder(media):
            for clip_id, position in users.get(frame.pts, ()):
                bucket = wanted[clip_id].bucket
                found[clip_id][position] = _cover(frame.image, frame.rotation, display_size, bucket, scaler)
            if frame.pts >= last:
                break
    return {clip_id: _stack(clip_id, frames, wanted[clip_id]) for clip_id, frames in found.items()}


def _stack(clip_id: str, frames: dict[int, NDArray[np.uint8]], sampled: Sampled) -> NDArray[np.uint8]:
    if len(frames) != len(sampled.pts):
        raise MediaError(
            "changed",
            f"clip {clip_id}: {len(frames)} of {len(sampled.pts)} frames found; was the file replaced?",
        )
    return np.stack([frames[i] for i in range(len(frames))])


def _cover(
    image: object, rotation: float, display_size: tuple[int, int], bucket: Bucket, scaler: Scaler
) -> NDArray[np.uint8]:
    """uint8 RGB (height, width, 3) of a frame, upright, covering the bucket."""
    width, height = display_size
    scale = max(bucket.width / width, bucket.height / height)
    size = max(bucket.width, ceil(width * scale)), max(bucket.height, ceil(height * scale))
    turns = round(rotation) // 90 % 4
    pixels = np.rot90(scaler.bgr(image, size[::-1] if turns % 2 else size, "AREA"), turns)
    top, left = (pixels.shape[0] - bucket.height) // 2, (pixels.shape[1] - bucket.width) // 2
    cropped = pixels[top : top + bucket.height, left : left + bucket.width]
    return cv2.cvtColor(np.ascontiguousarray(cropped), cv2.COLOR_BGR2RGB)
