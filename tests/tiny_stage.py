"""A stage that trains in a second, for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import packed

from models.video_unet import VideoUNetConfig
from training.job import Job
from training.recipe import Recipe

NETWORK = VideoUNetConfig(width=8, attention=(False, True), head_dim=8, text_dim=6, number_dim=8)

VIDEO = Recipe(
    stage="video",
    network=NETWORK,
    single_frames=False,
    num_samples=96,
    batch_size=8,
    lr=5e-3,
    ema_decay=0.9,
    log_every_steps=4,
    checkpoint_every_steps=4,
)
IMAGES = replace(VIDEO, stage="images", network=replace(NETWORK, temporal=False), single_frames=True)


def job(tmp_path: Path, recipe: Recipe = VIDEO, init_from: str | None = None, **changes: Any) -> Job:
    """A job on a small dataset, written on first use."""
    dataset = tmp_path / "dataset"
    if not dataset.exists():
        packed.write(dataset, packed.rows(60))
    return Job(replace(recipe, **changes), str(dataset), init_from)
