"""Videos from end to end: their spans, their cuts, and the frames on either side of each cut."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from screen.report.footage import with_grid
from screen.report.pictures import FrameId, Picture, read_pictures
from screen.report.words import name_of
from warehouse.ledger import Ledger

MAX_VIDEOS = 8
MAX_CUTS = 6


@dataclass(frozen=True)
class SpanBar:
    """A span of a video on its timeline: its length, its class and its story."""

    duration_s: float
    css: str
    title: str


@dataclass(frozen=True)
class CutView:
    """A cut with the nearest spooled frames before and after; null where there is none."""

    time_s: float
    frame: int
    type: str
    confidence: float
    transition_s: float
    before: Picture | None
    after: Picture | None
    before_s: float | None
    after_s: float | None


@dataclass(frozen=True)
class VideoView:
    """One video of the sample."""

    name: str
    uri: str
    video_id: str
    duration_s: float
    spans: tuple[SpanBar, ...]
    num_clips: int
    num_cuts: int
    cuts: tuple[CutView, ...]


@dataclass(frozen=True)
class Scenes:
    """The sample, and how it stands to the whole."""

    views: tuple[VideoView, ...]
    num_videos: int
    num_with_cuts: int
    num_hard: int
    num_gradual: int


def scenes(ledger: Ledger, videos: pl.DataFrame, spans: pl.DataFrame) -> Scenes:
    """Views of a few videos with cuts; which ones follows from their content hashes alone.

    Args:
        videos: rows of `videos` that are done, with their shard.
        spans: rows of `clips` with `kept` and `rejected_by` (null: not judged).
    """
    counted = _cut_types(ledger)
    cut_videos = counted.filter(pl.col("num") > 0)
    sample = cut_videos.sort("video_id").head(MAX_VIDEOS)["video_id"].to_list()
    chosen = with_grid(ledger, videos.filter(pl.col("video_id").is_in(sample)).sort("uri", "video_id"))
    cuts = _cuts_of(ledger, chosen)
    shown = {v: _spread(c, MAX_CUTS) for v, c in cuts.items()}
    sides = {
        v["video_id"]: [_sides(v["grid_pts"], c) for c in shown[v["video_id"]]] for v in chosen.to_dicts()
    }
    wanted = {(v, p) for v, pairs in sides.items() for pair in pairs for p in pair if p is not None}
    pictures = read_pictures(ledger, wanted, dict(chosen.select("video_id", "shard").iter_rows()))
    by_video = (
        spans.filter(pl.col("video_id").is_in(sample))
        .sort("start_pts")
        .partition_by("video_id", as_dict=True)
    )
    views = [_view(v, by_video[(v["video_id"],)], cuts, shown, sides, pictures) for v in chosen.to_dicts()]
    return Scenes(
        tuple(views),
        counted.height,
        cut_videos.height,
        int(counted["hard"].sum()),
        int(counted["gradual"].sum()),
    )


def _cut_types(ledger: Ledger) -> pl.DataFrame:
    """video_id, num, hard, gradual."""
    types = pl.col("cuts").list.eval(pl.element().struct.field("type"))
    return (
        ledger.read_all("cuts", ["video_id", "cuts", "state"])
        .filter(pl.col("state") == "done")
        .select(
            "video_id",
            num=types.list.count_matches("hard") + types.list.count_matches("gradual"),
            hard=types.list.count_matches("hard"),
            gradual=types.list.count_matches("gradual"),
        )
    )


def _cuts_of(ledger: Ledger, videos: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for (shard,), members in videos.partition_by("shard", as_dict=True).items():
        wanted = [("video_id", "in", members["video_id"].to_list())]
        rows = ledger.read("cuts", shard, ["video_id", "cuts"], wanted).iter_rows()
        found |= {video: [cut for cut in cuts if cut["type"] != "flash"] for video, cuts in rows}
    return found


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, spread evenly from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _sides(grid_pts: Sequence[int], cut: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """pts of the last spooled frame before the transition and of the first one of the new scene."""
    before, after = bisect_left(grid_pts, cut["start_pts"]), bisect_left(grid_pts, cut["pts"])
    return (
        grid_pts[before - 1] if before else None,
        grid_pts[after] if after < len(grid_pts) else None,
    )


def _view(
    video: Mapping[str, Any],
    spans: pl.DataFrame,
    cuts: Mapping[str, list[dict]],
    shown: Mapping[str, list[dict]],
    sides: Mapping[str, list[tuple[int | None, int | None]]],
    pictures: Mapping[FrameId, Picture],
) -> VideoView:
    video_id = video["video_id"]
    return VideoView(
        name=name_of(video["uri"]),
        uri=video["uri"],
        video_id=video_id,
        duration_s=video["duration_s"],
        spans=tuple(_bar(s) for s in spans.iter_rows(named=True)),
        num_clips=spans.filter(pl.col("state") == "done").height,
        num_cuts=len(cuts[video_id]),
        cuts=tuple(
            _cut_view(video, c, s, pictures) for c, s in zip(shown[video_id], sides[video_id], strict=True)
        ),
    )


def _cut_view(
    video: Mapping[str, Any],
    cut: Mapping[str, Any],
    sides: tuple[int | None, int | None],
    pictures: Mapping[FrameId, Picture],
) -> CutView:
    tick_s = video["time_base_num"] / video["time_base_den"]
    before, after = sides
    return CutView(
        time_s=cut["time_s"],
        frame=cut["frame"],
        type=cut["type"],
        confidence=cut["confidence"],
        transition_s=(cut["end_pts"] - cut["start_pts"]) * tick_s,
        before=None if before is None else pictures[video["video_id"], before],
        after=None if after is None else pictures[video["video_id"], after],
        before_s=None if before is None else (before - video["start_pts"]) * tick_s,
        after_s=None if after is None else (after - video["start_pts"]) * tick_s,
    )


def _bar(span: Mapping[str, Any]) -> SpanBar:
    at = f"{span['start_s']:.1f} s to {span['start_s'] + span['duration_s']:.1f} s"
    if span["state"] != "done":
        return SpanBar(
            span["duration_s"], "skipped", f"{at}: no clip ({str(span['cause']).replace('_', ' ')})"
        )
    if span["kept"] is None:
        return SpanBar(span["duration_s"], "plain", f"{at}: a clip, not judged")
    if span["kept"]:
        return SpanBar(span["duration_s"], "kept", f"{at}: kept")
    return SpanBar(span["duration_s"], "fails", f"{at}: rejected by {span['rejected_by']}")
