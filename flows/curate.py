"""The flow `curate-lvd`: footage in, scored, captioned and selected clips out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect import flow

from curation.ingest import assign, give
from curation.pipeline import hash_work, make_plan, shard_works
from curation.verdicts import Selected
from flows.plans import open_engine, selected_earlier
from flows.settings import CurateParams, Settings
from tasks import artifacts
from tasks.selecting import States, count_states, refuse_total_failure, select_clips
from tasks.windows import run_windows, windows
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
    with open_engine(settings, make_plan(config)) as engine:
        ledger, run_id = engine.ledger, engine.run_id
        groups = give(ledger, settings.footage, run_id=run_id)
        rows = run_windows(hash_work(config), engine, windows(groups, settings.window_shards)).rows
        assign(ledger, config.shard, run_id=run_id)
        works = list(shard_works(config))
        settled: set[str] = set()
        # Another run may add shards meanwhile; what is selected from must be scored to the end, so they are done too.
        while shards := [s for s in ledger.shards() if s not in settled]:
            over = windows(shards, settings.window_shards, steps=len(works))
            for work in works:
                rows += run_windows(work, engine, over).rows
            settled.update(shards)
        states = count_states(ledger, ["sources", *(w.step.ledger_table for w in works)])
        artifacts.show_states(states)
        refuse_total_failure(ledger, states)
        selected = select_clips(ledger, config.selection, run_id)
    return Curated(ledger.store.uri, dict(rows), states, selected)
