"""Sampling from networks that paint what a mask says (Stable Diffusion's inpainting, and the pseudo-3D UNet made of it).

What joins their input is a mask, 1 where they paint, and the latents of what is known, grey elsewhere. Frames are known as
a whole or not at all; with none, all is painted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.edm import per_frame
from models.given_frames import Given
from models.networks import NetworkConfig
from models.video_unet import VideoUNetConfig
from training.encoders import Autoencoder


@dataclass(frozen=True)
class Painting:
    """`grey_CTHW`: latents of one frame that is grey, which is 0 in pixels from -1 to 1."""

    grey_CTHW: Tensor

    def told(self, told: Conditioning, given: Given) -> Conditioning:
        """`told` with mask and known frames, which are those of `given` that stay; others that it has are painted."""
        known_BT11 = per_frame(given.release_BT == 0)
        known_BCTHW = torch.where(known_BT11, given.latents_BCTHW, self.grey_CTHW.to(given.latents_BCTHW))
        mask_BCTHW = (~known_BT11).expand_as(known_BCTHW[:, :1]).to(known_BCTHW)
        return replace(told, frames_BCTHW=torch.cat([mask_BCTHW, known_BCTHW], dim=1))


def painting_of(
    config: NetworkConfig, autoencoder: Autoencoder, height_px: int, width_px: int
) -> Painting | None:
    """None for a network that no mask joins, which is one channel more than latents have."""
    if not isinstance(config, VideoUNetConfig) or config.condition_channels != config.latent_channels + 1:
        return None
    grey_BTCHW = autoencoder.encode(torch.zeros(1, 1, 3, height_px, width_px))
    return Painting(grey_BTCHW[0].movedim(0, 1))
