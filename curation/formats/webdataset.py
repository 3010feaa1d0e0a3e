"""WebDataset: tar files in which the members of one sample share a name: ``<clip>.mp4``, ``.txt`` and ``.json``."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from curation.formats.base import Clip, Format, Target

SHARD_BYTES = 1 << 30
"""A tar file takes no further sample when it is this large."""


def write(clips: Sequence[Clip], target: Target) -> None:
    """Tar files with the clips' video files, which are taken from the folder, captions, and what else is known.

    Members have no time and no owner, so that the same clips are the same bytes.
    """
    for number, shard in enumerate(_shards(clips, target.folder)):
        with tarfile.open(target.folder / f"clips-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for clip in shard:
                _add(tar, clip, target.folder)
    shutil.rmtree(target.folder / "clips")


def _shards(clips: Sequence[Clip], folder: Path) -> Iterator[list[Clip]]:
    shard: list[Clip] = []
    weight = 0
    for clip in clips:
        shard.append(clip)
        weight += (folder / clip.path).stat().st_size
        if weight >= SHARD_BYTES:
            yield shard
            shard, weight = [], 0
    if shard:
        yield shard


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


WEBDATASET = Format("webdataset", None, write, ("video",))
