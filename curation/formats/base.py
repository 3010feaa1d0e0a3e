"""What lists of footage have in common: an entry as a list names it, and how a format is read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from warehouse.ledger import Ledger


@dataclass(frozen=True)
class Entry:
    """One entry of a list, or a part of the list that is no entry, with the reason."""

    where: str
    """Its place in the list, for people: a line, an item, a folder."""
    path: str | None = None
    """The footage as it is listed; None where the entry names none."""
    root: str | None = None
    """The folder that its path starts from; None: where the list says nothing, its own folder."""
    captions: tuple[str, ...] = ()
    start_s: float | None = None
    end_s: float | None = None
    start_frame: int | None = None
    """In presentation order, from 0."""
    end_frame: int | None = None
    """Just past the last frame."""
    frames: tuple[str, ...] = ()
    """Files of single frames in order of time, where the footage is a folder of them."""
    inside: tuple[str, int, int] | None = None
    """Where the footage is a stretch of a larger file: that file, the first byte, and how many."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """All else that the list says, as JSON has it."""
    cause: str | None = None
    """A short stable word: why it cannot be used; None where the list is right about it."""
    detail: str | None = None


def malformed(where: str, cause: str, detail: str, **known: Any) -> Entry:
    """An entry that cannot be used, with the reason."""
    return Entry(where, cause=cause, detail=detail, **known)


@dataclass(frozen=True)
class Clip:
    """One kept clip on its way into a list."""

    clip_id: str
    video_id: str
    uri: str
    """The video that it is a span of."""
    start_pts: int
    end_pts: int
    start_s: float
    duration_s: float
    start_frame: int
    """In presentation order, from 0."""
    num_frames: int
    fps: float
    width: int
    """As displayed, in pixels."""
    height: int
    captions: Mapping[str, str]
    """By who wrote it: listed (listed_2, ... where lists say more), summary, video, frame; those that there are, the
    preferred first."""
    scores: Mapping[str, float | None]
    """By annotator."""
    path: str = ""
    """Where the list finds its footage."""

    @property
    def caption(self) -> str:
        """The preferred caption, or nothing."""
        return next(iter(self.captions.values()), "")

    @property
    def equal_captions(self) -> list[str]:
        """Captions of which any may stand for the clip, each once: the listed ones alone where they are preferred."""
        listed = [text for kind, text in self.captions.items() if kind.startswith("listed")]
        preferred = listed if self.caption in listed[:1] else self.captions.values()
        return list(dict.fromkeys(preferred))

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s

    @property
    def end_frame(self) -> int:
        """Just past the last frame."""
        return self.start_frame + self.num_frames


@dataclass(frozen=True)
class Target:
    """Where a list is written, and from what."""

    folder: Path
    """A new folder; files of clips are in it."""
    final: Path
    """Where the folder is moved when it is whole."""
    ledger: Ledger
    """The tables that the clips are from."""


def by_weight(clips: Sequence[Clip], folder: Path, most_bytes: int) -> Iterator[list[Clip]]:
    """Clips in runs, each ended by the clip with which its files in the folder weigh `most_bytes` or more."""
    run: list[Clip] = []
    weight = 0
    for clip in clips:
        run.append(clip)
        weight += (folder / clip.path).stat().st_size
        if weight >= most_bytes:
            yield run
            run, weight = [], 0
    if run:
        yield run


Media = Literal["source", "video", "frames", "picture", "features"]
"""What a list points to: spans of the sources as they are, one video a clip, a folder of frames a clip, its middle frame,
or nothing but what models made of it."""


@dataclass(frozen=True)
class Format:
    """How one kind of list is read and written."""

    name: str
    read: Callable[[Path], Iterator[Entry]] | None
    """Entries in the order of the list. Raises FormatError where it is no list of this format at all."""
    write: Callable[[Sequence[Clip], Target], None]
    """Writes the list of these clips."""
    media: tuple[Media, ...]
    """What its lists may point to, the usual one first."""
    source_suffixes: tuple[str, ...] = ()
    """The only names of files that its loader reads, where lists point to sources; nothing: it reads any."""
    encoded: bool = False
    """It needs the clips' latents and text embeddings."""
    absolute: bool = False
    """Its loader knows no root, so that files of clips are named by absolute paths."""
