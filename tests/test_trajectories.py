"""Whole trajectories of our samplers beside those of diffusers' schedulers, with the same network in both."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from torch import Tensor

from models.conditioning import Conditioning
from models.edm import SVD, Preconditioning, karras_sigmas, per_clip, same_level
from models.noise import Discrete, Flow, flow_sigmas, linear_betas, scaled_linear_betas, shifted, sigmas_of
from models.samplers import SAMPLERS, Denoiser, noise_of

NOTHING = Conditioning(torch.zeros(3, 1, 1), torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 2))
SIGMAS = sigmas_of(scaled_linear_betas())


def network(x: Tensor, c_noise_B: Tensor, _: Conditioning) -> Tensor:
    """A function that bends with both of its inputs."""
    return torch.sin(1.3 * x + 0.7) * 0.8 + per_clip(torch.cos(0.01 * c_noise_B), x) * 0.3


def theirs_in_sigma(scheduler: Any, first: Tensor, preconditioning: Preconditioning) -> Tensor:
    """A scheduler of diffusers that keeps x as data plus sigma times noise."""
    x = first
    for t in scheduler.timesteps:
        sigma = scheduler.sigmas[
            scheduler.index_for_timestep(t) if scheduler.step_index is None else scheduler.step_index
        ]
        said = network(scheduler.scale_model_input(x, t), preconditioning.c_noise(sigma[None].to(x)), NOTHING)
        x = (
            scheduler.step(said, t, x, generator=torch.Generator().manual_seed(5), return_dict=False)[0]
            if isinstance(scheduler, EulerAncestralDiscreteScheduler)
            else scheduler.step(said, t, x, return_dict=False)[0]
        )
    return x


def ours(
    name: str, preconditioning: Preconditioning, first: Tensor, sigmas: Tensor, seeds: int = 3
) -> Tensor:
    generators = [torch.Generator().manual_seed(i) for i in range(seeds)]
    return SAMPLERS[name](denoiser(preconditioning), first, sigmas, noise_of(generators))


def denoiser(preconditioning: Preconditioning) -> Denoiser:
    return lambda x, sigma: preconditioning.denoise(network, x, same_level(x, len(x), sigma), NOTHING)


def same_noise(like: Tensor) -> Tensor:
    """What a scheduler draws that is given a generator of seed 5 at each step."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(5), dtype=like.dtype)


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the spread; of diffusers' side there is float32 in it, of ours none."""
    return ((found - expected).abs().max() / expected.std()).item()


def first_latents(sigma: float) -> Tensor:
    return torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * sigma


def test_euler_with_svds_settings_is_diffusers_own() -> None:
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True,
        sigma_min=0.002, sigma_max=700.0, timestep_spacing="leading",
    )  # fmt: skip
    scheduler.set_timesteps(25)
    first = first_latents(700.0)
    sigmas = karras_sigmas(25)
    assert torch.allclose(scheduler.sigmas.double(), sigmas, rtol=1e-5)
    expected = theirs_in_sigma(scheduler, first, SVD)
    assert apart(ours("euler", SVD, first, sigmas), expected) < 1e-5


@pytest.mark.parametrize(
    ("name", "kind"), [("heun", HeunDiscreteScheduler), ("euler", EulerDiscreteScheduler)]
)
def test_deterministic_samplers_are_diffusers_own(name: str, kind: type) -> None:
    scheduler = kind(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(12)
    levels = [float(s) for i, s in enumerate(scheduler.sigmas) if i == 0 or s != scheduler.sigmas[i - 1]]
    sigmas = torch.tensor(levels, dtype=torch.float64)
    first = first_latents(levels[0])
    expected = theirs_in_sigma(scheduler, first, Discrete(SIGMAS))
    assert apart(ours(name, Discrete(SIGMAS), first, sigmas), expected) < 2e-6


def test_ddim_is_diffusers_own() -> None:
    """diffusers keeps x scaled to unit variance."""
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="linspace",
    )  # fmt: skip
    scheduler.set_timesteps(12)
    x = first_latents(1.0)
    preconditioning = Discrete(SIGMAS)
    # DDIM's steps lie 1000 // 12 apart whatever the spacing is, so each is given its own pair.
    for t in scheduler.timesteps.tolist():
        before = t - 1000 // 12
        following = SIGMAS[before].item() if before >= 0 else 0.0
        pair = torch.tensor([SIGMAS[t].item(), following], dtype=torch.float64)
        scale = (1 + pair.square()).sqrt()
        mine = ours("ddim", preconditioning, x * scale[0], pair) / scale[1]
        said = network(x, torch.full((3,), float(t), dtype=torch.float64), NOTHING)
        x = scheduler.step(said, t, x, return_dict=False)[0]
        assert apart(mine, x) < 2e-6


def test_ddpm_is_diffusers_own_given_the_same_noise() -> None:
    scheduler = DDPMScheduler(beta_schedule="linear", clip_sample=False, variance_type="fixed_small")
    preconditioning, t = Discrete(sigmas_of(linear_betas())), 400
    pair = preconditioning.sigmas[[t, t - 1]]
    scale = (1 + pair.square()).sqrt()
    x = first_latents(1.0)
    said = network(x, torch.full((3,), float(t), dtype=torch.float64), NOTHING)
    theirs = scheduler.step(said, t, x, generator=torch.Generator().manual_seed(5), return_dict=False)[0]
    mine = SAMPLERS["ddpm"](denoiser(preconditioning), x * scale[0], pair, same_noise) / scale[1]
    assert apart(mine, theirs) < 2e-6


def test_ancestral_euler_is_diffusers_own_given_the_same_noise() -> None:
    scheduler = EulerAncestralDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(10)
    sigmas = scheduler.sigmas.double()
    first = first_latents(sigmas[0].item())
    expected = theirs_in_sigma(scheduler, first, Discrete(SIGMAS))
    found = SAMPLERS["euler_ancestral"](denoiser(Discrete(SIGMAS)), first, sigmas, same_noise)
    assert apart(found, expected) < 2e-6


def test_dpm_solver_is_diffusers_own() -> None:
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, use_karras_sigmas=True,
        algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero",
    )  # fmt: skip
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()
    x = first_latents(1.0)
    expected = x
    for index, t in enumerate(scheduler.timesteps):
        told = Discrete(SIGMAS).c_noise(sigmas[index].expand(3))
        expected = scheduler.step(network(expected, told, NOTHING), t, expected, return_dict=False)[0]
    first = x * (1 + sigmas[0] ** 2).sqrt()
    assert apart(ours("dpm_solver_2m", Discrete(SIGMAS), first, sigmas), expected) < 5e-6


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_is_the_euler_of_its_own_time(shift: float) -> None:
    """Open-Sora's loop: from noise at t = 1, x <- x + (t - t') v."""
    time = shifted(torch.linspace(1, 0, 31, dtype=torch.float64), shift)
    x = first_latents(1.0)
    for now, following in itertools.pairwise(time):
        x_before = x
        x = x + (now - following) * network(x_before, (1000 * now).expand(3), NOTHING)
    sigmas = flow_sigmas(30, shift)
    assert apart(ours("euler", Flow(), first_latents(1.0), sigmas), x) < 1e-12
