"""The adapter around diffusers' schedulers: beside our samplers where they are the same, and on normal data."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from torch import Tensor

from models.diffusers_samplers import REFUSED, SCHEDULERS, WALKS, diffusers_sampler, sampler_named
from models.edm import karras_sigmas
from models.noise import Discrete, flow_sigmas, scaled_linear_betas, sigmas_of, zero_terminal_snr
from models.samplers import SAMPLERS, dpm_solver_2s, noise_of
from warehouse.errors import SettingsError

MEAN, STD, HIGHEST = 1.5, 0.8, 20.0
STOCHASTIC = ("dpm_solver_sde", "kdpm2_ancestral")
STEPS = sigmas_of(scaled_linear_betas())
TERMINAL = sigmas_of(zero_terminal_snr(scaled_linear_betas()))
NAMES = [*SAMPLERS, *SCHEDULERS, *(name for name in WALKS if (name, {}) not in SCHEDULERS.values())]
LEVELS = {
    "Karras": lambda num: karras_sigmas(num, 0.002, HIGHEST),
    "steps": lambda num: Discrete(STEPS).respaced(num),
    "zero terminal SNR": lambda num: Discrete(TERMINAL, "v").respaced(num),
    "flow": flow_sigmas,
}
SLOW = (
    "dpm_solver_sde",
    "cogvideox_dpm",
    "CogVideoXDPM",
    "DDPM",
    "EulerAncestralDiscrete",
    "ddpm",
    "euler_ancestral",
)
"""Whose error falls with the first power of the step, from a large one."""


def gaussian_denoiser(x: Tensor, sigma: float) -> Tensor:
    if sigma == math.inf:
        return torch.full_like(x, MEAN)
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def bent_denoiser(x: Tensor, sigma: float) -> Tensor:
    return torch.sin(1.3 * x / (1 + sigma**2) ** 0.5) + 0.1 * x / (1 + sigma)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def first(num: int, size: int) -> Tensor:
    like = torch.empty(num, size, dtype=torch.float64)
    return MEAN + noise_of(generators(*range(num)))(like) * (STD**2 + HIGHEST**2) ** 0.5


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("euler", "EulerDiscreteScheduler"),
        ("heun", "HeunDiscreteScheduler"),
        ("dpm_solver_2m", "DPMSolverMultistepScheduler"),
        ("ddim", "DDIMScheduler"),
        ("ddim", "CogVideoXDDIMScheduler"),
        ("euler", "EDMEulerScheduler"),
        ("dpm_solver_2m", "EDMDPMSolverMultistepScheduler"),
        ("euler", "FlowMatchEulerDiscreteScheduler"),
    ],
)
@pytest.mark.parametrize("num_steps", [5, 20])
def test_the_adapter_around_their_version_of_ours_is_ours(ours: str, theirs: str, num_steps: int) -> None:
    x, sigmas = first(2, 40), karras_sigmas(num_steps, 0.002, HIGHEST)
    expected = SAMPLERS[ours](bent_denoiser, x, sigmas, noise_of(generators(0, 1)))
    found = diffusers_sampler(theirs)(bent_denoiser, x, sigmas, noise_of(generators(0, 1)))
    assert (found - expected).abs().max() < 1e-5 * expected.std()


@pytest.mark.parametrize("num_steps", [5, 20])
def test_their_singlestep_is_ours_where_it_visits_the_middle_of_each_step(num_steps: int) -> None:
    """Theirs takes every second level for the middle of a step; ours finds the middle itself."""
    x, sigmas = first(2, 40), karras_sigmas(num_steps, 0.002, HIGHEST)
    middles = (sigmas[:-2] * sigmas[1:-1]).sqrt()
    visited = torch.cat([torch.stack([sigmas[:-2], middles], dim=1).flatten(), sigmas[-2:]])
    theirs = diffusers_sampler("DPMSolverSinglestepScheduler")
    found = theirs(bent_denoiser, x, visited, noise_of(generators(0, 1)))
    expected = dpm_solver_2s(bent_denoiser, x, sigmas)
    assert (found - expected).abs().max() < 1e-6 * expected.std()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_samples_normal_data_over_all_levels(name: str, levels: str) -> None:
    slow = name.removesuffix("Scheduler") in SLOW
    sigmas = LEVELS[levels](300 if slow else 100)
    noise, x = noise_of(generators(0, 1)), torch.empty(2, 3000, dtype=torch.float64)
    unit = noise(x)
    highest = sigmas[0].item()
    x = unit if highest == math.inf else MEAN + unit * (STD**2 + highest**2) ** 0.5
    end = sampler_named(name)(gaussian_denoiser, x, sigmas, noise)
    assert end.isfinite().all()
    assert end.mean().item() == pytest.approx(MEAN, abs=0.04)
    assert end.std().item() == pytest.approx(STD, rel=0.04)
    if name.removesuffix("Scheduler") not in (*SLOW, "kdpm2_ancestral", "KDPM2AncestralDiscrete"):
        assert (end - MEAN - STD * unit).abs().max() < 0.12 * STD


@pytest.mark.parametrize("name", ["IPNDMScheduler", "LCMScheduler", "TCDScheduler", "SASolverScheduler"])
def test_a_class_that_walks_elsewhere_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"'{name}' \({REFUSED[name]}\), expected one of euler, .*PNDM"):
        sampler_named(name)


def test_every_scheduler_of_diffusers_is_usable_or_refused() -> None:
    names = [name for name in dir(diffusers) if name.endswith("Scheduler")]
    assert len(names) > 40 and set(WALKS) <= set(names) and set(REFUSED) <= set(names)
    for name in set(names) - set(WALKS):
        with pytest.raises(
            SettingsError, match=f"'{name}'.* expected one of .*FlowMatchEulerDiscreteScheduler"
        ):
            diffusers_sampler(name)


def test_settings_and_walks_that_were_not_tried_are_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"settings of PNDMScheduler are .*expected none or those of one of pndm"
    ):
        diffusers_sampler("PNDMScheduler", solver_order=2)
    with pytest.raises(SettingsError, match="PNDMScheduler has 1 levels above 0, expected 2 or more steps"):
        sampler_named("pndm")(
            gaussian_denoiser, first(1, 4), karras_sigmas(1, 20.0, 20.0), noise_of(generators(0))
        )
    with pytest.raises(SettingsError, match=r"the network says no variances: .* or sampler 'ddpm'"):
        sampler_named("iddpm")(gaussian_denoiser, first(1, 4), karras_sigmas(5), noise_of(generators(0)))


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_follows_the_sample_and_not_the_batch(name: str) -> None:
    sigmas, x = karras_sigmas(8, 0.02, HIGHEST), first(3, 30)
    together = sampler_named(name)(gaussian_denoiser, x, sigmas, noise_of(generators(5, 6, 7)))
    alone = sampler_named(name)(gaussian_denoiser, x[1:2], sigmas, noise_of(generators(6)))
    other = sampler_named(name)(gaussian_denoiser, x[1:2], sigmas, noise_of(generators(8)))
    torch.testing.assert_close(together[1:2], alone)
    assert (alone - other).abs().max() > 0.1


@pytest.mark.parametrize("name", ["pndm", "deis", "unipc", "kdpm2_ancestral"])
def test_a_perfect_denoiser_ends_at_its_answer(name: str) -> None:
    known = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    x = HIGHEST * torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    sigmas = karras_sigmas(10, 0.02, HIGHEST)
    end = sampler_named(name)(lambda x, _: known, x, sigmas, noise_of(generators(0, 1)))
    assert end.dtype == torch.float32
    torch.testing.assert_close(end, known, atol=0.05, rtol=0)


def test_a_name_that_is_not_known_is_refused_with_the_list() -> None:
    with pytest.raises(
        SettingsError,
        match=r"'plms', expected one of euler, .*ddpm, rectified_flow, iddpm, pndm, .*kdpm2_ancestral",
    ):
        sampler_named("plms")
    assert sampler_named("euler") is SAMPLERS["euler"]
