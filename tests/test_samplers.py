"""Samplers on data whose flow is known in closed form, and guidance on networks whose answer is known."""

from __future__ import annotations

import pytest
import torch

from models.conditioning import Conditioning
from models.edm import SVD, karras_sigmas
from models.guidance import frame_weights, guided_denoiser
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


def test_frame_weights_are_those_of_svd():
    weights = frame_weights(1.0, 2.5, 14)
    assert weights[0] == 1.0
    assert weights[-1] == 2.5
    assert weights[1].item() == pytest.approx(1.1154, abs=1e-4)
    assert torch.equal(frame_weights(3.0, 3.0, 1), torch.tensor([3.0]))


def test_guidance_mixes_both_sides_frame_by_frame():
    """A network that answers with the mean of its text: 0 without, 1 with."""

    def network(x, _, conditioning):
        return torch.ones_like(x) * conditioning.text_BLD.mean((1, 2))[:, None, None, None, None]

    conditioning = Conditioning(
        torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.tensor([[8.0, 3.0], [6.0, torch.nan]])
    )
    x, sigma_B = torch.randn(2, 4, 3, 2, 2), torch.full((2,), 2.0)
    with_text = SVD.denoise(network, x, sigma_B, conditioning)
    nothing = Conditioning(torch.zeros(2, 3, 4), conditioning.mask_BL, conditioning.numbers_BN)
    without = SVD.denoise(network, x, sigma_B, nothing)
    guided = guided_denoiser(SVD, network, conditioning, torch.tensor([0.0, 1.0, 3.0]))(x, 2.0)
    torch.testing.assert_close(guided[:, :, 0], without[:, :, 0])
    torch.testing.assert_close(guided[:, :, 1], with_text[:, :, 1])
    torch.testing.assert_close(guided[:, :, 2], (3 * with_text - 2 * without)[:, :, 2])
