"""After stage 2: the video network is shown a clip's first frame and makes the others (SVD, appendix D.4).

Noise is higher than in the stages before, as in SVD's first run of this kind: little of it hides a frame that is shown.
"""

from __future__ import annotations

from dataclasses import replace

from training.recipe import Recipe
from training.recipes.video import video


def image_to_video() -> Recipe:
    """The recipe after stage 2: its network shown the first frame, four times its clips at twice its learning rate."""
    first = video()
    network = replace(first.network, condition_channels=first.network.latent_channels, num_numbers=3)
    longer = {"num_samples": 6_400, "lr": 1e-3}  # what is shown begins with no say
    return replace(first, stage="image_to_video", network=network, p_mean=0.7, p_std=1.6, **longer)
