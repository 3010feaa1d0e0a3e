"""What tells the story of a run in Prefect's UI: tables and small texts. Outside a flow run nothing is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from curation.selection import Threshold
from curation.verdicts import Selected
from tasks.tracking import in_flow_run

_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 40


def show_states(states: Mapping[str, Mapping[str, int]]) -> None:
    """A table of how many ids of each table are in which state."""
    if in_flow_run():
        create_table_artifact(
            [{"table": t, **counts} for t, counts in states.items()],
            "states",
            "What came in and how it ended",
        )


def show_funnel(selected: Selected) -> None:
    """The funnel of a selection: clips in, rejected and kept, filter by filter."""
    if in_flow_run():
        note = f"{selected.name}: {selected.num_kept} of {selected.num_clips} clips kept"
        create_table_artifact([dict(row) for row in selected.funnel], "funnel", note)


def show_histograms(scores: pl.DataFrame, thresholds: Sequence[Threshold]) -> None:
    """A histogram of every score, with its threshold."""
    if in_flow_run() and thresholds:
        text = "\n\n".join(histogram(t, scores[t.score]) for t in thresholds)
        create_markdown_artifact(text, "score-histograms", "Scores of all clips, and the thresholds")


def histogram(threshold: Threshold, values: pl.Series) -> str:
    """A score's histogram in characters; the arrow below stands under the threshold."""
    known = values.drop_nulls().drop_nans().to_numpy().astype(float)
    if not len(known):
        return f"**{threshold.score}**: no clip has this score"
    low, high = min(known.min(), threshold.value), max(known.max(), threshold.value)
    counts, _ = np.histogram(known, _BINS, (low, high) if high > low else (low - 0.5, low + 0.5))
    bars = "".join(_BARS[-(-int(c) * (len(_BARS) - 1) // counts.max())] for c in counts)
    at = min(_BINS - 1, int((threshold.value - low) / max(high - low, 1e-12) * _BINS))
    sign = ">=" if threshold.better == "high" else "<="
    lines = (bars, " " * at + "↑", f"{low:.4g} to {high:.4g}; kept {sign} {threshold.value:.4g}")
    return f"**{threshold.score}** ({len(known)} clips)\n\n```\n" + "\n".join(lines) + "\n```"


def show_link(uri: str, key: str, text: str) -> None:
    """A link to a file that a run made."""
    if in_flow_run():
        create_link_artifact(uri, text, key)


def show_losses(stage: str, rows: Sequence[Mapping[str, object]]) -> None:
    """A table of a stage's losses as training went on."""
    if in_flow_run() and rows:
        create_table_artifact(
            [dict(r) for r in rows], f"loss-{stage}".replace("_", "-"), f"Losses of {stage}"
        )
