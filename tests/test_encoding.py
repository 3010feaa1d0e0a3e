"""What is stored for training: latents that decode to the clip's own frames, and text that is the clip's own caption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import served
import torch
from diffusers import AutoencoderKLWan

from curation.engine.work import Outputs, Unit
from curation.footage.media import MediaLimits
from curation.reel.sample_reel import make_reel
from models.autoencoder import Autoencoder, load_autoencoder
from models.text_encoder import load_text_encoder
from tasks.encoding import EncodeConfig, LatentWork, TextWork
from warehouse.errors import SettingsError
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.store import Store

FRAMES, SIDE, FPS = 8, 64, 8.0


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A reel of two films, curated with nothing filtered out, and encoded."""
    folder = tmp_path_factory.mktemp("encoding")
    make_reel(folder / "reel", num_films=2, shots_per_film=4, seed=7, side_px=SIDE, num_workers=2)
    settings = {"CUTROOM_CLIPS__MIN_S": "1", "CUTROOM_SELECTION__FILTERS": "[]", "CUTROOM_WORKERS": "2"}
    env = served.clean_environment(folder / "home", **settings)
    for command in (("curate", folder / "reel", "-w"), ("encode", "-w")):
        done = served.cutroom(*command, folder / "w", env=env)
        assert done.returncode == 0, done.stderr
    store = Store(str(folder / "w"))
    return Ledger(store, Plan.load(store))


def done_rows(ledger: Ledger, table: str) -> pl.DataFrame:
    rows = pl.concat([ledger.read(table, shard) for shard in ledger.shards()])
    assert set(rows["state"]) == {"done"}
    return rows.sort(rows.columns[0])


def frames_of(uri: str, start_pts: int, end_pts: int) -> np.ndarray:
    """All frames of a span, by a decoder of its own, [-1, 1]."""
    with av.open(uri) as container:
        pictures = [
            f.to_ndarray(format="rgb24") for f in container.decode(video=0) if start_pts <= f.pts < end_pts
        ]
    small = [cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in pictures]
    return np.stack(small).astype(np.float32) / 127.5 - 1


def nearest(frames: np.ndarray, of: np.ndarray) -> np.ndarray:
    """For each of `frames`, the most similar one of `of`."""
    flat, flat_of = (torch.from_numpy(a.reshape(len(a), -1)) for a in (frames, of))
    return of[torch.cdist(flat, flat_of).argmin(1).numpy()]


def through(autoencoder: Autoencoder, frames_THWC: np.ndarray) -> np.ndarray:
    x_BTCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)[None]
    return autoencoder.decode(autoencoder.encode(x_BTCHW))[0].permute(0, 2, 3, 1).numpy()


def test_stored_latents_decode_to_the_clips_own_frames(ledger: Ledger) -> None:
    videos = {r["video_id"]: r["uri"] for r in done_rows(ledger, "videos").iter_rows(named=True)}
    clips = done_rows_of_clips(ledger)
    truth = {
        r["clip_id"]: frames_of(videos[r["video_id"]], r["start_pts"], r["end_pts"])
        for r in clips.iter_rows(named=True)
    }
    latents = done_rows(ledger, "latents")
    assert set(latents["clip_id"]) == set(truth) and len(truth) >= 6
    autoencoder = load_autoencoder("embedded")
    for row in latents.iter_rows(named=True):
        assert row["bucket"] == f"{FRAMES}x{SIDE}x{SIDE}"
        assert row["fps"] == pytest.approx(FPS, rel=0.05)
        z_TCHW = np.frombuffer(row["latents"], "<f2").reshape(row["shape"])
        x_TCHW = autoencoder.decode(torch.from_numpy(z_TCHW.astype(np.float32))[None])[0]
        decoded = x_TCHW.permute(0, 2, 3, 1).numpy()
        errors = {clip: np.square(decoded - nearest(decoded, of)).mean() for clip, of in truth.items()}
        assert min(errors, key=errors.__getitem__) == row["clip_id"]
        taken = nearest(decoded, truth[row["clip_id"]])
        lost = np.square(through(autoencoder, taken) - taken).mean()
        assert errors[row["clip_id"]] < 1.1 * lost, "more is lost than the autoencoder loses"


def done_rows_of_clips(ledger: Ledger) -> pl.DataFrame:
    clips = pl.concat([ledger.read("clips", shard) for shard in ledger.shards()])
    return clips.filter(pl.col("state") == "done").sort("clip_id")


def rows_by_hand(ledger: Ledger, work: LatentWork | TextWork, ids: list[str], folder: Path) -> pl.DataFrame:
    """What a work writes for some ids when these alone are its unit."""
    (shard,) = (s for s in ledger.shards() if ids[0] in set(ledger.read("clips", s)["clip_id"]))
    folder.mkdir()
    outputs = Outputs(folder)
    work.run(ledger, Unit(shard, tuple((i,) for i in ids), (0,) * len(ids)), outputs)
    outputs.close()
    (made,) = folder.iterdir()
    with pa.OSFile(str(made)) as file:
        return pl.from_arrow(pa.ipc.open_stream(file).read_all())


@pytest.mark.parametrize("table", ["latents", "text_embeddings"])
def test_a_clip_is_encoded_alone_as_among_its_neighbours(ledger: Ledger, table: str, tmp_path: Path) -> None:
    config = EncodeConfig()
    work = LatentWork(config, MediaLimits()) if table == "latents" else TextWork(config)
    stored = done_rows(ledger, table)
    column = "latents" if table == "latents" else "text"
    for number, clip_id in enumerate(stored["clip_id"][:3]):
        (alone,) = rows_by_hand(ledger, work, [clip_id], tmp_path / str(number)).iter_rows(named=True)
        (among,) = stored.filter(pl.col("clip_id") == clip_id).iter_rows(named=True)
        mine, theirs = (np.frombuffer(row[column], "<f2").astype(np.float32) for row in (alone, among))
        np.testing.assert_allclose(mine, theirs, atol=2e-3)  # another batch sums in another order


def test_stored_text_is_the_embedding_of_the_clips_own_caption(ledger: Ledger) -> None:
    captions = pl.concat([ledger.read("captions", shard) for shard in ledger.shards()])
    summaries = pl.concat([ledger.read("summaries", shard) for shard in ledger.shards()])
    said = captions.join(summaries, on="clip_id").rows_by_key("clip_id", named=True, unique=True)
    encoder = load_text_encoder("embedded")
    for row in done_rows(ledger, "text_embeddings").iter_rows(named=True):
        its = said[row["clip_id"]]
        assert row["caption"] in (its["frame_caption"], its["video_caption"], its["summary"])
        tokens_BLD, mask_BL = encoder.encode([row["caption"]])
        stored = np.frombuffer(row["text"], "<f2").reshape(row["shape"])
        np.testing.assert_allclose(stored, tokens_BLD[0].numpy(), atol=2e-3)
        assert np.frombuffer(row["mask"], bool).tolist() == mask_BL[0].tolist()


def test_a_bucket_that_no_clip_fills_skips_with_a_reason(ledger: Ledger, tmp_path: Path) -> None:
    work = LatentWork(replace(EncodeConfig(), buckets=("500x64x64",)), MediaLimits())
    clip_id = done_rows(ledger, "latents")["clip_id"][0]
    (row,) = rows_by_hand(ledger, work, [clip_id], tmp_path / "long").iter_rows(named=True)
    assert (row["state"], row["cause"]) == ("skipped", "too_short_for_buckets")


def test_an_autoencoder_of_whole_videos_packs_a_quarter_of_the_frames(ledger: Ledger, tmp_path: Path) -> None:
    wan = {"base_dim": 8, "z_dim": 2, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1}
    scales = {"latents_mean": [0.0, 0.0], "latents_std": [1.0, 1.0]}
    torch.manual_seed(0)
    AutoencoderKLWan(**wan, **scales).save_pretrained(tmp_path / "wan")
    config = EncodeConfig(buckets=("5x64x64",), autoencoder=str(tmp_path / "wan"))
    clip_id = done_rows(ledger, "latents")["clip_id"][0]
    (row,) = rows_by_hand(ledger, LatentWork(config, MediaLimits()), [clip_id], tmp_path / "rows").iter_rows(
        named=True
    )
    assert row["state"] == "done" and list(row["shape"]) == [2, 2, 8, 8]
    assert len(row["latents"]) == 2 * 2 * 2 * 8 * 8


@pytest.mark.parametrize(
    ("setting", "value"),
    [("caption_shares", (0, 0, 0)), ("caption_shares", (1, -1, 1)), ("fps", 0.0), ("buckets", ())],
)
def test_settings_by_which_nothing_can_be_encoded_are_refused(setting: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"encode.{setting} is "):
        EncodeConfig(**{setting: value})
