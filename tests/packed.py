"""Small packed datasets for tests: every clip's arrays follow from its id, so a mixed-up clip is seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import fs

from warehouse.manifest import Manifest
from warehouse.pack import clip_batch, split_videos, write_dataset

MANIFEST = Manifest(
    name="tiny",
    selection="all",
    latent_channels=4,
    downsampling=8,
    text_shape=(5, 6),
    encoders={"autoencoder": "a", "text_encoder": "b"},
    encoding={"buckets": ["4x16x16"], "cleaning": {"t5": True}},
    latent_scaling={"scale": [0.5, 0.5, 0.5, 0.25], "shift": [0.0, 0.0, 0.0, 1.0]},
)


Arrays = Callable[[str, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Latents, text and mask of a clip of so many frames, by its id."""


def arrays_of(clip_id: str, num_frames: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents (T, 4, 2, 2), text (5, 6) and mask (5,) of a clip."""
    rng = np.random.default_rng(int.from_bytes(hashlib.md5(clip_id.encode()).digest()[:4]))
    latents = rng.standard_normal((num_frames, 4, 2, 2)).astype(np.float16)
    return latents, rng.standard_normal((5, 6)).astype(np.float16), np.arange(5) < rng.integers(1, 6)


def rows(
    num_clips: int,
    num_frames: int = 4,
    batch_size: int = 7,
    held_out: float = 0.2,
    spread: float = 1.0,
    arrays: Arrays | None = None,
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Clips c<frames>-0000.. of three to a video; every third has no motion score. Latents are N(0, spread²)
    where `arrays` does not give others.
    """
    arrays = arrays or arrays_of
    clip_ids = [f"c{num_frames}-{i:04d}" for i in range(num_clips)]
    video_ids = [f"v{num_frames}-{i // 3}" for i in range(num_clips)]
    splits = split_videos(video_ids, held_out)
    for start in range(0, num_clips, batch_size):
        chosen = clip_ids[start : start + batch_size]
        videos = video_ids[start : start + batch_size]
        latents, text, mask = (
            np.stack(column) for column in zip(*(arrays(i, num_frames) for i in chosen), strict=True)
        )
        motion = [None if int(i[-4:]) % 3 == 0 else int(i[-4:]) / 10 for i in chosen]
        batch = clip_batch(
            clip_ids=chosen,
            video_ids=videos,
            latents_BTCHW=(spread * latents).astype(np.float16),
            text_BLD=text,
            mask_BL=mask,
            fps=[8.0] * len(chosen),
            motion=motion,
            captions=[f"caption of {i}" for i in chosen],
            caption_methods=["test"] * len(chosen),
            splits=[splits[video] for video in videos],
        )
        yield f"{num_frames}x16x16", batch


def write(
    path: Path, *batches: Iterator[tuple[str, pa.RecordBatch]], group_clips: int = 4, **kwargs
) -> Manifest:
    """Write a dataset whose row groups have about `group_clips` clips of 4 frames."""
    everything = (pair for batch in batches for pair in batch)
    group_bytes = group_clips * (2 * 4 * 16 + 2 * 30 + 5)
    return write_dataset(
        fs.LocalFileSystem(), str(path), everything, MANIFEST, row_group_bytes=group_bytes, **kwargs
    )
