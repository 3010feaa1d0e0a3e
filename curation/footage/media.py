"""Opening footage safely, and what its header says. Still pictures are footage of one frame (`curation.footage.pictures`).

Only bytes are ever opened: a regular local file, or a seekable binary file object (an object in a store). FFmpeg
never sees a path or an address, may open nothing further by itself (playlists, external tracks), and knows a fixed
list of containers. What cannot be used raises `MediaError` with one of `CAUSES`.
"""

from __future__ import annotations

import errno
import hashlib
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import av.logging
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from curation.footage.pictures import as_film, kind_of
from warehouse.errors import MediaError
from warehouse.ranges import MANY, check_ranges

CAUSES = {
    "unreadable": "the file is missing, not a regular file, or may not be read",
    "empty": "the file has no bytes",
    "playlist": "the bytes are a playlist or a script that points to other files",
    "invalid_data": "no known container is recognised, or its header is broken or cut off",
    "no_video_stream": "there is sound, a cover picture or text, but no moving picture",
    "no_decoder": "the codec is unknown to this build of FFmpeg",
    "zero_frames": "the stream yields not one frame",
    "truncated": "the file ends before the frames that its header counts",
    "corrupt": "the decoder refused too large a share of the packets",
    "bad_timestamps": "too large a share of the time stamps does not increase",
    "limit_bytes": "more bytes than `MediaLimits.max_bytes`",
    "limit_size": "wider or higher than `MediaLimits.max_width` and `max_height`",
    "limit_duration": "longer than `MediaLimits.max_duration_s`",
    "limit_frames": "more frames than `MediaLimits.max_frames`",
}

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,m4v,asf,ogg,mxf,ivf,nut,wtv,rm,dv,gif,apng,"
    "yuv4mpegpipe,h261,h263,h264,hevc,vvc,av1,obu,vc1,aac,ac3,aiff,amr,flac,mp3,wav"
)
"""Containers that hold their media themselves. Audio ones are here to be named `no_video_stream`."""

_FROM_ZERO = frozenset({"matroska", "webm", "asf", "nut"})
"""Containers in which a duration is the end of a clock that may begin long before the first frame (FFmpeg's muxers)."""

_SCRIPTS = (
    b"#extm3u",
    b"ffconcat",
    b"file ",
    b"file\t",
    b"<?xml",
    b"<mpd",
    b"<smil",
    b"<asx",
    b"<smoothstreamingmedia",
    b"[playlist]",
    b"[reference]",
    b"v=0",
    b"rtsptext",
    b"#ffmpeg",
)
_BUFFER_BYTES = 1 << 20
_OPEN_OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none", "enable_drefs": "0"}


@dataclass(frozen=True)
class MediaLimits:
    """What is refused before, or while, it is decoded (causes `limit_*`)."""

    max_bytes: int = 64 << 30
    """Size of a file in bytes."""
    max_width: int = 8192
    """Stored width in pixels."""
    max_height: int = 8192
    """Stored height in pixels."""
    max_duration_s: float = 6 * 3600.0
    """Duration in seconds."""
    max_frames: int = 6 * 3600 * 120
    """Number of decoded frames."""
    max_refused_share: float = 0.1
    """Share of packets that the decoder may refuse, and of time stamps that may fail to increase."""

    def __post_init__(self) -> None:
        whole = dict.fromkeys(("max_bytes", "max_width", "max_height", "max_frames"), (1, MANY))
        check_ranges("limits", self, **whole, max_duration_s=(0, MANY), max_refused_share=(0, 1))


@dataclass(frozen=True)
class Probe:
    """What the header of a file and its first frame say. Unknown is None."""

    container: str
    codec: str
    pix_fmt: str
    width: int
    """As stored, in pixels."""
    height: int
    """As stored, in pixels."""
    rotation_deg: int
    """Degrees counterclockwise that the stored picture must turn for display: 0, 90, 180 or 270."""
    pixel_aspect: float
    """Width of a pixel over its height."""
    stream_index: int
    time_base_num: int
    time_base_den: int
    start_pts: int | None
    duration_s: float | None
    fps: float | None
    """Average rate by the header, frames per second."""
    num_frames: int | None
    has_audio: bool
    bytes: int

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) in pixels with square pixels, upright."""
        width = max(1, round(self.width * self.pixel_aspect))
        return (self.height, width) if self.rotation_deg % 180 else (width, self.height)


@dataclass(frozen=True)
class Media:
    """An opened video: its container and the one stream that is used."""

    container: InputContainer
    stream: VideoStream
    bytes: int
    limits: MediaLimits
    picture: str | None = None
    """Format of the picture that it was made of; None for footage that moves."""


def content_hash(file: Path | BinaryIO) -> str:
    """SHA-256 of the bytes in hex, streamed. A file object is read from its start and left at its end."""
    if isinstance(file, Path):
        with _open_local(file) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def open_video(source: Path | BinaryIO, limits: MediaLimits | None = None) -> Iterator[Media]:
    """Open a local file or a seekable file object; yields its container and its first moving-picture stream.

    The first video stream that is no cover picture is taken, as players do. Raises MediaError.
    """
    limits = limits or MediaLimits()
    if isinstance(source, Path):
        with _open_local(source) as handle, _open_bytes(handle, source.name, limits) as media:
            yield media
    else:
        with _open_bytes(source, str(getattr(source, "name", "object")), limits) as media:
            yield media


def probe(source: Path | BinaryIO, limits: MediaLimits | None = None) -> Probe:
    """Facts of a video from its header and its first frame; raises MediaError where there is none to decode."""
    from curation.footage.frames import Decoder

    with open_video(source, limits) as media:
        first = next(iter(Decoder(media)), None)
        if first is None:
            raise MediaError("zero_frames", f"no frame could be decoded from {_describe(media)}")
        return probe_opened(media, first.rotation)


def probe_opened(media: Media, rotation: float) -> Probe:
    """Facts of an opened video. `rotation` is its first frame's, in degrees counterclockwise."""
    stream, context = media.stream, media.stream.codec_context
    aspect = stream.sample_aspect_ratio
    rate = stream.average_rate
    time_base = _time_base(stream)
    return Probe(
        container=media.picture or media.container.format.name,
        codec=media.picture or context.codec.canonical_name,
        pix_fmt=context.pix_fmt or "unknown",
        width=context.width,
        height=context.height,
        rotation_deg=round(rotation / 90) * 90 % 360 if abs(rotation) <= 360 else 0,
        pixel_aspect=float(aspect) if aspect else 1.0,
        stream_index=stream.index,
        time_base_num=time_base.numerator,
        time_base_den=time_base.denominator,
        start_pts=stream.start_time,
        duration_s=declared_duration_s(media),
        fps=float(rate) if rate else None,
        num_frames=stream.frames or None,
        has_audio=bool(media.container.streams.audio),
        bytes=media.bytes,
    )


def declared_duration_s(media: Media) -> float | None:
    """Duration that the header declares for the video stream, else for the whole file, in seconds."""
    if own := stream_duration_s(media.stream):
        return own
    whole = media.container.duration
    return _since_start(whole / av.time_base, media.stream) if whole else None


def stream_duration_s(stream: VideoStream) -> float | None:
    """Duration that the header declares for this stream alone (Matroska keeps it as a tag), in seconds."""
    if stream.duration and stream.time_base:
        return _since_start(float(stream.duration * stream.time_base), stream)
    if tag := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = tag.groups()
        return _since_start(int(hours) * 3600 + int(minutes) * 60 + float(seconds), stream)
    return None


def _since_start(declared_s: float, stream: VideoStream) -> float:
    """A declared duration as one from the first frame on; some writers mean the time at which the file's clock ends."""
    start_s = float((stream.start_time or 0) * _time_base(stream))
    counts_from_zero = not _FROM_ZERO.isdisjoint(stream.container.format.name.split(","))
    return declared_s - start_s if counts_from_zero and 0 < start_s < declared_s else declared_s


def _time_base(stream: VideoStream) -> Fraction:
    return Fraction(stream.time_base) if stream.time_base else Fraction(1, 90_000)


@contextmanager
def _open_local(path: Path) -> Iterator[BinaryIO]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise MediaError("unreadable", f"{path.name} is not a regular file")
        handle = path.open("rb")
    except OSError as error:
        raise MediaError("unreadable", f"{path.name}: {error.strerror or error}") from error
    with handle:
        yield handle


@contextmanager
def _open_bytes(handle: BinaryIO, name: str, limits: MediaLimits) -> Iterator[Media]:
    num_bytes, kind = _check_bytes(handle, name, limits)
    av.logging.set_level(None)
    with ExitStack() as open_files:
        if kind:
            film = as_film(handle, kind, name, (limits.max_width, limits.max_height), limits.max_frames)
            handle = open_files.enter_context(film)
        container = open_files.enter_context(_open_container(handle, name))
        stream = _choose_stream(container, name)
        media = Media(container, stream, num_bytes, limits, kind and kind.lower())
        _check_declared(media, name)
        yield media


def _open_container(handle: BinaryIO, name: str) -> InputContainer:
    try:
        return av.open(
            _Unnamed(handle),
            mode="r",
            options=dict(_OPEN_OPTIONS),
            metadata_errors="replace",
            buffer_size=_BUFFER_BYTES,
        )
    except av.FFmpegError as error:
        raise MediaError("invalid_data", f"{name} is not footage that can be opened: {error}") from error


def _check_bytes(handle: BinaryIO, name: str, limits: MediaLimits) -> tuple[int, str | None]:
    """Size of the file, and the format of the picture that it is, if it is one."""
    num_bytes = handle.seek(0, 2)
    handle.seek(0)
    if num_bytes == 0:
        raise MediaError("empty", f"{name} has no bytes")
    if num_bytes > limits.max_bytes:
        raise MediaError("limit_bytes", f"{name} has {num_bytes} bytes, max_bytes is {limits.max_bytes}")
    head = handle.read(4096)
    handle.seek(0)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_SCRIPTS) or b"\n#extm3u" in text:
        raise MediaError(
            "playlist", f"{name} is a playlist or script, not footage; give the files it points to"
        )
    return num_bytes, kind_of(head)


def _choose_stream(container: InputContainer, name: str) -> VideoStream:
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        kinds = ", ".join(stream.type for stream in container.streams) or "nothing"
        raise MediaError("no_video_stream", f"{name} holds {kinds}, but no moving picture")
    if moving[0].codec_context is None:
        raise MediaError("no_decoder", f"{name}: no decoder for its video stream in this build of FFmpeg")
    return moving[0]


def _check_declared(media: Media, name: str) -> None:
    limits, context = media.limits, media.stream.codec_context
    check_size(context.width, context.height, limits, name)
    duration_s = declared_duration_s(media)
    if duration_s is not None and duration_s > limits.max_duration_s:
        raise MediaError(
            "limit_duration",
            f"{name} lasts {duration_s:.0f} s, max_duration_s is {limits.max_duration_s:.0f}",
        )
    if media.stream.frames > limits.max_frames:
        raise MediaError(
            "limit_frames", f"{name} has {media.stream.frames} frames, max_frames is {limits.max_frames}"
        )


def check_size(width: int, height: int, limits: MediaLimits, name: str) -> None:
    """Raise `limit_size` for a picture that is wider or higher than allowed."""
    if width > limits.max_width or height > limits.max_height:
        allowed = f"{limits.max_width}x{limits.max_height}"
        raise MediaError("limit_size", f"{name} is {width}x{height}, max_width x max_height is {allowed}")


def _describe(media: Media) -> str:
    context = media.stream.codec_context
    return f"the {context.name} stream ({context.width}x{context.height}, {media.container.format.name})"


class _Unnamed:
    """A file object without its name, so that no extension or protocol in a name can choose the demuxer."""

    name = ""

    def __init__(self, handle: BinaryIO) -> None:
        self.read = handle.read
        self.tell = handle.tell
        self._seek = handle.seek

    def seek(self, offset: int, whence: int = 0) -> int:
        """As the handle's, but a place that cannot be (of a broken index) is FFmpeg's error, not Python's."""
        try:
            return self._seek(offset, whence)
        except ValueError:
            return -errno.EINVAL
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -errno.EINVAL
