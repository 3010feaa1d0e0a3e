"""Every annotator by the name of its table, in an order in which each finds the tables that it reads.

An annotator of your own is one file with one class (see `base.Annotator`) that ends in a call of `register`. Its
table is described by a class attribute `fields`, made with `warehouse.schema.column`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from curation.annotators.aesthetics import AestheticsAnnotator
from curation.annotators.base import Annotator
from curation.annotators.captions import CaptionsAnnotator
from curation.annotators.embeddings import EmbeddingsAnnotator
from curation.annotators.motion import MotionAnnotator
from curation.annotators.sharpness import SharpnessAnnotator
from curation.annotators.similarity import SimilarityAnnotator
from curation.annotators.summaries import SummariesAnnotator
from curation.annotators.text_area import TextAreaAnnotator
from warehouse.errors import SettingsError
from warehouse.schema import TABLES

Kind = TypeVar("Kind", bound=type[Annotator])

ANNOTATORS: dict[str, type[Annotator]] = {
    kind.name: kind
    for kind in (
        MotionAnnotator,
        TextAreaAnnotator,
        SharpnessAnnotator,
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
    return kind


def _fields(kind: type[Annotator]) -> tuple:
    own = getattr(kind, "fields", ())
    if not own:
        raise SettingsError(
            f"annotator {kind.name!r} has no table; give it `fields`, a tuple of warehouse.schema.column"
        )
    (clip_id,) = (f for f in TABLES["motion"].fields if f.name == "clip_id")
    return clip_id, *own
