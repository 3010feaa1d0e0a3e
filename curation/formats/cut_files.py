"""A folder of clips as files: `clips/<clip_id>.<suffix>`, and beside them what each of them holds.

`files/<video_id>.parquet` has a row for every clip of that video that was asked for, also for one that could not be
written; all of them together are one Parquet dataset. A video's table is written after its clips, and every file appears
whole or not at all, so that a run that was stopped goes on with the first video whose table does not vouch for its clips.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from curation.footage.frames import Decoded, Decoder
from curation.footage.media import MediaLimits
from curation.formats.base import Clip
from curation.formats.clip_files import Shape, VideoFile, write_clips
from curation.formats.kept import Chosen, describe
from curation.formats.stream_copy import Copied, copy_clips
from curation.sources import check_holds
from warehouse import owner
from warehouse.errors import MediaError, SettingsError, WarehouseError
from warehouse.store import Store
from warehouse.table import column

SETTINGS = "settings.json"
FILES = "files"
CLIPS = "clips"
Mode = Literal["copy", "exact"]

SCHEMA = pa.schema(
    [
        column("clip_id", pa.string(), "hash of video, stream, start and end"),
        column("video_id", pa.string(), "SHA-256 of the video's bytes"),
        column("uri", pa.string(), "the source that the frames were read from"),
        column("start_pts", pa.int64(), "first frame of the clip", unit="ticks"),
        column("end_pts", pa.int64(), "just past the clip's last frame", unit="ticks"),
        column("file", pa.string(), "path from the folder; null where the clip could not be written"),
        column("first_pts", pa.int64(), "first frame of the file, by the source's clock", unit="ticks"),
        column("last_pts", pa.int64(), "last frame of the file, by the source's clock", unit="ticks"),
        column("num_frames", pa.int64(), "frames in the file; null without one"),
        column("bytes", pa.int64(), "size of the file", unit="bytes"),
        column("sha256", pa.string(), "of the file's bytes"),
        column("cause", pa.string(), "short stable word: why there is no file; null where there is one"),
        column("detail", pa.string(), "a sentence for people; null where there is a file"),
    ]
)


@dataclass(frozen=True)
class FileSettings:
    """How clips become files."""

    mode: Mode = "exact"
    """copy: packets as they are, from a keyframe on; exact: all frames of the clip, encoded anew."""
    shape: Shape = field(default_factory=Shape)
    """Size of the pictures; mode exact alone can change it."""

    def __post_init__(self) -> None:
        if self.mode == "copy" and self.shape != Shape():
            raise SettingsError("mode copy keeps pictures as they are; use mode exact to scale or crop them")


@dataclass(frozen=True)
class Written:
    """What is in the folder of the clips that were asked for."""

    path: Path
    written: int
    there: int
    """Files that were there and right."""
    failed: tuple[Mapping[str, Any], ...]
    """Rows of clips without a file."""
    num_bytes: int


def write_files(chosen: Chosen, out: Path, settings: FileSettings, *, limits: MediaLimits) -> Written:
    """Writes a file for each of the chosen clips that has none yet.

    Raises:
        SettingsError: `out` holds anything else, or clips that were written with other settings.
        WarehouseError: nothing was chosen, or not one clip could be written.
    """
    out = out.expanduser().absolute()
    clips = describe(chosen)
    if not clips:
        raise WarehouseError(f"{chosen.name} has no clip; there is nothing to write")
    store = _folder(out, settings)
    written, rows = 0, []
    ordered = sorted(clips, key=lambda c: (c.video_id, c.start_pts))
    for video_id, of_video in groupby(ordered, lambda c: c.video_id):
        new, all_rows = _write_video(store, video_id, list(of_video), settings, limits)
        written += new
        rows += all_rows
    store.sweep()
    failed = tuple(r for r in rows if r["file"] is None)
    if len(failed) == len(rows):
        raise WarehouseError(
            f"none of {len(rows)} clips could be written, the first for: {failed[0]['detail']}"
        )
    total = sum(r["bytes"] for r in rows if r["file"])
    return Written(out, written, len(rows) - written - len(failed), failed, total)


def _folder(out: Path, settings: FileSettings) -> Store:
    """The folder, new or as an earlier run with the same settings left it."""
    store, body = Store(out), json.dumps(asdict(settings), sort_keys=True)
    if store.exists(SETTINGS):
        if (earlier := store.read_bytes(SETTINGS).decode()) != body:
            raise SettingsError(f"{out} has clips written with {earlier}, not {body}; name another folder")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} holds something else than clips; name a new folder")
    else:
        store.write_bytes(SETTINGS, body.encode())
    store.sweep()
    return store


def _write_video(
    store: Store, video_id: str, clips: Sequence[Clip], settings: FileSettings, limits: MediaLimits
) -> tuple[int, list[dict[str, Any]]]:
    """How many files were written, and the rows of all the clips; the video's table is brought up to date."""
    table = f"{FILES}/{video_id}.parquet"
    rows = {r["clip_id"]: r for r in store.read_table(table).to_pylist()} if store.exists(table) else {}
    todo = [c for c in clips if not _is_right(store, rows.get(c.clip_id))]
    new = {row["clip_id"]: row for row in _rows(store, todo, settings, limits)}
    if new:
        ordered = sorted((rows | new).values(), key=lambda r: r["start_pts"])
        store.write_table(table, SCHEMA, pa.Table.from_pylist(ordered, SCHEMA).to_batches(), {})
    rows |= new
    return sum(r["file"] is not None for r in new.values()), [rows[c.clip_id] for c in clips]


def _is_right(store: Store, row: Mapping[str, Any] | None) -> bool:
    """Whether a clip has its file, with the bytes that were written."""
    if row is None or row["file"] is None or not store.exists(row["file"]):
        return False
    return _digest(Path(store.path(row["file"]))) == (row["bytes"], row["sha256"])


def _digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _rows(
    store: Store, clips: Sequence[Clip], settings: FileSettings, limits: MediaLimits
) -> Iterator[dict[str, Any]]:
    """Writes clips of one video; yields the row of each."""
    unfinished = {c.clip_id: store.scratch() / f"{owner.new_name()}.part" for c in clips}

    def place(clip: Clip) -> Path:
        return unfinished[clip.clip_id]

    for _, same in groupby(sorted(clips, key=lambda c: c.uri), lambda c: c.uri):
        for clip, made in _made(list(same), settings, limits, place):
            row = {n: getattr(clip, n) for n in ("clip_id", "video_id", "uri", "start_pts", "end_pts")}
            yield row | (
                _failed(place(clip), made) if isinstance(made, MediaError) else _put(store, clip, made)
            )


def _failed(path: Path, error: MediaError) -> dict[str, Any]:
    path.unlink(missing_ok=True)
    return dict.fromkeys(SCHEMA.names[5:]) | {"cause": error.cause, "detail": error.detail}


def _put(store: Store, clip: Clip, made: Copied) -> dict[str, Any]:
    file = f"{CLIPS}/{clip.clip_id}.{made.suffix}"
    with store.placing(file) as temporary:
        made.path.replace(temporary)
    num_bytes, sha256 = _digest(Path(store.path(file)))
    times = {"first_pts": made.pts[0], "last_pts": made.pts[-1], "num_frames": len(made.pts)}
    return times | {"file": file, "bytes": num_bytes, "sha256": sha256, "cause": None, "detail": None}


class _Timed(VideoFile):
    """Also keeps when its frames are shown, in the source's time base."""

    def __init__(self, path: Path, clip: Clip, source: Decoder, shape: Shape) -> None:
        super().__init__(path, clip, source, shape)
        self.pts: list[int] = []

    def add(self, frame: Decoded) -> None:
        super().add(frame)
        self.pts.append(frame.pts)


_Place = Callable[[Clip], Path]
_Made = Iterator[tuple[Clip, Copied | MediaError]]


def _exact(clips: Sequence[Clip], settings: FileSettings, limits: MediaLimits, place: _Place) -> _Made:
    sinks: dict[str, _Timed] = {}

    def open_sink(clip: Clip, source: Decoder) -> _Timed:
        sinks[clip.clip_id] = _Timed(place(clip), clip, source, settings.shape)
        return sinks[clip.clip_id]

    yield from ((clip, error) for clip in clips if (error := settings.shape.refusal(clip)))
    fit = [clip for clip in clips if settings.shape.refusal(clip) is None]
    for clip, error in write_clips(fit[0].uri, fit, limits, open_sink) if fit else ():
        yield clip, error or Copied(place(clip), "mp4", tuple(sinks[clip.clip_id].pts))


def _copy(clips: Sequence[Clip], settings: FileSettings, limits: MediaLimits, place: _Place) -> _Made:
    return copy_clips(clips[0].uri, clips, limits, place)


def _made(clips: Sequence[Clip], settings: FileSettings, limits: MediaLimits, place: _Place) -> _Made:
    """Every clip of one file with what was written, or with why nothing was."""
    try:
        check_holds(clips[0].uri, clips[0].video_id)
    except (MediaError, OSError) as error:
        failed = MediaError.of(error)
        return iter([(clip, failed) for clip in clips])
    return _WRITERS[settings.mode](clips, settings, limits, place)


_WRITERS = {"exact": _exact, "copy": _copy}
