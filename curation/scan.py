"""One decode of a video feeds every observer that needs its frames in order.

An observer is a small object: `observe(frame)` for every frame, `finish()` for what it found. A new one is added to
`_observers`; the loop does not change. Those to whom a small picture is enough get theirs by the handful. Memory does
not grow with the length of the video but for a few numbers per frame; pictures leave through `spool` as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.cuts.changes import BlendObserver, LagObserver, Measure
from curation.cuts.detectors import BrightnessObserver, LevelObserver, Signals
from curation.cuts.transnet import TransNetObserver
from curation.footage.frames import DETECTOR_LONG_PX, Decoded, Decoder, Frame, Scaler, Sizes, SmallFrame, fit
from curation.footage.grid_frames import GridFrame, GridObserver
from curation.footage.media import Media, MediaLimits, Probe, open_video, probe_opened
from curation.motion.flow import FlowObserver, FlowPairs
from warehouse.errors import SettingsError
from warehouse.ranges import RATE_FPS, check_ranges


@dataclass(frozen=True)
class ScanConfig:
    """What the scan measures, and on which pictures."""

    level_fps: tuple[float | None, ...] = (None, 8.0, 2.0)
    """Frame rates at which content scores are measured, for the content and adaptive detectors; None is every frame."""
    detectors: tuple[tuple[Literal["histogram", "hash", "threshold"], float | None], ...] = ()
    """Further detectors whose scores are measured, each with its frame rate; None is every frame."""
    transnet: bool = False
    """Let TransNet V2 look for cuts too: the best finder of the hard cases, at some 40 ms of one core a frame."""
    evidence: bool = True
    """Measure evidence of scene changes, by which cuts are found far better than by detectors' thresholds."""
    flow_fps: float = 2.0
    """Frames a second between which optical flow is measured."""
    flow_short_px: int = 96
    """Shorter side of the pictures that flow is measured on; the score's unit does not depend on it."""
    grid_fps: float = 2.0
    """Frames a second that are spooled."""
    grid_short_px: int = 480
    """Shorter side of spooled frames; smaller footage keeps its size."""
    jpeg_quality: int = 90
    decode_threads: int = 1
    """Threads of the decoder; results do not depend on it."""

    def __post_init__(self) -> None:
        rates = dict.fromkeys(("level_fps", "flow_fps", "grid_fps"), RATE_FPS)
        sides = dict.fromkeys(("flow_short_px", "grid_short_px"), (16, 8192))
        check_ranges("scan", self, **rates, **sides, jpeg_quality=(1, 100), decode_threads=(1, 64))
        for _, fps in self.detectors:
            if fps is not None and not RATE_FPS[0] <= fps <= RATE_FPS[1]:
                raise SettingsError(
                    f"scan.detectors has {fps} fps: expected {RATE_FPS[0]} to {RATE_FPS[1]:g}"
                )


@dataclass(frozen=True)
class ScanResult:
    """Everything that one decode of a video gave. pts are in the stream's time base."""

    probe: Probe
    signals: Signals
    flow: FlowPairs
    grid_pts: NDArray[np.int64]
    """pts of the spooled frames."""
    decode_errors: int
    """Packets that the decoder refused."""
    stream_bytes: int
    """Size of the video stream's packets, without container and sound; of a picture, that of its file."""
    moved_pts: int
    """Time stamps that did not increase and were moved."""

    @property
    def num_frames(self) -> int:
        """Frames that were decoded."""
        return len(self.signals.pts)

    @property
    def duration_s(self) -> float:
        """From the first frame to the end of the last one."""
        return self.signals.seconds(self.signals.end_pts - int(self.signals.pts[0]))


class Observer(Protocol):
    """Looks at every frame of a video in order, then tells what it found."""

    def observe(self, frame: Frame) -> None:
        """Take the next frame. It must not be kept: its pictures are valid, its memory is not free."""

    def finish(self) -> Any:
        """What was found; called once, after the last frame."""


class SmallObserver(Protocol):
    """As `Observer`, of frames of which only the small picture is left."""

    def observe(self, frame: SmallFrame) -> None:
        """Take the next frame, some frames late."""

    def finish(self) -> Any:
        """What was found; called once, after the last frame."""


class Handfuls:
    """Passes the small parts of frames on, `SIZE` at a time, to observers that need no more of them.

    A decoded picture of 720p drives all else out of the processor's caches; what is computed of small pictures takes
    a third less time when it follows on one another.
    """

    SIZE = 32
    """More gains nothing; this number of small pictures takes some 9 MB with what is made of them."""

    def __init__(self, observers: Mapping[Any, SmallObserver]) -> None:
        self._observers = observers
        self._waiting: list[SmallFrame] = []

    def observe(self, frame: Frame) -> None:
        """Take the next frame; the observers see it when the handful is full."""
        self._waiting.append(frame.small)
        if len(self._waiting) == self.SIZE:
            self._pass_on()

    def finish(self) -> dict[Any, Any]:
        """What each observer found, by its name."""
        self._pass_on()
        return {name: observer.finish() for name, observer in self._observers.items()}

    def _pass_on(self) -> None:
        for observer in self._observers.values():
            for frame in self._waiting:
                observer.observe(frame)
        self._waiting.clear()


def scan_video(
    source: Path | BinaryIO,
    config: ScanConfig | None = None,
    spool: Callable[[GridFrame], None] = lambda grid_frame: None,
    limits: MediaLimits | None = None,
) -> ScanResult:
    """Decode a video once and measure everything; grid frames go to `spool` in order of time. Raises MediaError."""
    config = config or ScanConfig()
    cv2.setNumThreads(1)  # a scan is one process of many: its threads would only fight with theirs
    with open_video(source, limits) as media:
        return _scan_opened(media, config, spool)


def _scan_opened(media: Media, config: ScanConfig, spool: Callable[[GridFrame], None]) -> ScanResult:
    decoder = Decoder(media, config.decode_threads)
    observers = _observers(config, decoder.time_base, spool)
    damaged: list[int] = []
    facts: Probe | None = None
    for decoded, frame in _frames(decoder, config):
        facts = facts or probe_opened(media, decoded.rotation)
        if decoded.damaged:
            damaged.append(decoded.index)
        for observer in observers.values():
            observer.observe(frame)
    found = {name: observer.finish() for name, observer in observers.items()}
    found |= found.pop("small")
    measures: list[Measure] = [m for name in ("lags", "blends", "transnet") for m in found.get(name, ())]
    signals = Signals(
        time_base=decoder.time_base,
        pts=decoder.pts,
        end_pts=decoder.end_pts,
        brightness=found["brightness"],
        damaged=np.array(damaged, np.int32),
        levels=tuple(found[level] for level in measured_levels(config)),
        measures={measure.name: measure for measure in measures},
    )
    return ScanResult(
        probe=facts,
        signals=signals,
        flow=found["flow"],
        grid_pts=found["grid"],
        decode_errors=decoder.num_refused,
        stream_bytes=decoder.media.bytes if decoder.media.picture else decoder.num_bytes,
        moved_pts=decoder.num_moved,
    )


def measured_levels(config: ScanConfig) -> list[tuple[str, float | None]]:
    """What is measured for the cascade, each once."""
    return list(dict.fromkeys([*(("content", fps) for fps in config.level_fps), *config.detectors]))


def _observers(
    config: ScanConfig, time_base: Fraction, spool: Callable[[GridFrame], None]
) -> dict[Any, Observer]:
    evidence = {"lags": LagObserver(), "blends": BlendObserver(time_base)} if config.evidence else {}
    learned = {"transnet": TransNetObserver()} if config.transnet else {}
    levels = {level: LevelObserver(level[1], time_base, level[0]) for level in measured_levels(config)}
    return {
        "small": Handfuls({**levels, **evidence, "brightness": BrightnessObserver()}),
        **learned,
        "flow": FlowObserver(config.flow_fps, time_base),
        "grid": GridObserver(config.grid_fps, time_base, config.jpeg_quality, spool),
    }


def _frames(decoder: Decoder, config: ScanConfig) -> Iterator[tuple[Decoded, Frame]]:
    scaler = Scaler()
    sizes: Sizes | None = None
    for decoded in decoder:
        if sizes is None:
            sizes = _sizes(probe_opened(decoder.media, decoded.rotation), decoded, config)
        yield decoded, Frame(decoded, sizes, scaler)


def _sizes(facts: Probe, first: Decoded, config: ScanConfig) -> Sizes:
    width, height = first.image.width, first.image.height
    shrink = max(1.0, max(width, height) / DETECTOR_LONG_PX)
    shown = width * facts.pixel_aspect
    return Sizes(
        detector=(max(1, round(width / shrink)), max(1, round(height / shrink))),
        grid=fit(shown, height, short_px=config.grid_short_px),
        flow=fit(shown, height, short_px=config.flow_short_px),
        rotation_deg=facts.rotation_deg,
    )
