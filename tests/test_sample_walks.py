"""Samplers that walk the levels of their own objective, on normal data and on networks that know them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.edm import SVD, per_clip, per_frame
from models.given_frames import Given
from models.learned_variance import variance_bounds
from models.noise import Flow, flow_sigmas
from training.objective import PRECONDITIONINGS, STEPS
from training.sample import Sampling, sample_latents
from warehouse.errors import InputError, SettingsError

STD, SHAPE = 0.4, (4, 3, 20, 20)
TOLD = Conditioning(torch.zeros(2, 2, 5), torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2))


def made(network, sampling: Sampling, objective: str, **options) -> Tensor:
    preconditioning = PRECONDITIONINGS[objective]
    return sample_latents(network, TOLD, SHAPE, [0, 1], sampling, preconditioning=preconditioning, **options)


def flowing(x: Tensor, time: Tensor, _: Conditioning) -> Tensor:
    """Data minus noise of x = (1 - t) data + t noise, as an ideal network says it."""
    t = (per_frame(time) if time.ndim == 2 else per_clip(time, x)) / 1000
    return ((1 - t) * STD**2 - t) / (((1 - t) * STD) ** 2 + t**2) * x


def stepping(sigmas: Tensor):
    """The noise in x, and the share that has the true variance of the step back over these levels."""

    def say(x: Tensor, step_B: Tensor, _: Conditioning) -> Tensor:
        sigma = STEPS.sigmas[step_B[0].round().long()]
        following = sigmas[(sigmas - sigma).abs().argmin() + 1]
        noise = x * (1 + sigma**2).sqrt() * sigma / (STD**2 + sigma**2)
        small, large = variance_bounds(sigma, following)
        spread = STD**2 * sigma**2 / (STD**2 + sigma**2)
        true = small + (1 - (following / sigma) ** 2) ** 2 * spread
        share = 2 * (true.log() - small.log()) / (large.log() - small.log()) - 1 if following > 0 else 0
        return torch.cat([noise, share + 0 * noise], dim=1).float()

    return say


def test_rectified_flow_walks_its_own_times_from_nothing_but_noise() -> None:
    told = []

    def network(x: Tensor, time_B: Tensor, conditioning: Conditioning) -> Tensor:
        told.append(time_B[0].item())
        return flowing(x, time_B, conditioning)

    sampling = Sampling(sampler="rectified_flow", num_steps=100, guidance=(1.0, 1.0))
    assert made(network, sampling, "flow").std().item() == pytest.approx(STD, rel=0.03)
    assert told == pytest.approx([1000 - 10 * i for i in range(100)], rel=1e-4)
    held = Given.none(torch.zeros(2, *SHAPE)).with_frames(0, 1, torch.full((4, 1, 20, 20), 2.0))
    kept = made(flowing, sampling, "flow", given=held, told=True)
    assert (kept[0, :, 1] == 2).all() and kept[1].std().item() == pytest.approx(STD, rel=0.1)


def test_larger_and_longer_videos_are_walked_with_more_noise() -> None:
    sampling = Sampling(sampler="rectified_flow", num_steps=7)
    assert torch.equal(sampling.of_size(1024, 1024, 4).sigmas, flow_sigmas(7, 4.0))
    assert torch.equal(sampling.of_size(512, 512, 1).sigmas, sampling.sigmas)
    own = Sampling(sampler="rectified_flow", num_steps=7, shift=2.0).of_size(1024, 1024, 4)
    assert torch.equal(own.sigmas, flow_sigmas(7, 2.0))
    assert torch.equal(Sampling().of_size(1024, 1024, 4).sigmas, Sampling().sigmas)


@pytest.mark.parametrize("num_steps", [4, 20])
def test_iddpm_walks_its_steps_with_the_variances_that_were_learned(num_steps: int) -> None:
    """With the true ones few steps end at the data, which the fixed ones of ddpm miss."""
    sampling = Sampling(sampler="iddpm", num_steps=num_steps, guidance=(1.0, 1.0))
    end = made(stepping(sampling.sigmas), sampling, "iddpm")
    assert end.std().item() == pytest.approx(STD, rel=0.02)


def test_a_sampler_of_another_objective_is_refused_before_it_samples() -> None:
    Sampling(sampler="rectified_flow").check_objective("flow")
    Sampling(sampler="ddpm").check_objective("flow")
    for sampler, objective in (("rectified_flow", "flow"), ("iddpm", "iddpm")):
        with pytest.raises(
            SettingsError, match=f"trained as edm, expected objective {objective}; train with it"
        ):
            Sampling(sampler=sampler).check_objective("edm")
    with pytest.raises(InputError, match="noise level is inf, expected a finite number above 0"):
        sample_latents(flowing, TOLD, SHAPE, [0, 1], Sampling(sampler="rectified_flow"), preconditioning=SVD)
    given = Given.none(torch.zeros(2, *SHAPE)).with_frames(0, 1, torch.zeros(4, 1, 20, 20))
    with pytest.raises(SettingsError, match="'iddpm', which cannot go on from given frames: expected none"):
        made(flowing, Sampling(sampler="iddpm"), "iddpm", given=given)
    with pytest.raises(SettingsError, match="'iddpm', whose variances cannot be blended over windows"):
        Sampling(sampler="iddpm").over(8, 4)
    with pytest.raises(SettingsError, match="shift is 0, expected a number above 0"):
        Sampling(shift=0)
    assert Flow().from_infinity and not SVD.from_infinity
