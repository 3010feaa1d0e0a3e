"""Stage 2: temporal layers join the image network, and all of it is trained on clips (SVD, section 4.1)."""

from __future__ import annotations

from dataclasses import replace

from training.recipe import Recipe
from training.recipes.images import images


def video() -> Recipe:
    """The recipe of stage 2: stage 1's with temporal layers, 1,600 whole clips at a quarter of its learning rate."""
    first = images()
    return replace(
        first,
        stage="video",
        network=replace(first.network, temporal=True),
        single_frames=False,
        num_samples=1_600,
        batch_size=8,
        lr=5e-4,
        warmup_samples=80,
        log_every_steps=10,
        checkpoint_every_steps=100,
    )
