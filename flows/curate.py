"""The flow `curate-lvd`: footage in, scored, captioned and selected clips out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import flow

from curation.annotators.registry import ANNOTATORS
from curation.captions.fit import CaptionFit
from curation.captions.spending import Spent, spent
from curation.cuts.boundaries import seconding_only
from curation.ingest import Given, assign, give, places_not_there, settle_given_again
from curation.listed_captions import settle_listed_captions
from curation.pipeline import CurationConfig, check_weights, hash_work, make_plan, shard_works
from curation.selection.verdicts import Selected
from flows.plans import current_settings, open_engine, selected_earlier
from flows.settings import CurateParams, Settings
from tasks import artifacts
from tasks.checking import check_new_captions
from tasks.progress import note
from tasks.selecting import States, count_states, refuse_total_failure, select_clips
from tasks.windows import Engine, run_windows, windows
from warehouse.errors import SettingsError
from warehouse.ledger import Ledger
from warehouse.schema import TABLES
from warehouse.store import Store


@dataclass(frozen=True)
class Curated:
    """What a curation run did, and how everything in the warehouse stands."""

    warehouse: str
    new_rows: Mapping[str, int]
    """Rows that this run wrote, by table; empty if all had been done."""
    states: States
    selected: Selected | None
    """None if there is no clip to select from."""
    spent: Spent | None = None
    """What this run asked a server for summaries; None if it asked none."""
    captions: tuple[CaptionFit, ...] | None = None
    """How the captions fit their clips; None if this run wrote none, or they could not be checked."""
    problems: tuple[Mapping[str, str], ...] = ()
    """Footage that was named and is not there: path, cause and detail."""
    pictures_left_out: int = 0
    """Still pictures in folders of the footage that were not taken; see `IngestConfig`."""


@flow(name="curate-lvd", flow_run_name="curate-into-{params.warehouse}", persist_result=False)
def curate_lvd(params: CurateParams = CurateParams()) -> Curated:  # noqa: B008 (frozen)
    """Curates footage into a warehouse, as Stable Video Diffusion did.

    Parameters that are not given come from cutroom.toml or the environment of whoever runs this.
    """
    store = Store(params.resolve().warehouse)
    return curate(params.resolve(base=selected_earlier(store)))


def curate(settings: Settings) -> Curated:
    """Runs every step of curation over all that has been given, then selects; what is done already is not done again.

    Raises:
        WarehouseError: there is no footage, or a step failed for every id that it had.
    """
    config = settings.curation()
    check_weights(config)
    if warning := seconding_only(config.cuts, config.scan.evidence):
        note(warning)
    with open_engine(settings, make_plan(config)) as engine:
        ledger, footage = engine.ledger, settings.footage
        problems = tuple(_not_there(footage))
        given = _give(ledger, footage, config, engine.run_id) if footage else Given(tuple(ledger.groups()))
        rows = run_windows(hash_work(config), engine, windows(given.groups, settings.window_shards)).rows
        rows += Counter(sources=settle_given_again(ledger, run_id=engine.run_id))
        assign(engine.ledger, config.shard, run_id=engine.run_id)
        curated = _score_and_select(engine, config, settings.window_shards, rows)
        return replace(curated, problems=problems, pictures_left_out=given.pictures_left_out)


def _give(ledger: Ledger, footage: Sequence[str], config: CurationConfig, run_id: str) -> Given:
    """Writes down the footage, and says how many pictures are left out of it."""
    given = give(ledger, footage, run_id=run_id, config=config.ingest)
    if given.pictures_left_out:
        note(
            f"{given.pictures_left_out} pictures were left out, as ingest.pictures is {config.ingest.pictures!r}; "
            "'all' takes pictures beside videos too"
        )
    for place in given.warehouses_left_out:
        note(f"{place} is a warehouse: nothing in it was taken for footage")
    return given


def _not_there(footage: Iterable[str]) -> Iterator[dict[str, str]]:
    """Says every place of footage that is not there, and yields it."""
    for place in places_not_there(footage):
        note(f"{place}: there is no such file or folder")
        yield {"path": place, "cause": "not_found", "detail": "there is no such file or folder"}


def annotate(name: str, flags: Mapping[str, Any], toml: str | Path | None = None) -> Curated:
    """Computes one annotator's table, and of the others what depends on it, over clips that are there; selects again.

    Raises:
        SettingsError: there is no such annotator, or it is off.
        WarehouseError: there is no warehouse.
    """
    if name not in ANNOTATORS:
        raise SettingsError(
            f"there is no annotator {name!r}; known are {', '.join(ANNOTATORS)}. "
            f"One of your own is named by CUTROOM_ANNOTATORS=<its file>"
        )
    settings, _, current = current_settings(flags, toml)
    config = settings.curation()
    if name not in dict(config.annotators):
        raise SettingsError(
            f"annotator {name!r} is off, as its settings say: {dict(settings.annotators)[name]}; turn it on by "
            f"--set annotators.{name}.SETTING=VALUE"
        )
    wanted = tuple((n, c) for n, c in config.annotators if n in current.keys or n == name)
    config = replace(config, annotators=wanted)
    check_weights(config)
    with open_engine(settings, make_plan(config)) as engine:
        return _score_and_select(engine, config, settings.window_shards, Counter())


def _score_and_select(engine: Engine, config: CurationConfig, window_shards: int, rows: Counter) -> Curated:
    """Every step over shards, until no shard is new, then the selection."""
    ledger, works = engine.ledger, list(shard_works(config))
    settled: set[str] = set()
    # Another run may add shards meanwhile; what is selected from must be scored to the end, so they are done too.
    while shards := [s for s in ledger.shards() if s not in settled]:
        over = windows(shards, window_shards, steps=len(works))
        for work in works:
            rows += run_windows(work, engine, over).rows
        settled.update(shards)
    rows += Counter(listed_captions=settle_listed_captions(ledger, run_id=engine.run_id))
    stateful = [table for work in works for table in work.step.writes if TABLES[table].stateful]
    states = count_states(ledger, ["sources", *stateful, "listed_captions"])
    artifacts.show_states(states)
    refuse_total_failure(ledger, states)
    selected = select_clips(ledger, config.selection, engine.run_id)
    asked = spent(ledger, engine.run_id)
    fits = check_new_captions(ledger, rows)
    return Curated(ledger.store.uri, dict(rows), states, selected, asked, fits)
