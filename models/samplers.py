"""Samplers: from noise to latents along dx/dsigma = (x - D(x; sigma)) / sigma, or with fresh noise on the way.

They know nothing of networks: a denoiser is any function of (x, sigma) with one sigma for the whole batch, and x is data
plus sigma times noise. In these coordinates many names are one thing: DDIM is Euler, and so is rectified flow's own walk,
over `models.noise.flow_sigmas`; DDIM with eta = 1 and DDPM's posterior step are the ancestral Euler (Song et al. 2021,
eq. 16; Karras et al. 2022, section 3).

The first level may be infinite: there x is the noise itself, and the first step is Euler's, the only one that has a limit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import exp, expm1, inf, log, sqrt

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, float], Tensor]
Noise = Callable[[Tensor], Tensor]
"""Standard normal numbers in the shape, type and place of a tensor."""
Sampler = Callable[[Denoiser, Tensor, Tensor, Noise], Tensor]


class Level(float):
    """A noise level that is asked for in a step that began at `step`: what goes by steps is the same in all of one."""

    step: float

    def __new__(cls, sigma: float, step: float) -> Level:
        level = super().__new__(cls, sigma)
        level.step = step
        return level


def step_of(sigma: float) -> float:
    """The level at which the step began that asks for this one; a plain number is the beginning of its own."""
    return sigma.step if isinstance(sigma, Level) else sigma


def noise_of(generators: list[torch.Generator]) -> Noise:
    """Noise of which sample i comes from generator i alone, so batching changes no sample."""

    def draw(like: Tensor) -> Tensor:
        return torch.stack([torch.randn(like.shape[1:], generator=one) for one in generators]).to(like)

    return draw


def initial_latents(shape: tuple[int, ...], sigma_max: float, generators: list[torch.Generator]) -> Tensor:
    """N(0, 1 + sigma_max²) latents of unit data, shape (len(generators), ...), sample i from generator i; N(0, 1) at an
    infinite level.
    """
    first = noise_of(generators)(torch.empty(shape))
    return first if sigma_max == inf else first * (1 + sigma_max**2) ** 0.5


def euler(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """First order. `sigmas` falls and ends at 0; x has noise level sigmas[0]."""
    for sigma, following in level_pairs(sigmas):
        x = _towards(denoise(x, sigma), x, sigma, following)
    return x


def heun(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Second order (EDM algorithm 1 without churn): two evaluations a step, one in the last, which ends at 0."""
    for sigma, following in level_pairs(sigmas):
        clean = denoise(x, sigma)
        ahead = _towards(clean, x, sigma, following)
        if following > 0 and sigma < inf:
            slope = ((x - clean) / sigma + (ahead - denoise(ahead, Level(following, sigma))) / following) / 2
            ahead = x + (following - sigma) * slope
        x = ahead
    return x


def euler_ancestral(denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """Each step goes further down than asked for and adds noise back up to it."""
    for sigma, following in level_pairs(sigmas):
        up = following * sqrt(1 - (following / sigma) ** 2)
        x = _towards(denoise(x, sigma), x, sigma, sqrt(following**2 - up**2))
        if following > 0:
            x = x + up * noise(x)
    return x


def dpm_solver_2m(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order from the denoised picture of the step before."""
    before, length_before = None, 0.0
    for sigma, following in level_pairs(sigmas):
        clean = denoise(x, sigma)
        if following == 0:
            return clean
        length = log(sigma / following)
        guess = clean if before is None else clean + (clean - before) * length / (2 * length_before)
        x = _towards(guess, x, sigma, following)
        before, length_before = clean, length
    return x


def dpm_solver_2s(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2S) (Lu et al. 2022, algorithm 1, r = 1/2): second order by an evaluation in mid-step."""
    for sigma, following in level_pairs(sigmas):
        clean = denoise(x, sigma)
        if following == 0:
            return clean
        if sigma < inf:
            half = log(sigma / following) / 2
            middle = exp(-half) * x - expm1(-half) * clean
            clean = denoise(middle, Level(sigma * exp(-half), sigma))
        x = _towards(clean, x, sigma, following)
    return x


def level_pairs(sigmas: Tensor) -> list[tuple[float, float]]:
    """Each level with the one after it."""
    levels = sigmas.tolist()
    return list(itertools.pairwise(levels))


def _towards(clean: Tensor, x: Tensor, sigma: float, following: float) -> Tensor:
    """x with its noise brought from one level to another; exact for any size of the noise."""
    return clean + (following * x if sigma == inf else following / sigma * (x - clean))


def _without_noise(sampler: Callable[[Denoiser, Tensor, Tensor], Tensor]) -> Sampler:
    return lambda denoise, x, sigmas, _: sampler(denoise, x, sigmas)


SAMPLERS: dict[str, Sampler] = {
    "euler": _without_noise(euler),
    "heun": _without_noise(heun),
    "euler_ancestral": euler_ancestral,
    "dpm_solver_2m": _without_noise(dpm_solver_2m),
    "dpm_solver_2s": _without_noise(dpm_solver_2s),
    "ddim": _without_noise(euler),
    "ddpm": euler_ancestral,
    "rectified_flow": _without_noise(euler),
}
