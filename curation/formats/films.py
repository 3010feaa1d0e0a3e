"""Footage that comes as single frames, or inside of a larger file, as a video that the scan can read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av

from warehouse.errors import MediaError
from warehouse.store import Store

CODECS = {".jpg": "mjpeg", ".jpeg": "mjpeg", ".png": "png"}
"""Files of frames that can be packed as they are, and the codec that they make."""
_FORMATS = {"JPEG": "mjpeg", "PNG": "png"}


def film_of_frames(store: Store, frames: Sequence[str], fps: float) -> str:
    """URI of a video in the warehouse (``imported/``) whose packets are the frames' files, byte for byte.

    The same frames at the same rate are the same file, written once.

    Args:
        frames: JPEG or PNG files, in order.

    Raises:
        MediaError: a frame is no picture, or another kind or size than the first.
        OSError: a frame cannot be read.
    """
    rate = Fraction(fps).limit_denominator(1001)
    content = hashlib.sha256(str(rate).encode())
    kinds = {}
    for frame in frames:
        kinds.setdefault(_kind(Path(frame)), Path(frame).name)
        content.update(hashlib.sha256(Path(frame).read_bytes()).digest())
    if len(kinds) > 1:
        (first, name), (other, odd), *_ = kinds.items()
        raise MediaError(
            "frames_differ", f"{odd} is {other}, {name} is {first}: expected frames of one kind and size"
        )
    path = f"imported/{content.hexdigest()[:32]}.mov"
    if not store.exists(path):
        with store.placing(path) as temporary:
            _mux(temporary, frames, rate, *kinds)
    return _uri(store, path)


def film_inside(store: Store, file: str, first: int, num_bytes: int, suffix: str) -> str:
    """URI of a video in the warehouse (``imported/``) that holds a stretch of a larger file, byte for byte.

    Raises:
        OSError: the file cannot be read, or is shorter.
    """
    content = hashlib.sha256()
    for chunk in _chunks(file, first, num_bytes):
        content.update(chunk)
    path = f"imported/{content.hexdigest()[:32]}{suffix}"
    if not store.exists(path):
        with store.placing(path) as temporary, temporary.open("wb") as target:
            target.writelines(_chunks(file, first, num_bytes))
    return _uri(store, path)


def _chunks(file: str, first: int, num_bytes: int) -> Iterator[bytes]:
    with Path(file).open("rb") as source:
        source.seek(first)
        while num_bytes:
            chunk = source.read(min(num_bytes, 8 << 20))
            if not chunk:
                raise OSError(f"{file} ends {num_bytes} bytes too early")
            num_bytes -= len(chunk)
            yield chunk


def _uri(store: Store, path: str) -> str:
    return store.path(path) if store.is_local else f"{store.uri}/{path}"


def _kind(frame: Path) -> tuple[str, int, int]:
    """Codec, width and height of a picture, from its header alone."""
    from PIL import Image

    try:
        with Image.open(frame, formats=tuple(_FORMATS)) as image:
            return (_FORMATS[image.format], *image.size)
    except (Image.UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise MediaError("invalid_data", f"frame {frame.name} is no JPEG or PNG picture: {error}") from error


def _mux(path: Path, frames: Sequence[str], rate: Fraction, kind: tuple[str, int, int]) -> None:
    """Puts the files side by side without decoding them."""
    codec, width, height = kind
    options = {"fflags": "+bitexact", "video_track_timescale": str(rate.numerator)}
    with av.open(str(path), "w", format="mov", options=options) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
        for index, frame in enumerate(frames):
            packet = av.Packet(Path(frame).read_bytes())
            packet.stream, packet.time_base = stream, 1 / rate
            packet.pts = packet.dts = index
            packet.duration, packet.is_keyframe = 1, True
            output.mux(packet)
