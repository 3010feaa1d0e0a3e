"""Lists of Open-Sora-Plan: ``data.txt`` with a line ``ROOT,ANNOTATION`` a part, annotations in JSON or pickle.

An annotation is a list of items. Images: ``path, cap (one or several), resolution {height, width}``; videos have
``num_frames`` and ``fps`` too, and ``cut [first, end]`` where only those frames are meant. ``aesthetic`` and further keys
are kept. Its loader takes ``.mp4`` alone; with `cut` it starts at ``cut[0]`` and takes ``num_frames``.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from curation.formats.base import Clip, Entry, Format, Target, malformed
from curation.formats.plain_pickle import load_plain
from curation.formats.tables import whole
from warehouse.errors import FormatError

LIST, ANNOTATION = "data.txt", "clips.json"


def read(path: Path) -> Iterator[Entry]:
    """Entries of all annotations. One that cannot be read is an entry with its cause, and stops no other."""
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}); name a data.txt") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield from _part(path.parent, f"line {number}", line.strip())


def _part(folder: Path, where: str, line: bytes) -> Iterator[Entry]:
    try:
        root, comma, name = line.decode().rpartition(",")
    except UnicodeDecodeError:
        yield malformed(where, "not_utf8", "it is not in UTF-8")
        return
    if not comma:
        yield malformed(
            where, "wrong_columns", "expected a root and an annotation, with a comma between them"
        )
        return
    annotation = folder / name.strip()
    try:
        items = _load(annotation)
    except FormatError as error:
        yield malformed(where, "bad_annotation", str(error))
        return
    for number, item in enumerate(items):
        yield _item(f"{name.strip()}, item {number}", root.strip(), item)


def _load(path: Path) -> Sequence[Any]:
    if path.suffix == ".pkl":
        items = load_plain(path)
    else:
        try:
            items = json.loads(path.read_bytes())
        except OSError as error:
            raise FormatError(f"{path} cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path} is no JSON: {error}") from error
    if not isinstance(items, list):
        raise FormatError(f"{path} holds a {type(items).__name__}, expected a list of items")
    return items


def _item(where: str, root: str, item: Any) -> Entry:
    if not isinstance(item, dict) or not isinstance(item.get("path"), str):
        return malformed(where, "bad_item", f"expected a mapping with a path, got {str(item)[:100]!r}")
    said = item.get("cap")
    captions = [said] if isinstance(said, str) else said or []
    if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        return malformed(
            where, "bad_item", f"its cap is {str(said)[:100]!r}, expected a text or a list of texts"
        )
    columns = {str(k): v for k, v in item.items() if k not in ("path", "cap")}
    try:
        start, end = _cut(item.get("cut"))
    except (ValueError, TypeError):
        cut = str(item["cut"])[:100]
        return malformed(where, "bad_item", f"its cut is {cut!r}, expected first and end as whole numbers")
    captions = tuple(c for c in captions if c)
    return Entry(
        where, item["path"], root or None, captions, start_frame=start, end_frame=end, columns=columns
    )


def _cut(cut: Any) -> tuple[int, int] | tuple[None, None]:
    """First and end frame; none where nothing is said. Raises ValueError or TypeError for anything else."""
    if cut is None or cut == []:
        return None, None
    start, end = (whole(frame) for frame in cut)
    if start is None or end is None:
        raise ValueError
    return start, end


def write(clips: Sequence[Clip], target: Target) -> None:
    """A list of spans of the sources, with root ``/``, or of files, with the list's own folder as the root."""
    if "," in str(target.final):
        raise FormatError(f"{target.final} has a comma, which data.txt cannot hold; name another place")
    spans = any(c.path == c.uri for c in clips)
    root = Path("/") if spans else target.final
    items = json.dumps([_as_item(c, spans) for c in clips], ensure_ascii=False, indent=1)
    (target.folder / ANNOTATION).write_text(items, encoding="utf-8")
    (target.folder / LIST).write_text(f"{root},{target.final / ANNOTATION}\n", encoding="utf-8")


def _as_item(clip: Clip, spans: bool) -> dict[str, Any]:
    item = {
        "path": clip.path.removeprefix("/"),
        "cap": clip.equal_captions,
        "resolution": {"height": clip.height, "width": clip.width},
        "num_frames": clip.num_frames,
        "fps": clip.fps,
    }
    if spans:
        item["cut"] = [clip.start_frame, clip.end_frame]
    own = {"aesthetics": "aesthetic"}
    return item | {own.get(n, n): s for n, s in sorted(clip.scores.items()) if s is not None}


OPEN_SORA_PLAN = Format("open-sora-plan", read, write, ("source", "video"), (".mp4",))
