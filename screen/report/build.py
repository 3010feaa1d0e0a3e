"""One self-contained page that tells what a warehouse holds and what was trained on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup, escape

from curation.captions.spending import spent
from screen.report import words
from screen.report.caption_check import caption_check
from screen.report.examples import caption_methods, examples
from screen.report.footage import came_in, read_videos, troubles, where_seconds_went
from screen.report.scenes import scenes
from screen.report.scores import Judged, funnel_rows, judged, reasons, score_charts
from screen.report.training import read_runs
from warehouse.audit import Audit, audit
from warehouse.ledger import Ledger

_HERE = Path(__file__).parent
MAX_PROBLEMS = 12


def build_report(ledger: Ledger, out: Path, *, runs: Sequence[Path] = (), title: str) -> Path:
    """Writes the report of a warehouse and of training runs to the file `out`, and returns it.

    The page asks for nothing from outside itself and needs no script. Examples are drawn by hash, so the same
    warehouse always gives the same page; each section says how many it shows of how many.

    Args:
        runs: folders of training runs, in the order of their stages.

    Raises:
        WarehouseError: a file of the warehouse cannot be read.
        CutroomError: a run's folder holds no run.
    """
    page = _environment().get_template("page.html.jinja").render(_content(ledger, runs, title))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seconds": words.seconds, "coded": _coded}
    environment.globals |= {"count": words.count, "shown": words.shown, "share": words.share}
    return environment


def _coded(text: str) -> Markup:
    """Escaped text in which `words` between backticks are set as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _content(ledger: Ledger, runs: Sequence[Path], title: str) -> dict[str, Any]:
    """Everything that the page's template names."""
    checked = audit(ledger)
    videos = read_videos(ledger)
    done = videos.filter(pl.col("state") == "done")
    clips = judged(ledger)
    spans = _spans(ledger, clips)
    names = dict(done.select("video_id", "uri").iter_rows())
    names |= {i: names[v] for i, v in spans.select("clip_id", "video_id").iter_rows() if v in names}
    return {
        "title": title,
        "style": Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        "uri": ledger.store.uri,
        "plan": ledger.plan,
        "balance": _balance(checked),
        "summary": _summary(checked, done, spans, clips),
        "slices": where_seconds_went(spans),
        "footage_s": float(spans["duration_s"].sum()),
        "came_in": came_in(videos),
        "decode_errors": done.filter(pl.col("decode_errors") > 0).height,
        "failed": troubles(ledger, "failed", names),
        "skipped": troubles(ledger, "skipped", names),
        "scenes": scenes(ledger, done, spans),
        "clips": clips,
        "charts": score_charts(ledger, clips),
        "funnel": funnel_rows(clips),
        "reasons": reasons(clips),
        "examples": examples(ledger, clips, spans, done),
        "methods": (methods := caption_methods(ledger)),
        "spent": spent(ledger),
        "fit": caption_check(ledger) if methods else None,
        "runs": read_runs(runs),
    }


def _spans(ledger: Ledger, clips: Judged) -> pl.DataFrame:
    """All spans with their verdicts."""
    columns = ["clip_id", "video_id", "start_pts", "end_pts", "start_s", "duration_s", "state", "cause"]
    fates = clips.frame.select("clip_id", "kept", "rejected_by")
    return ledger.read_all("clips", columns).join(fates, on="clip_id", how="left")


def _balance(checked: Audit) -> Mapping[str, Any]:
    pending = {name: t.pending for name, t in checked.tables.items() if t.pending}
    problems = [asdict(p) for p in checked.problems]
    return {
        "ok": checked.balanced,
        "pending": pending,
        "problems": problems[:MAX_PROBLEMS],
        "num": len(problems),
    }


def _summary(checked: Audit, done: pl.DataFrame, spans: pl.DataFrame, clips: Judged) -> Mapping[str, Any]:
    kept_s = spans.filter(pl.col("kept"))["duration_s"].sum()
    return {
        "sources": checked.tables["sources"],
        "videos": checked.tables["videos"],
        "video_s": float(done["duration_s"].sum()),
        "num_clips": clips.frame.height,
        "num_kept": clips.num_kept,
        "kept_s": float(kept_s),
    }
