"""The adapter around diffusers' schedulers: beside our samplers where they are the same, and on normal data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.diffusers_samplers import SCHEDULERS, diffusers_sampler, sampler_named
from models.edm import karras_sigmas
from models.samplers import SAMPLERS, noise_of
from warehouse.errors import SettingsError

MEAN, STD, HIGHEST = 1.5, 0.8, 20.0
STOCHASTIC = ("dpm_solver_sde", "kdpm2_ancestral")


def gaussian_denoiser(x: Tensor, sigma: float) -> Tensor:
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
    ],
)
@pytest.mark.parametrize("num_steps", [5, 20])
def test_the_adapter_around_their_version_of_ours_is_ours(ours: str, theirs: str, num_steps: int) -> None:
    x, sigmas = first(2, 40), karras_sigmas(num_steps, 0.002, HIGHEST)
    expected = SAMPLERS[ours](bent_denoiser, x, sigmas, noise_of(generators(0, 1)))
    found = diffusers_sampler(theirs)(bent_denoiser, x, sigmas, noise_of(generators(0, 1)))
    assert (found - expected).abs().max() < 2e-5


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_sampler_samples_normal_data(name: str) -> None:
    x = first(2, 10_000)
    sigmas = karras_sigmas(60, 0.002, HIGHEST)
    end = sampler_named(name)(gaussian_denoiser, x, sigmas, noise_of(generators(0, 1)))
    assert end.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert end.std().item() == pytest.approx(STD, rel=0.02)
    if name not in STOCHASTIC:
        exact = MEAN + (x - MEAN) * STD / (STD**2 + HIGHEST**2) ** 0.5
        assert (end - exact).abs().max() < 0.03


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
        SettingsError, match=r"'plms', expected one of euler, .*ddpm, pndm, .*kdpm2_ancestral"
    ):
        sampler_named("plms")
    assert sampler_named("euler") is SAMPLERS["euler"]
