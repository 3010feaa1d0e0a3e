"""From a selection to a dataset: the kept clips are encoded once and packed for the trainer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from curation.listed_captions import settle_listed_captions
from flows.plans import current_settings, later_plan, open_engine
from flows.settings import Settings
from tasks.encoding import LatentWork, TextWork, check_encoders
from tasks.packing import PackConfig, Packed, pack, pack_step
from tasks.selecting import States, count_states, refuse_total_failure
from tasks.tracking import step
from tasks.windows import run_windows, windows
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.store import Store


@dataclass(frozen=True)
class Encoded:
    """What an encoding run did, and how all kept clips stand."""

    warehouse: str
    new_rows: Mapping[str, int]
    states: States
    cut_captions: int
    """Captions of more tokens than the text encoder was given room for, of which the rest is not heard."""


def encode(flags: Mapping[str, Any], toml: Path | None = None) -> Encoded:
    """Encodes what the selection kept into latents and text embeddings."""
    return encode_kept(*current_settings(flags, toml))


def encode_kept(settings: Settings, store: Store, current: Plan) -> Encoded:
    """Encodes the kept clips that have no latents or no text embedding yet, or another caption than was encoded.

    Raises:
        SettingsError: weights on this machine cannot be read.
        WarehouseError: every clip failed.
    """
    check_encoders(settings.encode)
    works = (LatentWork(settings.encode, settings.limits), TextWork(settings.encode))
    plan = later_plan(settings, current, *(w.step for w in works))
    with open_engine(settings, plan) as engine:
        settle_listed_captions(engine.ledger, run_id=engine.run_id)
        over = windows(engine.ledger.shards(), settings.window_shards, steps=len(works))
        rows = sum((run_windows(work, engine, over).rows for work in works), start=Counter())
        states = count_states(engine.ledger, [w.step.ledger_table for w in works])
        refuse_total_failure(engine.ledger, states)
        cut = _count_cut(engine.ledger)
    return Encoded(store.uri, dict(rows), states, cut)


def _count_cut(ledger: Ledger) -> int:
    texts = ledger.read_all("text_embeddings", ["num_tokens", "shape", "state"]).filter(
        pl.col("state") == "done"
    )
    return texts.filter(pl.col("num_tokens") > pl.col("shape").list.first()).height


def pack_kept(settings: Settings, store: Store, current: Plan) -> Packed:
    """Packs the kept and encoded clips into the dataset of the plan, unless it is packed.

    Raises:
        DatasetError: there is nothing to pack.
        WarehouseError: nothing has been encoded under these settings.
    """
    works = (LatentWork(settings.encode, settings.limits), TextWork(settings.encode))
    plan = later_plan(settings, current, *(w.step for w in works), pack_step(settings.pack))
    plan.save(store)
    return _pack(Ledger(store, plan), settings.pack)


@step(name="pack", run_name="pack")
def _pack(ledger: Ledger, config: PackConfig) -> Packed:
    return pack(ledger, config)
