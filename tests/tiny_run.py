"""Two tiny training stages on a packed warehouse of generated clips, run as the trainer runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from models.video_unet import VideoUNetConfig
from training.job import Job
from training.recipes.images import images
from training.stage import run_stage
from training.stop import StopRequest
from warehouse.datasets import dataset_path
from warehouse.ledger import Ledger

IMAGES, VIDEO = "runs/images", "runs/video"


def train_two_stages(ledger: Ledger) -> tuple[Path, Path]:
    """Trains single frames for 4 steps and clips for 2 under the warehouse's ``runs/``; returns both folders."""
    root = Path(ledger.store.root)
    dataset = str(root / dataset_path(ledger))
    network = VideoUNetConfig(width=8, head_dim=8, text_dim=16, temporal=False)
    first = replace(
        images(),
        network=network,
        num_samples=8,
        batch_size=2,
        warmup_samples=2,
        log_every_steps=1,
        evaluate_every_steps=2,
        evaluate_clips=2,
        checkpoint_every_steps=100,
    )
    second = replace(
        first, stage="video", network=replace(network, temporal=True), single_frames=False, num_samples=4
    )
    run_stage(Job(first, dataset), root / IMAGES, lambda event: None, StopRequest())
    run_stage(Job(second, dataset, str(root / IMAGES)), root / VIDEO, lambda event: None, StopRequest())
    return root / IMAGES, root / VIDEO
