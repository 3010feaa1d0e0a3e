"""Clips to look at: kept ones, ones that each filter rejected, and what was written about them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from curation.footage.grid_frames import pick
from curation.selection.duplicates import REASON
from curation.selection.filters import Threshold, outcome
from screen.report.charts import short
from screen.report.footage import with_grid
from screen.report.pictures import FrameId, Picture, read_pictures
from screen.report.scores import Judged, rule, shown_scores
from screen.report.words import name_of
from warehouse.ledger import Ledger
from warehouse.lineage import score_columns

MAX_KEPT = 9
MAX_REJECTED = 12
MAX_PER_REASON = 3
CAPTION_COLUMNS = {
    "listed_captions": ["clip_id", "captions", "methods"],
    "captions": ["clip_id", "frame_caption", "frame_method", "video_caption", "video_method"],
    "summaries": ["clip_id", "summary", "method"],
}
CAPTION_KINDS = (
    ("frame", "frame_caption", "frame_method"),
    ("video", "video_caption", "video_method"),
    ("summary", "summary", "method"),
)


@dataclass(frozen=True)
class ScoreChip:
    """A score of a clip in a few characters; `css` says how it stands to its threshold."""

    name: str
    value: str
    css: str
    title: str


@dataclass(frozen=True)
class Caption:
    """A caption: of what, and who wrote it."""

    of: str
    text: str
    method: str


@dataclass(frozen=True)
class ClipView:
    """One clip of the sample: first, middle and last frame, captions, scores, and why it was rejected."""

    clip_id: str
    name: str
    uri: str
    start_s: float
    duration_s: float
    frames: tuple[tuple[float, Picture], ...]
    """Time in the video, and the frame."""
    captions: tuple[Caption, ...]
    chips: tuple[ScoreChip, ...]
    rejected_by: str | None
    reason: str | None


@dataclass(frozen=True)
class Examples:
    """The sample of kept and of rejected clips."""

    kept: tuple[ClipView, ...]
    rejected: tuple[ClipView, ...]


@dataclass(frozen=True)
class MethodRow:
    """How many captions of one kind a method wrote, and how they came out."""

    of: str
    method: str
    count: int
    num_truncated: int

    @property
    def is_embedded(self) -> bool:
        """Methods name their model between separators, as coca-embedded-8-frames does."""
        return self.of != "listed" and "embedded" in re.split(r"[-:+]", self.method)


def examples(ledger: Ledger, clips: Judged, spans: pl.DataFrame, videos: pl.DataFrame) -> Examples:
    """Clips drawn by their ids, which are hashes; of the rejected ones some for every reason."""
    kept = clips.frame.filter(pl.col("kept")).sort("clip_id").head(MAX_KEPT)
    rejected = clips.frame.filter(~pl.col("kept")).sort("clip_id")
    place = pl.int_range(pl.len()).over("rejected_by")
    fair = (
        rejected.with_columns(_place=place)
        .filter(pl.col("_place") < MAX_PER_REASON)
        .sort("_place", "rejected_by")
    )
    rejected = fair.drop("_place").head(MAX_REJECTED).sort("rejected_by", "clip_id")
    chosen = pl.concat([kept, rejected]).join(spans.drop("kept", "rejected_by"), on="clip_id")
    shown = with_grid(ledger, videos.filter(pl.col("video_id").is_in(chosen["video_id"].to_list())))
    by_video = {v["video_id"]: v for v in shown.to_dicts()}
    pictures = _pictures(ledger, chosen, by_video)
    captions = _captions(ledger, chosen, by_video)
    thresholds = {t.score: t for t in clips.thresholds}
    rules = [outcome(t, chosen).alias(t.score) for t in clips.thresholds]
    names = [n for n in dict.fromkeys((*thresholds, *shown_scores(ledger))) if n != "duration"]
    views = {}
    for row, passed in zip(chosen.to_dicts(), chosen.select("clip_id", *rules).to_dicts(), strict=True):
        chips = [_chip(n, row.get(n), thresholds.get(n), passed.get(n)) for n in names]
        video, reason = by_video[row["video_id"]], _reason(row, thresholds)
        views[row["clip_id"]] = _view(row, video, pictures, captions[row["clip_id"]], chips, reason)
    return Examples(tuple(views[i] for i in kept["clip_id"]), tuple(views[i] for i in rejected["clip_id"]))


def _frames_of(clip: Mapping[str, Any], video: Mapping[str, Any]) -> list[int]:
    grid = video["grid_pts"]
    return [grid[i] for i in pick(grid, clip["start_pts"], clip["end_pts"], 3)]


def _pictures(
    ledger: Ledger, chosen: pl.DataFrame, videos: Mapping[str, Mapping[str, Any]]
) -> dict[FrameId, Picture]:
    wanted = [(c["video_id"], p) for c in chosen.to_dicts() for p in _frames_of(c, videos[c["video_id"]])]
    return read_pictures(ledger, wanted, {i: v["shard"] for i, v in videos.items()})


def _captions(
    ledger: Ledger, chosen: pl.DataFrame, videos: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[Caption]]:
    """Captions by clip, of those tables that the plan has."""
    rows: dict[str, dict[str, Any]] = {i: {} for i in chosen["clip_id"]}
    for shard in sorted({v["shard"] for v in videos.values()}):
        for table, columns in CAPTION_COLUMNS.items():
            if table in ledger.plan.keys:
                found = ledger.read(table, shard, columns, [("clip_id", "in", list(rows))])
                for row in found.iter_rows(named=True):
                    rows[row["clip_id"]] |= row
    return {i: _captions_of(row) for i, row in rows.items()}


def _captions_of(row: Mapping[str, Any]) -> list[Caption]:
    """A row's captions; a summary that says what the video's caption says stands with it."""
    listed = zip(row.get("captions") or (), row.get("methods") or (), strict=True)
    found = [Caption("listed", text, method) for text, method in listed]
    for of, text, method in CAPTION_KINDS:
        if not row.get(text):
            continue
        if found and found[-1].text == row[text]:
            last = found.pop()
            found.append(Caption(f"{last.of} and {of}", last.text, f"{last.method}, {row[method]}"))
        else:
            found.append(Caption(of, row[text], row[method]))
    return found


def _view(
    clip: Mapping[str, Any],
    video: Mapping[str, Any],
    pictures: Mapping[FrameId, Picture],
    captions: Sequence[Caption],
    chips: Sequence[ScoreChip],
    reason: str | None,
) -> ClipView:
    tick_s = video["time_base_num"] / video["time_base_den"]
    return ClipView(
        clip_id=clip["clip_id"],
        name=name_of(video["uri"]),
        uri=video["uri"],
        start_s=clip["start_s"],
        duration_s=clip["duration_s"],
        frames=tuple(
            ((p - video["start_pts"]) * tick_s, pictures[video["video_id"], p])
            for p in _frames_of(clip, video)
        ),
        captions=tuple(captions),
        chips=tuple(chips),
        rejected_by=clip["rejected_by"],
        reason=reason,
    )


def _chip(name: str, value: float | None, threshold: Threshold | None, passed: bool | None) -> ScoreChip:
    spec = score_columns()[name]
    said = "none" if value is None else f"{short(value)} {spec.unit}".strip()
    title = f"{spec.meaning}; {said}" + (f"; the selection demands {rule(threshold)}" if threshold else "")
    css = {None: "free", True: "passed", False: "failed"}[passed]
    return ScoreChip(name, "none" if value is None else short(value), css, title)


def _reason(clip: Mapping[str, Any], thresholds: Mapping[str, Threshold]) -> str | None:
    """The first filter that rejected a clip, in words."""
    by = clip["rejected_by"]
    if by is None:
        return None
    if by == REASON:
        kept, by = clip["near_duplicate_of"][:12], clip["near_duplicate_by"]
        return f"near_duplicate by its {by}: clip {kept} is kept in its place"
    score, _, missing = by.partition(":")
    if missing:
        return f"{score}: it has no such score"
    return f"{score} is {short(clip[score])}, asked for {rule(thresholds[score])}"


def _listed_methods(ledger: Ledger) -> list[MethodRow]:
    """What lists brought along, list by list."""
    if "listed_captions" not in ledger.plan.keys:
        return []
    methods = ledger.read_all("listed_captions", ["methods"]).explode("methods").drop_nulls()
    counts = methods.group_by("methods").agg(pl.len()).sort("methods")
    return [MethodRow("listed", method, count, 0) for method, count in counts.iter_rows()]


def caption_methods(ledger: Ledger) -> list[MethodRow]:
    """Who wrote how many captions."""
    rows = _listed_methods(ledger)
    for of, text, method in CAPTION_KINDS:
        table = "captions" if method in CAPTION_COLUMNS["captions"] else "summaries"
        if table in ledger.plan.keys:
            status = method.replace("method", "status")
            written = ledger.read_all(table, [text, method, status]).drop_nulls(text)
            counts = written.group_by(method).agg(pl.len(), (pl.col(status) != "ok").sum())
            rows += [MethodRow(of, *row) for row in counts.sort(method).iter_rows()]
    return rows
