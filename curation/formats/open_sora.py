"""Lists of Open-Sora: CSV without a header (1.0), and CSV or Parquet with one (1.1 and later).

1.0: ``path,caption[,num_frames]``. Later: ``path`` and any of ``text, num_frames, height, width, aspect_ratio
(height / width), resolution (height x width), fps, aes, timestamp, ...``. Its trainers read whole files, so clips are
files of their own; spans of the sources are what its cutting tools read, from ``timestamp``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from curation.formats.base import Clip, Entry, Format, Target, malformed
from curation.formats.tables import Row, csv_rows, headed_rows, whole, write_csv

LIST = "clips.csv"
_TIME = r"\s*'(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)'\s*"
_SPAN = re.compile(rf"\[\({_TIME},{_TIME}\)\]")
_OWN_NAMES = {"aesthetics": "aes"}
"""Scores that Open-Sora knows under a name of its own; others keep ours, since their units differ."""


def read_headless(path: Path) -> Iterator[Entry]:
    """Entries of a list of Open-Sora 1.0."""
    for row in csv_rows(path):
        yield _headless(row) if isinstance(row, Row) else row


def _headless(row: Row) -> Entry:
    if len(row.cells) not in (2, 3):
        found = f"it has {len(row.cells)} columns, expected path,caption or path,caption,num_frames"
        return malformed(row.where, "wrong_columns", f"{found}; commas in a caption need quotes around it")
    path, caption, *count = row.cells
    count = [c for c in count if c.strip()]
    if count and whole(count[0]) is None:
        return malformed(row.where, "bad_number", f"num_frames is {count[0]!r}, expected a whole number")
    columns = {"num_frames": whole(count[0])} if count else {}
    return Entry(row.where, path, captions=(caption,) if caption else (), columns=columns)


def write_headless(clips: Sequence[Clip], target: Target) -> None:
    """A list for Open-Sora 1.0, to be used with its folder as `root`."""
    write_csv(target.folder / LIST, [(c.path, c.caption, c.num_frames) for c in clips])


def read_headed(path: Path) -> Iterator[Entry]:
    """Entries of a list of Open-Sora 1.1 or later."""
    for row in headed_rows(path, ("path",)):
        yield _headed(*row) if isinstance(row, tuple) else row


def _headed(where: str, values: dict[str, Any]) -> Entry:
    path, text = values.pop("path"), values.pop("text", None)
    if not isinstance(path, str):
        return malformed(where, "no_path", f"its path is {path!r}", columns=values)
    start_s, end_s = _timestamp(values.get("timestamp"))
    frames = [whole(values.get(name)) for name in ("start_frame", "end_frame")]
    captions = (str(text),) if text else ()
    return Entry(
        where,
        path,
        None,
        captions,
        start_s,
        end_s,
        *frames,
        columns={n: v for n, v in values.items() if v is not None},
    )


def _timestamp(value: Any) -> tuple[float, float] | tuple[None, None]:
    """Start and end in seconds where `timestamp` is a single span; nothing is taken from several, or from no list."""
    if not isinstance(value, str) or not (found := _SPAN.fullmatch(value)):
        return None, None
    hours, minutes, seconds, *end = (float(part) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds, end[0] * 3600 + end[1] * 60 + end[2]


def _clock(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    return (
        f"{thousandths // 3_600_000:02d}:{thousandths // 60_000 % 60:02d}:{thousandths % 60_000 / 1000:06.3f}"
    )


def write_headed(clips: Sequence[Clip], target: Target) -> None:
    """A list for Open-Sora 1.1 and later; with `timestamp` and frames where it lists spans of the sources."""
    scores = sorted({name for clip in clips for name in clip.scores})
    spans = any(clip.path == clip.uri for clip in clips)
    header = [
        "path",
        "text",
        "num_frames",
        "height",
        "width",
        "aspect_ratio",
        "resolution",
        "fps",
        "text_len",
    ]
    header += [_OWN_NAMES.get(name, name) for name in scores]
    header += ["timestamp", "start_frame", "end_frame"] if spans else []
    rows = [_facts(c) + [c.scores.get(n) for n in scores] + (_span(c) if spans else []) for c in clips]
    write_csv(target.folder / LIST, [header, *rows])


def _facts(clip: Clip) -> list[Any]:
    height, width = clip.height, clip.width
    shape = [clip.num_frames, height, width, height / width, height * width, clip.fps]
    return [clip.path, clip.caption, *shape, len(clip.caption.split())]


def _span(clip: Clip) -> list[Any]:
    return [[(_clock(clip.start_s), _clock(clip.end_s))], clip.start_frame, clip.end_frame]


OPEN_SORA_1_0 = Format("open-sora-1.0", read_headless, write_headless, ("video",))
OPEN_SORA = Format("open-sora", read_headed, write_headed, ("video", "source"), absolute=True)
