"""What tells the story of a run in Prefect's UI: tables and small texts. Outside a flow run nothing is made."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from curation.selection.filters import Threshold
from curation.selection.verdicts import Selected
from tasks.tracking import in_flow_run

_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 40
_PICTURE_PX = 1024


def by_cause(counts: Mapping[str, int]) -> dict[str, int | str]:
    """The counts of a table as a row for people: its states, and how many of what in words."""
    states: dict[str, int | str] = {k: n for k, n in counts.items() if ": " not in k}
    return states | {"of what": ", ".join(f"{n} {k.split(': ')[1]}" for k, n in counts.items() if ": " in k)}


def show_states(states: Mapping[str, Mapping[str, int]]) -> None:
    """A table of how many ids of each table are in which state."""
    if in_flow_run():
        create_table_artifact(
            [{"table": t, **by_cause(counts)} for t, counts in states.items()],
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


def show_picture(path: Path, key: str, text: str) -> None:
    """A picture file, inside the page itself, since a browser may not open files; and where it lies."""
    if in_flow_run():
        from PIL import Image

        small = io.BytesIO()
        with Image.open(path) as picture:
            picture.thumbnail((_PICTURE_PX, _PICTURE_PX))
            picture.convert("RGB").save(small, "JPEG", quality=80)
        create_markdown_artifact(f"{_inline('jpeg', small.getvalue())}\n\n`{path.resolve()}`", key, text)


def show_losses(stage: str, rows: Sequence[Mapping[str, float]]) -> None:
    """The curve of a stage's loss over the samples that it has seen, and the numbers below."""
    if in_flow_run() and rows:
        key = f"loss-{stage}".replace("_", "-").lower()
        create_markdown_artifact(losses(rows), key, f"Loss of {stage}")


def losses(rows: Sequence[Mapping[str, float]]) -> str:
    """A drawing of `loss` over `samples`, from the axes' zero, and a table of all columns."""
    last, top = rows[-1]["samples"], max(row["loss"] for row in rows)
    points = " ".join(f"{600 * r['samples'] / last:.1f},{200 - 190 * r['loss'] / top:.1f}" for r in rows)
    curve = f'<polyline points="{points}" fill="none" stroke="#3b82f6" stroke-width="2"/>'
    axes = '<path d="M0 0V200H600" fill="none" stroke="#888"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 606 206" width="606">{axes}{curve}</svg>'
    names = list(rows[0])
    lines = [names, ["---:"] * len(names), *([f"{row[n]:.5g}" for n in names] for row in rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{_inline('svg+xml', svg.encode())}\n\nLoss from 0 to {top:.4g}, samples from 0 to {last:g}\n\n{table}"


def _inline(kind: str, data: bytes) -> str:
    return f"![](data:image/{kind};base64,{base64.b64encode(data).decode()})"
