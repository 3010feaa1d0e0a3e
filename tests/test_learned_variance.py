"""Learned variances on normal data, where every step back is known, and beside diffusers' scheduler."""

from __future__ import annotations

from math import erf, exp, inf, log, pi, sqrt

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from models.conditioning import Conditioning
from models.edm import per_clip
from models.guidance import guided_with_variance
from models.learned_variance import (
    ancestral,
    bound_bits,
    hybrid_losses,
    log_variance,
    variance_bounds,
    without_variance,
)
from models.noise import Discrete, linear_betas, sigmas_of, zero_terminal_snr
from models.samplers import SAMPLERS, initial_latents, noise_of

STD = 0.4
SIGMAS = sigmas_of(linear_betas())
NOTHING = Conditioning(torch.zeros(3, 1, 1), torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 2))


def network(x: Tensor, c_noise_B: Tensor, _: Conditioning) -> Tensor:
    said = torch.sin(1.3 * x + 0.7) * 0.8 + per_clip(torch.cos(0.01 * c_noise_B), x) * 0.3
    return torch.cat([said, torch.sin(2 * x)], dim=1)


def true_share(sigma: Tensor, following: Tensor) -> Tensor:
    """The share with which the step back of N(0, STD²) has its own variance.

    Given x, the data has variance s²σ² / (s² + σ²); the step back keeps 1 - f²/σ² of it, and adds its small variance.
    """
    small, large = variance_bounds(sigma, following)
    spread = STD**2 * sigma**2 / (STD**2 + sigma**2)
    true = small + (1 - (following / sigma) ** 2) ** 2 * spread
    return 2 * (true.log() - small.log()) / (large.log() - small.log()) - 1


def ideal(sigmas: Tensor):
    following = dict(zip(sigmas.tolist(), sigmas[1:], strict=False))

    def denoise(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        level = torch.tensor(sigma, dtype=torch.float64)
        share = true_share(level, following[sigma]) if following[sigma] > 0 else torch.tensor(0.0)
        return STD**2 / (STD**2 + sigma**2) * x, share.expand_as(x)

    return denoise


def test_variances_are_ddpms_own() -> None:
    betas = linear_betas()
    kept = (1 - betas).cumprod(0)
    small, large = variance_bounds(SIGMAS[1:], SIGMAS[:-1])
    torch.testing.assert_close(large * kept[:-1], betas[1:])
    torch.testing.assert_close(small * kept[:-1], betas[1:] * (1 - kept[:-1]) / (1 - kept[1:]))


@pytest.mark.parametrize("num_steps", [1000, 50])
def test_a_step_is_diffusers_own(num_steps: int) -> None:
    """The same network, the same noise, with all steps and with every twentieth."""
    scheduler = DDPMScheduler(beta_schedule="linear", clip_sample=False, variance_type="learned_range")
    scheduler.set_timesteps(num_steps)
    x = torch.randn(3, 4, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for place in (0, num_steps // 2, num_steps - 2):
        t, before = (int(scheduler.timesteps[place + i]) for i in (0, 1))
        pair = SIGMAS[[t, before]]
        scale = (1 + pair.square()).sqrt()
        generator = torch.Generator().manual_seed(3)
        seen = []

        def denoise(x: Tensor, sigma: float, seen: list[Tensor] = seen) -> tuple[Tensor, Tensor]:
            seen.append(x)
            return guided_with_variance(Discrete(SIGMAS), network, [NOTHING], [])(x, sigma)

        def noise(like: Tensor, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(like.shape, generator=generator, dtype=like.dtype)

        ancestral(denoise, x * scale[0], torch.cat([pair, torch.zeros(1)]), noise)
        said = network(x, torch.full((3,), float(t), dtype=torch.float64), NOTHING)
        theirs = scheduler.step(said, t, x, generator=torch.Generator().manual_seed(3), return_dict=False)[0]
        torch.testing.assert_close(seen[1] / scale[1], theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [4, 25])
def test_few_steps_with_the_right_variances_sample_the_data_exactly(num_steps: int) -> None:
    """Steps back of normal data are normal, so any number of them ends at the data; fixed variances do not."""
    sigmas = Discrete(SIGMAS).respaced(num_steps)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    x = noise_of(generators)(torch.empty(2, 40_000, dtype=torch.float64)) * (STD**2 + sigmas[0] ** 2).sqrt()
    learned = ancestral(ideal(sigmas), x, sigmas, noise_of(generators))
    assert learned.std().item() == pytest.approx(STD, rel=0.01)
    fixed = SAMPLERS["ddpm"](lambda x, s: ideal(sigmas)(x, s)[0], x, sigmas, noise_of(generators))
    assert fixed.std().item() < 0.97 * STD


def test_learned_variances_are_walked_and_trained_from_nothing_but_noise() -> None:
    preconditioning = Discrete(sigmas_of(zero_terminal_snr(linear_betas())), "v")
    sigmas = preconditioning.respaced(10)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    x = initial_latents((2, 40_000), sigmas[0].item(), generators).double()

    def denoise(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        if sigma < inf:
            return ideal(sigmas)(x, sigma)
        small, large = variance_bounds(torch.tensor(sigma), sigmas[1])
        share = 2 * ((small + STD**2).log() - small.log()) / (large.log() - small.log()) - 1
        return torch.zeros_like(x), share.expand_as(x)

    end = ancestral(denoise, x, sigmas, noise_of(generators))
    assert end.std().item() == pytest.approx(STD, rel=0.01)
    x0, noise = torch.randn(2, 3, 4, 2, 5, 5)
    said = torch.randn(3, 8, 2, 5, 5).requires_grad_()
    step_B = torch.tensor([0, 998, 999])
    losses = hybrid_losses(preconditioning, lambda *_: said, x0, noise, step_B, NOTHING)
    losses.sum().backward()
    assert losses.isfinite().all() and said.grad.isfinite().all()
    torch.testing.assert_close(said.grad[2, :4], 2 * (said[2, :4] + x0[2]).detach() / x0[0].numel())


def test_the_bound_of_an_ideal_network_is_the_datas_own_entropy() -> None:
    """With every step back exact, nothing is lost but what x_T has over N(0, 1)."""
    num, width = 20_000, 1e-3
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    sigmas = Discrete(SIGMAS).respaced(40)[:-1].flip(0)
    for step in range(40):
        x0 = STD * torch.randn(1, num, dtype=torch.float64, generator=generator)
        x = x0 + sigmas[step] * torch.randn(1, num, dtype=torch.float64, generator=generator)
        clean = STD**2 / (STD**2 + sigmas[step] ** 2) * x
        share = true_share(sigmas[step], sigmas[step - 1]) if step else last_share(sigmas)
        step_B = torch.tensor([step])
        total = total + bound_bits(sigmas, step_B, x0, x, clean, share.expand_as(x), width).squeeze()
    kept = 1 / (1 + sigmas[-1].item() ** 2)
    prior, surplus = (0.5 * (kept * STD**2 - kept - log(v)) for v in (1 - kept, kept * STD**2 + 1 - kept))
    entropy = 0.5 * log(2 * pi * exp(1) * STD**2) - log(width)
    assert total.item() * log(2) + prior == pytest.approx(entropy + surplus, rel=2e-3)


def last_share(sigmas: Tensor) -> Tensor:
    """The share of step 0 that has the variance of the data given x."""
    variance = STD**2 * sigmas[0] ** 2 / (STD**2 + sigmas[0] ** 2)
    large = sigmas[0] ** 2 / (1 + sigmas[0] ** 2)
    small = variance_bounds(sigmas[1], sigmas[0])[0] / (1 + sigmas[0] ** 2)
    return 2 * (variance.log() - small.log()) / (large.log() - small.log()) - 1


def test_the_bound_is_lowest_at_the_true_variance() -> None:
    x0 = STD * torch.randn(1, 20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for step in (1, 30, 600):
        x = x0 + SIGMAS[step] * noise
        clean = STD**2 / (STD**2 + SIGMAS[step] ** 2) * x
        true = true_share(SIGMAS[step], SIGMAS[step - 1]).item()
        cost = [
            bound_bits(SIGMAS, torch.tensor([step]), x0, x, clean, torch.full_like(x, true + d)).item()
            for d in (-0.3, 0.0, 0.3)
        ]
        assert cost[1] < min(cost[0], cost[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_are_told_exactly_in_half_precision(dtype: torch.dtype) -> None:
    told = []

    def half(x: Tensor, c_noise_B: Tensor, conditioning: Conditioning) -> Tensor:
        told.append(c_noise_B)
        assert x.dtype == dtype
        return network(x.float(), c_noise_B, conditioning).to(dtype)

    x0, noise = torch.randn(2, 3, 4, 2, 5, 5).to(dtype)
    step_B = torch.tensor([1, 563, 998])
    losses = hybrid_losses(Discrete(SIGMAS), half, x0, noise, step_B, NOTHING)
    exact = hybrid_losses(Discrete(SIGMAS), network, x0.double(), noise.double(), step_B, NOTHING)
    assert told[0].tolist() == pytest.approx([1, 563, 998], abs=1e-2)
    torch.testing.assert_close(losses, exact, rtol=0.05, atol=0)


def test_the_last_step_costs_the_mass_of_its_bin() -> None:
    x0, clean = torch.tensor([[0.31]], dtype=torch.float64), torch.tensor([[0.305]], dtype=torch.float64)
    share = torch.tensor([[0.2]], dtype=torch.float64)
    small = variance_bounds(SIGMAS[1], SIGMAS[0])[0] / (1 + SIGMAS[0] ** 2)
    deviation = (log_variance(share, small, SIGMAS[0] ** 2 / (1 + SIGMAS[0] ** 2)) / 2).exp().item()
    cuts = [(0.31 + half / 255 - 0.305) / deviation / sqrt(2) for half in (-1, 1)]
    expected = -log((erf(cuts[1]) - erf(cuts[0])) / 2, 2)
    found = bound_bits(SIGMAS, torch.tensor([0]), x0, x0, clean, share)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_bound_trains_the_shares_and_the_error_the_prediction() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 2, 5, 5, generator=generator)
    step_B = torch.tensor([0, 200, 999])
    said = torch.randn(3, 8, 2, 5, 5, generator=generator).requires_grad_()

    def constant(*_: object) -> Tensor:
        return said

    preconditioning = Discrete(SIGMAS)
    losses = hybrid_losses(preconditioning, constant, x0, noise, step_B, NOTHING)
    losses.sum().backward()
    assert said.grad.isfinite().all()
    torch.testing.assert_close(said.grad[:, :4], 2 * (said[:, :4] - noise).detach() / noise[0].numel())
    assert (said.grad[:, 4:].abs().flatten(1).sum(1) > 0).all()
    alone = hybrid_losses(preconditioning, constant, x0, noise, step_B, NOTHING, bound_weight=0)
    torch.testing.assert_close(alone, (said[:, :4] - noise).square().flatten(1).mean(1))
    sigma_B = SIGMAS[step_B].to(x0)
    x = x0 + per_clip(sigma_B, x0) * noise
    clean = preconditioning.compose(x, sigma_B, said[:, :4])
    bound = bound_bits(SIGMAS, step_B, x0, x, clean, said[:, 4:])
    torch.testing.assert_close(losses, alone + 1e-3 * 1000 * bound.float())
    assert torch.equal(without_variance(constant)(x0, step_B, NOTHING), said[:, :4])


def test_respacing_takes_each_part_from_its_first_to_its_last_step() -> None:
    """IDDPM's own example: 300 steps in three parts."""
    levels = Discrete(SIGMAS).respaced(10, 15, 20)
    told = Discrete(SIGMAS).c_noise(levels[:-1].flip(0)).round().long().tolist()
    assert len(told) == 45
    assert (told[0], told[9], told[10], told[24], told[25], told[44]) == (0, 333, 334, 666, 667, 999)
    assert told[:10] == [round(37 * i) for i in range(10)]
    assert torch.equal(Discrete(SIGMAS).respaced(1000)[:-1], SIGMAS.flip(0))
    assert Discrete(SIGMAS).respaced(1).tolist() == [SIGMAS[-1], 0]
    assert Discrete(SIGMAS).respaced(1, 2).tolist() == [SIGMAS[-1], SIGMAS[500], SIGMAS[499], 0]
    with pytest.raises(ValueError, match="400 steps were asked of 333"):
        Discrete(SIGMAS).respaced(10, 10, 400)


def test_no_level_makes_a_gradient_that_is_no_number() -> None:
    """A bin is nothing beside the deviation of a very noisy step, and its cost infinite."""
    share = torch.zeros(1, 4, requires_grad=True)
    levels = torch.tensor([0.01, 1e8, 1e9], dtype=torch.float64)
    bound_bits(
        levels, torch.tensor([2]), torch.zeros(1, 4), torch.ones(1, 4), torch.ones(1, 4), share
    ).backward()
    assert share.grad.isfinite().all()
