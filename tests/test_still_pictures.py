"""Still pictures through all of curation: a folder of them beside a video, and what selections make of them."""

from __future__ import annotations

from pathlib import Path

import footage
import numpy as np
import polars as pl
import pytest
from PIL import Image

from curation.annotators.registry import ANNOTATORS
from curation.selection.filters import Filter, SelectionConfig, freeze, funnel, judge
from flows.curate import curate
from flows.plans import current_settings
from flows.prepare import encode, pack_kept
from flows.settings import load_settings
from warehouse.audit import audit
from warehouse.errors import SettingsError
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.store import Store

MOVING = SelectionConfig("moving", (Filter("sharpness", drop=0.0), Filter("motion", drop=0.5)))


def scores(motion: list[float | None], still: list[bool]) -> pl.DataFrame:
    ids = [f"c{n}" for n in range(len(motion))]
    return pl.DataFrame({"clip_id": ids, "still": still, "motion": motion, "sharpness": [1.0] * len(ids)})


def test_a_filter_on_motion_leaves_stills_alone_and_the_funnel_says_so() -> None:
    table = scores([1.0, 2.0, None, None], [False, False, True, False])
    thresholds = freeze(MOVING, table)
    assert (thresholds[1].value, thresholds[1].reference_clips) == (2.0, 2)
    assert judge(thresholds, table)["rejected_by"].to_list() == ["motion", None, None, "motion:missing"]
    first, second = funnel(thresholds, table)
    assert (first["exempt"], first["kept"]) == (0, 4)
    assert (second["exempt"], second["rejected"], second["kept"]) == (1, 2, 2)


def test_among_stills_alone_a_filter_on_motion_has_no_threshold() -> None:
    table = scores([None, None], [True, True])
    thresholds = freeze(MOVING, table)
    assert [t.score for t in thresholds] == ["sharpness"]
    assert judge(thresholds, table)["kept"].all()
    with pytest.raises(SettingsError, match="motion: no clip has this score"):
        freeze(MOVING, scores([None], [False]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of each kind, two of them alike, one cut off, one black; a moving GIF, a video, and a text file."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("a.png", "b.jpg", "c.webp", "d.bmp", "e.tiff")):
        Image.fromarray(footage.natural(1000 * number, 96, 128)).save(folder / name)
    Image.open(folder / "a.png").resize((64, 48)).save(folder / "a again.jpg", quality=80)
    Image.new("RGB", (64, 64)).save(folder / "black.png")
    (folder / "cut off.png").write_bytes((folder / "a.png").read_bytes()[:9000])
    (folder / "notes.txt").write_text("not a picture")
    frames = [Image.fromarray(footage.texture(n // 12, 96, 128)) for n in range(48)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    pictures = [np.roll(footage.natural(9000, 96, 128), 4 * n, axis=1) for n in range(75)]
    footage.write_video(folder / "video.mp4", pictures)
    return folder


@pytest.mark.long
def test_pictures_are_clips_of_one_frame_with_every_score_but_motion(folder: Path, tmp_path: Path) -> None:
    warehouse = tmp_path / "w"
    flags = {"footage": [str(folder)], "warehouse": str(warehouse), "workers": 2}
    flags |= {"ingest": {"pictures": "all"}}
    done = curate(load_settings(flags, environ={}))
    store = Store(warehouse)
    ledger = Ledger(store, Plan.load(store))
    assert audit(ledger).balanced
    assert done.states["sources"]["done"] == 10 and done.states["sources"]["skipped"] == 1
    videos = ledger.read_all("videos")
    failed = videos.filter(pl.col("state") == "failed").to_dicts()
    assert [(Path(r["uri"]).name, r["cause"]) for r in failed] == [("cut off.png", "truncated")]

    uris = videos.select("video_id", "uri", "container")
    clips = ledger.read_all("clips").join(uris, on="video_id")
    stills = clips.filter(pl.col("container").is_in(["png", "jpeg", "webp", "bmp", "tiff"]))
    assert stills.height == 7 and set(stills["num_frames"]) == {1}
    black = stills.filter(pl.col("uri").str.ends_with("black.png"))
    assert black.select("state", "cause").row(0) == ("skipped", "black")
    ids = set(stills.filter(pl.col("state") == "done")["clip_id"])
    assert len(ids) == 6
    for name in ANNOTATORS.keys() & ledger.plan.keys.keys():
        rows = ledger.read_all(name).filter(pl.col("clip_id").is_in(ids))
        expected = "skipped" if name in ("motion", "overlays") else "done"
        assert set(rows["state"]) == {expected}, name

    verdicts = ledger.read_all("verdicts").filter(pl.col("clip_id").is_in(ids)).join(clips, on="clip_id")
    reasons = {Path(r["uri"]).name: r["rejected_by"] for r in verdicts.to_dicts()}
    assert "motion" not in str(reasons.values())
    assert reasons["a again.jpg"] in ("near_duplicate", "sharpness")
    motion = next(row for row in done.selected.funnel if row["score"] == "motion")
    assert motion["exempt"] == 6
    assert curate(load_settings(flags, environ={})).new_rows == {}

    flags = {"warehouse": str(warehouse), "workers": 2}
    encode(flags)
    packed = pack_kept(*current_settings(flags))
    ledger = Ledger(store, Plan.load(store))
    left = ledger.read_all("latents").filter(pl.col("state") != "done").join(clips, on="clip_id")
    assert set(left["container"]) <= {"gif"}, "every still is encoded"
    assert packed.packed == packed.kept - left.height
    kept = ledger.read_all("verdicts").filter("kept")["clip_id"].to_list()
    num_stills = clips.filter(pl.col("clip_id").is_in(kept) & (pl.col("num_frames") == 1)).height
    still = packed.manifest.buckets["1x64x64"]
    assert still.latent_shape == (1, 4, 8, 8)
    assert packed.manifest.latent_scaling == {"scale": 1.0, "shift": 0.0}, "the embedded autoencoder's"
    assert sum(still.num_clips(split) for split in ("train", "heldout")) == num_stills > 0
