"""Stage 3: the same network on fewer, better clips at more noise and a lower learning rate (SVD, section
4.2).
"""

from __future__ import annotations

from dataclasses import replace

from training.recipe import Recipe
from training.recipes.video import video


def high_quality() -> Recipe:
    return replace(video(), stage="high_quality", num_samples=800, lr=2e-4, p_mean=0.0)
