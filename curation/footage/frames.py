"""Frames of a video in presentation order, each with the one pts that everything else goes by.

Rules of time, the same for everyone who decodes with `Decoder`:
- a frame's time is its pts in the stream's time base, never its index over a rate;
- a frame without a pts (raw streams have none) comes one nominal frame after the one before;
- a pts that does not increase is moved to one tick after the one before, and counted;
- the video ends where its last frame does: its duration, else the median distance of the frames before.

Rules of damage: packets that the decoder refuses are counted and passed over, frames that it marks as damaged are
kept and marked. The video fails as `truncated` when the file ends before what its header counts, as `corrupt` when
more than `MediaLimits.max_refused_share` of the packets are refused.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from curation.footage.media import Media, check_size, stream_duration_s
from warehouse.errors import MediaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DETECTOR_LONG_PX = 256
"""Longer side of the pictures that cut detectors see (PySceneDetect's own choice, so its thresholds hold)."""

THUMB_LONG_PX = 32
"""Longer side of the pictures on which evidence of scene changes is measured."""


@dataclass(frozen=True)
class Decoded:
    """One frame as decoded."""

    index: int
    """Position in presentation order, from 0."""
    pts: int
    image: av.VideoFrame
    damaged: bool
    """The decoder marked the frame as damaged."""

    @property
    def rotation(self) -> float:
        """Degrees counterclockwise to turn the picture for display."""
        return self.image.rotation


class Decoder:
    """Iterates once over the frames of an opened video. Raises MediaError, at the latest at the end.

    After the iteration `pts` (int64), `end_pts` and the counts below are complete.
    """

    def __init__(self, media: Media, threads: int = 1) -> None:
        self.media = media
        self.time_base = Fraction(media.stream.time_base or Fraction(1, 90_000))
        self.num_packets = 0
        self.num_bytes = 0
        """Size of the stream's packets."""
        self.num_refused = 0
        """Packets that the decoder refused."""
        self.num_moved = 0
        """Time stamps that did not increase and were moved."""
        self._pts = array("q")
        self._last_duration = 0
        self._max_ticks = media.limits.max_duration_s / self.time_base
        context = media.stream.codec_context
        context.thread_type = "NONE" if threads == 1 else "AUTO"
        context.thread_count = threads

    def __iter__(self) -> Iterator[Decoded]:
        for image in self._images():
            pts = self._place(image)
            self._check_limits(image)
            yield Decoded(len(self._pts) - 1, pts, image, image.is_corrupt)
        self._check_end()

    @property
    def pts(self) -> NDArray[np.int64]:
        """pts of every frame so far, increasing."""
        return np.frombuffer(self._pts, np.int64).copy() if self._pts else np.zeros(0, np.int64)

    @property
    def end_pts(self) -> int:
        """Where the last frame ends."""
        return self._pts[-1] + (self._last_duration or self._typical_ticks())

    @cached_property
    def nominal_ticks(self) -> int:
        """Ticks of one frame at the stream's guessed rate (25 frames a second where there is none)."""
        rate = self.media.stream.guessed_rate or self.media.stream.average_rate or 25
        return max(1, round(1 / (Fraction(rate) * self.time_base)))

    def _images(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in self.media.container.demux(self.media.stream):
                self.num_packets += packet.size > 0
                self.num_bytes += packet.size
                try:
                    yield from packet.decode()
                except av.FFmpegError:
                    self.num_refused += 1
        except av.FFmpegError as error:
            raise MediaError(
                "truncated", f"the file breaks off after {len(self._pts)} frames: {error}"
            ) from error

    def _place(self, image: av.VideoFrame) -> int:
        last = self._pts[-1] if self._pts else None
        pts = image.pts
        if pts is None:
            pts = (self.media.stream.start_time or 0) if last is None else last + self.nominal_ticks
        elif last is not None and pts <= last:
            pts = last + 1
            self.num_moved += 1
        self._pts.append(pts)
        self._last_duration = image.duration or 0
        return pts

    def _typical_ticks(self) -> int:
        steps = np.diff(self.pts[-101:])
        return int(np.median(steps)) if len(steps) else self.nominal_ticks

    def _check_limits(self, image: av.VideoFrame) -> None:
        limits, count = self.media.limits, len(self._pts)
        check_size(image.width, image.height, limits, f"frame {count - 1}")
        if count > limits.max_frames:
            raise MediaError("limit_frames", f"more than max_frames = {limits.max_frames} frames")
        if self._pts[-1] - self._pts[0] > self._max_ticks:
            raise MediaError("limit_duration", f"longer than max_duration_s = {limits.max_duration_s:.0f} s")

    def _check_end(self) -> None:
        share, count = self.media.limits.max_refused_share, len(self._pts)
        if count == 0:
            raise MediaError("zero_frames", f"no frame could be decoded from {self.num_packets} packets")
        if missing := self._missing():
            raise MediaError("truncated", f"{missing}; the file was cut off, or never written to its end")
        if self.num_refused > share * self.num_packets:
            raise MediaError("corrupt", f"{self.num_refused} of {self.num_packets} packets cannot be decoded")
        if self.num_moved > share * count:
            raise MediaError("bad_timestamps", f"{self.num_moved} of {count} time stamps do not increase")

    def _missing(self) -> str | None:
        """What the header counts and the file does not hold; a header may be off by a little."""
        stream, num_frames = self.media.stream, len(self._pts)
        declared_s = stream_duration_s(stream) or 0.0
        found_s = float((self.end_pts - self._pts[0]) * self.time_base)
        # Frames that an edit list leaves out are counted too, but are no part of the declared duration.
        is_whole = 0 < 0.98 * declared_s <= found_s
        if self.num_packets < 0.98 * stream.frames and not is_whole:
            return f"the header counts {stream.frames} frames, the file holds {num_frames}"
        if found_s < 0.95 * declared_s - 0.5:
            return f"the header says {declared_s:.1f} s, the file holds {found_s:.1f} s"
        return None


class TimeGrid:
    """Chooses the frames of a fixed rate: the first at or after each multiple of 1 / fps since the first frame.

    A frame that comes up to 2 ms early counts as in time, because containers round time stamps.
    """

    def __init__(self, fps: float, time_base: Fraction) -> None:
        period = 1 / (Fraction(fps).limit_denominator(1000) * time_base)
        slack = Fraction(1, 500) / time_base
        # Whole numbers of the largest unit of which ticks, period and slack are multiples: exact, and fast.
        self._tick = lcm(period.denominator, slack.denominator)
        self._period, self._slack = int(period * self._tick), int(slack * self._tick)
        self._start: int | None = None
        self._due = 0

    def takes(self, pts: int) -> bool:
        """Whether the frame at `pts` belongs to the grid; to be asked once per frame, in order."""
        if self._start is None:
            self._start = pts
        elapsed = (pts - self._start) * self._tick + self._slack
        if elapsed < self._due:
            return False
        due = (elapsed // self._period + 1) * self._period
        self._due = -(-due // self._tick) * self._tick  # the first tick that is not before it
        return True


@dataclass(frozen=True)
class Thumb:
    """A thumbnail on which evidence of scene changes is measured."""

    bgr: NDArray[np.uint8]
    """[h, w, 3]"""
    flat: NDArray[np.float32]
    """[h, w, 3], the mean colour taken out."""
    contrast: float
    """Root mean square of `flat`, 0..128."""


class SmallFrame:
    """What may be kept of a decoded frame: its time and a small picture, with what is made of that alone.

    Each copy is made once however many observers ask for it.
    """

    def __init__(self, index: int, pts: int, shrunk: av.VideoFrame, scaler: Scaler) -> None:
        self.index = index
        self.pts = pts
        self._shrunk = shrunk
        self._scaler = scaler

    @cached_property
    def small_bgr(self) -> NDArray[np.uint8]:
        """[H, W, 3], 256 px on the longer side, as stored (not turned)."""
        return self._scaler.bgr(self._shrunk, (self._shrunk.width, self._shrunk.height), "FAST_BILINEAR")

    @cached_property
    def small_hsv(self) -> NDArray[np.uint8]:
        """[H, W, 3] of `small_bgr`; hue 0..179, saturation and value 0..255."""
        return cv2.cvtColor(self.small_bgr, cv2.COLOR_BGR2HSV)

    @cached_property
    def thumb(self) -> Thumb:
        """`small_bgr` at 32 px on the longer side."""
        height, width = self.small_bgr.shape[:2]
        scale = THUMB_LONG_PX / max(height, width)
        columns, rows = max(2, round(width * scale)), max(2, round(height * scale))
        # Near the size first; halving what is left is fast and smooth.
        bgr = cv2.resize(self.small_bgr, (4 * columns, 4 * rows))
        bgr = cv2.resize(bgr, (2 * columns, 2 * rows), interpolation=cv2.INTER_AREA)
        bgr = cv2.resize(bgr, (columns, rows), interpolation=cv2.INTER_AREA)
        mean, deviation = cv2.meanStdDev(bgr)
        return Thumb(
            bgr, bgr - mean[:, 0].astype(np.float32), float(np.vdot(deviation, deviation) / 3) ** 0.5
        )


class Frame(SmallFrame):
    """A decoded frame, with further copies of the full picture; to be let go before the next one is decoded.

    Sizes come from the video's first frame, so that all copies of one kind have one shape even where the stored
    size changes in mid-stream.
    """

    def __init__(self, decoded: Decoded, sizes: Sizes, scaler: Scaler) -> None:
        shrunk = scaler.shrunk(decoded.image, sizes.detector, "FAST_BILINEAR")
        super().__init__(decoded.index, decoded.pts, shrunk, scaler)
        self._image = decoded.image
        self._sizes = sizes

    @property
    def small(self) -> SmallFrame:
        """The part that may be kept, without copies that were made of it so far."""
        return SmallFrame(self.index, self.pts, self._shrunk, self._scaler)

    @cached_property
    def tiny_rgb(self) -> NDArray[np.uint8]:
        """[27, 48, 3] as displayed, whatever the aspect: what TransNet V2 sees, scaled as the ffmpeg program does."""
        size = (27, 48) if self._sizes.rotation_deg % 180 else (48, 27)
        return self._sizes.upright(self._scaler.rgb(self._image, size, "BICUBIC"))

    @cached_property
    def grid_bgr(self) -> NDArray[np.uint8]:
        """[H, W, 3] as displayed: upright, square pixels."""
        return self._sizes.upright(self._scaler.bgr(self._image, self._sizes.grid, "AREA"))

    @cached_property
    def flow_gray(self) -> NDArray[np.uint8]:
        """[H, W] as displayed: upright, square pixels."""
        return self._sizes.upright(self._scaler.gray(self._image, self._sizes.flow, "AREA"))


@dataclass(frozen=True)
class Sizes:
    """(width, height) of the scaled copies before they are turned upright."""

    detector: tuple[int, int]
    grid: tuple[int, int]
    flow: tuple[int, int]
    rotation_deg: int

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn stored pixels as the display matrix says."""
        turns = self.rotation_deg // 90 % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def fit(width: float, height: float, *, short_px: int) -> tuple[int, int]:
    """Size with the same aspect whose shorter side is `short_px`, or the size itself where that is smaller; even."""
    scale = min(1.0, short_px / min(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


class Scaler:
    """swscale contexts, one per kind of copy, single-threaded."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[tuple[int, int], str], VideoReformatter] = {}

    def shrunk(self, image: av.VideoFrame, size: tuple[int, int], method: str) -> av.VideoFrame:
        """Planar YUV stays what it is, because to convert its colours is dear at full size; all else becomes BGR."""
        pix_fmt = image.format.name if image.format.name.startswith("yuv") else "bgr24"
        return self._scale(image, size, pix_fmt, method)

    def bgr(self, image: av.VideoFrame, size: tuple[int, int], method: str) -> NDArray[np.uint8]:
        """[H, W, 3], by way of `shrunk`."""
        return self._scale(self.shrunk(image, size, method), size, "bgr24", method).to_ndarray()

    def rgb(self, image: av.VideoFrame, size: tuple[int, int], method: str) -> NDArray[np.uint8]:
        """[H, W, 3], in one step."""
        return self._scale(image, size, "rgb24", method).to_ndarray()

    def gray(self, image: av.VideoFrame, size: tuple[int, int], method: str) -> NDArray[np.uint8]:
        """[H, W] luma."""
        return self._scale(image, size, "gray", method).to_ndarray()

    def _scale(self, image: av.VideoFrame, size: tuple[int, int], pix_fmt: str, method: str) -> av.VideoFrame:
        context = self._contexts.setdefault((size, pix_fmt), VideoReformatter())
        return context.reformat(image, *size, format=pix_fmt, interpolation=method, threads=1)
