"""Parquet as Hugging Face's `datasets` lays it out: ``data/train-00000-of-00001.parquet``, features in the metadata.

Rows hold spans of the sources (`path`, `start_s`, `end_s`, `start_frame`, `end_frame`), or the clips' files themselves in
a column `video` of bytes and name, which `datasets` decodes.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.formats.base import Clip, Entry, Format, Target, by_weight, malformed
from curation.formats.kept import CAPTIONS
from curation.formats.tables import headed_rows, whole
from warehouse.errors import FormatError

PART_BYTES = 512 << 20
"""A file takes no further row when its videos weigh this much."""
_GROUP_BYTES = 64 << 20
_VIDEO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SPAN = ("start_s", "end_s", "start_frame", "end_frame")


def read(path: Path) -> Iterator[Entry]:
    """Entries of a Parquet file, or of all in a folder's ``data``, with columns `path` and `text`."""
    files = sorted((path / "data").glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise FormatError(f"{path} holds no data/*.parquet; name a Parquet file or the folder of a dataset")
    for file in files:
        for where, values in headed_rows(file, ()):
            yield _entry(f"{file.name}, {where}", values)


def _entry(where: str, values: dict[str, Any]) -> Entry:
    video, text = values.pop("video", None), values.pop("text", None)
    seconds = {n: _seconds(values.pop(n, None)) for n in _SPAN[:2]}
    frames = {n: whole(values.pop(n, None)) for n in _SPAN[2:]}
    known = {"captions": (str(text),) if text else (), **seconds, **frames}
    columns = {n: v for n, v in values.items() if v is not None and n != "path"}
    if isinstance(video, dict) and video.get("bytes") is not None:
        return malformed(
            where, "embedded_video", "its video is inside of the Parquet file", columns=columns, **known
        )
    if not isinstance(path := values.get("path"), str):
        return malformed(where, "no_path", f"its path is {path!r}", columns=columns, **known)
    return Entry(where, path, columns=columns, **known)


def _seconds(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def write(clips: Sequence[Clip], target: Target) -> None:
    """One or more Parquet files; videos are taken from the folder where there are any."""
    (target.folder / "data").mkdir()
    embedded = any(c.path != c.uri for c in clips)
    schema = _schema(clips, embedded)
    parts = list(by_weight(clips, target.folder, PART_BYTES) if embedded else [clips])
    for number, part in enumerate(parts):
        path = target.folder / "data" / f"train-{number:05d}-of-{len(parts):05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for group in by_weight(part, target.folder, _GROUP_BYTES) if embedded else [part]:
                rows = [_row(c, target.folder if embedded else None) for c in group]
                writer.write_table(pa.Table.from_pylist(rows, schema))
    if embedded:
        shutil.rmtree(target.folder / "clips")


def _schema(clips: Sequence[Clip], embedded: bool) -> pa.Schema:
    """Columns, with the description by which `datasets` knows them."""
    text, number, integer = pa.string(), pa.float64(), pa.int64()
    columns = {"clip_id": text, "video": _VIDEO} if embedded else {"clip_id": text, "path": text}
    kinds = dict.fromkeys([*CAPTIONS, *sorted({k for c in clips for k in c.captions})])
    columns |= dict.fromkeys(("video_id", "source", "text", *(f"caption_{k}" for k in kinds)), text)
    columns |= {"start_s": number, "end_s": number, "start_frame": integer, "end_frame": integer}
    columns |= {"num_frames": integer, "fps": number, "height": integer, "width": integer}
    columns |= dict.fromkeys(sorted({name for c in clips for name in c.scores}), number)
    types = {text: "string", number: "float64", integer: "int64"}
    features = {
        n: {"_type": "Video"} if t == _VIDEO else {"dtype": types[t], "_type": "Value"}
        for n, t in columns.items()
    }
    return pa.schema(list(columns.items()), {"huggingface": json.dumps({"info": {"features": features}})})


def _row(clip: Clip, folder: Path | None) -> dict[str, Any]:
    names = ("clip_id", "video_id", *_SPAN, "num_frames", "fps", "height", "width")
    row = {n: getattr(clip, n) for n in names} | dict(clip.scores)
    row |= {"source": clip.uri, "text": clip.caption, "path": clip.path}
    row |= {f"caption_{kind}": text for kind, text in clip.captions.items()}
    if folder is not None:
        row["video"] = {"bytes": (folder / clip.path).read_bytes(), "path": Path(clip.path).name}
    return row


HUGGINGFACE = Format("huggingface", read, write, ("source", "video"))
