"""After stage 2: the video network is shown a clip's first and last frame and makes those between (SVD, appendix D.5)."""

from __future__ import annotations

from dataclasses import replace

from training.recipe import Recipe
from training.recipes.image_to_video import image_to_video


def interpolation() -> Recipe:
    """The recipe after stage 2 for what lies between two frames, as `image_to_video` but at less spread noise."""
    first = image_to_video()
    network = replace(first.network, missing_size=(8, 8))
    return replace(first, stage="interpolation", network=network, p_mean=1.0, p_std=1.2)
