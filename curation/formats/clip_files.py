"""Clips as files of their own: exactly the frames of the clip, encoded anew, and none of its neighbours'."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import av
import numpy as np

from curation.footage.frames import Decoded, Decoder, fit
from curation.footage.media import MediaLimits, open_video
from curation.formats.base import Clip
from curation.ingest import open_source
from warehouse.errors import MediaError, SettingsError

if TYPE_CHECKING:
    from PIL import Image

CRF = "16"
"""x264's constant quality: hardly to be told from the source."""

MOST_PIXELS = 139_264 * 16 * 16
"""Of a picture at H.264's highest level, 6.2 (ITU-T H.264, table A-1)."""
_COLOURS = ("color_range", "color_primaries", "color_trc", "colorspace")
"""What the numbers of a frame mean in light; kept, so that they can be."""


class Sink(Protocol):
    """Takes the frames of one clip in order."""

    def add(self, frame: Decoded) -> None: ...

    def close(self) -> None: ...


def write_clips(
    uri: str, clips: Sequence[Clip], limits: MediaLimits, open_sink: Callable[[Clip, Decoder], Sink]
) -> Iterator[tuple[Clip, MediaError | None]]:
    """Feeds every frame of some clips of one video into a sink each, in one decode.

    Args:
        clips: spans that do not overlap.
        open_sink: makes the sink of a clip; it is told where the frames come from.

    Yields:
        Every clip, with why its frames could not all be had, if so.
    """
    clips = sorted(clips, key=lambda c: c.start_pts)
    counts = dict.fromkeys((c.clip_id for c in clips), 0)
    error: MediaError | None = None
    try:
        _feed(uri, clips, limits, open_sink, counts)
    except (MediaError, OSError) as failed:
        error = MediaError.of(failed)
    for clip in clips:
        found = counts[clip.clip_id]
        changed = MediaError("changed", f"{found} of {clip.num_frames} frames found; was the file replaced?")
        yield clip, None if found == clip.num_frames else error or changed


def _feed(
    uri: str,
    clips: Sequence[Clip],
    limits: MediaLimits,
    open_sink: Callable[[Clip, Decoder], Sink],
    counts: dict[str, int],
) -> None:
    starts = [c.start_pts for c in clips]
    current: Clip | None = None
    sink: Sink | None = None
    try:
        with open_video(open_source(uri), limits) as media:
            decoder = Decoder(media)
            for frame in decoder:
                place = bisect_right(starts, frame.pts) - 1
                clip = clips[place] if place >= 0 and frame.pts < clips[place].end_pts else None
                if clip is not current:
                    if sink:
                        sink.close()
                    sink = open_sink(clip, decoder) if clip else None
                    current = clip
                if sink and clip:
                    sink.add(frame)
                    counts[clip.clip_id] += 1
                if frame.pts >= clips[-1].end_pts:
                    break
    finally:
        if sink:
            sink.close()


@dataclass(frozen=True)
class Shape:
    """Size of the pictures in a file, as displayed; by default that of the source."""

    short_px: int | None = None
    """Scaled so that the shorter side has so many pixels; never enlarged."""
    size: tuple[int, int] | None = None
    """Scaled to cover (width, height), and cropped around the centre."""
    enlarge: bool = False
    """`size` may be larger than a picture, which is then scaled up; otherwise its clip has no file."""

    def __post_init__(self) -> None:
        if self.size and self.size[0] * self.size[1] > MOST_PIXELS:
            raise SettingsError(
                f"a size of {self.size[0]}x{self.size[1]} has {self.size[0] * self.size[1]:,} pixels; H.264 holds at most "
                f"{MOST_PIXELS:,}, such as 8192x4352"
            )
        sides = [s for s in (self.short_px, *(self.size or ())) if s is not None]
        if any(s < 2 or s % 2 for s in sides) or (self.short_px and self.size):
            raise SettingsError(
                f"give either a shorter side or a size, in even pixels; got {self.short_px} and {self.size}"
            )

    def refusal(self, clip: Clip) -> MediaError | None:
        """Why the clip's pictures cannot have this shape; None if they can."""
        if self.size is None or self.enlarge or (clip.width >= self.size[0] and clip.height >= self.size[1]):
            return None
        wanted = "x".join(map(str, self.size))
        return MediaError(
            "too_small",
            f"its pictures are {clip.width}x{clip.height}, and {wanted} is larger: choose a smaller size, or ask for "
            "scaling up with --enlarge",
        )


class VideoFile:
    """An MP4 file in H.264 with the clip's own times, from zero; without sound.

    Stored pixels stay as they lie: rotation, colours and the shape of pixels are said as in the source, except that
    pixels of a scaled picture are square. 8 bits a sample, 4:2:0 where the sides are even and 4:4:4 where not. One
    thread, so that the same frames give the same bytes.
    """

    def __init__(self, path: Path, clip: Clip, source: Decoder, shape: Shape | None = None) -> None:
        self._clip, self._time_base = clip, source.time_base
        self._shape = shape or Shape()
        self._cut: Callable[[av.VideoFrame], av.VideoFrame] = _whole
        self._aspect = source.media.stream.sample_aspect_ratio
        self._stream: av.VideoStream | None = None
        self._output = av.open(str(path), "w", format="mp4", options=self._muxing())

    def _muxing(self) -> dict[str, str]:
        return {"fflags": "+bitexact", "video_track_timescale": str(self._time_base.denominator)}

    def add(self, frame: Decoded) -> None:
        stream = self._stream or self._start(frame)
        size, range_ = (stream.width, stream.height), frame.image.color_range or None
        image = self._cut(frame.image).reformat(*size, stream.pix_fmt, dst_color_range=range_)
        image.pts, image.time_base = frame.pts - self._clip.start_pts, self._time_base
        image.pict_type = 0  # the source's choice of key frames is not ours
        self._output.mux(stream.encode(image))

    def _start(self, frame: Decoded) -> av.VideoStream:
        image = frame.image
        rate = Fraction(self._clip.fps).limit_denominator(1001)
        options = {"crf": CRF, "x264-params": "threads=1"}
        stream = self._stream = self._output.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = self._lay_out(frame)
        stream.pix_fmt = "yuv444p" if stream.width % 2 or stream.height % 2 else "yuv420p"
        context = stream.codec_context
        context.time_base, context.thread_count = self._time_base, 1
        for name in _COLOURS:
            setattr(context, name, getattr(image, name))
        if self._aspect and self._shape == Shape():
            context.sample_aspect_ratio = self._aspect
        if round(frame.rotation) % 360:
            stream.set_display_rotation(round(frame.rotation))
        return stream

    def _lay_out(self, frame: Decoded) -> tuple[int, int]:
        """Stored (width, height) of the file's pictures; decides which part of the source's they show."""
        width, height = frame.image.width, frame.image.height
        shown = width * float(self._aspect or 1)
        if self._shape.short_px:
            return fit(shown, height, short_px=self._shape.short_px)
        if not self._shape.size:
            return width, height
        across, down = self._shape.size[::-1] if round(frame.rotation) % 180 else self._shape.size
        scale = max(across / shown, down / height)
        wide, high = round(across / scale * width / shown), round(down / scale)
        if (wide, high) != (width, height):
            self._cut = _Centre(frame.image, wide, high)
        return across, down

    def close(self) -> None:
        if self._stream:
            self._output.mux(self._stream.encode(None))
        self._output.close()


def _whole(image: av.VideoFrame) -> av.VideoFrame:
    return image


class _Centre:
    """The middle of pictures, whose size and format are those of the first one."""

    def __init__(self, first: av.VideoFrame, width: int, height: int) -> None:
        self._of = first.width, first.height, first.format.name
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=first.width, height=first.height, format=first.format, time_base=Fraction(1)
        )
        crop = graph.add("crop", f"{width}:{height}")
        sink = graph.add("buffersink")
        source.link_to(crop)
        crop.link_to(sink)
        graph.configure()
        self._graph, self._source, self._sink = graph, source, sink  # they do not keep the graph alive

    def __call__(self, image: av.VideoFrame) -> av.VideoFrame:
        self._source.push(image.reformat(*self._of))
        return self._sink.pull()


def _upright(frame: Decoded, clip: Clip) -> Image.Image:
    """The frame as displayed, at the video's own size."""
    from PIL import Image

    turns = round(frame.rotation) // 90 % 4
    width, height = (clip.height, clip.width) if turns % 2 else (clip.width, clip.height)
    image = frame.image
    if (image.width, image.height) != (width, height):
        image = image.reformat(width, height, interpolation="AREA")
    return Image.fromarray(np.ascontiguousarray(np.rot90(image.to_ndarray(format="rgb24"), turns)))


class FrameFolder:
    """A folder of JPEG files, ``<clip>_000000.jpg`` and so on, upright, as displayed."""

    QUALITY = 95

    def __init__(self, folder: Path, clip: Clip, source: Decoder) -> None:
        folder.mkdir(parents=True)
        self._folder, self._clip, self._count = folder, clip, 0

    def add(self, frame: Decoded) -> None:
        path = self._folder / f"{self._clip.clip_id}_{self._count:06d}.jpg"
        _upright(frame, self._clip).save(path, quality=self.QUALITY, subsampling=0)
        self._count += 1

    def close(self) -> None:
        """Nothing is left open."""


class MiddleFrame:
    """A PNG file of the clip's middle frame, upright, as displayed."""

    def __init__(self, path: Path, clip: Clip, source: Decoder) -> None:
        self._path, self._clip, self._count = path, clip, 0

    def add(self, frame: Decoded) -> None:
        if self._count == self._clip.num_frames // 2:
            _upright(frame, self._clip).save(self._path)
        self._count += 1

    def close(self) -> None:
        """Nothing is left open."""
