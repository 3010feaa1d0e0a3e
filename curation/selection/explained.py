"""A clip's life with what the selection's own rules say of it."""

from __future__ import annotations

import polars as pl

from curation.selection.filters import SCORES, outcome
from curation.selection.verdicts import current, gather_scores
from warehouse import lineage
from warehouse.ledger import Ledger


def explain(ledger: Ledger, clip_id_or_prefix: str) -> lineage.Explanation:
    """Tells the life of one clip; see `warehouse.lineage.explain`, whose errors it raises."""
    return lineage.explain(ledger, clip_id_or_prefix, passed_filters)


def passed_filters(ledger: Ledger, shard: str, clip_id: str) -> dict[str, bool | None]:
    """By score, whether a clip passes each filter of the frozen selection; None where the filter lets it be."""
    _, thresholds = current(ledger)
    scores = gather_scores(ledger, shard, {t.score: SCORES[t.score] for t in thresholds})
    its = scores.filter(pl.col("clip_id") == clip_id)
    (told,) = its.select(outcome(t, its).alias(t.score) for t in thresholds).to_dicts() or [{}]
    return told
