"""Folders of frames, as Latte and MindONE train on them: ``ROOT/<video>/<frame>.jpg``, at any depth, without captions.

Frames are in the order of the number after the last ``_`` of their name. Footage without a rate has the one that the
importer is told.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from curation.formats.base import Clip, Entry, Format, Target, malformed
from curation.formats.films import CODECS
from warehouse.errors import FormatError

_NUMBER = re.compile(r"(?:.*_)?(\d{1,18})")


def read(root: Path) -> Iterator[Entry]:
    """One entry for every folder that directly holds JPEG or PNG files."""
    if not root.is_dir():
        raise FormatError(f"{root} is no folder; name the one that holds a folder of frames for each video")
    for folder, below, files in os.walk(root):
        below.sort()
        frames = [Path(folder, n) for n in files if Path(n).suffix.lower() in CODECS]
        if frames:
            yield _film(os.path.relpath(folder, root), frames)


def _film(where: str, frames: Sequence[Path]) -> Entry:
    numbers = {f: m[1] for f in frames if (m := _NUMBER.fullmatch(f.name.split(".")[0]))}
    if odd := sorted(f.name for f in frames if f not in numbers):
        detail = f"{len(odd)} of {len(frames)} frames have no number after the last _, such as {odd[0]}"
        return malformed(where, "bad_frame_name", detail, path=where)
    if len(set(map(int, numbers.values()))) < len(frames):
        return malformed(where, "bad_frame_name", "two frames have the same number", path=where)
    if strange := [f.name for f in frames if not f.is_file()]:
        return malformed(where, "not_a_file", f"{strange[0]} is no file", path=where)
    ordered = sorted(frames, key=lambda f: int(numbers[f]))
    return Entry(where, where, frames=tuple(map(str, ordered)))


def write(clips: Sequence[Clip], target: Target) -> None:
    """There is no list: the folders of frames in ``clips`` are all."""


LATTE = Format("latte", read, write, ("frames",))
