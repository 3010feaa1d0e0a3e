"""Clips as files without encoding anything anew: packets of the source as they are, from a keyframe on.

SVD (appendix C) moves a cut to the nearest keyframe that does not cross it. Here the start of a clip moves up to a
keyframe; its end moves down to where the packets, in their order of decoding, hold each frame from that keyframe on and
none past the clip. Pictures that follow a keyframe but are shown before it need frames of the scene before: they are
left out. Every file is decoded once to see that it holds what it should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from curation.footage.frames import Decoder
from curation.footage.media import Media, MediaLimits, open_video
from curation.formats.base import Clip
from curation.ingest import open_source
from warehouse.errors import MediaError

CAUSES = {
    "picture": "a picture has no packets that a video could take over",
    "no_keyframe": "no keyframe lies in the clip, so no copy can begin in it",
    "no_times": "packets of the stream have no time stamps, or two have the same",
    "no_container": "no container that is written here takes the codec",
    "unsound_copy": "the copied packets decode to other frames than those of the clip",
}
"""Why a clip cannot be copied, beside the causes of `curation.footage.media`."""

_MP4 = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mpeg1video"})
_MOV = frozenset({"mjpeg", "png", "prores", "dnxhd", "h263", "rawvideo", "qtrle", "dvvideo"})
_FORMATS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska"}


@dataclass(frozen=True)
class Copied:
    """A file with frames of a clip."""

    path: Path
    suffix: str
    pts: tuple[int, ...]
    """Of its frames in order of time, in the source's time base."""


@dataclass(frozen=True)
class _Packets:
    """A stream's packets in the order of the file."""

    pts: NDArray[np.int64]
    starts: NDArray[np.bool_]
    """Decoding can begin here."""
    unseen: NDArray[np.bool_]
    """It is decoded and not shown."""
    cut_off: NDArray[np.bool_]
    """An edit list takes it out."""


def copy_clips(
    uri: str, clips: Sequence[Clip], limits: MediaLimits, place: Callable[[Clip], Path]
) -> Iterator[tuple[Clip, Copied | MediaError]]:
    """Copies clips of one video into a file each.

    Args:
        clips: spans that do not overlap.
        place: where the file of a clip is written.

    Yields:
        Every clip in order of time, with its file or with why there is none.
    """
    clips = sorted(clips, key=lambda c: c.start_pts)
    try:
        with open_video(open_source(uri), limits) as media:
            if media.picture is not None:
                raise MediaError("picture", f"{CAUSES['picture']}; mode exact can write it")
            packets, time_base, suffix = _read(media), Fraction(media.stream.time_base), _suffix(media)
        chosen = {c.clip_id: choose(packets, c.start_pts, c.end_pts) for c in clips}
        _write(uri, clips, chosen, limits, place, packets)
    except (MediaError, OSError, av.FFmpegError) as error:
        failed = MediaError.of(error)
        yield from ((clip, failed) for clip in clips)
        return
    for clip in clips:
        numbers = chosen[clip.clip_id]
        if isinstance(numbers, MediaError):
            yield clip, numbers
            continue
        shown = numbers[~packets.unseen[numbers]]
        copied = Copied(place(clip), suffix, tuple(sorted(packets.pts[shown].tolist())))
        yield clip, _check(copied, time_base, limits) or copied


def _read(media: Media) -> _Packets:
    """All packets of the stream; raises MediaError `no_times`."""
    rows = [
        (packet.pts, packet.is_keyframe, _is_unseen(packet, media), packet.is_discard)
        for packet in media.container.demux(media.stream)
        if packet.size
    ]
    shown = [pts for pts, _, unseen, _ in rows if not unseen]
    if not rows or None in shown or len(set(shown)) < len(shown):
        raise MediaError("no_times", f"{CAUSES['no_times']}; mode exact goes by the frames instead")
    pts, starts, unseen, cut_off = zip(*rows, strict=True)
    flags = (np.array(column, np.bool_) for column in (starts, unseen, cut_off))
    return _Packets(np.array([0 if p is None else p for p in pts], np.int64), *flags)


def _is_unseen(packet: av.Packet, media: Media) -> bool:
    """VP8 has packets that are references alone (RFC 6386, section 9.1: show_frame)."""
    return _codec(media) == "vp8" and not bytes(packet)[0] >> 4 & 1


def choose(packets: _Packets, start_pts: int, end_pts: int) -> NDArray[np.int64] | MediaError:
    """Numbers of the packets that make the longest copy inside of [start_pts, end_pts)."""
    pts = packets.pts
    inside = (pts >= start_pts) & (pts < end_pts) & ~packets.cut_off
    keys = np.flatnonzero(inside & packets.starts & ~packets.unseen)
    if not len(keys):
        return MediaError("no_keyframe", f"{CAUSES['no_keyframe']}; mode exact can write it")
    key = int(keys[0])
    following = np.arange(key, len(pts))
    following = following[packets.unseen[key:] | (pts[key:] >= pts[key])]
    past = np.flatnonzero(~packets.unseen[following] & ~inside[following])
    decodable = following[: past[0]] if len(past) else following
    shown = np.flatnonzero(~packets.unseen[decodable])
    rank = np.argsort(np.argsort(pts[following[~packets.unseen[following]]]))[: len(shown)]
    highest = np.fromiter(accumulate(rank, max), np.int64)
    without_gap = np.flatnonzero(highest == np.arange(len(shown)))
    return decodable[: shown[without_gap[-1]] + 1]


def _codec(media: Media) -> str:
    return media.stream.codec_context.codec.canonical_name


def _suffix(media: Media) -> str:
    codec = _codec(media)
    return "mp4" if codec in _MP4 else "mov" if codec in _MOV else "mkv"


def _write(
    uri: str,
    clips: Sequence[Clip],
    chosen: dict[str, NDArray[np.int64] | MediaError],
    limits: MediaLimits,
    place: Callable[[Clip], Path],
    packets: _Packets,
) -> None:
    """Reads the stream once more and puts each packet into the file that it belongs to."""
    waiting = [(c, n) for c in clips if not isinstance(n := chosen[c.clip_id], MediaError)]
    with open_video(open_source(uri), limits) as media:
        numbered = enumerate(p for p in media.container.demux(media.stream) if p.size)
        for clip, numbers in waiting:
            with _File(place(clip), media) as file:
                wanted, times = set(numbers.tolist()), _decoding_times(packets.pts[numbers])
                for number, packet in numbered:
                    if number in wanted:
                        file.add(packet, int(packets.pts[number]), next(times))
                    if number == numbers[-1]:
                        break


def _decoding_times(pts: NDArray[np.int64]) -> Iterator[int]:
    """Increasing times, none after its packet's pts: what is left out leaves no gap in them."""
    increasing = np.sort(pts)
    return iter((increasing - int((increasing - pts).max())).tolist())


class _File:
    """One stream, its times from zero."""

    def __init__(self, path: Path, media: Media) -> None:
        self._time_base = Fraction(media.stream.time_base)
        self._first: int | None = None
        options = {"fflags": "+bitexact", "video_track_timescale": str(self._time_base.denominator)}
        suffix = _suffix(media)
        self._output = av.open(
            str(path), "w", format=_FORMATS[suffix], options={} if suffix == "mkv" else options
        )
        try:
            self._stream = self._output.add_stream_from_template(media.stream, opaque=True)
        except ValueError as error:
            self._output.close()
            raise MediaError("no_container", f"{error}; mode exact can write it") from error
        self._stream.time_base = self._time_base
        # The container's word on the shape of pixels overrides the codec's; the template has the codec's.
        self._stream.codec_context.sample_aspect_ratio = media.stream.sample_aspect_ratio or Fraction(1)
        if _codec(media) == "prores":  # which says its flavour, and so its bits a sample, in the tag alone
            self._stream.codec_context.codec_tag = media.stream.codec_context.codec_tag

    def add(self, packet: av.Packet, pts: int, dts: int) -> None:
        self._first = pts if self._first is None else self._first
        packet.stream, packet.time_base = self._stream, self._time_base
        packet.pts, packet.dts = pts - self._first, dts - self._first
        self._output.mux_one(packet)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.close()


def _check(copied: Copied, time_base: Fraction, limits: MediaLimits) -> MediaError | None:
    """Decodes a file: exactly the frames that were meant, at their times, none damaged."""
    try:
        with open_video(copied.path, limits) as media:
            decoder = Decoder(media)
            damaged = sum(frame.damaged for frame in decoder)
    except MediaError as error:
        return MediaError("unsound_copy", f"it cannot be decoded: {error.detail}")
    found = (decoder.pts - decoder.pts[0]) * float(decoder.time_base)
    meant = (np.array(copied.pts) - copied.pts[0]) * float(time_base)
    if len(found) != len(meant) or damaged or decoder.num_refused:
        detail = f"{len(found)} frames, {damaged} of them damaged, {decoder.num_refused} packets refused"
        return MediaError("unsound_copy", f"expected {len(meant)} frames, found {detail}")
    if (np.abs(found - meant) > float(decoder.time_base)).any():
        return MediaError("unsound_copy", "its frames have other times than those of the source")
    return None
