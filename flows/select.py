"""Selecting again: other thresholds over the scores that a warehouse has."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation.selection.verdicts import Selected
from flows.plans import current_settings, later_plan
from tasks.selecting import select_clips
from warehouse.errors import WarehouseError
from warehouse.ledger import Ledger


def select_again(flags: Mapping[str, Any], toml: Path | None = None) -> Selected:
    """Applies the selection of the settings to the warehouse that they name, and makes it the current one.

    Raises:
        WarehouseError: there is no clip to select from.
    """
    settings, store, current = current_settings(flags, toml)
    plan = later_plan(settings, current)
    plan.save(store)
    selected = select_clips(Ledger(store, plan), settings.selection, str(uuid.uuid4()))
    if selected is None:
        raise WarehouseError(f"{store.uri} holds no clip to select from; see `cutroom audit` for why")
    return selected
