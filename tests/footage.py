"""Videos that tests write themselves, so that every frame, time and picture in them is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from curation.footage.frames import Decoded, Frame, Scaler, Sizes

MILLISECOND = Fraction(1, 1000)


def write_video(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    pts: Sequence[int] | None = None,
    *,
    time_base: Fraction = Fraction(1, 25),
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    rotation_deg: int = 0,
    pixel_aspect: Fraction | None = None,
    sound: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode RGB pictures [H, W, 3], the i-th at `pts[i]` ticks of `time_base` (default: one tick each)."""
    muxer = {"movflags": "faststart", "video_track_timescale": str(time_base.denominator)}
    with av.open(str(path), "w", options=muxer if path.suffix in (".mp4", ".mov") else {}) as output:
        rate = Fraction(1, 1) / time_base if pts is None else Fraction(25)
        stream = output.add_stream(codec, rate=rate, options={"qscale": "2", "g": "12", **(options or {})})
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = time_base
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        track = output.add_stream("aac", rate=48_000) if sound else None
        for index, picture in enumerate(pictures):
            if index == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = index if pts is None else pts[index], time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if track is not None:
            output.mux(track.encode(_silence()))
            output.mux(track.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A file with nothing but a moment of silence in it."""
    with av.open(str(path), "w") as output:
        track = output.add_stream("aac", rate=48_000)
        output.mux(track.encode(_silence()))
        output.mux(track.encode(None))
    return path


def _silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
    return frame


def texture(seed: int, height: int, width: int, grain: int = 8) -> NDArray[np.uint8]:
    """A random picture [H, W, 3] with soft blobs of about `grain` pixels."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (height // grain + 2, width // grain + 2, 3), np.uint8
    )
    large = cv2.resize(coarse, None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[:height, :width])


def natural(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """A random picture [H, W, 3] with structure of all sizes, the larger the stronger, as scenes have it."""
    layers = [
        (grain, texture(seed + grain, height, width, grain).astype(float) - 128)
        for grain in (4, 8, 16, 32, 64)
    ]
    mixed = sum(layer * grain for grain, layer in layers) / 60
    return np.clip(mixed + 128, 0, 255).astype(np.uint8)


def frames_of(pictures: Iterable[NDArray[np.uint8]], pts: Sequence[int] | None = None) -> Iterator[Frame]:
    """RGB pictures as the frames that observers are given, without a codec between; 40 ticks apart by default."""
    scaler = Scaler()
    for index, picture in enumerate(pictures):
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        size = picture.shape[1], picture.shape[0]
        time = index * 40 if pts is None else pts[index]
        yield Frame(Decoded(index, time, image, False), Sizes(size, size, size, 0), scaler)


def numbered(count: int, height: int = 64, width: int = 64) -> list[NDArray[np.uint8]]:
    """Grey pictures whose brightness tells their index: `read_number` gets it back from up to 128 of them."""
    return [
        np.full((height, width, 3), 32 + index * 192 // max(count - 1, 1), np.uint8) for index in range(count)
    ]


def read_number(picture: NDArray[np.uint8], count: int) -> int:
    """Index of one of `count` numbered pictures."""
    return round((float(picture.mean()) - 32) * max(count - 1, 1) / 192)
