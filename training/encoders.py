"""What sampling needs of encoders; `models` has those that are published, and the embedded ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from models.image_encoder import ImageEncoder


class Autoencoder(Protocol):
    """Pixels to latents and back; `models.autoencoder.Autoencoder` is one."""

    downsampling: int
    latent_channels: int
    scale_factor: float | Tensor
    shift: float | Tensor

    def latent_frames(self, num_frames: int) -> int:
        """Frames of the latents of so many frames. Raises InputError for a number that it does not take."""

    def encode(self, x_BTCHW: Tensor) -> Tensor:
        """Scaled latents of frames in [-1, 1]."""

    def decode(self, z_BTCHW: Tensor) -> Tensor:
        """Frames in about [-1, 1] of scaled latents."""


class TextEncoder(Protocol):
    """Texts to tokens; `models.text_encoder.TextEncoder` is one."""

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D) and mask (B, L), true where a token counts."""


@dataclass(frozen=True)
class Encoders:
    """The encoders that a network is sampled with."""

    autoencoder: Autoencoder
    text: TextEncoder
    image: ImageEncoder | None = None
    """For a network that hears a picture's token in place of text."""
