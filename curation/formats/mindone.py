"""Lists of MindONE's Latte: CSV with the columns ``video, caption, class``, videos named below one folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from curation.formats.base import Clip, Entry, Format, Target, malformed
from curation.formats.tables import headed_rows, write_csv

LIST = "clips.csv"


def read(path: Path) -> Iterator[Entry]:
    """Entries of a list; `class` and further columns are kept as they are."""
    for row in headed_rows(path, ("video",)):
        if isinstance(row, Entry):
            yield row
            continue
        where, values = row
        video, caption = values.pop("video"), values.pop("caption", None)
        columns = {n: v for n, v in values.items() if v is not None}
        if not isinstance(video, str):
            yield malformed(where, "no_path", f"its video is {video!r}", columns=columns)
        else:
            yield Entry(where, video, captions=(str(caption),) if caption else (), columns=columns)


def write(clips: Sequence[Clip], target: Target) -> None:
    """A list whose `data_folder` is its own folder. We know no classes, so there is no such column."""
    write_csv(target.folder / LIST, [("video", "caption"), *((c.path, c.caption) for c in clips)])


MINDONE = Format("mindone", read, write, ("video",))
