"""Commands that exchange data with other systems: their lists in, lists for them and files of clips out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows import console
from flows.console import Config, Json, Set, Warehouse

if TYPE_CHECKING:
    from curation.formats.imports import Imported

MAX_SHOWN = 20
"""Entries that could not be used and are shown to people; `--json` has them all."""

_MEDIA: dict[bool | None, Literal["source", "video"] | None] = {None: None, True: "source", False: "video"}

FormatName = Annotated[str, typer.Argument(metavar="FORMAT", help="A format of docs/commands.md.")]


class CaptionOf(StrEnum):
    """Which caption comes first."""

    listed = "listed"
    summary = "summary"
    video = "video"
    frame = "frame"


def import_data(
    format_: FormatName,
    path: Annotated[Path, typer.Argument(help="The list: a file, or a folder of features or frames.")],
    warehouse: Warehouse = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder that relative paths start from; nothing outside is taken.")
    ] = None,
    fps: Annotated[float, typer.Option(min=0.1, max=1000, help="Rate of folders of frames.")] = 25.0,
    config: Config = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Make the files of another system's list sources of a warehouse, and keep what it says of them."""
    from flows.exchange import import_data as run_import
    from flows.settings import load_settings

    flags = console.flags_on(config, set_, warehouse=warehouse)
    imported = run_import(load_settings(flags, toml=config), format_, path, root, fps)
    problems = [{k: row[k] for k in ("place", "path", "cause", "detail")} for row in imported.problems]
    result = {
        "list": imported.list_id,
        "entries": len(imported.rows),
        "new_rows": imported.new_rows,
        "states": dict(imported.states),
        "spans": imported.num_spans,
        "problems": problems,
    }
    console.emit(result, json, lambda: _show_imported(imported, problems))
    if imported.num_spans:
        console.warn(
            f"{imported.num_spans} entries list a span of their footage; spans stay in the table `listed` and say which "
            "clips take their captions, but clips are cut where the footage is"
        )
    if columns := imported.columns_without_captions:
        console.warn(
            f"no entry has a caption where {format_} keeps it (docs/commands.md); they have {', '.join(columns)}"
        )
    if not imported.states["done"] and imported.states["failed"]:
        raise typer.Exit(1)


def _show_imported(imported: Imported, problems: list[dict]) -> None:
    for problem in problems[:MAX_SHOWN]:
        print(f"{problem['place']}: {problem['cause']}: {problem['detail']}")
    if len(problems) > MAX_SHOWN:
        print(f"... and {len(problems) - MAX_SHOWN} more")
    console.states(f"list {imported.list_id}", {"matched": imported.states}, {"matched": imported.new_rows})


def export_data(
    format_: FormatName,
    run_or_selection: Annotated[
        str, typer.Argument(metavar="RUN_OR_SELECTION", help="A selection's name, or a training run.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to write; replaced if an export made it.")
    ],
    warehouse: Warehouse = None,
    spans: Annotated[
        bool | None,
        typer.Option("--spans/--files", help="List spans of the sources, or a file for each clip."),
    ] = None,
    caption: Annotated[CaptionOf, typer.Option(help="Which caption comes first.")] = CaptionOf.listed,
    config: Config = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Write the clips that a selection keeps, or a run learnt from, as another system's list."""
    from flows.exchange import export_data as run_export
    from flows.settings import load_settings
    from warehouse.plan import Plan
    from warehouse.store import Store

    flags = console.flags_on(config, set_, warehouse=warehouse)
    settings = load_settings(flags, toml=config)
    console.warn_of_embedded(Plan.load(Store(settings.warehouse)))
    done = run_export(settings, format_, run_or_selection, out, _MEDIA[spans], caption.value)
    failed = [dict(row) for row in done.failed]
    result = {
        "path": str(done.path),
        "clips": done.clips,
        "failed": failed,
        "bytes": done.num_bytes,
        "replaced": done.replaced,
    }

    def show() -> None:
        for row in failed[:MAX_SHOWN]:
            print(f"clip {row['clip_id']}: {row['cause']}: {row['detail']}")
        verb = "replaced with" if done.replaced else "has"
        print(f"{done.path} {verb} {done.clips} clips, {done.num_bytes} bytes; {len(failed)} failed")

    console.emit(result, json, show)


class FileMode(StrEnum):
    """How clips become files."""

    exact = "exact"
    copy = "copy"


def write_clips(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the files; an earlier one goes on.")],
    warehouse: Warehouse = None,
    of: Annotated[str, typer.Option(help="kept, all, or a selection or training run by its name.")] = "kept",
    mode: Annotated[
        FileMode, typer.Option(help="All frames encoded anew, or packets copied from a keyframe on.")
    ] = FileMode.exact,
    short: Annotated[
        int | None, typer.Option(help="Scale so that the shorter side has so many pixels.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Scale and crop to WIDTHxHEIGHT.")] = None,
    enlarge: Annotated[bool, typer.Option("--enlarge", help="With --size, also scale up.")] = False,
    config: Config = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Write clips as files, each with exactly its own frames or, copied, with no others."""
    from curation.formats.clip_files import Shape
    from curation.formats.cut_files import FileSettings
    from flows.exchange import write_clips as run_write
    from flows.settings import load_settings

    settings = load_settings(console.flags_on(config, set_, warehouse=warehouse), toml=config)
    how = FileSettings(mode.value, Shape(short, _size(size), enlarge))
    done = run_write(settings, of, out, how)
    failed = [{k: row[k] for k in ("clip_id", "cause", "detail")} for row in done.failed]
    result = {"path": str(done.path), "written": done.written, "there": done.there, "failed": failed}

    def show() -> None:
        for row in failed[:MAX_SHOWN]:
            print(f"clip {row['clip_id']}: {row['cause']}: {row['detail']}")
        print(
            f"{done.path}: {done.written} clips written, {done.there} were there, {len(failed)} could not be "
            f"written; {done.num_bytes} bytes"
        )

    console.emit(result | {"bytes": done.num_bytes}, json, show)


def _size(text: str | None) -> tuple[int, int] | None:
    """Width and height out of ``640x360``. Raises SettingsError."""
    from warehouse.errors import SettingsError

    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise SettingsError(f"--size is {text!r}: expected WIDTHxHEIGHT in pixels, such as 640x360")
    return int(width), int(height)


COMMANDS = (import_data, export_data, write_clips)
