"""Guidance on networks whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.diffusers_samplers import sampler_named
from models.edm import SVD, karras_sigmas, per_clip
from models.guidance import (
    at_frames,
    constant,
    frames_then_text,
    guided_denoiser,
    guided_with_variance,
    linear,
    on_channels,
    oscillating,
    triangle,
    with_and_without_anything,
    with_and_without_text,
)
from models.noise import Discrete, flow_sigmas, linear_betas, sigmas_of
from models.samplers import noise_of
from tests.small_networks import SMALL_NETWORKS, inputs_of, randomised

TOLD = Conditioning(
    torch.ones(2, 3, 4),
    torch.ones(2, 3, dtype=torch.bool),
    torch.tensor([[8.0, 3.0], [6.0, torch.nan]]),
    frames_BCTHW=torch.full((2, 4, 3, 2, 2), 5.0),
)
CALLS: list[int] = []


def network(x: Tensor, _: Tensor, told: Conditioning) -> Tensor:
    """The mean of its text plus ten times that of its frames."""
    CALLS.append(len(x))
    text_B = told.text_BLD.mean((1, 2))
    return torch.ones_like(x) * per_clip(text_B + 10 * told.frames_BCTHW.mean((1, 2, 3, 4)), x)


def direct(x: Tensor, sigma: float, text: float, frames: float) -> Tensor:
    """What a network that says one number denoises to."""
    sigma_B = x.new_full((len(x),), sigma)
    return SVD.compose(x, sigma_B, torch.full_like(x, text + 10 * frames))


def test_weights_over_frames() -> None:
    weights = linear(1.0, 2.5, 14)(3.0).flatten()
    assert (weights[0], weights[-1]) == (1.0, 2.5)
    assert weights[1].item() == pytest.approx(1.1154, abs=1e-4)
    assert linear(3.0, 3.0, 1)(3.0).flatten().tolist() == [3.0]
    assert triangle(1.0, 2.5, 5)(1.0).flatten().tolist() == pytest.approx([1, 1.75, 2.5, 1.75, 1])
    assert triangle(1.0, 2.5, 4)(1.0).flatten().tolist() == pytest.approx([1, 2, 2, 1])
    assert at_frames(linear(0, 9, 10), torch.tensor([8, 9, 0]))(1.0).flatten().tolist() == [8, 9, 0]
    assert at_frames(constant(2.0), torch.tensor([8, 9]))(1.0) == 2.0


def test_oscillation_begins_after_ten_steps_and_takes_turns() -> None:
    sigmas = karras_sigmas(20)
    weight = oscillating(constant(7.0), sigmas)
    assert [weight(level) for level in sigmas[:-1].tolist()] == [7.0] * 10 + [7.0, 1.0] * 5
    between = (sigmas[11] * sigmas[12]).sqrt().item()
    assert weight(between) == 1.0
    assert oscillating(constant(7.0), sigmas, after=12)(sigmas[11].item()) == 7.0


@pytest.mark.parametrize("levels", ["karras", "flow"])
@pytest.mark.parametrize(
    "name", ["heun", "dpm_solver_2s", "HeunDiscreteScheduler", "kdpm2", "kdpm2_ancestral", "flow_match_heun"]
)
def test_a_step_has_one_weight_however_often_it_asks(name: str, levels: str) -> None:
    """Sixteen steps of two looks each, the last of one: weights change between steps alone."""
    sigmas, seen = (karras_sigmas(16, 0.02, 20.0) if levels == "karras" else flow_sigmas(16)), []
    weight = oscillating(constant(7.0), sigmas, after=4)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(weight(sigma))
        return torch.zeros_like(x)

    noise = noise_of([torch.Generator().manual_seed(0)])
    sampler_named(name)(denoise, noise(torch.empty(1, 4)), sigmas, noise)
    steps = [7.0] * 4 + [7.0, 1.0] * 6
    looks = [
        1 if i == 15 or (i == 0 and levels == "flow" and name != "flow_match_heun") else 2 for i in range(16)
    ]
    assert seen == [value for value, times in zip(steps, looks, strict=True) for _ in range(times)]


def test_guidance_mixes_both_sides_frame_by_frame() -> None:
    x = torch.randn(2, 4, 3, 2, 2)
    weight = lambda _: torch.tensor([0.0, 1.0, 3.0])[:, None, None]  # noqa: E731
    guided = guided_denoiser(SVD, network, with_and_without_anything(TOLD), [weight])(x, 2.0)
    without, with_all = direct(x, 2.0, 0, 0), direct(x, 2.0, 1, 5)
    torch.testing.assert_close(guided[:, :, 0], without[:, :, 0])
    torch.testing.assert_close(guided[:, :, 1], with_all[:, :, 1])
    torch.testing.assert_close(guided[:, :, 2], (3 * with_all - 2 * without)[:, :, 2])


def test_guidance_by_text_leaves_the_frames_on_both_sides() -> None:
    x = torch.randn(2, 4, 3, 2, 2)
    guided = guided_denoiser(SVD, network, with_and_without_text(TOLD), [constant(7.0)])(x, 2.0)
    torch.testing.assert_close(guided, direct(x, 2.0, 7.0, 5))


@pytest.mark.parametrize("weight", [0.0, 1.0, 12.0])
def test_what_inpainting_knows_stays_whatever_the_guidance(weight: float) -> None:
    """A network that knows the frames where the mask is 0 and follows its text where it is 1, as an ideal one does."""
    known = torch.randn(2, 4, 3, 2, 2)
    mask = torch.zeros(2, 1, 3, 2, 2)
    mask[:, :, 1:] = 1.0
    told = replace(TOLD, frames_BCTHW=torch.cat([mask, known * (1 - mask)], dim=1))

    def ideal(x: Tensor, c_noise_B: Tensor, told: Conditioning) -> Tensor:
        sigma_B = (4 * c_noise_B).exp()
        painted, shown = told.frames_BCTHW[:, :1], told.frames_BCTHW[:, 1:]
        x0 = torch.where(painted > 0, per_clip(told.text_BLD.mean((1, 2)), x), shown)
        noise = (x * per_clip((1 + sigma_B**2).sqrt(), x) - x0) / per_clip(sigma_B, x)
        return SVD.target(x0, noise, sigma_B)

    denoise = guided_denoiser(SVD, ideal, with_and_without_text(told), [constant(weight)])
    found = denoise(torch.randn(2, 4, 3, 2, 2), 2.0)
    torch.testing.assert_close(found[:, :, :1], known[:, :, :1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[:, :, 1:], torch.full((2, 4, 2, 2, 2), weight), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["inpainting", "pseudo3d"])
def test_networks_that_paint_hear_mask_and_frames_on_both_sides(name: str) -> None:
    unet = randomised(SMALL_NETWORKS[name].build())
    x, _, told = inputs_of(name)
    sigma_B = torch.full((2,), 2.0)
    without = replace(told, text_BLD=torch.zeros_like(told.text_BLD), mask_BL=torch.ones(2, 5) > 0)
    first, last = (SVD.denoise(unet, x, sigma_B, side) for side in (without, told))
    guided = guided_denoiser(SVD, unet, with_and_without_text(told), [constant(3.0)])(x, 2.0)
    torch.testing.assert_close(guided, 3 * last - 2 * first, atol=1e-4, rtol=1e-4)


def test_text_and_frames_have_scales_apart() -> None:
    x = torch.randn(2, 4, 3, 2, 2)
    sides, weights = frames_then_text(TOLD), [constant(1.5), constant(7.0)]
    guided = guided_denoiser(SVD, network, sides, weights)(x, 2.0)
    nothing, image, both = direct(x, 2.0, 0, 0), direct(x, 2.0, 0, 5), direct(x, 2.0, 1, 5)
    torch.testing.assert_close(guided, nothing + 1.5 * (image - nothing) + 7 * (both - image))
    with pytest.raises(ValueError, match="1 weights for 3 sides"):
        guided_denoiser(SVD, network, sides, weights[:1])


def test_only_some_channels_are_guided() -> None:
    x = torch.randn(2, 4, 3, 2, 2)
    weight = on_channels(linear(2.0, 4.0, 3), [True, True, True, False])
    guided = guided_denoiser(SVD, network, with_and_without_anything(TOLD), [weight])(x, 2.0)
    whole = guided_denoiser(SVD, network, with_and_without_anything(TOLD), [linear(2.0, 4.0, 3)])(x, 2.0)
    assert torch.equal(guided[:, :3], whole[:, :3])
    torch.testing.assert_close(guided[:, 3], direct(x, 2.0, 1, 5)[:, 3])
    assert (whole[:, 3] - guided[:, 3]).abs().min() > 1


def test_steps_that_are_not_guided_cost_one_side() -> None:
    x, sigmas = torch.randn(2, 4, 3, 2, 2), karras_sigmas(20)
    denoise = guided_denoiser(
        SVD, network, with_and_without_anything(TOLD), [oscillating(constant(3.0), sigmas)]
    )
    CALLS.clear()
    found = denoise(x, sigmas[11].item())
    denoise(x, sigmas[12].item())
    assert CALLS == [2, 4]
    torch.testing.assert_close(found, direct(x, sigmas[11].item(), 1, 5))


def test_learned_variances_are_the_conditional_sides() -> None:
    preconditioning = Discrete(sigmas_of(linear_betas()))
    x = torch.randn(2, 4, 3, 2, 2)

    def both(x: Tensor, c_noise_B: Tensor, told: Conditioning) -> Tensor:
        return torch.cat([network(x, c_noise_B, told), torch.sin(network(x, c_noise_B, told) + x)], dim=1)

    def said(told: Conditioning) -> tuple[Tensor, Tensor]:
        sigma_B = torch.full((2,), 2.0)
        prediction, share = preconditioning.predict(both, x, sigma_B, told).chunk(2, dim=1)
        return preconditioning.compose(x, sigma_B, prediction), share

    guided = guided_with_variance(preconditioning, both, with_and_without_anything(TOLD), [constant(3.0)])
    clean, share = guided(x, 2.0)
    last_clean, last_share = said(TOLD)
    first_clean, _ = said(with_and_without_anything(TOLD)[0])
    torch.testing.assert_close(share, last_share)
    torch.testing.assert_close(clean, 3 * last_clean - 2 * first_clean)

    some = on_channels(linear(3.0, 3.0, 3), [True, True, True, False])  # Open-Sora 1.0 and DiT guide three
    guided = guided_with_variance(preconditioning, both, with_and_without_anything(TOLD), [some])
    partly, share = guided(x, 2.0)
    torch.testing.assert_close(share, last_share)
    torch.testing.assert_close(partly, torch.cat([clean[:, :3], last_clean[:, 3:]], dim=1))
