"""Frames that are given, on data whose frames are jointly normal, so that what they say of the others is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.edm import karras_sigmas
from models.given_frames import Given, continued, holding, release_of, repeated, telling
from models.noise import flow_sigmas
from models.samplers import SAMPLERS, dpm_solver_2s, euler, heun, initial_latents, noise_of

NUM_FRAMES, HIGHEST, NEAR = 9, 80.0, 0.8
COVARIANCE = NEAR ** (torch.arange(NUM_FRAMES)[:, None] - torch.arange(NUM_FRAMES)).abs().double()
SIGMAS = karras_sigmas(40, 0.002, HIGHEST)
SIDE = 60
CASES = {
    "image to video": [0],
    "extension after": [0, 1, 2],
    "extension before": [6, 7, 8],
    "connection": [0, 1, 7, 8],
    "key frames": [0, 4, 8],
}


def over_frames(matrix: Tensor, x_BCTHW: Tensor) -> Tensor:
    return torch.einsum("st,bcthw->bcshw", matrix, x_BCTHW)


def told_denoiser(x: Tensor, sigma: float, given_BT: Tensor | None = None) -> Tensor:
    """E[x0 | x], where some frames of x have no noise."""
    level_T = torch.full((NUM_FRAMES,), sigma**2, dtype=torch.float64)
    if given_BT is not None:
        level_T = level_T.masked_fill(given_BT[0], 0.0)
    return over_frames(COVARIANCE @ torch.linalg.inv(COVARIANCE + torch.diag(level_T)), x)


def first() -> Tensor:
    shape = (1, 1, NUM_FRAMES, SIDE, SIDE)
    return initial_latents(shape, HIGHEST, [torch.Generator().manual_seed(0)]).double()


def given_at(frames: list[int], release: float = 0.0) -> tuple[Given, Tensor]:
    """Frames of one value each, and those values."""
    values = torch.linspace(-1.5, 2.0, len(frames), dtype=torch.float64)
    given = Given.none(first())
    for index, value in zip(frames, values, strict=True):
        given = given.with_frames(0, index, value.expand(1, 1, SIDE, SIDE), release)
    return given, values


def conditional(frames: list[int], values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the other frames."""
    others = [i for i in range(NUM_FRAMES) if i not in frames]
    cross = COVARIANCE[others][:, frames] @ torch.linalg.inv(COVARIANCE[frames][:, frames])
    return cross @ values, COVARIANCE[others][:, others] - cross @ COVARIANCE[frames][:, others]


@pytest.mark.parametrize("case", CASES)
def test_a_network_that_is_told_makes_the_others_as_the_given_ones_say(case: str) -> None:
    frames = CASES[case]
    given, values = given_at(frames)
    made = given.kept(heun(telling(told_denoiser, given), given.start(first(), HIGHEST), SIGMAS))
    assert torch.equal(made[:, :, frames], given.latents_BCTHW[:, :, frames])
    mean, covariance = conditional(frames, values)
    others = made[0, 0, [i for i in range(NUM_FRAMES) if i not in frames]].flatten(1)
    assert (others.mean(1) - mean).abs().max() < 0.06
    assert (torch.cov(others) - covariance).abs().max() < 0.06


@pytest.mark.parametrize("sampler", ["euler", "heun", "euler_ancestral", "dpm_solver_2m"])
@pytest.mark.parametrize("wrapped", [holding, telling])
def test_given_frames_come_out_bit_for_bit(sampler: str, wrapped: object) -> None:
    given, _ = given_at([0, 5])
    noise = noise_of([torch.Generator().manual_seed(1)])
    made = SAMPLERS[sampler](wrapped(told_denoiser, given), given.start(first(), HIGHEST), SIGMAS, noise)
    assert torch.equal(given.kept(made)[:, :, [0, 5]], given.latents_BCTHW[:, :, [0, 5]])
    assert torch.equal(given.kept(made)[:, :, 1:5], made[:, :, 1:5])
    torch.testing.assert_close(made[:, :, [0, 5]], given.latents_BCTHW[:, :, [0, 5]])


def test_a_network_that_is_not_told_agrees_with_them_where_steps_are_repeated() -> None:
    """The error of the mean falls to a third and less."""
    given, values = given_at([0, 8])
    mean, _ = conditional([0, 8], values)
    errors = []
    for times in (1, 8):
        noise = noise_of([torch.Generator().manual_seed(1)])
        walk = repeated(SAMPLERS["euler_ancestral"], times)
        start = given.start(first(), HIGHEST)
        made = given.kept(walk(holding(told_denoiser, given), start, SIGMAS, noise))[0, 0, 1:8].flatten(1)
        errors.append((made.mean(1) - mean).abs().max().item())
    assert errors[1] < errors[0] / 3


def test_a_walk_begins_with_noise_over_what_is_held_and_ends_with_it_untouched() -> None:
    given, _ = given_at([0, 5])
    start, unheld = given.start(first(), HIGHEST), [1, 2, 3, 4, 6, 7, 8]
    assert torch.equal(start[:, :, unheld], first()[:, :, unheld])
    noise = start[0, 0, [0, 5]] - given.latents_BCTHW[0, 0, [0, 5]]
    assert noise.std().item() == pytest.approx(HIGHEST, rel=0.02)
    torch.testing.assert_close(noise / HIGHEST, first()[0, 0, [0, 5]] / (1 + HIGHEST**2) ** 0.5)
    kept = given.kept(start)
    assert torch.equal(kept[:, :, [0, 5]], given.latents_BCTHW[:, :, [0, 5]])
    assert torch.equal(kept[:, :, unheld], start[:, :, unheld])


def test_a_repeated_step_begins_at_its_level() -> None:
    """Of data that is one point, what a network sees has the noise of the level that it is told."""
    seen = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append((x.std().item(), sigma))
        return torch.zeros_like(x)

    noise = noise_of([torch.Generator().manual_seed(1)])
    repeated(SAMPLERS["euler_ancestral"], 3)(denoise, first(), SIGMAS, noise)
    assert len(seen) == 3 * 39 + 1
    assert all(std == pytest.approx(sigma, rel=0.03) for std, sigma in seen)


@pytest.mark.parametrize("times", [1, 3])
def test_walks_from_nothing_but_noise_lean_on_given_frames_too(times: int) -> None:
    """From an infinite level, where frames that are held are noise as all are."""
    given, values = given_at([0, 8])
    mean, _ = conditional([0, 8], values)

    def denoise(x: Tensor, sigma: float, given_BT: Tensor) -> Tensor:
        if sigma < math.inf:
            return told_denoiser(x, sigma, given_BT)
        return told_denoiser(torch.where(given_BT[:, None, :, None, None], x, 1e9 * x), 1e9, given_BT)

    start = given.start(first() / (1 + HIGHEST**2) ** 0.5, math.inf)
    assert start.std().item() == pytest.approx(1, rel=0.02)
    walk, noise = repeated(SAMPLERS["euler"], times), noise_of([torch.Generator().manual_seed(1)])
    made = walk(telling(denoise, given), start, flow_sigmas(40), noise)
    torch.testing.assert_close(made[:, :, [0, 8]], given.latents_BCTHW[:, :, [0, 8]])
    assert (made[0, 0, 1:8].flatten(1).mean(1) - mean).abs().max() < 0.06


@pytest.mark.parametrize("ratio", [0.25, 0.6])
@pytest.mark.parametrize(("sampler", "num_steps"), [(euler, 300), (heun, 40), (dpm_solver_2s, 40)])
def test_editing_lets_go_of_frames_with_the_noise_of_their_level(
    ratio: float, sampler: Callable[..., Tensor], num_steps: int
) -> None:
    """Frames that know nothing of each other: from y with noise of level r, the flow ends at (y + r n) / sqrt(1 + r²)."""
    sigmas = karras_sigmas(num_steps, 0.002, HIGHEST)
    release = release_of(ratio, sigmas)
    given, values = given_at([2], release)

    def denoise(x: Tensor, sigma: float, _: Tensor | None = None) -> Tensor:
        return x / (1 + sigma**2)

    for wrapped in (holding, telling):
        made = given.kept(sampler(wrapped(denoise, given), given.start(first(), HIGHEST), sigmas))[0, 0, 2]
        assert made.mean().item() == pytest.approx(values[0].item() / (1 + release**2) ** 0.5, abs=0.05)
        assert made.std().item() == pytest.approx(release / (1 + release**2) ** 0.5, rel=0.06)


def test_the_edit_ratio_is_the_share_of_steps_that_make_the_frame() -> None:
    assert release_of(0.0, SIGMAS) == 0
    assert release_of(1.0, SIGMAS) == float("inf")
    assert release_of(0.25, SIGMAS) == SIGMAS[30]
    calls = []

    def denoise(x: Tensor, sigma: float, *_: Tensor) -> Tensor:
        calls.append(sigma)
        return x / (1 + sigma**2)

    everything, _ = given_at(list(range(NUM_FRAMES)), release_of(0.25, SIGMAS))
    SAMPLERS["euler"](
        holding(denoise, everything), everything.start(first(), HIGHEST), SIGMAS, torch.zeros_like
    )
    assert calls == SIGMAS[30:40].tolist()


def test_frames_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="frames 7 to 10 of 9"):
        Given.none(first()).with_frames(0, 7, torch.zeros(1, 3, SIDE, SIDE))


def test_a_video_goes_on_from_its_last_frames() -> None:
    heads = []

    def make(loop: int, head: Tensor | None) -> Tensor:
        heads.append(head)
        piece = torch.full((1, 1, 6, 1, 1), float(loop))
        if head is not None:
            piece[:, :, :2] = head
        return piece

    video = continued(make, 3, 2)
    assert video.flatten().tolist() == [0.0] * 6 + [1.0] * 4 + [2.0] * 4
    assert heads[0] is None and heads[2].flatten().tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="6 frames are carried over"):
        continued(make, 2, 6)
