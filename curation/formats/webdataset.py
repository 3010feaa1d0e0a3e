"""WebDataset: tar files in which the members of one sample share a name: ``<clip>.mp4``, ``.txt`` and ``.json``."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from curation.footage.pictures import SUFFIXES
from curation.formats.base import Clip, Entry, Format, Target, by_weight, malformed
from curation.ingest import VIDEO_SUFFIXES
from warehouse.errors import FormatError

_MOST_BYTES = 1 << 20
"""A caption or a description may not be larger."""
SHARD_BYTES = 1 << 30
"""A tar file takes no further sample when it is this large."""


def read(path: Path) -> Iterator[Entry]:
    """One entry for every sample of a tar file, or of all in a folder: its video, ``.txt`` as caption, ``.json``.

    A tar that breaks off is an entry with its cause after those that it holds; it stops no other.
    """
    tars = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not tars or not all(t.is_file() for t in tars):
        raise FormatError(f"{path} holds no tar file; name one, or a folder with *.tar")
    for tar in tars:
        try:
            with tarfile.open(tar, "r:") as file:
                for key, members in groupby(file, key=_key):
                    for name, own in _apart(key, [m for m in members if m.isreg()]).items():
                        yield _sample(file, tar, name, own)
        except (tarfile.TarError, OSError, EOFError) as error:
            yield malformed(tar.name, "bad_tar", f"it breaks off, or is no plain tar file: {error}")


def _key(member: tarfile.TarInfo) -> str:
    """A member's sample: its name up to the first dot after the last slash."""
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _apart(key: str, members: Sequence[tarfile.TarInfo]) -> dict[str, list[tarfile.TarInfo]]:
    """The members of a sample by its key; where they are several videos, by their names up to the last dot.

    ``clip.0001.mp4`` and ``clip.0002.mp4`` are one sample to WebDataset, and two to whoever named them.
    """
    if sum(Path(name).suffix.lower() in VIDEO_SUFFIXES for name in {m.name for m in members}) < 2:
        return {key: list(members)}
    samples: dict[str, list[tarfile.TarInfo]] = {}
    for member in members:
        samples.setdefault(member.name.removesuffix(Path(member.name).suffix), []).append(member)
    return samples


def _sample(file: tarfile.TarFile, tar: Path, key: str, members: Sequence[tarfile.TarInfo]) -> Entry:
    where, parts = f"{tar.name}, {key}", {m.name[len(key) + 1 :].lower(): m for m in members}
    suffixes = VIDEO_SUFFIXES | SUFFIXES
    pictures = [m for m in parts.values() if Path(m.name).suffix.lower() in suffixes]
    if not pictures:
        has = ", ".join(parts) or "nothing"
        detail = f"it has no video or picture: {has}. Files of one sample must follow one another in the tar"
        return malformed(where, "no_path", detail)
    footage = min(pictures, key=lambda m: Path(m.name).suffix.lower() in SUFFIXES)
    if any(parts[n].size > _MOST_BYTES for n in ("txt", "json") if n in parts):
        return malformed(where, "bad_item", f"its caption or description is larger than {_MOST_BYTES} bytes")
    try:
        text = file.extractfile(parts["txt"]).read().decode("utf-8-sig").strip() if "txt" in parts else ""
        told = json.loads(file.extractfile(parts["json"]).read()) if "json" in parts else {}
    except (ValueError, RecursionError) as error:
        return malformed(where, "bad_item", f"its caption or description cannot be read: {error}")
    inside = (str(tar), footage.offset_data, footage.size)
    columns = told if isinstance(told, dict) else {"json": told}
    return Entry(where, footage.name, captions=(text,) if text else (), inside=inside, columns=columns)


def write(clips: Sequence[Clip], target: Target) -> None:
    """Tar files with the clips' video files, which are taken from the folder, captions, and what else is known.

    Members have no time and no owner, so that the same clips are the same bytes.
    """
    for number, shard in enumerate(by_weight(clips, target.folder, SHARD_BYTES)):
        with tarfile.open(target.folder / f"clips-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for clip in shard:
                _add(tar, clip, target.folder)
    shutil.rmtree(target.folder / "clips")


def _add(tar: tarfile.TarFile, clip: Clip, folder: Path) -> None:
    for suffix, content in (("txt", clip.caption.encode()), ("json", _facts(clip))):
        member = tarfile.TarInfo(f"{clip.clip_id}.{suffix}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    member = tarfile.TarInfo(f"{clip.clip_id}.mp4")
    member.size = (folder / clip.path).stat().st_size
    with (folder / clip.path).open("rb") as file:
        tar.addfile(member, file)


def _facts(clip: Clip) -> bytes:
    facts: dict[str, Any] = {n: getattr(clip, n) for n in ("clip_id", "video_id", "uri", "start_s", "end_s")}
    facts |= {n: getattr(clip, n) for n in ("start_frame", "num_frames", "fps", "height", "width")}
    return json.dumps(
        facts | {"captions": dict(clip.captions), "scores": dict(clip.scores)}, indent=1
    ).encode()


WEBDATASET = Format("webdataset", read, write, ("video",))
