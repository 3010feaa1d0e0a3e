"""Samplers that walk the levels of their own objective, on normal data and on networks that know them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.edm import SVD, per_clip, per_frame
from models.given_frames import Given
from models.learned_variance import variance_bounds
from models.networks import NETWORKS
from models.noise import Flow, flow_sigmas, shifted
from training.guiding import check_network
from training.objective import Objective
from training.sample import TrainedNetwork, sample_latents
from training.sample_settings import Sampling
from training.trained import Trained
from warehouse.errors import InputError, SettingsError

STD, SHAPE = 0.4, (4, 3, 20, 20)
FLOW = Trained.of({"recipe": {"objective": "flow"}})
TOLD = Conditioning(torch.zeros(2, 2, 5), torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2))


def made(
    network, sampling: Sampling, objective: str, given: Given | None = None, knows_given: bool = False
) -> Tensor:
    model = TrainedNetwork(network, Objective(objective).preconditioning, knows_given)
    return sample_latents(model, TOLD, SHAPE, [0, 1], sampling, given)


def flowing(x: Tensor, time: Tensor, _: Conditioning) -> Tensor:
    """Data minus noise of x = (1 - t) data + t noise, as an ideal network says it."""
    t = (per_frame(time) if time.ndim == 2 else per_clip(time, x)) / 1000
    return ((1 - t) * STD**2 - t) / (((1 - t) * STD) ** 2 + t**2) * x


def stepping(sigmas: Tensor):
    """The noise in x, and the share that has the true variance of the step back over these levels."""

    def say(x: Tensor, step_B: Tensor, _: Conditioning) -> Tensor:
        sigma = Objective("iddpm").steps.sigmas[step_B[0].round().long()]
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
    kept = made(flowing, sampling, "flow", given=held, knows_given=True)
    assert (kept[0, :, 1] == 2).all() and kept[1].std().item() == pytest.approx(STD, rel=0.1)


def test_larger_and_longer_videos_are_walked_with_more_noise() -> None:
    larger = 1024, 1024, 4
    sampling = Sampling(sampler="rectified_flow", num_steps=7)
    assert torch.equal(sampling.following(FLOW, larger).sigmas, flow_sigmas(7, 4.0))
    assert torch.equal(sampling.following(FLOW).sigmas, sampling.sigmas)
    own = Sampling(sampler="rectified_flow", num_steps=7, shift=2.0).following(FLOW, larger)
    assert torch.equal(own.sigmas, flow_sigmas(7, 2.0))
    assert torch.equal(Sampling().following(Trained(), larger).sigmas, Sampling().sigmas)
    as_trained = Sampling(num_steps=7).following(FLOW, larger).sigmas
    assert torch.equal(as_trained, flow_sigmas(7)), "euler goes by what the network was trained with"
    shifted = Trained.of({"recipe": {"objective": {"name": "flow", "size_shift": True}}})
    assert torch.equal(Sampling(num_steps=7).following(shifted, larger).sigmas, flow_sigmas(7, 4.0))


@pytest.mark.parametrize("num_steps", [4, 20])
def test_iddpm_walks_its_steps_with_the_variances_that_were_learned(num_steps: int) -> None:
    """With the true ones few steps end at the data, which the fixed ones of ddpm miss."""
    sampling = Sampling(sampler="iddpm", num_steps=num_steps, guidance=(1.0, 1.0))
    end = made(stepping(sampling.sigmas), sampling, "iddpm")
    assert end.std().item() == pytest.approx(STD, rel=0.02)


def test_a_sampler_of_another_objective_is_refused_before_it_samples() -> None:
    network = NETWORKS["svd-t2v"].config
    check_network(network, FLOW, "rectified_flow", None, 8)
    check_network(network, FLOW, "ddpm", None, 8)
    for sampler, objective in (("rectified_flow", "flow"), ("iddpm", "iddpm")):
        with pytest.raises(
            SettingsError, match=f"trained as edm, expected objective {objective}; train with it"
        ):
            check_network(network, Trained(), sampler, None, 8)
    with pytest.raises(InputError, match="noise level is inf, expected a finite number above 0"):
        made(flowing, Sampling(sampler="rectified_flow"), "edm")
    given = Given.none(torch.zeros(2, *SHAPE)).with_frames(0, 1, torch.zeros(4, 1, 20, 20))
    with pytest.raises(SettingsError, match="'iddpm', which cannot go on from given frames: expected none"):
        made(flowing, Sampling(sampler="iddpm"), "iddpm", given=given)
    with pytest.raises(SettingsError, match="'iddpm', whose variances cannot be blended over windows"):
        Sampling(sampler="iddpm").over(8, 4)
    with pytest.raises(SettingsError, match="shift is 0, expected a number above 0"):
        Sampling(shift=0)
    assert Flow().from_infinity and not SVD.from_infinity


@pytest.mark.parametrize("shift", [(64 * 64 / 512**2 * 2) ** 0.5, 0.1, 1 / 3, 3.7, 12.0])
def test_a_flow_begins_where_no_data_is_left_whatever_the_shift(shift: float) -> None:
    """t' / (1 - t') is the shift times t / (1 - t), so the first stays infinite, and the closing 0 stays 0."""
    sigmas = flow_sigmas(5, shift)
    assert sigmas[0] == torch.inf and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    time = shifted(torch.linspace(1, 0, 6, dtype=torch.float64), shift)
    torch.testing.assert_close(sigmas[1:] / (1 + sigmas[1:]), time[1:])
