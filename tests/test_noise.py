"""Noise schedules and predictions against closed forms, and schedules beside diffusers'."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
)
from torch import Tensor

from models.conditioning import Conditioning
from models.edm import EDM, SVD, Network, Preconditioning, clip_losses, per_clip
from models.guidance import guided_denoiser
from models.noise import (
    Discrete,
    Flow,
    cosine_betas,
    flow_shift,
    flow_sigmas,
    linear_betas,
    min_snr_weight,
    offset_noise,
    scaled_linear_betas,
    shifted,
    sigmas_of,
    zero_terminal_snr,
)
from models.samplers import SAMPLERS, initial_latents, noise_of
from warehouse.errors import InputError, SettingsError

NOTHING = Conditioning(torch.zeros(3, 1, 1), torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 2))
SIGMAS = sigmas_of(scaled_linear_betas())
KINDS = ("epsilon", "v", "sample")
ALL = {"edm": EDM, "svd": SVD, "flow": Flow(), **{kind: Discrete(SIGMAS, kind) for kind in KINDS}}


def network(x: Tensor, c_noise_B: Tensor, _: Conditioning) -> Tensor:
    """A function that bends with both of its inputs."""
    return torch.sin(1.3 * x + 0.7) * 0.8 + per_clip(torch.cos(0.01 * c_noise_B), x) * 0.3


@pytest.mark.parametrize("name", ALL)
def test_a_network_that_says_the_target_denoises_exactly_and_loses_nothing(name: str) -> None:
    preconditioning: Preconditioning = ALL[name]
    x0, noise = torch.randn(2, 3, 4, 2, 5, 5, dtype=torch.float64)
    sigma_B = torch.tensor([0.05, 1.0, 14.0], dtype=torch.float64)
    target = preconditioning.target(x0, noise, sigma_B)

    def perfect(*_: object) -> Tensor:
        return target

    x = x0 + per_clip(sigma_B, x0) * noise
    assert (preconditioning.denoise(perfect, x, sigma_B, NOTHING) - x0).abs().max() < 1e-9
    assert clip_losses(preconditioning, perfect, x0, noise, sigma_B, NOTHING).max() < 1e-12


@pytest.mark.parametrize("name", ALL)
def test_the_loss_of_the_prediction_is_the_weighted_loss_of_the_data(name: str) -> None:
    preconditioning: Preconditioning = ALL[name]
    x0, noise = torch.randn(2, 3, 4, 2, 5, 5, dtype=torch.float64)
    sigma_B = torch.tensor([0.05, 1.0, 14.0], dtype=torch.float64)
    x = x0 + per_clip(sigma_B, x0) * noise
    loss = clip_losses(preconditioning, network, x0, noise, sigma_B, NOTHING).double()
    error = preconditioning.denoise(network, x, sigma_B, NOTHING) - x0
    weighted = preconditioning.weight(sigma_B) * error.square().flatten(1).mean(1)
    assert torch.allclose(loss, weighted, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_is_the_same_loss_for_every_prediction(kind: str) -> None:
    """Whatever is predicted, the loss of the data is weighted min(SNR, 5)."""
    sigma = torch.tensor([0.05, 0.4, 1.0, 14.0], dtype=torch.float64)
    on_data = Discrete(SIGMAS, kind).weight(sigma) * min_snr_weight(kind, sigma)
    assert torch.allclose(on_data, (sigma**-2).clamp(max=5))


@pytest.mark.parametrize(
    ("betas", "name"), [(linear_betas(), "linear"), (scaled_linear_betas(), "scaled_linear"),
                        (cosine_betas(), "squaredcos_cap_v2")],
)  # fmt: skip
def test_schedules_are_those_of_diffusers(betas: Tensor, name: str) -> None:
    ends = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}.get(name, (1e-4, 0.02))
    theirs = DDPMScheduler(beta_schedule=name, beta_start=ends[0], beta_end=ends[1])
    assert torch.allclose(betas.float(), theirs.betas, rtol=1e-4, atol=1e-7)
    theirs = DDIMScheduler(
        beta_schedule=name, beta_start=ends[0], beta_end=ends[1], rescale_betas_zero_snr=True
    )
    assert torch.allclose(zero_terminal_snr(betas).float(), theirs.betas, rtol=1e-3, atol=1e-6)
    assert sigmas_of(zero_terminal_snr(betas))[-1].isinf()


def test_the_network_is_told_the_step_and_what_lies_between_two() -> None:
    told = Discrete(SIGMAS).c_noise(torch.stack([SIGMAS[0], SIGMAS[500], SIGMAS[999], SIGMAS[999] * 9]))
    assert told.tolist() == pytest.approx([0, 500, 999, 999])
    between = Discrete(SIGMAS).c_noise((SIGMAS[10] * SIGMAS[11]).sqrt()[None])
    assert between.item() == pytest.approx(10.5)


MEAN, STD = 1.5, 0.7
TERMINAL = sigmas_of(zero_terminal_snr(scaled_linear_betas()))
"""Levels of which the last is infinite."""


def ideal(preconditioning: Preconditioning) -> Network:
    """What an ideal network says of normal data, from what it sees and is told alone."""
    flow = isinstance(preconditioning, Flow)

    def say(seen: Tensor, told_B: Tensor, _: Conditioning) -> Tensor:
        angle_B = (TERMINAL[told_B.round().long().clamp(max=999)]).atan()
        data, noise = (1 - told_B / 1000, told_B / 1000) if flow else (angle_B.cos(), angle_B.sin())
        data, noise = per_clip(data, seen), per_clip(noise, seen)
        x0 = MEAN + STD**2 * data * (seen - data * MEAN) / ((STD * data) ** 2 + noise**2)
        n = (seen - data * x0) / noise
        if flow:
            return x0 - n
        return x0 if preconditioning.prediction == "sample" else data * n - noise * x0

    return say


FROM_INFINITY = {"flow": Flow(), "v": Discrete(TERMINAL, "v"), "sample": Discrete(TERMINAL, "sample")}


@pytest.mark.parametrize("name", FROM_INFINITY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_nothing_is_left_of_the_data_the_network_still_learns(name: str, dtype: torch.dtype) -> None:
    preconditioning = FROM_INFINITY[name]
    x0, noise = torch.randn(2, 3, 4, 2, 5, 5, dtype=dtype)
    sigma_B = torch.tensor([TERMINAL[998], math.inf, 2.0], dtype=dtype)
    assert preconditioning.c_noise(sigma_B)[1].item() == {"flow": 1000}.get(name, 999)
    target = preconditioning.target(x0, noise, sigma_B)
    seen = []

    def perfect(x: Tensor, *_: object) -> Tensor:
        seen.append(x)
        return target

    assert clip_losses(preconditioning, perfect, x0, noise, sigma_B, NOTHING).tolist() == [0, 0, 0]
    assert torch.equal(seen[0][1], noise[1])
    clean = preconditioning.denoise(perfect, noise[1:2], sigma_B[1:2], NOTHING)
    assert torch.allclose(clean[1], x0[1], atol=1e-5)
    loss = clip_losses(preconditioning, network, x0, noise, sigma_B, NOTHING)
    assert loss.isfinite().all() and loss.min() > 0.1
    near = preconditioning.target(x0, noise, torch.full((3,), 1e6, dtype=dtype))
    assert torch.allclose(target[1], near[1], atol=1e-5), "the limit"


@pytest.mark.parametrize("name", FROM_INFINITY)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_normal_data_are_sampled_from_nothing_but_noise(name: str, sampler: str) -> None:
    preconditioning = FROM_INFINITY[name]
    sigmas = flow_sigmas(200) if name == "flow" else preconditioning.respaced(200)
    assert sigmas[0].isinf()
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    first = initial_latents((3, 1, 1, 100, 100), math.inf, generators).double()
    assert first.std().item() == pytest.approx(1, rel=0.02)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        sigma_B = torch.full((3,), sigma, dtype=torch.float64)
        return preconditioning.denoise(ideal(preconditioning), x, sigma_B, NOTHING)

    end = SAMPLERS[sampler](denoise, first, sigmas, noise_of(generators))
    assert end.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert end.std().item() == pytest.approx(STD, rel=0.03)
    if sampler in ("heun", "dpm_solver_2m", "dpm_solver_2s"):
        assert (end - MEAN - STD * first).abs().max() < 0.02 * STD


def test_noise_that_holds_no_data_cannot_be_what_is_predicted() -> None:
    with pytest.raises(SettingsError, match=r"'epsilon' .* zero terminal SNR, expected 'v' or 'sample'"):
        Discrete(TERMINAL, "epsilon")
    x = torch.randn(3, 1, 1, 2, 2)
    for preconditioning in (SVD, Discrete(SIGMAS)):
        denoise = guided_denoiser(preconditioning, network, [NOTHING], [])
        assert denoise(x, 14.0).isfinite().all()
        with pytest.raises(InputError, match="noise level is inf, expected a finite number above 0"):
            denoise(x, math.inf)
    assert guided_denoiser(Flow(), network, [NOTHING], [])(x, math.inf).isfinite().all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_latents_in_half_precision_leave_the_levels_as_they_are(name: str, dtype: torch.dtype) -> None:
    preconditioning, highest = ALL[name], {"edm": 80.0, "svd": 700.0}.get(name, 14.0)
    noise = torch.randn(3, 4, 2, 5, 5).to(dtype)
    for sigma in (highest, 2.0, 1.0 / 3):
        seen = []

        def half(x: Tensor, told_B: Tensor, told: Conditioning, seen: list = seen) -> Tensor:
            seen.append((x, told_B))
            return network(x.double(), told_B, told).to(dtype)

        exact_B, x = torch.full((3,), sigma, dtype=torch.float64), sigma * noise
        found = guided_denoiser(preconditioning, half, [NOTHING], [])(x, sigma)
        told = preconditioning.c_noise(exact_B)
        assert torch.allclose(seen[0][1].double(), told, rtol=1e-5, atol=1e-5)
        assert (seen[0][0].dtype, found.dtype) == (dtype, dtype)
        scaled = preconditioning.c_in(exact_B)[0] * x.double()
        assert torch.allclose(seen[0][0].double(), scaled, rtol=1e-2, atol=1e-3)
        expected = preconditioning.denoise(network, x.double(), exact_B, NOTHING)
        assert (found.double() - expected).abs().max() < 0.02 * expected.abs().max()
        loss = clip_losses(preconditioning, half, noise, noise, exact_B.to(dtype), NOTHING)
        exact = clip_losses(preconditioning, network, noise.double(), noise.double(), exact_B, NOTHING)
        assert torch.allclose(loss, exact.float(), rtol=0.05)


def test_the_scalings_hold_in_float16_where_squares_do_not() -> None:
    sigma = torch.tensor([700.0], dtype=torch.float16)
    for scaling in ("c_in", "c_skip", "c_out"):
        found, exact = getattr(SVD, scaling)(sigma).item(), getattr(SVD, scaling)(sigma.double()).item()
        assert found == pytest.approx(exact, rel=0.02), scaling


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["flow", "v"])
def test_normal_data_are_sampled_in_half_precision(name: str, dtype: torch.dtype) -> None:
    preconditioning = FROM_INFINITY[name]
    sigmas = flow_sigmas(100) if name == "flow" else preconditioning.respaced(100)
    first = noise_of([torch.Generator().manual_seed(i) for i in range(3)])(torch.empty(3, 1, 1, 100, 100))

    def half(x: Tensor, told_B: Tensor, told: Conditioning) -> Tensor:
        return ideal(preconditioning)(x.double(), told_B, told).to(dtype)

    denoise = guided_denoiser(preconditioning, half, [NOTHING], [])
    end = SAMPLERS["heun"](denoise, first.to(dtype), sigmas, noise_of([])).double()
    assert end.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert end.std().item() == pytest.approx(STD, rel=0.05)


def test_flow_shift_grows_with_size_and_length() -> None:
    assert flow_shift(512, 512, 1) == 1
    assert flow_shift(1024, 1024, 4) == 4
    assert shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist() == pytest.approx([0, 0.75, 1])


def test_shifted_logit_normal_times_are_log_normal_levels() -> None:
    """Open-Sora draws t as the sigmoid of a normal number and shifts it: ln sigma is that number plus ln(shift)."""
    shift, number = flow_shift(720, 1280, 13), torch.randn(1000, dtype=torch.float64)
    time = shifted(number.sigmoid(), shift)
    torch.testing.assert_close((time / (1 - time)).log(), number + math.log(shift))


def test_offset_noise_is_one_number_for_each_clip_and_channel() -> None:
    noise = torch.zeros(64, 32, 3, 2, 2)
    moved = offset_noise(noise, 0.1, torch.Generator().manual_seed(0))
    assert (moved - moved[:, :, :1, :1, :1]).abs().max() == 0
    assert moved.std().item() == pytest.approx(0.1, rel=0.05)
