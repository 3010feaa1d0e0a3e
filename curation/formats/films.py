"""Footage that comes as single frames, as a video that the scan can read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av

from warehouse.store import Store

CODECS = {".jpg": "mjpeg", ".jpeg": "mjpeg", ".png": "png"}


def film_of_frames(store: Store, frames: Sequence[str], fps: float) -> str:
    """URI of a video in the warehouse (``imported/``) whose packets are the frames' files, byte for byte.

    The same frames at the same rate are the same file, written once.

    Args:
        frames: JPEG or PNG files, all of one kind, in order.
    """
    rate = Fraction(fps).limit_denominator(1001)
    content = hashlib.sha256(str(rate).encode())
    for frame in frames:
        content.update(Path(frame).read_bytes())
    path = f"imported/{content.hexdigest()[:32]}.mov"
    if not store.exists(path):
        with store.placing(path) as temporary:
            _mux(temporary, frames, rate)
    return store.path(path) if store.is_local else f"{store.uri}/{path}"


def _mux(path: Path, frames: Sequence[str], rate: Fraction) -> None:
    """Puts the files side by side without decoding them."""
    from PIL import Image

    with Image.open(frames[0]) as first:
        width, height = first.size
    options = {"fflags": "+bitexact", "video_track_timescale": str(rate.numerator)}
    with av.open(str(path), "w", format="mov", options=options) as output:
        stream = output.add_stream(CODECS[Path(frames[0]).suffix.lower()], rate=rate)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if stream.codec_context.name == "mjpeg" else "rgb24"
        for index, frame in enumerate(frames):
            packet = av.Packet(Path(frame).read_bytes())
            packet.stream, packet.time_base = stream, 1 / rate
            packet.pts = packet.dts = index
            packet.duration, packet.is_keyframe = 1, True
            output.mux(packet)
