"""Stage 3: the same network on fewer, better clips at more noise and a lower learning rate (SVD, section
4.2).
"""

from __future__ import annotations

from dataclasses import replace

from training.recipe import Recipe
from training.recipes.video import video


def high_quality() -> Recipe:
    """The recipe of stage 3: 800 clips, levels centred on sigma = 1 (P_mean 0, where stage 2 has -0.4), a lower lr."""
    return replace(video(), stage="high_quality", num_samples=800, lr=2e-4, p_mean=0.0)
