"""Preconditioning, loss and schedule against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from models.conditioning import Conditioning
from models.edm import EDM, SVD, clip_losses, karras_sigmas, log_normal_sigmas, per_clip

NOTHING = Conditioning(torch.zeros(3, 1, 1), torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 2))
SVD_25 = """700 545.73 421.57 322.45 244.02 182.55 134.85 98.27 70.54 49.81 34.54 23.47 15.59 10.10 6.354
3.870 2.269 1.273 .678 .339 .157 .0664 .0248 .0079 .002"""


@pytest.mark.parametrize("form", [SVD, EDM], ids=["v", "edm"])
def test_loss_is_the_weighted_error_of_the_denoiser(form):
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 4, 2, 5, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    sigma_B = torch.tensor([0.02, 1.0, 40.0], dtype=torch.float64)

    def network(x, c_noise_B, _):
        return torch.sin(3 * x) + per_clip(c_noise_B, x)

    x = x0 + per_clip(sigma_B, x0) * noise
    denoised = form.denoise(network, x, sigma_B, NOTHING)
    expected = form.weight(sigma_B) * (denoised - x0).square().flatten(1).mean(1)
    losses = clip_losses(form, network, x0, noise, sigma_B, NOTHING)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(form.weight(sigma_B) * form.c_out(sigma_B) ** 2, torch.ones_like(sigma_B))


def test_v_form_is_the_one_of_the_paper():
    x0, noise, sigma = torch.tensor([0.7]), torch.tensor([-0.3]), torch.tensor([2.0])
    assert SVD.c_skip(sigma).item() == pytest.approx(1 / 5)
    assert SVD.c_out(sigma).item() == pytest.approx(-2 / math.sqrt(5))
    assert SVD.c_noise(sigma).item() == pytest.approx(0.25 * math.log(2))
    assert SVD.weight(sigma).item() == pytest.approx(5 / 4)
    assert SVD.target(x0, noise, sigma).item() == pytest.approx((-0.3 - 2 * 0.7) / math.sqrt(5))
    assert EDM.c_out(sigma).item() == pytest.approx(2 * 0.5 / math.sqrt(4.25))


def test_perfect_network_has_no_loss_and_denoises_exactly():
    generator = torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(3, 4, 1, 4, 4, generator=generator) for _ in range(2))
    sigma_B = torch.tensor([0.1, 1.0, 10.0])

    def network(*_):
        return SVD.target(x0, noise, sigma_B)

    assert clip_losses(SVD, network, x0, noise, sigma_B, NOTHING).max() < 1e-10
    x = x0 + per_clip(sigma_B, x0) * noise
    torch.testing.assert_close(SVD.denoise(network, x, sigma_B, NOTHING), x0, atol=1e-5, rtol=1e-5)


def test_schedule_is_the_one_of_svd():
    expected = torch.tensor([float(number) for number in SVD_25.split()], dtype=torch.float64)
    sigmas = karras_sigmas(25)
    assert sigmas[-1] == 0
    torch.testing.assert_close(sigmas[:-1], expected, rtol=6e-3, atol=0)
    torch.testing.assert_close(sigmas[:15], expected[:15], rtol=5e-4, atol=0)


def test_sigmas_follow_the_log_normal_law():
    sigmas = log_normal_sigmas(4096, -1.2, 1.0, torch.Generator().manual_seed(3))
    expected = torch.tensor([0.029, 0.153, 0.301, 0.591, 3.08])
    quantiles = torch.quantile(sigmas, torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99]))
    torch.testing.assert_close(quantiles, expected, rtol=0.02, atol=0)
    single = torch.cat(
        [log_normal_sigmas(1, 0.5, 1.4, torch.Generator().manual_seed(i)) for i in range(2000)]
    )
    assert single.log().mean().item() == pytest.approx(0.5, abs=0.1)
    assert single.log().std().item() == pytest.approx(1.4, abs=0.1)


def test_sigmas_are_in_no_order_and_fixed_by_the_generator():
    first, again = (log_normal_sigmas(64, 0, 1, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    ranks = first.argsort().argsort().float()
    assert abs(torch.corrcoef(torch.stack([ranks, torch.arange(64.0)]))[0, 1]) < 0.5
