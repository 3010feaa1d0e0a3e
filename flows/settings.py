"""All settings: one model that the command line, the flows' forms and the tests share, and where its values come from.

Precedence, highest first: flags (or a flow run's parameters), a TOML file, the environment
(``CUTROOM_<SECTION>__<FIELD>``, lists as JSON), the profile, the defaults. A key that is not known is an error
wherever it stands.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from curation.annotators.registry import ANNOTATORS
from curation.cuts.boundaries import CutConfig
from curation.cuts.clips import ClipConfig
from curation.footage.media import MediaLimits
from curation.ingest import IngestConfig, ShardSize
from curation.pipeline import CurationConfig, default_annotators
from curation.scan import ScanConfig
from curation.selection.filters import SelectionConfig
from flows.profiles import PROFILES
from tasks.encoding import EncodeConfig
from tasks.packing import PackConfig
from warehouse.errors import SettingsError

PREFIX = "CUTROOM_"
OTHER_VARIABLES = frozenset(
    {"CUTROOM_TEST_DATA", "CUTROOM_FAULT", "CUTROOM_WORKER_PRELOAD", "CUTROOM_ANNOTATORS"}
)
"""Variables of the same prefix that are no settings."""
TOML_NAME = "cutroom.toml"

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A group of settings. Frozen dataclasses inside take over its strictness, and their docstrings its descriptions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )


def _one_or_more(value: Any) -> Any:
    """A single text stands for a list of one."""
    return (value,) if isinstance(value, str) else value


def _cores() -> int:
    return len(os.sched_getaffinity(0))


AnnotatorSettings: type[Section] = create_model(
    "AnnotatorSettings",
    __base__=Section,
    **{
        name: (kind.config_type, Field(default_factory=kind.config_type)) for name, kind in ANNOTATORS.items()
    },
)


class CurateSettings(Section):
    """What a curation run needs."""

    footage: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = ("cutroom-demo/reel",)
    """Video files, folders (searched recursively) or object-store prefixes; none: what was given earlier."""
    warehouse: str = "cutroom-demo/warehouse"
    """Folder or object-store prefix that holds the tables."""
    profile: Literal["embedded", "published"] = "embedded"
    """Models and filters: small ones that come along and know the sample reel alone, or those that SVD used."""
    workers: int = Field(default_factory=_cores, ge=1, le=1024)
    """Worker processes; by default one for each core that this process may use."""
    device_workers: int = Field(default=1, ge=1, le=64)
    """Of these, workers that have models on one accelerator; each is shown one alone. Where there is none, as many take
    part as the memory holds models of local files."""
    window_shards: int = Field(default=1, ge=1)
    """Shards that one Prefect task works through; raised by itself where a run would have more than 500 tasks."""
    retry_failed: bool = False
    """Try again what failed for good in an earlier run."""
    video_timeout_s: float = Field(default=3600.0, gt=0)
    """Seconds after which a video's scan is killed; it then fails with the cause `timeout`."""
    limits: MediaLimits = Field(default_factory=MediaLimits)
    ingest: IngestConfig = Field(default_factory=IngestConfig)
    shard: ShardSize = Field(default_factory=ShardSize)
    scan: ScanConfig = Field(default_factory=ScanConfig)
    cuts: CutConfig = Field(default_factory=CutConfig)
    clips: ClipConfig = Field(default_factory=ClipConfig)
    annotators: AnnotatorSettings = Field(default_factory=AnnotatorSettings)  # type: ignore[valid-type]
    selection: SelectionConfig = Field(default_factory=SelectionConfig)

    def curation(self) -> CurationConfig:
        """The settings of curation as the layers below take them."""
        return CurationConfig(
            limits=self.limits,
            ingest=self.ingest,
            shard=self.shard,
            scan=self.scan,
            cuts=self.cuts,
            clips=self.clips,
            annotators=default_annotators(**dict(self.annotators)),
            selection=self.selection,
            video_timeout_s=self.video_timeout_s,
        )


class TrainSettings(Section):
    """What training needs."""

    warehouse: str = "cutroom-demo/warehouse"
    """Folder or object-store prefix that holds the tables."""
    workers: int = Field(default_factory=_cores, ge=1, le=1024)
    """Worker processes that encode what has no latents yet; by default one for each core."""
    encode: EncodeConfig = Field(default_factory=EncodeConfig)
    pack: PackConfig = Field(default_factory=PackConfig)
    dataset: str | None = None
    """A packed dataset to train on; by default what the warehouse's selection kept, encoded and packed as needed."""
    runs: str | None = None
    """Folder of training runs; by default `runs` in the warehouse, which must then be a local folder."""
    processes: int | None = Field(default=None, ge=1)
    """Processes of one training; by default one for each GPU, or each core. torchrun starts them."""
    recipes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Changes to recipes, by recipe and setting, as {"video": {"lr": 0.0003}}."""


class Settings(CurateSettings, TrainSettings):
    """Every setting there is."""


class _Params(Section):
    """Parameters of a flow: settings, of which those that are not given come from a file or the environment.

    A section is given whole: what it leaves out is the default.
    """

    config: str | None = None
    """TOML file with further settings; by default cutroom.toml where the flow runs."""

    def resolve(self, base: Mapping[str, Any] | None = None) -> Settings:
        """All settings, with those of these parameters that were given before any other."""
        return load_settings(self.flags, toml=self.config, base=base)

    @property
    def flags(self) -> dict[str, Any]:
        """What was given, nested by section."""
        return self.model_dump(exclude_unset=True, exclude={"config"})

    @classmethod
    def of(cls, settings: Settings, config: Path | None) -> Self:
        """Parameters for resolved settings: those that were given anywhere."""
        given = settings.model_fields_set & cls.model_fields.keys()
        return cls(config=config and str(config), **{name: getattr(settings, name) for name in given})


class CurateParams(_Params, CurateSettings):
    """Footage, warehouse, and how to curate."""


class TrainParams(_Params, TrainSettings):
    """Warehouse or dataset, and how to train."""


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    toml: str | Path | None = None,
    environ: Mapping[str, str] = os.environ,
    base: Mapping[str, Any] | None = None,
) -> Settings:
    """Resolves all settings.

    Args:
        flags: nested by section; what a user gave on the command line or as a flow run's parameters.
        toml: a settings file; by default ``cutroom.toml`` in the working directory if there is one.
        base: stands in for the defaults, as the settings that a warehouse was curated with do.

    Raises:
        SettingsError: a key is unknown or a value does not fit; the message names where it stands and what is known.
    """
    file = _toml_path(toml)
    given = {
        "the command": dict(flags or {}),
        str(file): _read(file) if file else {},
        "the environment": _from_environment(environ),
    }
    profile = next((g["profile"] for g in given.values() if "profile" in g), None)
    layers = [*reversed(given.values())]
    layers.insert(0, PROFILES.get(profile, {}))
    layers.insert(0 if profile else 1, base or {})
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    return validate(Settings, merged, given)


def validate(
    model: type[Model], values: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]] | None = None
) -> Model:
    """The model with these values, or a SettingsError that names each wrong key, where it was given, and what is known."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        schema = model.model_json_schema()
        lines = [_explain(each, schema, given or {}) for each in error.errors()]
        raise SettingsError("\n".join(lines)) from error


def parse_set(text: str) -> tuple[str, Any]:
    """A name and its value out of ``NAME=VALUE``. Raises SettingsError."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise SettingsError(f"setting {text!r} is not NAME=VALUE, as clips.min_s=1 is")
    return name, _value(value)


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"scan.grid_fps": 4}`` as ``{"scan": {"grid_fps": 4}}``."""
    nested: dict[str, Any] = {}
    for name, value in dotted.items():
        *sections, field = name.split(".")
        inner: dict[str, Any] = {field: value}
        for section in reversed(sections):
            inner = {section: inner}
        nested = _merge(nested, inner)
    return nested


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`high` over `low`, section by section; lists and values are replaced whole."""
    merged = dict(low)
    for name, value in high.items():
        below = merged.get(name)
        merged[name] = (
            _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def _toml_path(toml: str | Path | None) -> Path | None:
    if toml is None:
        return Path(TOML_NAME) if Path(TOML_NAME).is_file() else None
    if not Path(toml).is_file():
        raise SettingsError(f"there is no settings file {toml}; name a TOML file or leave the option out")
    return Path(toml)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is no TOML: {error}") from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Settings out of variables; ``PROFILE`` is short for ``CUTROOM_PROFILE``."""
    found = {
        name.removeprefix(PREFIX).lower().replace("__", "."): _value(text)
        for name, text in environ.items()
        if name.startswith(PREFIX) and name not in OTHER_VARIABLES
    }
    if profile := environ.get("PROFILE"):
        found.setdefault("profile", profile)
    return nest(found)


def _value(text: str) -> Any:
    """A variable's value: JSON where it is a list, a table or null, else the text as it stands."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if value is None or isinstance(value, list | dict) else text


def _explain(
    error: Mapping[str, Any], schema: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]]
) -> str:
    """One line for one of pydantic's errors."""
    location: Sequence[Any] = error["loc"]
    name = ".".join(map(str, location))
    source = next((s for s, values in given.items() if _holds(values, location)), None)
    where = f" (in {source})" if source else ""
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = ", ".join(_known(schema, location[:-1]))
        return f"unknown setting {name}{where}; known here: {known}"
    return f"setting {name}{where} is {error['input']!r}: {error['msg']}"


def _holds(values: Any, location: Sequence[Any]) -> bool:
    """Whether a nested mapping has something at a location, or a list on the way to it."""
    for part in location:
        if isinstance(values, list):
            return True
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _known(schema: Mapping[str, Any], location: Sequence[Any]) -> list[str]:
    """Names of the settings at a location."""
    node: Mapping[str, Any] = schema
    for part in location:
        node = _resolved(schema, node)
        node = node["items"] if isinstance(part, int) else node["properties"][part]
    return sorted(_resolved(schema, node).get("properties", {}))


def _resolved(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node
