"""The embedded autoencoder: f8, 4 latent channels of unit variance, in diffusers' AutoencoderKL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.embedded.store import load_weights, read_config

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def load_autoencoder() -> AutoencoderKL:
    """The trained network in float32, in evaluation mode."""
    from diffusers import AutoencoderKL

    network = AutoencoderKL.from_config(read_config("autoencoder"))
    load_weights("autoencoder", network)
    return network.eval()
