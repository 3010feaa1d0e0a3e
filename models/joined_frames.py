"""Frames of a clip that join a network's input, which makes the others: the first to be continued, or both ends.

A network that continues a frame sees it beside each of its noisy frames (SVD, appendix D.4). One that fills in between
two sees them in their places, with a learned frame in all others (D.5). Both see them as the autoencoder's own network
has them, not scaled, with a little noise on them, and are told how much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.video_unet import VideoUNetConfig
from warehouse.errors import SettingsError


@dataclass(frozen=True)
class Joining:
    """How frames that join the input are shown to a network in training."""

    p_mean: float = -3.0
    """Mean of ln of the noise on them, over the spread of scaled latents, which is about 1 (SVD: of pixels)."""
    p_std: float = 0.5
    """Standard deviation of ln of that noise."""
    dropout: float = 0.0
    """Share of clips that lose the frames and keep their text."""
    dropout_with_text: float = 0.1
    """Share of other clips that lose both: the side of guidance that is told nothing."""

    def __post_init__(self) -> None:
        shares = self.dropout, self.dropout_with_text
        if self.p_std < 0 or min(shares) < 0 or sum(shares) >= 1:
            raise SettingsError(
                f"joining has p_std {self.p_std}, dropout {self.dropout} and dropout_with_text {self.dropout_with_text}: "
                f"expected none below 0, and shares that sum to less than 1"
            )


def places(config: VideoUNetConfig, num_frames: int) -> list[int]:
    """Which frames of a clip a network is shown; none where no frames join its input.

    Masked latents of inpainting have a channel more than latents, and are no frames that are shown.
    """
    if config.condition_channels != config.latent_channels:
        return []
    return [0, num_frames - 1] if config.missing_size else [0]


def noised(frames_BCFHW: Tensor, sigma_B: Tensor, noise_BCFHW: Tensor) -> Tensor:
    """Scaled latents of frames with noise of a level a clip."""
    return frames_BCFHW + sigma_B[:, None, None, None, None] * noise_BCFHW


def joined(told: Conditioning, frames_BCFHW: Tensor, num_frames: int) -> Conditioning:
    """`told` with one frame a clip beside each of `num_frames`, or with two, which are the first and the last."""
    if frames_BCFHW.shape[2] == 1:
        return replace(told, frames_BCTHW=frames_BCFHW.expand(-1, -1, num_frames, -1, -1))
    ends = [0, num_frames - 1]
    num_clips, channels, _, *size = frames_BCFHW.shape
    frames_BCTHW = frames_BCFHW.new_zeros(num_clips, channels, num_frames, *size)
    frames_BCTHW[:, :, ends] = frames_BCFHW
    shown_BT = torch.zeros(num_clips, num_frames, dtype=torch.bool, device=frames_BCFHW.device)
    shown_BT[:, ends] = True
    return replace(told, frames_BCTHW=frames_BCTHW, shown_BT=shown_BT)


@dataclass(frozen=True)
class Scaling:
    """What turns an autoencoder's own latents into ours, (z - shift) * scale: numbers, or one a channel."""

    scale: Any
    shift: Any

    @classmethod
    def of(cls, autoencoder: Any) -> Scaling:
        """Of an autoencoder with `scale_factor` and `shift`."""
        return cls(autoencoder.scale_factor, autoencoder.shift)

    def undone(self, z_BCTHW: Tensor) -> Tensor:
        """Our latents as the autoencoder's own."""
        values = (torch.as_tensor(value).to(z_BCTHW).flatten() for value in (self.scale, self.shift))
        scale, shift = (value[:, None, None, None] for value in values)
        return z_BCTHW / scale + shift
