"""Scores of all clips as histograms with the frozen thresholds, and the funnel that the thresholds make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from curation.selection.filters import SCORES, Score, Threshold, duplicates_stage, funnel
from curation.selection.verdicts import current, gather_scores
from screen.report.charts import Mark, histogram, short
from screen.report.words import count, share
from warehouse.ledger import Ledger
from warehouse.lineage import frozen_selection, score_columns
from warehouse.schema import TABLES

MIN_BINS, MAX_BINS = 10, 40
TAIL_PERCENTILE, TAIL_FACTOR = 99, 1.6
"""A chart ends at this percentile if the largest value lies farther out than so many times the spread up to it."""


@dataclass(frozen=True)
class Judged:
    """The scores and the fate of every clip.

    `frame`: clip_id, a column per score (null where a clip has none), kept and rejected_by (null: not judged), and what
    else the verdicts say.
    """

    name: str | None
    """Of the selection; null while nothing has been selected."""
    thresholds: tuple[Threshold, ...]
    frame: pl.DataFrame
    funnel: tuple[Mapping[str, Any], ...]

    @property
    def num_kept(self) -> int:
        return int(self.frame["kept"].fill_null(False).sum())

    @property
    def num_judged(self) -> int:
        return int(self.frame["kept"].is_not_null().sum())


@dataclass(frozen=True)
class ScoreChart:
    """One histogram with what stands around it."""

    name: str
    unit: str
    meaning: str
    model: str | None
    is_embedded: bool
    num_scored: int
    num_missing: int
    rule: str | None
    """What the selection demands; null when it does not filter by this score."""
    note: str | None
    svg: Markup


def shown_scores(ledger: Ledger) -> dict[str, Score]:
    """Every score that the plan computes and a selection may use, also those of annotators added later."""
    found = {}
    for name, column in score_columns().items():
        if column.table in ledger.plan.keys and (name in SCORES or column.column == "score"):
            found[name] = SCORES.get(name) or Score(column.table, column.column, "high", not column.has_model)
    return found


def judged(ledger: Ledger) -> Judged:
    """Scores and verdicts of all clips."""
    scores = gather_scores(ledger, None, shown_scores(ledger))
    if frozen_selection(ledger) is None:
        undecided = {"kept": pl.lit(None, pl.Boolean), "rejected_by": pl.lit(None, pl.String)}
        return Judged(None, (), scores.with_columns(**undecided), ())
    config, thresholds = current(ledger)
    verdicts = ledger.read_all("verdicts", [f.name for f in TABLES["verdicts"].fields])
    frame = scores.join(verdicts, on="clip_id", how="left").sort("clip_id")
    stages = (*funnel(thresholds, scores), *duplicates_stage(config.duplicates, verdicts))
    return Judged(config.name, tuple(thresholds), frame, stages)


def score_charts(ledger: Ledger, clips: Judged) -> list[ScoreChart]:
    """A chart per score, those that the selection filters by first, in its order."""
    thresholds = {t.score: t for t in clips.thresholds}
    scores = shown_scores(ledger)
    ordered = [*thresholds, *(n for n in scores if n not in thresholds)]
    return [_chart(ledger, clips, name, scores[name], thresholds.get(name)) for name in ordered]


def _chart(ledger: Ledger, clips: Judged, name: str, score: Score, threshold: Threshold | None) -> ScoreChart:
    spec = score_columns()[name]
    rows = clips.frame.filter(pl.col(name).is_not_null())
    values = rows[name].to_numpy().astype(np.float64)
    models = _models(ledger, score.table) if spec.has_model else []
    edges, beyond = _bins(values, threshold)
    return ScoreChart(
        name=name,
        unit=spec.unit,
        meaning=spec.meaning,
        model=", ".join(models) or None,
        is_embedded="embedded" in models,
        num_scored=len(values),
        num_missing=clips.frame.height - len(values),
        rule=None if threshold is None else rule(threshold),
        note=f"the last bar also holds {count(beyond, 'clip')} beyond it" if beyond else None,
        svg=_draw(name, spec.unit, edges, rows, threshold),
    )


def _models(ledger: Ledger, table: str) -> list[str]:
    """Which weights made a table's scores."""
    return sorted(ledger.read_all(table, ["model"])["model"].drop_nulls().unique())


def rule(threshold: Threshold) -> str:
    """A threshold in words: what passes, and where the value comes from."""
    sign = "≥" if threshold.better == "high" else "≤"
    if threshold.drop is None:
        return f"{sign} {short(threshold.value)}, a fixed limit"
    return f"{sign} {short(threshold.value)}, which drops the worst {threshold.drop:.0%}"


def _bins(values: np.ndarray, threshold: Threshold | None) -> tuple[np.ndarray, int]:
    """Edges of the bins, one of them the threshold, and how many values lie beyond the last."""
    if not len(values):
        return np.linspace(0, 1, MIN_BINS + 1), 0
    low, high = float(values.min()), float(values.max())
    tail = float(np.percentile(values, TAIL_PERCENTILE))
    high = tail if tail > low and high - low > TAIL_FACTOR * (tail - low) else high
    if threshold is not None:
        low, high = min(low, threshold.value), max(high, threshold.value)
    if low == high:
        low, high = low - 0.5, high + 0.5
    width = (high - low) / min(MAX_BINS, max(MIN_BINS, round(2 * len(values) ** 0.5)))
    origin = low if threshold is None else threshold.value
    below, above = math.ceil((origin - low) / width - 1e-9), math.ceil((high - origin) / width - 1e-9)
    return origin + width * np.arange(-below, above + 1), int((values > high).sum())


def _draw(name: str, unit: str, edges: np.ndarray, rows: pl.DataFrame, threshold: Threshold | None) -> Markup:
    """Bars split by fate: kept, rejected by this very score, rejected by another, not judged."""
    failed = (
        pl.col("failed_filters").list.contains(name) if "failed_filters" in rows.columns else pl.lit(False)
    )
    by_this = failed & ~pl.col("kept")
    fates = {
        "kept": pl.col("kept").fill_null(False),
        "fails": by_this.fill_null(False),
        "other": (~pl.col("kept") & ~failed).fill_null(False),
        "plain": pl.col("kept").is_null(),
    }
    better = "high" if threshold is None else threshold.better
    layers = {css: _counts(rows.filter(fate)[name], edges, better) for css, fate in fates.items()}
    mark = None
    if threshold is not None:
        mark = Mark(
            threshold.value,
            f"{'≥' if threshold.better == 'high' else '≤'} {short(threshold.value)}",
            threshold.better,
        )
    said = f"{rows.height} clips from {short(edges[0])} to {short(edges[-1])} {unit}"
    return histogram(name, said, edges.tolist(), layers, mark)


def _counts(values: pl.Series, edges: np.ndarray, better: str) -> list[int]:
    """Values in each bin; one that lies on an edge counts on the better side, as it does for a threshold."""
    clipped = np.clip(values.to_numpy().astype(np.float64), edges[0], edges[-1])
    if better == "high":
        return np.histogram(clipped, edges)[0].tolist()
    return np.histogram(-clipped, -edges[::-1])[0][::-1].tolist()


@dataclass(frozen=True)
class FunnelRow:
    """One filter of the selection: how many clips came to it, fell, were left, and would fall by it alone."""

    score: str
    rule: str
    came: int
    rejected: int
    missing: int
    """Of the rejected: those whose score is missing."""
    let_be: int
    """Clips that the filter is not for: stills, and those of which the score cannot be known."""
    kept: int
    kept_share: str
    alone: int
    width: float
    """Share of all clips that is left, 0 to 1."""


def funnel_rows(clips: Judged) -> list[FunnelRow]:
    """The funnel of the frozen thresholds, in the order of the filters, and near-duplicates last."""
    whole = clips.frame.height
    rules = {t.score: rule(t) for t in clips.thresholds}
    return [_funnel_row(row, rules, clips.frame, whole) for row in clips.funnel]


def _funnel_row(
    row: Mapping[str, Any], rules: Mapping[str, str], frame: pl.DataFrame, whole: int
) -> FunnelRow:
    missing = frame.filter(pl.col("rejected_by") == f"{row['score']}:missing").height
    return FunnelRow(
        score=row["score"],
        rule=rules.get(row["score"]) or f"frames within {row['value']:g} bits of a better clip's fall",
        came=row["in"],
        rejected=row["rejected"],
        missing=missing,
        let_be=row["exempt"] + row["unknown"],
        kept=row["kept"],
        kept_share=share(row["kept"], whole),
        alone=row["rejects_alone"],
        width=row["kept"] / whole if whole else 0.0,
    )


def reasons(clips: Judged) -> Sequence[tuple[str, int]]:
    """How many clips each reason rejected, as the verdicts say, the most frequent first."""
    rejected = clips.frame.filter(~pl.col("kept"))
    counted = rejected.group_by("rejected_by").len().sort(["len", "rejected_by"], descending=[True, False])
    return list(counted.iter_rows())
