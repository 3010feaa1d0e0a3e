"""Lists of other systems, into a warehouse and out of it; and clips as files."""

from __future__ import annotations

import uuid
from pathlib import Path

from curation.formats.base import Media
from curation.formats.cut_files import FileSettings, Written, write_files
from curation.formats.exports import Exported, export
from curation.formats.imports import Imported, import_list, import_plan
from curation.formats.kept import choose, choose_all, choose_kept
from curation.formats.registry import find
from flows.settings import Settings
from warehouse.ledger import Ledger
from warehouse.store import Store


def import_data(settings: Settings, kind: str, path: Path, root: Path | None, fps: float) -> Imported:
    """Makes the files of a list sources of the warehouse; `curate` does the rest."""
    chosen = find(kind)
    store = Store(settings.warehouse)
    store.sweep()
    ledger = Ledger(store, import_plan(store))
    return import_list(ledger, chosen, path, run_id=str(uuid.uuid4()), root=root, fps=fps)


def export_data(
    settings: Settings, kind: str, run_or_selection: str, out: Path, media: Media | None, caption: str
) -> Exported:
    """Writes the clips of a selection or a training run as a list of another system."""
    chosen = choose(Store(settings.warehouse), run_or_selection)
    return export(chosen, find(kind), out, limits=settings.limits, media=media, caption=caption)


def write_clips(settings: Settings, of: str, out: Path, how: FileSettings) -> Written:
    """Writes clips as files: all, those that the plan's selection keeps (kept), or of a selection or run by its name."""
    store = Store(settings.warehouse)
    named = {"all": choose_all, "kept": choose_kept}
    chosen = named[of](store) if of in named else choose(store, of)
    return write_files(chosen, out, how, limits=settings.limits)
