"""Samplers: from noise to latents along the probability flow ODE dx/dsigma = (x - D(x; sigma)) / sigma.

They know nothing of networks: a denoiser is any function of (x, sigma) with one sigma for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, float], Tensor]


def initial_latents(
    shape: tuple[int, ...], sigma_max: float, generators: list[torch.Generator], sigma_data: float = 1.0
) -> Tensor:
    """N(0, sigma_data² + sigma_max²) latents, sample i from generator i alone, so batching changes no sample.

    shape: (len(generators), ...).
    """
    noise = torch.stack([torch.randn(shape[1:], generator=generator) for generator in generators])
    return noise * (sigma_data**2 + sigma_max**2) ** 0.5


def euler(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """First order. `sigmas` falls and ends at 0; x has noise level sigmas[0]."""
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        slope = (x - denoise(x, sigma)) / sigma
        x = x + (following - sigma) * slope
    return x


def heun(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Second order (EDM algorithm 1 without churn): two evaluations a step, one in the last, which ends
    at 0.
    """
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        slope = (x - denoise(x, sigma)) / sigma
        ahead = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (ahead - denoise(ahead, following)) / following) / 2
            ahead = x + (following - sigma) * slope
        x = ahead
    return x


SAMPLERS: dict[str, Callable[[Denoiser, Tensor, Tensor], Tensor]] = {"euler": euler, "heun": heun}
