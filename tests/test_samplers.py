"""Samplers on data whose flow is known in closed form."""

from __future__ import annotations

import pytest
import torch

from models.edm import karras_sigmas
from models.samplers import dpm_solver_2m, dpm_solver_2s, euler, heun, initial_latents

MEAN, STD = 1.5, 0.8


def gaussian_denoiser(x, sigma):
    """E[x0 | x] for x0 ~ N(MEAN, STD²)."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def exact_end(x, sigma_max):
    """The flow keeps (x - mean) / sqrt(std² + sigma²) constant."""
    return MEAN + (x - MEAN) * STD / (STD**2 + sigma_max**2) ** 0.5


def error(sampler, num_steps):
    sigma_max = 20.0
    x = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * sigma_max
    end = sampler(gaussian_denoiser, x, karras_sigmas(num_steps, 0.002, sigma_max))
    return (end - exact_end(x, sigma_max)).abs().max().item()


@pytest.mark.parametrize(
    ("sampler", "order"), [(euler, 1), (heun, 2), (dpm_solver_2m, 2), (dpm_solver_2s, 2)]
)
def test_sampler_reaches_the_exact_end_with_its_order(sampler, order):
    coarse, fine = error(sampler, 64), error(sampler, 128)
    assert fine < 0.05
    assert coarse / fine == pytest.approx(2**order, rel=0.2)


def test_heun_is_better_than_euler_at_equal_evaluations():
    assert error(heun, 32) < error(euler, 64) / 3


def test_initial_latents_do_not_depend_on_the_batch():
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = initial_latents((3, 2, 4), 10.0, generators(1, 2, 3))
    alone = initial_latents((1, 2, 4), 10.0, generators(2))
    assert torch.equal(together[1:2], alone)
    many = initial_latents((4, 5000), 10.0, generators(1, 2, 3, 4))
    assert many.std().item() == pytest.approx(101**0.5, rel=0.02)
