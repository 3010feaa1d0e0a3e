"""Every annotator by the name of its table, in an order in which each finds the tables that it reads.

An annotator of your own is one file with one class (see `base.Annotator`) that is given to `register`. Its table is
described by a class attribute `fields`, made with `warehouse.table.column`, and what can be selected by it by `scores`,
names with `curation.selection.filters.Score`. The environment variable
CUTROOM_ANNOTATORS names such files or modules, separated by commas; every program that works on a warehouse, and every
worker that it starts, imports them with this module. `docs/annotators.md` shows one whole.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TypeVar

from curation.annotators.aesthetics import AestheticsAnnotator
from curation.annotators.base import Annotator
from curation.annotators.captions import CaptionsAnnotator
from curation.annotators.embeddings import EmbeddingsAnnotator
from curation.annotators.fingerprints import FingerprintsAnnotator
from curation.annotators.motion import MotionAnnotator
from curation.annotators.overlays import OverlaysAnnotator
from curation.annotators.quality import QualityAnnotator
from curation.annotators.raft_motion import RaftMotionAnnotator
from curation.annotators.sharpness import SharpnessAnnotator
from curation.annotators.similarity import SimilarityAnnotator
from curation.annotators.summaries import SummariesAnnotator
from curation.annotators.text_area import TextAreaAnnotator
from curation.selection.filters import SCORES
from warehouse.errors import SettingsError
from warehouse.schema import TABLES

Kind = TypeVar("Kind", bound=type[Annotator])

ANNOTATORS: dict[str, type[Annotator]] = {
    kind.name: kind
    for kind in (
        MotionAnnotator,
        RaftMotionAnnotator,
        TextAreaAnnotator,
        OverlaysAnnotator,
        SharpnessAnnotator,
        QualityAnnotator,
        FingerprintsAnnotator,
        EmbeddingsAnnotator,
        AestheticsAnnotator,
        CaptionsAnnotator,
        SummariesAnnotator,
        SimilarityAnnotator,
    )
}


def register(kind: Kind) -> Kind:
    """Adds an annotator, and its table where the schema has none of that name; also usable as a decorator.

    Raises:
        SettingsError: its name is taken, or it reads a table that does not exist, or its table has no columns.
    """
    if ANNOTATORS.get(kind.name, kind) is not kind:
        raise SettingsError(
            f"two annotators are called {kind.name!r}: {ANNOTATORS[kind.name]} and {kind}; rename one"
        )
    unknown = [table for table in kind.reads if table not in TABLES]
    if unknown:
        raise SettingsError(f"annotator {kind.name!r} reads {unknown}; register what fills them first")
    if kind.name not in TABLES:
        TABLES[kind.name] = replace(TABLES["motion"], name=kind.name, fields=_fields(kind))
    ANNOTATORS[kind.name] = kind
    SCORES.update(getattr(kind, "scores", {}))
    return kind


def _fields(kind: type[Annotator]) -> tuple:
    own = getattr(kind, "fields", ())
    if not own:
        raise SettingsError(
            f"annotator {kind.name!r} has no table; give it `fields`, a tuple of warehouse.table.column"
        )
    (clip_id,) = (f for f in TABLES["motion"].fields if f.name == "clip_id")
    return clip_id, *own


def load_own(named: str) -> None:
    """Imports annotators from outside: files that end in .py, and modules, separated by commas.

    Raises:
        SettingsError: there is no such file or module, or importing it failed.
    """
    for name in filter(None, (part.strip() for part in named.split(","))):
        try:
            _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
        except SettingsError:
            raise
        except Exception as error:
            raise SettingsError(
                f"CUTROOM_ANNOTATORS names {name!r}, which cannot be imported: {type(error).__name__}: {error}"
            ) from error


def _import_file(file: Path) -> None:
    """Imports a file under its stem, by which workers find its classes again when they unpickle settings."""
    if file.stem in sys.modules:
        loaded = getattr(sys.modules[file.stem], "__file__", None)
        if loaded and Path(loaded).resolve() == file.resolve():
            return
        raise SettingsError(f"annotator file {file} has the name of the module {loaded}; rename it")
    spec = spec_from_file_location(file.stem, file.resolve())
    module = module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise


load_own(os.environ.get("CUTROOM_ANNOTATORS", ""))
