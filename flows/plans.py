"""A warehouse's plan on both sides of a command: what it was curated with, and what counts afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from curation.annotators.base import is_on
from curation.annotators.registry import ANNOTATORS
from curation.engine.places import Places, free_memory_bytes, visible_devices
from curation.engine.pool import Pool
from curation.pipeline import PRELOAD, make_plan
from flows.settings import Settings, load_settings
from tasks.windows import Engine
from warehouse.datasets import dataset_path
from warehouse.errors import SettingsError
from warehouse.ledger import Ledger
from warehouse.manifest import MANIFEST
from warehouse.plan import Plan, Step, without_notes
from warehouse.store import Store


def settings_of(plan: Plan) -> dict[str, Any]:
    """The settings, nested by section, that led to a plan; they are the defaults of whatever follows on its tables."""
    config = plan.config
    annotators = {n: without_notes(config[n]) for n in ANNOTATORS if config.get(n)}
    sections: dict[str, Any] = {"annotators": annotators}
    for name in ("scan", "cut"):
        sections |= config.get(name, {})
    if "select" in config:
        sections["selection"] = config["select"]
    encode = {**config.get("encode", {}), **config.get("encode_text", {})}
    sections |= {"encode": without_notes(encode)} if encode else {}
    return sections | ({"pack": config["pack"]} if "pack" in config else {})


def selected_earlier(store: Store) -> dict[str, Any]:
    """The sections that curation leaves to later commands, and annotators that are off unless somebody turned them on,
    as the warehouse has them.
    """
    current = Plan.current(store)
    sections = settings_of(current) if current else {}
    kept = {name: sections[name] for name in ("selection", "encode", "pack") if name in sections}
    chosen = sections.get("annotators", {})
    turned_on = {
        n: chosen[n] for n, kind in ANNOTATORS.items() if n in chosen and not is_on(kind.config_type())
    }
    return kept | ({"annotators": turned_on} if turned_on else {})


def later_plan(settings: Settings, current: Plan, *further: Step) -> Plan:
    """The plan of a command that follows curation: the same tables, and its own.

    Raises:
        SettingsError: the settings would make other tables than the ones that are there.
    """
    config = settings.curation()
    config = replace(config, annotators=tuple((n, c) for n, c in config.annotators if n in current.keys))
    plan = make_plan(config, *further)
    changed = [
        t for t, key in plan.keys.items() if t in current.keys and key != current.keys[t] and t != "verdicts"
    ]
    if changed and (early := [t for t in changed if t not in {w for s in further for w in s.writes}]):
        raise SettingsError(
            f"the settings differ from those that the warehouse was curated with: they make other tables "
            f"{', '.join(early)}; run `cutroom curate` with them first, or leave them out"
        )
    return plan


@contextmanager
def open_engine(settings: Settings, plan: Plan) -> Iterator[Engine]:
    """Workers on a warehouse under a plan, which becomes the current one.

    A plan that held all of this one's tables, and more that are complete still, is the current one again at the end.
    """
    store = Store(settings.warehouse)
    store.sweep()
    before = Plan.current(store)
    plan.save(store)
    run_id = str(flow_run.id or uuid.uuid4())
    scratch = store.scratch()
    shared = Places(settings.workers, visible_devices(), settings.device_workers, free_memory_bytes())
    with Pool(settings.workers, scratch, PRELOAD) as isolated, Pool(shared, scratch, PRELOAD) as keeping:
        yield Engine(Ledger(store, plan), isolated, keeping, run_id, settings.retry_failed)
    if before and plan.keys.items() <= before.keys.items() and _is_complete(store, before, plan.keys):
        before.save(store)


def _is_complete(store: Store, plan: Plan, known: Mapping[str, str]) -> bool:
    """Whether the tables that `plan` has beyond the known ones hold a row for every id, and its dataset is packed."""
    ledger = Ledger(store, plan)
    if "pack" in plan.config and not store.exists(f"{dataset_path(ledger)}/{MANIFEST}"):
        return False
    return all(
        len(ledger.expected(table, shard)) == ledger.read(table, shard, ["clip_id"]).height
        for table in plan.keys
        if table not in known
        for shard in ledger.shards()
    )


def current_settings(
    flags: Mapping[str, Any], toml: str | Path | None = None
) -> tuple[Settings, Store, Plan]:
    """Settings of a command that follows curation: over what the warehouse was curated with, the warehouse, its plan.

    Raises:
        WarehouseError: the warehouse holds no plan.
    """
    store = Store(load_settings(flags, toml=toml).warehouse)
    current = Plan.load(store)
    return load_settings(flags, toml=toml, base=settings_of(current)), store, current
