"""What an annotator is: columns for clips, never a filter.

An annotator declares what it reads and writes as data, loads its model once per process in `load`, and turns a batch
of clips into one outcome per clip. A clip that it cannot score is `failed` with a cause or `skipped` with a reason;
it never raises for one clip and never returns a sentinel. A new annotator is one file and one line in the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from curation.engine.places import RunsOn
from curation.footage.grid_frames import decode_jpeg, pick


def operational(default: Any) -> Any:
    """A config field that changes how fast rows come but never what they say, so that a table's key may leave it out."""
    return field(default=default, metadata={"in_key": False})


@dataclass(frozen=True)
class GridFrame:
    """A frame of the spooled time grid: JPEG bytes of an upright RGB image at `pts`."""

    pts: int
    jpeg: bytes

    @cached_property
    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3)."""
        return decode_jpeg(self.jpeg)


@dataclass(frozen=True)
class Clip:
    """One clip as an annotator sees it: its span, its grid frames and its rows in the tables that it reads."""

    clip_id: str
    video_id: str
    start_pts: int
    end_pts: int
    seconds_per_tick: float
    fps: float | None
    grid: tuple[GridFrame, ...]
    rows: Mapping[str, Mapping[str, Any]]

    @property
    def duration_s(self) -> float:
        return (self.end_pts - self.start_pts) * self.seconds_per_tick

    def frames(self, count: int) -> list[GridFrame]:
        """At most `count` grid frames spread evenly over the clip: for 3 the first, the middle and the last."""
        return [self.grid[i] for i in pick([f.pts for f in self.grid], self.start_pts, self.end_pts, count)]


@dataclass(frozen=True)
class Done:
    """The clip has its columns."""

    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Failed:
    """The clip could not be scored; `cause` is a short stable word, `detail` a sentence."""

    cause: str
    detail: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the clip all the same."""


@dataclass(frozen=True)
class Skipped:
    """The annotator does not apply to the clip."""

    reason: str


Outcome = Done | Failed | Skipped


class LoadsWeights(Protocol):
    """What an annotator that loads weights has besides: `check` looks whether they can be, before anything is written."""

    @staticmethod
    def check(config: Any) -> None:
        """Raises WeightsError with the way to mend it; takes seconds at most, and asks no hub."""


class ChoosesPlace(Protocol):
    """What an annotator has besides whose work the cores do not do, or not alone."""

    @staticmethod
    def runs_on(config: Any) -> RunsOn:
        """Where an annotator of this config does its work; `cores` is what it is without this method."""

    @staticmethod
    def batch_size(config: Any) -> int:
        """Clips of one call of `annotate`, at most; 16 without this method."""


def is_on(config: Any) -> bool:
    """Whether curation runs the annotator of this config: a config that has `enabled` says so itself, others are on."""
    return getattr(config, "enabled", True)


class Annotator(Protocol):
    """Computes one table. Built from its frozen config; `load` is called once in each worker process."""

    name: ClassVar[str]
    """Its table in the warehouse."""
    version: ClassVar[int]
    """Raised when the same config would give other numbers; part of the table's key."""
    reads: ClassVar[tuple[str, ...]]
    """Tables of which each clip's row (by clip_id, else by video_id) is handed over in `Clip.rows`;
    `grid_frames` stands for the spooled frames."""
    config_type: ClassVar[type]
    """Its frozen config; built without arguments it is the default."""

    def __init__(self, config: Any) -> None: ...

    def load(self) -> None:
        """Loads models; raises WeightsError with the way to mend it."""

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """One outcome per clip, in order."""
