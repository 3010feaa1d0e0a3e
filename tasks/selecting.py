"""Selection as a step of a flow, and how a warehouse's ids stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import polars as pl

from curation.cuts.clips import REASONS
from curation.selection.filters import SelectionConfig, score_columns
from curation.selection.verdicts import Selected, gather_scores, select
from tasks import artifacts
from tasks.progress import note
from tasks.tracking import step
from warehouse.errors import WarehouseError
from warehouse.ledger import Ledger

MAX_REASONS = 3
"""Reasons of one table that are told where there is no clip."""
States = Mapping[str, Mapping[str, int]]


@step(name="select", run_name="select {config.name}")
def select_clips(ledger: Ledger, config: SelectionConfig, run_id: str) -> Selected | None:
    """Freezes the thresholds and judges every clip; None if there is no clip to select from."""
    clips = ledger.read_all("clips", ["state"])
    if not (clips["state"] == "done").any():
        note(why_no_clip(ledger))
        return None
    selected = select(ledger, config, run_id=run_id)
    artifacts.show_funnel(selected)
    artifacts.show_histograms(gather_scores(ledger, None, score_columns(config)), selected.thresholds)
    return selected


def why_no_clip(ledger: Ledger) -> str:
    """A sentence for people: that there is no clip, and the reasons that most sources, videos or spans have for it."""
    told = []
    for table, rows in (("sources", "source"), ("videos", "video"), ("clips", "span")):
        states = ledger.read_all(table, ["state", "cause"]).filter(pl.col("state") != "done")
        for cause, count in Counter(states["cause"]).most_common(MAX_REASONS):
            meaning = f" ({REASONS[cause]})" if cause in REASONS else ""
            told.append(f"{count} {rows}{'s' if count > 1 else ''}: {cause}{meaning}")
    reasons = "; ".join(told) or "there is no footage"
    return f"no clip was found, so there is nothing to select from: {reasons}"


def count_states(ledger: Ledger, tables: Iterable[str]) -> States:
    """How many ids of each table are done, failed or skipped, and of what: ``failed: <cause>``, ``skipped: <reason>``."""
    return {table: _count(ledger, table) for table in tables}


def _count(ledger: Ledger, table: str) -> dict[str, int]:
    rows = ledger.read_all(table, ["state", "cause"])
    states = Counter(dict.fromkeys(("done", "failed", "skipped"), 0))
    states.update(rows["state"])
    told = rows.filter(pl.col("state") != "done").select(pl.format("{}: {}", "state", "cause")).to_series()
    return {**states, **dict(sorted(Counter(told).items()))}


def refuse_total_failure(ledger: Ledger, states: States) -> None:
    """Raises WarehouseError for a table of which every id failed: such a run must not look well."""
    for table, counts in states.items():
        if counts["failed"] and not counts["done"] and not counts["skipped"]:
            causes = ", ".join(f"{n} {k}" for k, n in counts.items() if k.startswith("failed: "))
            said = ledger.read_all(table, ["detail"])["detail"].drop_nulls()
            raise WarehouseError(
                f"{table}: every one of {counts['failed']} failed ({causes}), the first with: {said[0]}\n"
                "Once that is mended, --retry-failed tries them again."
            )
