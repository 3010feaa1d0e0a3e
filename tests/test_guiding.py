"""What guidance mixes when samples are drawn: channels, scales apart, the empty text, and learned variances."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.learned_variance import variance_bounds
from models.networks import NETWORKS
from training.guiding import LEARNED, check_network, sides_of
from training.objective import Objective
from training.sample import TrainedNetwork, sample_latents
from training.sample_settings import Sampling
from training.trained import Levels, Trained
from warehouse.errors import SettingsError

SHAPE = (4, 2, 3, 3)
SEEDS = [0, 1]
FRAMES = torch.full((2, 4, 2, 3, 3), 0.25)


def told(frames: Tensor | None = None) -> Conditioning:
    text_BLD = torch.tensor([[[1.0]], [[2.0]]])
    return Conditioning(text_BLD, torch.ones(2, 1) > 0, torch.zeros(2, 2), frames_BCTHW=frames)


def heard(x: Tensor, _: Tensor, conditioning: Conditioning) -> Tensor:
    """Says the text, and a hundred times the frames."""
    said = conditioning.text_BLD.mean((1, 2))[:, None, None, None, None].expand_as(x)
    frames = conditioning.frames_BCTHW
    return said if frames is None else said + 100 * frames[:, :4]


def saying(said: Tensor) -> Callable[..., Tensor]:
    return lambda x, *_: said.repeat(len(x) // len(said), 1, 1, 1, 1).expand_as(x)


def sampled(network, conditioning: Conditioning, **options) -> Tensor:
    return sample_latents(
        TrainedNetwork(network), conditioning, SHAPE, SEEDS, Sampling(num_steps=4, **options)
    )


def test_channels_that_are_not_guided_are_as_the_text_has_them() -> None:
    mixed = sampled(heard, told(), guidance=(5.0, 5.0), guided_channels=3)
    all_of_them, none = (sampled(heard, told(), guidance=(w, w)) for w in (5.0, 1.0))
    assert torch.equal(mixed[:, :3], all_of_them[:, :3]) and torch.equal(mixed[:, 3], none[:, 3])
    assert (all_of_them != none).all()


def test_frames_and_text_have_scales_of_their_own() -> None:
    """F = w_frames 100 f + w_text t, since nothing is said of no frames and no text."""
    text_B = torch.tensor([1.0, 2.0])[:, None, None, None, None]
    apart = sampled(heard, told(FRAMES), guidance=(5.0, 5.0), frames_guidance=2.0)
    expected = sampled(saying(2.0 * 25 + 5.0 * text_B), told(), guidance=(1.0, 1.0))
    torch.testing.assert_close(apart, expected)
    together = sampled(heard, told(FRAMES), guidance=(5.0, 5.0))
    torch.testing.assert_close(together, sampled(saying(5.0 * (25 + text_B)), told(), guidance=(1.0, 1.0)))


def test_mask_and_known_frames_of_inpainting_are_on_both_sides() -> None:
    masked = torch.cat([FRAMES[:, :1], FRAMES], dim=1)
    sides = sides_of(told(masked), 4, False, None)
    assert all(torch.equal(side.frames_BCTHW, masked) for side in sides)
    first, last = sides_of(told(FRAMES), 4, False, None)
    assert not first.frames_BCTHW.any() and torch.equal(last.frames_BCTHW, FRAMES)


def test_the_empty_text_stands_on_the_sides_without_text() -> None:
    empty = torch.full((1, 1, 1), 7.0), torch.tensor([[False]])
    nothing, frames, all_of_it = sides_of(told(FRAMES), 4, True, empty)
    for side in (nothing, frames):
        assert (side.text_BLD == 7).all() and not side.mask_BL.any() and len(side.text_BLD) == 2
    assert not nothing.frames_BCTHW.any() and torch.equal(frames.frames_BCTHW, FRAMES)
    assert torch.equal(all_of_it.text_BLD, told().text_BLD)


@pytest.mark.parametrize("share", [1.0, -1.0])
def test_learned_variances_are_what_the_samples_spread_by(share: float) -> None:
    """Of unit data the large variance is the right one, and the spread stays 1; the small one loses what they differ."""
    objective = Objective("iddpm")
    levels = Levels("linspace", 8)
    sigmas = levels.sigmas(objective)

    def network(x: Tensor, c_noise_B: Tensor, _: Conditioning) -> Tensor:
        sigma = objective.steps.sigmas[c_noise_B.round().long()].to(x)[:, None, None, None, None]
        noise = x * sigma / (1 + sigma**2).sqrt()  # of unit data, in the network's own scale
        return torch.cat([noise, torch.full_like(x, share)], dim=1)

    sampling = Sampling(sampler=LEARNED, guidance=(1.0, 1.0)).following(Trained(objective, levels))
    model = TrainedNetwork(network, objective.preconditioning)
    found = sample_latents(model, told(), (4, 8, 24, 24), SEEDS, sampling)
    spread = 1 + float(sigmas[0]) ** 2
    for sigma, following in pairwise(sigmas):
        kept = (1 + following**2) / (1 + sigma**2)  # x becomes this times x, and the noise of the step
        if following > 0:
            small, large = variance_bounds(sigma, following)
            spread = kept**2 * spread + (large if share > 0 else small)
        else:
            spread = kept**2 * spread
    assert found.std().item() == pytest.approx(float(spread) ** 0.5, rel=0.02)
    assert (spread**0.5 > 0.99) == (share > 0)


UNET, SVD = NETWORKS["svd-t2v"].config, NETWORKS["svd-i2v"].config


def test_what_the_weights_cannot_be_sampled_with_is_refused() -> None:
    check_network(SVD, Trained(), "euler", 2.0, 8)
    check_network(UNET, Trained(single_frames=True), "euler", None, 1)
    with pytest.raises(SettingsError, match="8 frames are asked of a network that was trained on images"):
        check_network(UNET, Trained(single_frames=True), "euler", None, 8)
    with pytest.raises(SettingsError, match=r"frames_guidance is 2.0, but no frames join"):
        check_network(UNET, Trained(), "euler", 2.0, 8)
    with pytest.raises(SettingsError, match=r"frames_guidance is 2.0, but a mask joins .* too"):
        check_network(NETWORKS["pseudo3d"].config, Trained(), "euler", 2.0, 8)
    with pytest.raises(SettingsError, match="the network was trained as edm, expected objective iddpm"):
        check_network(UNET, Trained(), LEARNED, None, 8)
    with pytest.raises(SettingsError, match="cannot go on from a piece"):
        Sampling(sampler=LEARNED, loops=2)


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        ("edm", {"shift": 5.0}, "shift is 5.0, but the noise levels are karras"),
        ("v", {"shift": 3.0}, "shift is 3.0, but the noise levels are trailing"),
        ("v", {"spacing": "trailing", "sigma_max": 3.0}, "sigma_max 3.0, but spacing is trailing"),
    ],
)
def test_levels_that_would_not_be_heeded_are_refused(objective: str, options: dict, message: str) -> None:
    told = Objective(objective)
    with pytest.raises(SettingsError, match=message):
        Sampling(**options).following(Trained(told, Levels.of(told)))
