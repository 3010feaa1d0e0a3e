"""What imported lists say of a source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from warehouse.ledger import Ledger


def entries_of(ledger: Ledger, source_id: str) -> Iterator[dict[str, Any]]:
    """Rows of `listed` that were matched with a source, list by list; none where the plan knows no lists."""
    if "matched" not in ledger.plan.keys:
        return
    for list_id in ledger.parts("matched"):
        matched = ledger.read("matched", list_id, ["entry_id", "source_id"])
        ids = matched.filter(pl.col("source_id") == source_id)["entry_id"].to_list()
        if ids:
            rows = ledger.read("listed", list_id, None, [("entry_id", "in", ids)])
            yield from rows.sort("entry_id").iter_rows(named=True)
