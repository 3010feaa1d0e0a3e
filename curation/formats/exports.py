"""Writes the kept clips of a warehouse as a list that other systems read, with the files that it needs.

An export is a folder with the list, its files and `RECORD`, which names every file. It appears whole: it is built
beside its place and moved there. Made again it is the same byte for byte, and takes the place of the one before; a folder
that is no export, or that holds anything else, is never touched.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from curation.footage.frames import Decoder
from curation.footage.media import MediaLimits
from curation.formats.base import Clip, Format, Media, Target
from curation.formats.clip_files import FrameFolder, MiddleFrame, Sink, VideoFile, write_clips
from curation.formats.kept import Chosen, describe, encoded, unusable
from curation.sources import check_holds
from warehouse import faults, owner
from warehouse.errors import MediaError, SettingsError, WarehouseError

RECORD = "export.json"
CLIPS = "clips"
_SINKS = {"video": VideoFile, "frames": FrameFolder, "picture": MiddleFrame}
_SUFFIXES = {"video": ".mp4", "frames": "", "picture": ".png"}


@dataclass(frozen=True)
class Exported:
    """What an export holds."""

    path: Path
    clips: int
    failed: tuple[Mapping[str, str], ...]
    """Clips whose frames could not be had: clip_id, cause, detail."""
    replaced: bool
    """It took the place of an earlier export."""
    num_bytes: int


def export(
    chosen: Chosen,
    kind: Format,
    out: Path,
    *,
    limits: MediaLimits,
    media: Media | None = None,
    caption: str = "listed",
) -> Exported:
    """Writes a list of the chosen clips.

    Args:
        out: a folder that is not there, is empty, or holds an earlier export.
        media: what the list points to; by default the format's first.

    Raises:
        SettingsError: the format cannot point to such media, or `out` is something else.
        WarehouseError: there is no clip, or none could be written.
    """
    media = media or kind.media[0]
    if media not in kind.media:
        raise SettingsError(f"lists of {kind.name} point to {' or '.join(kind.media)}, not to {media}")
    out = out.expanduser().absolute()
    replaced = _check_place(out)
    clips = describe(chosen, caption=caption)
    if not clips:
        raise WarehouseError(f"{chosen.name} keeps no clip; there is nothing to export")
    with _building(out) as folder:
        target = Target(folder, out, chosen.ledger)
        able, unable = encoded(clips, target.ledger) if kind.encoded else (clips, [])
        written, failed = _media(able, kind, media, target, limits)
        failed = [*unable, *failed]
        if not written:
            raise WarehouseError(
                f"none of {len(clips)} clips could be written, the first for: {failed[0]['detail']}"
            )
        kind.write(written, target)
        body = {
            "format": kind.name,
            "of": chosen.name,
            "clips": [c.clip_id for c in written],
            "failed": failed,
        }
        num_bytes = _record(folder, body)
    return Exported(out, len(written), tuple(failed), replaced, num_bytes)


def _check_place(out: Path) -> bool:
    """Whether an earlier export is in the place; raises SettingsError where anything else is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        files = json.loads((out / RECORD).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{out} is there and is no earlier export; name another place") from error
    for path in sorted(p for p in out.rglob("*") if not p.is_dir()):
        name = path.relative_to(out).as_posix()
        if name != RECORD and (name not in files or path.stat().st_size != files[name]["bytes"]):
            raise SettingsError(
                f"{out} holds {name}, which the earlier export did not write; name another place"
            )
    return True


@contextmanager
def _building(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, which takes its place when the block ends well; what dead processes left is removed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}."
    for left in out.parent.glob(f"{prefix}*-*-*-*.part"):
        if owner.is_alive(left.name.removeprefix(prefix).removesuffix(".part")) is False:
            shutil.rmtree(left)
    folder, old = (out.parent / f"{prefix}{owner.new_name()}.part" for _ in range(2))
    folder.mkdir()
    try:
        yield folder
        if out.exists():
            out.rename(old)
        faults.point("export.between")
        folder.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(folder, ignore_errors=True)


def _media(
    clips: Sequence[Clip], kind: Format, media: Media, target: Target, limits: MediaLimits
) -> tuple[list[Clip], list[dict[str, str]]]:
    """Clips with the path of their media, which are written where the list needs files; and those that failed."""
    if media == "features":
        return list(clips), []
    if media == "source":
        return _sources(clips, kind)
    written: list[Clip] = []
    failed: list[dict[str, str]] = []
    for (uri, video_id), group in groupby(clips, key=lambda c: (c.uri, c.video_id)):
        of_video = list(group)
        try:
            check_holds(uri, video_id)
        except (MediaError, OSError) as error:
            refused = MediaError.of(error)
            failed += [unusable(c, refused.cause, f"{uri}: {refused.detail}") for c in of_video]
            continue
        for clip, error in write_clips(uri, of_video, limits, _opener(media, target.folder)):
            place = _place(media, clip)
            if error is None:
                written.append(replace(clip, path=str(target.final / place) if kind.absolute else place))
                continue
            _remove(target.folder / place)
            failed.append(unusable(clip, error.cause, f"{uri}: {error.detail}"))
    return written, failed


def _sources(clips: Sequence[Clip], kind: Format) -> tuple[list[Clip], list[dict[str, str]]]:
    """Clips as spans of their sources, less those whose source the format's loader does not read."""
    unread = [c for c in clips if kind.source_suffixes and not c.uri.endswith(kind.source_suffixes)]
    detail = f"{kind.name} reads {', '.join(kind.source_suffixes)} alone; --files writes one for every clip"
    failed = [unusable(c, "wrong_container", f"{c.uri}: {detail}") for c in unread]
    return [replace(c, path=c.uri) for c in clips if c not in unread], failed


def _place(media: Media, clip: Clip) -> str:
    return f"{CLIPS}/{clip.clip_id}{_SUFFIXES[media]}"


def _opener(media: Media, folder: Path) -> Callable[[Clip, Decoder], Sink]:
    def open_sink(clip: Clip, source: Decoder) -> Sink:
        path = folder / _place(media, clip)
        path.parent.mkdir(exist_ok=True)
        return _SINKS[media](path, clip, source)

    return open_sink


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _record(folder: Path, body: dict[str, Any]) -> int:
    """Writes down every file of the export; returns their bytes."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256}
    (folder / RECORD).write_text(json.dumps(body | {"files": files}, indent=1, sort_keys=True))
    return sum(f["bytes"] for f in files.values())
