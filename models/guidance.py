"""Classifier-free guidance, with one weight for every frame: D = D_u + w_t (D_c - D_u) (SVD figure 16)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.conditioning import Conditioning, stack, without_text
from models.edm import Network, Preconditioning
from models.samplers import Denoiser


def frame_weights(first: float, last: float, num_frames: int) -> Tensor:
    """Weights that change linearly from the first frame to the last (equal ends: constant guidance)."""
    return torch.linspace(first, last, num_frames)


def guided_denoiser(
    preconditioning: Preconditioning, network: Network, conditioning: Conditioning, weights_T: Tensor
) -> Denoiser:
    """A denoiser of (x_BCTHW, sigma) that evaluates both sides in one batch of 2B."""
    both_sides = stack(without_text(conditioning), conditioning)
    weights = weights_T[:, None, None]

    def denoise(x_BCTHW: Tensor, sigma: float) -> Tensor:
        twice = torch.cat([x_BCTHW, x_BCTHW])
        sigma_B = x_BCTHW.new_full((len(twice),), sigma)
        without, with_text = preconditioning.denoise(network, twice, sigma_B, both_sides).chunk(2)
        return without + weights.to(x_BCTHW) * (with_text - without)

    return denoise
