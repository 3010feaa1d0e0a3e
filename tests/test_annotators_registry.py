from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import ClassVar

import pyarrow as pa
import pytest
from annotator_clips import check_columns, clip_of
from pydantic import TypeAdapter

from curation.annotators.base import Clip, Done, Outcome
from curation.annotators.registry import ANNOTATORS, register
from curation.selection.filters import SCORES
from warehouse.errors import SettingsError
from warehouse.schema import TABLES
from warehouse.table import column


@dataclass(frozen=True)
class LengthConfig:
    factor: float = 1.0


class Length:
    name: ClassVar[str] = "length"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("grid_frames",)
    config_type: ClassVar[type] = LengthConfig
    fields: ClassVar = (column("score", pa.float32(), "how long it lasts", unit="s"),)

    def __init__(self, config: LengthConfig) -> None:
        self._factor = config.factor

    def load(self) -> None:
        pass

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [Done({"score": self._factor * clip.duration_s}) for clip in clips]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    registries = (ANNOTATORS, TABLES, SCORES)
    copies = [dict(registry) for registry in registries]
    yield
    for now, before in zip(registries, copies, strict=True):
        now.clear()
        now.update(before)


def test_each_annotator_fills_its_own_table_and_comes_after_what_it_reads() -> None:
    known = {"videos", "clips", "flow", "grid_frames"}
    for name, kind in ANNOTATORS.items():
        assert kind.name == name and TABLES[name].identity == ("clip_id",)
        assert set(kind.reads) <= known
        assert is_dataclass(kind.config_type)
        hash(kind.config_type())
        known.add(name)


def test_settings_are_forms_that_forms_can_fill() -> None:
    for kind in ANNOTATORS.values():
        form = TypeAdapter(kind.config_type)
        assert form.validate_python({}) == kind.config_type()
        assert form.json_schema()["type"] == "object"


def test_every_setting_of_an_annotator_says_what_it_is() -> None:
    import inspect

    def undocumented(config: type) -> list[str]:
        source = inspect.getsource(config).splitlines()
        bare = [
            f.name
            for f in fields(config)
            for at, line in enumerate(source)
            if line.startswith(f"    {f.name}:") and not _docstring_follows(source, at)
        ]
        parts = [f.default_factory for f in fields(config) if is_dataclass(f.default_factory)]
        return bare + [name for part in parts for name in undocumented(part)]

    assert {k: undocumented(a.config_type) for k, a in ANNOTATORS.items()} == {k: [] for k in ANNOTATORS}


def _docstring_follows(source: list[str], at: int) -> bool:
    while source[at].count("(") > source[at].count(")") or source[at].rstrip().endswith("("):
        at += 1
        if source[at].startswith("    )"):
            break
    return source[at + 1].lstrip().startswith('"""')


def test_an_annotator_of_ones_own_is_one_class_and_one_registration() -> None:
    register(Length)
    register(Length)
    assert ANNOTATORS["length"] is Length
    assert TABLES["length"].schema.names == ["clip_id", "score", "state", "cause", "detail", "attempt"]
    (outcome,) = ANNOTATORS["length"](LengthConfig(factor=2)).annotate([clip_of([b""] * 4)])
    assert outcome == Done({"score": 4.0})
    check_columns("length", outcome)


def test_a_name_that_is_taken_an_unknown_input_or_a_table_without_columns_is_refused() -> None:
    with pytest.raises(SettingsError, match="two annotators are called 'motion'"):
        register(type("Other", (Length,), {"name": "motion"}))
    with pytest.raises(SettingsError, match="reads \\['wheels'\\]"):
        register(type("Other", (Length,), {"name": "other", "reads": ("wheels",)}))
    with pytest.raises(SettingsError, match="has no table"):
        register(type("Other", (Length,), {"name": "other", "fields": ()}))
