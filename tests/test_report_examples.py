"""The report's pictures and examples: each shows its own clip, and a sample is said to be one."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from report_page import Page, build_page, ledger, page, section
from test_explained import ledger as with_stills
from warehouse_builder import build_warehouse

from curation.selection.explained import passed_filters
from screen.report.examples import MAX_PER_REASON, examples
from screen.report.footage import read_videos
from screen.report.pictures import THUMBNAIL_PX
from screen.report.scenes import MAX_VIDEOS, scenes
from screen.report.scores import judged
from warehouse.ledger import Ledger

__all__ = ["ledger", "page", "with_stills"]


def test_pictures_beside_a_cut_are_of_the_scenes_on_either_side(ledger: Ledger) -> None:
    """Each scene is one generated shot, so every frame of it looks like the others and unlike its neighbours'."""
    videos = read_videos(ledger).filter(pl.col("state") == "done")
    spans = _spans(ledger)
    found = scenes(ledger, videos, spans)
    assert len(found.views) == 4
    checked = 0
    for view in found.views:
        frames = _grid(ledger, view.video_id, videos)
        for cut in view.cuts:
            start = cut.time_s - cut.transition_s
            assert start - 0.5 <= cut.before_s < start and cut.time_s <= cut.after_s <= cut.time_s + 0.5
            for picture, at in ((cut.before, cut.before_s), (cut.after, cut.after_s)):
                shown_pixels = _pixels(picture.uri)
                errors = {t: np.abs(p - shown_pixels).mean() for t, p in frames.items()}
                (own,) = [e for t, e in errors.items() if t == pytest.approx(at)]
                assert own == min(errors.values())
                checked += 1
    assert checked == 24


def _spans(ledger: Ledger) -> pl.DataFrame:
    fates = judged(ledger).frame.select("clip_id", "kept", "rejected_by")
    return ledger.read_all("clips").join(fates, on="clip_id", how="left")


def _grid(ledger: Ledger, video_id: str, videos: pl.DataFrame) -> dict[float, np.ndarray]:
    video = videos.row(by_predicate=pl.col("video_id") == video_id, named=True)
    rows = ledger.read_all("grid_frames").filter(pl.col("video_id") == video_id)
    tick_s = video["time_base_num"] / video["time_base_den"]
    return {
        (p - video["start_pts"]) * tick_s: np.asarray(Image.open(io.BytesIO(j)), float)
        for p, j in rows.select("pts", "jpeg").iter_rows()
    }


def _pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))), float)


def test_examples_carry_their_captions_scores_and_reasons(ledger: Ledger, page: Page) -> None:
    verdicts = ledger.read_all("verdicts")
    captions = dict(ledger.read_all("captions", ["clip_id", "video_caption"]).iter_rows())
    cards = {
        re.search(r"<code>([0-9a-f]{12})</code>", c)[1]: " ".join(re.sub(r"<[^>]*>", " ", c).split())
        for c in re.findall(r'<article class="card clip">.*?</article>', page.source, re.DOTALL)
    }
    for row in verdicts.iter_rows(named=True):
        card = cards[row["clip_id"][:12]]
        assert captions[row["clip_id"]] in card
        if row["kept"]:
            assert "Rejected." not in card
        else:
            assert re.search(rf"Rejected\. {row['rejected_by'].split(':')[0]}\b", card)
    assert len(cards) == verdicts.height


def test_of_a_large_warehouse_a_sample_is_shown_and_said_to_be_one(tmp_path: Path) -> None:
    big = build_warehouse(tmp_path / "warehouse", videos=14, clips_per_video=5)
    page = build_page(big, tmp_path)
    assert f"Shown: {MAX_VIDEOS} of 14 videos with cuts" in page.words
    kept = int(big.read_all("verdicts")["kept"].sum())
    assert f"Shown: 9 of {kept} kept clips" in page.words
    reasons = set(big.read_all("verdicts")["rejected_by"].drop_nulls())
    rejected = section(page, "rejected")
    for reason in reasons:
        score, _, missing = reason.partition(":")
        assert re.search(
            rf"Rejected\. {score}: it has no" if missing else rf"Rejected\. {score} is", rejected
        )
    videos, spans = read_videos(big), _spans(big)
    clips = judged(big)
    rejected_by = pl.when(~pl.col("kept")).then(pl.lit("sharpness"))
    for_one_reason = replace(clips, frame=clips.frame.with_columns(rejected_by=rejected_by))
    assert len(examples(big, for_one_reason, spans, videos).rejected) == MAX_PER_REASON
    assert len(page.source) < 3_000_000
    assert all(int(i["width"]) <= THUMBNAIL_PX for i in page.all("img"))


def test_no_score_of_a_still_is_marked_as_failing_a_filter_that_lets_it_be(with_stills: Ledger) -> None:
    videos = read_videos(with_stills).filter(pl.col("state") == "done")
    found = examples(with_stills, judged(with_stills), _spans(with_stills), videos)
    passed = {
        c.clip_id: passed_filters(with_stills, shard_of(with_stills, c.clip_id), c.clip_id)
        for c in found.kept
    }
    still = [clip for clip, told in passed.items() if told["fps"] is None]
    assert len(still) == 2
    for clip in (c for c in found.kept if c.clip_id in still):
        marks = {chip.name: chip.css for chip in clip.chips}
        assert marks["fps"] == marks["motion"] == "free" and marks["sharpness"] == "passed"


def shard_of(ledger: Ledger, clip_id: str) -> str:
    return next(s for s in ledger.shards() if clip_id in ledger.read("clips", s)["clip_id"])
