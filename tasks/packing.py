"""Packs what a selection kept into one dataset for the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from curation.footage.clip_frames import Bucket
from warehouse.claims import claim
from warehouse.datasets import PACKED_TABLES, dataset_path, packable, read_manifest
from warehouse.errors import DatasetError, WarehouseError
from warehouse.ledger import Ledger
from warehouse.manifest import MANIFEST, Manifest
from warehouse.pack import clip_batch, split_videos, write_dataset
from warehouse.plan import FACTS, WEIGHTS, Step, without_notes


@dataclass(frozen=True)
class PackConfig:
    """How a dataset is laid out."""

    held_out_share: float = 0.1
    """Share of videos kept for the held-out loss."""
    row_group_bytes: int = 8 << 20
    part_bytes: int = 512 << 20


@dataclass(frozen=True)
class Packed:
    """A packed dataset and what did not make it."""

    path: str
    manifest: Manifest
    kept: int
    packed: int


def pack_step(config: PackConfig) -> Step:
    """The step as the plan has it; it fills no table, so that no key follows from it."""
    return Step("pack", 1, PACKED_TABLES, (), asdict(config))


def pack(ledger: Ledger, config: PackConfig) -> Packed:
    """Writes the dataset of the plan's selection, or finds it written already.

    Raises:
        DatasetError: the selection kept no clip that could be encoded.
    """
    path = dataset_path(ledger)
    with claim(ledger.store, path, wait_s=600) as held:
        if not held:
            raise WarehouseError(f"another run has been packing {path} for 10 minutes; end it or wait for it")
        kept = ledger.read_all("verdicts", ["kept"])["kept"].sum()
        if not ledger.store.exists(f"{path}/{MANIFEST}"):
            _write(ledger, path, config, kept)
    manifest = read_manifest(ledger, path)
    packed = sum(manifest.num_clips(split) for split in ("train", "heldout"))
    return Packed(path, manifest, int(kept), packed)


def _write(ledger: Ledger, path: str, config: PackConfig, kept: int) -> None:
    shapes = ledger.read_all("latents", ["bucket", "shape", "state"]).filter(pl.col("state") == "done")
    texts = ledger.read_all("text_embeddings", ["shape", "state"]).filter(pl.col("state") == "done")
    if shapes.is_empty() or texts.is_empty():
        raise DatasetError(
            f"nothing to pack: the selection kept {kept} clips, of which {shapes.height} have latents and {texts.height} "
            "a text embedding; loosen the selection's filters, or see `cutroom audit` for why encoding failed"
        )
    longest = max(shapes["bucket"].unique().sort(), key=lambda bucket: Bucket.parse(bucket).num_frames)
    pixels = Bucket.parse(longest)
    latents = shapes.filter(pl.col("bucket") == longest)["shape"][0]
    manifest = Manifest(
        name=path.split("/")[-1],
        selection=ledger.plan.config["select"]["name"],
        latent_channels=latents[1],
        downsampling=pixels.height // latents[2],
        time_downsampling=(pixels.num_frames - 1) // max(1, latents[0] - 1) or 1,
        text_shape=tuple(texts["shape"][0]),
        encoders=_encoders(ledger),
        encoding=_encoding(ledger),
        latent_scaling=ledger.plan.config["encode"].get(FACTS, {}),
    )
    splits = split_videos(ledger.read_all("shards", ["video_id"])["video_id"], config.held_out_share)
    root = ledger.store.path(path)
    limits = {"row_group_bytes": config.row_group_bytes, "part_bytes": config.part_bytes}
    write_dataset(ledger.store.filesystem, root, _batches(ledger, splits), manifest, **limits)


def _encoders(ledger: Ledger) -> dict[str, str]:
    """Which weights encoded what: their name, and what tells them apart from others of that name."""
    image, text = ledger.plan.config["encode"], ledger.plan.config["encode_text"]
    return {
        "autoencoder": image["autoencoder"],
        "autoencoder_weights": image[WEIGHTS][image["autoencoder"]],
        "text_encoder": text["text_encoder"],
        "text_encoder_weights": text[WEIGHTS][text["text_encoder"]],
    }


def _encoding(ledger: Ledger) -> dict[str, Any]:
    """The settings `encode`, of which those at their default may be left out."""
    told = {**ledger.plan.config["encode"], **ledger.plan.config["encode_text"]}
    return without_notes(told)


def _batches(ledger: Ledger, splits: dict[str, str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Bucket and rows of every shard's kept and encoded clips, by clip."""
    for shard in ledger.shards():
        for (bucket,), rows in _rows(ledger, shard).group_by("bucket", maintain_order=True):
            yield bucket, _batch(rows, splits)


def _rows(ledger: Ledger, shard: str) -> pl.DataFrame:
    def done(table: str, *columns: str) -> pl.DataFrame:
        rows = ledger.read(table, shard, ["clip_id", *columns, "state"])
        return rows.filter(pl.col("state") == "done").drop("state")

    kept = packable(ledger, shard)
    text = done("text_embeddings", "text", "shape", "mask", "caption", "caption_method")
    rows = kept.join(done("latents", "bucket", "latents", "shape", "fps"), on="clip_id")
    rows = rows.join(text.rename({"shape": "text_shape"}), on="clip_id").join(
        done("clips", "video_id"), on="clip_id"
    )
    return rows.join(done("motion", "score"), on="clip_id", how="left").sort("clip_id")


def _batch(rows: pl.DataFrame, splits: dict[str, str]) -> pa.RecordBatch:
    def stacked(column: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(b"".join(rows[column]), dtype).reshape(len(rows), *shape)

    tokens, width = rows["text_shape"][0]
    return clip_batch(
        clip_ids=rows["clip_id"].to_list(),
        video_ids=rows["video_id"].to_list(),
        latents_BTCHW=stacked("latents", "<f2", tuple(rows["shape"][0])),
        text_BLD=stacked("text", "<f2", (tokens, width)),
        mask_BL=stacked("mask", np.bool_, (tokens,)),
        fps=rows["fps"].to_list(),
        motion=rows["score"].to_list(),
        captions=rows["caption"].to_list(),
        caption_methods=rows["caption_method"].to_list(),
        splits=[splits[v] for v in rows["video_id"]],
    )
