"""Small models that ship with the project, trained on generated footage by `flows/build_embedded.py`; see card.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

__all__ = ["load_autoencoder"]


def load_autoencoder() -> AutoencoderKL:
    """The f8 autoencoder with 4 latent channels, in diffusers' class, float32, in evaluation mode."""
    from diffusers import AutoencoderKL

    from models.embedded.store import load_weights, read_config

    network = AutoencoderKL.from_config(read_config("autoencoder"))
    load_weights("autoencoder", network)
    return network.eval()
