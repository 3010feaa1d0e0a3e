"""Stage 1: an image network from nothing, on single frames (SVD's stage I starts from such a network)."""

from __future__ import annotations

from models.video_unet import VideoUNetConfig
from training.recipe import Recipe


def images() -> Recipe:
    """The recipe of stage 1: 48,000 frames for a UNet of 32 channels, minutes on a few cores, for latents of 8 x 8."""
    return Recipe(
        stage="images",
        network=VideoUNetConfig(width=32, attention=(True, True), temporal=False),
        single_frames=True,
        num_samples=48_000,
        batch_size=32,
        lr=2e-3,
        lr_decay="cosine",
        warmup_samples=1_000,
        p_mean=-0.4,
        p_std=1.2,
        ema_decay=0.98,
        log_every_steps=50,
    )
