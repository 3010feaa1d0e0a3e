"""The check of captions against captions in their place, shifted by one, and of clips that look alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from warehouse_builder import STEP, build_warehouse

from curation.annotators.clip_model import load_clip
from curation.captions.fit import CaptionFit, caption_fit, check_captions, in_words
from curation.reel.shots import random_shots, render_moments
from flows import cli_inspect
from tasks.checking import SAMPLE, check_new_captions
from tasks.progress import listening
from warehouse.errors import SettingsError, WarehouseError
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.schema import TABLES


def test_the_share_is_of_pairs_with_other_captions_and_ties_count_half() -> None:
    a, b = np.eye(2, dtype=np.float32)
    frames = np.stack([a, b, a])[:, None].repeat(3, axis=1)
    right = caption_fit("summary", frames, np.stack([a, b, a]), ["a", "b", "a"])
    assert right == CaptionFit("summary", 3, 4, 1.0, 1.0, 0.0) and right.fits()
    wrong = caption_fit("summary", frames, np.stack([b, a, b]), ["b", "a", "b"])
    assert wrong.share == 0.0 and not wrong.fits()
    blind = caption_fit("summary", frames, np.stack([a, a, a]), ["a", "b", "a"])
    assert blind.share == 0.5
    alike = caption_fit("summary", frames, np.stack([a, b, a]), ["a", "a", "a"])
    assert alike == CaptionFit("summary", 3, 0, None, None, None)
    assert not alike.fits(0.0) and alike.unchecked() == "all 3 clips have the same caption"
    single = caption_fit("summary", frames[:1], a[None], ["a"])
    assert single.pairs == 0 and not single.fits(0.0) and "only one clip" in single.unchecked()
    assert right.unchecked() is None and wrong.unchecked() is None


_WRITTEN = (("method", "coca-embedded"), ("status", "ok"))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A warehouse of 48 clips whose embeddings are those of the shots that their captions tell."""
    built = build_warehouse(tmp_path_factory.mktemp("fit") / "warehouse", videos=12, clips_per_video=4)
    similarity = {"model": "embedded", "pretrained": None}
    steps = [replace(s, config=similarity) if s.name == "similarity" else s for s in built_steps(built)]
    other = Ledger(built.store, Plan.of(steps))
    clip = load_clip("embedded", None)
    for number, shard in enumerate(built.shards()):
        clips = built.read("clips", shard).filter(state="done").sort("clip_id")["clip_id"].to_list()
        shots = random_shots(len(clips), 100 + number)
        seen = [clip.embed_images(list(render_moments(s, 256, np.array([0, 0.5, 0.9])))) for s in shots]
        rows = pl.DataFrame({"clip_id": clips, "model": "embedded"}).with_columns(
            *(
                pl.Series(name, [e[i].tolist() for e in seen])
                for i, name in enumerate(("first", "middle", "last"))
            )
        )
        write(other, "embeddings", shard, rows)
        told = pl.DataFrame({"clip_id": clips, "summary": [s.caption for s in shots]})
        write(other, "summaries", shard, told.with_columns(method=pl.lit("merge"), status=pl.lit("ok")))
        said = {
            "frame_caption": [s.image_caption for s in shots],
            "video_caption": [s.caption for s in shots],
        }
        by = {f"{of}_{what}": value for of in ("frame", "video") for what, value in _WRITTEN}
        write(other, "captions", shard, pl.DataFrame({"clip_id": clips, **said, **by}))
    return other


def built_steps(ledger: Ledger) -> list:
    return [STEP[name] for name in STEP]


def write(ledger: Ledger, table: str, shard: str, rows: pl.DataFrame) -> None:
    """Commits rows of a table as a further generation."""
    settled = rows.with_columns(state=pl.lit("done"), attempt=pl.lit(1))
    full = settled.to_dicts()
    import pyarrow as pa

    batches = pa.Table.from_pylist(full, TABLES[table].schema).to_batches()
    ledger.commit(STEP[table], shard, {table: batches}, run_id="fit")


def test_a_run_checks_what_it_captioned_and_nothing_else(ledger: Ledger) -> None:
    trusted = [
        replace(s, config=s.config | {"trust_embedded": True}) if s.name == "select" else s
        for s in built_steps(ledger)
    ]
    known = Ledger(ledger.store, Plan.of(trusted))
    assert check_new_captions(known, {"motion": 48, "captions": 0}) is None
    for table in ("captions", "summaries"):
        assert check_new_captions(known, {table: 48}) == tuple(check_captions(known, SAMPLE))
    said: list[str] = []
    with listening(Notes(said)):
        assert check_new_captions(ledger, {"captions": 48}) is None
        without = [s for s in trusted if s.name not in ("similarity", "embeddings", "aesthetics")]
        assert check_new_captions(Ledger(ledger.store, Plan.of(without)), {"captions": 48}) is None
    assert "the embedded models know the sample reel alone" in said[0]
    assert "tables embeddings, similarity and captions, which the plan has not" in said[1]


class Notes:
    """Keeps what is said."""

    def __init__(self, said: list[str]) -> None:
        self.note = said.append

    def update(self, label: str, done: float, total: float) -> None:
        pass


def test_captions_in_their_place_fit_and_rows_that_slipped_by_one_do_not(ledger: Ledger) -> None:
    fits = {fit.of: fit for fit in check_captions(ledger)}
    assert set(fits) == {"frame", "video", "summary"}
    assert all(fit.fits() and fit.share > 0.9 and fit.clips == 48 for fit in fits.values()), fits
    assert check_captions(ledger) == list(fits.values())
    assert {fit.clips for fit in check_captions(ledger, sample=20)} == {20}
    for shard in ledger.shards():
        rows = ledger.read("summaries", shard, ["clip_id", "summary", "method", "status"]).sort("clip_id")
        slipped = pl.concat([rows["summary"][1:], rows["summary"][:1]])
        write(ledger, "summaries", shard, rows.with_columns(summary=slipped))
        own = rows.select("clip_id", pl.concat_list("summary", pl.lit("said besides")).alias("captions"))
        write(ledger, "listed_captions", shard, own.with_columns(methods=["list"] * 2, status=pl.lit("ok")))
    slipped = {fit.of: fit for fit in check_captions(ledger)}
    assert slipped["listed"].clips == 48 and slipped["listed"].share == fits["summary"].share
    assert not slipped["summary"].fits() and slipped["summary"].share < 0.65
    assert slipped["frame"] == fits["frame"] and slipped["video"] == fits["video"]


def test_what_was_not_checked_is_not_green(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No embeddings; then captions that all say the same beside a summary that none has."""
    built = build_warehouse(tmp_path / "w", videos=1, clips_per_video=3)
    similarity = {"model": "embedded", "pretrained": None}
    empty = {name: {"anew": True} for name in ("embeddings", "captions", "summaries")}
    anew = empty | {"similarity": similarity}
    steps = [replace(s, config=anew.get(s.name, s.config)) for s in built_steps(built)]
    other = Ledger(built.store, Plan.of(steps))
    monkeypatch.setattr(cli_inspect, "_ledger", lambda _: other)
    told = run_command(capsys)
    assert told[0] == 1 and told[1]["fits"] is False and "no clip has both embeddings" in told[2]
    assert {row["of"]: row["clips"] for row in told[1]["captions"]} == {"summary": 0, "video": 0, "frame": 0}
    vector = np.eye(load_clip("embedded", None).embed_texts(["a"]).shape[1], dtype=np.float32)[0].tolist()
    num_clips = 0
    for shard in other.shards():
        clips = other.read("clips", shard).filter(state="done")["clip_id"].to_list()
        frames = {name: [vector] * len(clips) for name in ("first", "middle", "last")}
        write(other, "embeddings", shard, pl.DataFrame({"clip_id": clips, "model": "embedded", **frames}))
        said = {"frame_caption": "a red circle", "video_caption": "a red circle moves"}
        write(other, "captions", shard, pl.DataFrame({"clip_id": clips, **said}))
        num_clips += len(clips)
    code, result, why = run_command(capsys)
    assert code == 1 and not result["fits"]
    assert f"frame: all {num_clips} clips have the same caption" in why and "summary: no clip has both" in why


def run_command(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict, str]:
    """Exit code, what `check-captions --json` prints, and what it says besides."""
    with pytest.raises(SystemExit) as stopped:
        cli_inspect.check_captions("w", sample=2000, least=0.0, json=True)
    out, err = capsys.readouterr()
    return stopped.value.code, json.loads(out), err


def test_other_embeddings_and_a_plan_without_captions_are_named(ledger: Ledger, tmp_path: Path) -> None:
    shard = ledger.shards()[0]
    rows = ledger.read("embeddings", shard).select("clip_id", "first", "middle", "last")
    other = build_warehouse(tmp_path / "w")
    bare = Ledger(other.store, Plan.of([s for n, s in STEP.items() if n not in ("embeddings", "select")][:8]))
    with pytest.raises(WarehouseError, match="which the plan has not"):
        check_captions(bare)
    write(ledger, "embeddings", shard, rows.with_columns(model=pl.lit("ViT-L-14/openai")))
    with pytest.raises(
        SettingsError, match=r"embedded by ViT-L-14/openai, embedded, but similarity is set to embedded"
    ):
        check_captions(ledger)


def test_a_line_says_which_captions_fit() -> None:
    good, bad = CaptionFit("frame", 9, 20, 0.97, 0.8, 0.2), CaptionFit("video", 9, 20, 0.5, 0.3, 0.3)
    alike = CaptionFit("summary", 9, 0, None, None, None)
    assert in_words([good, replace(good, of="video")]) == "captions fit their clips: frame 97%, video 97%"
    assert in_words([good, bad, alike]) == (
        "captions of video DO NOT fit their clips better than those of others: frame 97%, video 50%, "
        "summary not checked (all 9 clips have the same caption)"
    )
    assert in_words([alike]).startswith("captions were not checked against their clips: summary not")
