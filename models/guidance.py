"""Classifier-free guidance: F = F_0 + w_1 (F_1 - F_0) + w_2 (F_2 - F_1) + ..., each side told more than the one before.

With two sides this is the usual mixture of without and with text (SVD, figure 16); with three, nothing, frames, and
frames and text, it is InstructPix2Pix's and Open-Sora 2's with scales of their own (Brooks et al. 2023, eq. 3). What
is mixed are the predictions; mixing denoised pictures is the same, because all sides share x.

A weight is a function of the noise level. Its values broadcast against x_BCTHW.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.conditioning import Conditioning, stack, without_frames, without_text
from models.edm import Network, Preconditioning, same_level
from models.inputs import check_level
from models.learned_variance import VarianceDenoiser
from models.samplers import step_of

Weight = Callable[[float], Tensor | float]
FrameDenoiser = Callable[..., Tensor]
"""A denoiser (x_BCTHW, sigma) that may be told besides which frames of x are given, and clean: given_BT."""


def constant(weight: float) -> Weight:
    """The same everywhere and always."""
    return lambda _: weight


def linear(first: float, last: float, num_frames: int) -> Weight:
    """From one weight at the first frame to another at the last (SVD)."""
    weights = torch.linspace(first, last, num_frames)[:, None, None]
    return lambda _: weights


def triangle(ends: float, middle: float, num_frames: int) -> Weight:
    """From `ends` at the first frame up to `middle` half-way and back, for orbits that end where they began (SV3D)."""
    place = torch.linspace(0, 1, num_frames)
    weights = (ends + (middle - ends) * (1 - (2 * place - 1).abs()))[:, None, None]
    return lambda _: weights


def on_channels(weight: Weight, guided: Sequence[bool]) -> Weight:
    """`weight` for the channels that are to be guided; the others are as the last side has them."""
    chosen = torch.tensor(guided)[:, None, None, None]

    def weights(sigma: float) -> Tensor:
        value = torch.as_tensor(weight(sigma))
        return torch.where(chosen, value, torch.ones_like(value))

    return weights


def oscillating(weight: Weight, sigmas: Tensor, after: int = 10) -> Weight:
    """`weight` for the first steps, then for every second one, and none in between (Open-Sora 1.3 and 2).

    A step is known by its level among the falling `sigmas`; a level between two belongs to the step that it is in, and
    what a sampler asks again in a step to the step (`models.samplers.Level`).
    """
    levels = sigmas.tolist()

    def weights(sigma: float) -> Tensor | float:
        begun = step_of(sigma)
        step = sum(level >= begun for level in levels) - 1
        return weight(sigma) if step < after or step % 2 == 0 else 1.0

    return weights


def at_frames(weight: Weight, index_T: Tensor) -> Weight:
    """The weights of some of the frames that `weight` is for."""

    def weights(sigma: float) -> Tensor | float:
        value = weight(sigma)
        frames = isinstance(value, Tensor) and value.ndim >= 3 and value.shape[-3] > 1
        return value.index_select(-3, index_T) if frames else value

    return weights


def with_and_without_text(conditioning: Conditioning) -> list[Conditioning]:
    """The two sides of a text's guidance; mask and frames that join the input are on both (inpainting)."""
    return [without_text(conditioning), conditioning]


def with_and_without_anything(conditioning: Conditioning) -> list[Conditioning]:
    """The two sides of a network that continues an image, which is dropped together with its token (SVD)."""
    return [without_frames(without_text(conditioning)), conditioning]


def frames_then_text(conditioning: Conditioning) -> list[Conditioning]:
    """The three sides of scales apart: nothing, the frames to continue, and the text too."""
    return [without_frames(without_text(conditioning)), without_text(conditioning), conditioning]


def guided_denoiser(
    preconditioning: Preconditioning,
    network: Network,
    sides: Sequence[Conditioning],
    weights: Sequence[Weight],
) -> FrameDenoiser:
    """A denoiser that evaluates all sides in one batch; the last alone where every weight is 1.

    There is one weight less than there are sides. Frames that are given are the same on all sides. The denoiser raises
    InputError at a level where the network cannot be asked.
    """
    predict = _guided_prediction(preconditioning, network, sides, weights)

    def denoise(x_BCTHW: Tensor, sigma: float, given_BT: Tensor | None = None) -> Tensor:
        sigma_B = same_level(x_BCTHW, len(x_BCTHW), sigma)
        prediction = predict(x_BCTHW, sigma, given_BT)
        return preconditioning.compose(x_BCTHW, sigma_B, prediction, given_BT)

    return denoise


def guided_with_variance(
    preconditioning: Preconditioning,
    network: Network,
    sides: Sequence[Conditioning],
    weights: Sequence[Weight],
) -> VarianceDenoiser:
    """The same of a network that learned variances, which are the last side's (Open-Sora 1.0, DiT)."""
    predict = _guided_prediction(preconditioning, network, sides, weights, with_variance=True)

    def denoise(x_BCTHW: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        sigma_B = same_level(x_BCTHW, len(x_BCTHW), sigma)
        prediction, share = predict(x_BCTHW, sigma, None).chunk(2, dim=1)
        return preconditioning.compose(x_BCTHW, sigma_B, prediction), share

    return denoise


def _guided_prediction(
    preconditioning: Preconditioning,
    network: Network,
    sides: Sequence[Conditioning],
    weights: Sequence[Weight],
    with_variance: bool = False,
) -> Callable[[Tensor, float, Tensor | None], Tensor]:
    if len(sides) != len(weights) + 1:
        raise ValueError(f"{len(weights)} weights for {len(sides)} sides, expected one less than sides")
    together = sides[0]
    for side in sides[1:]:
        together = stack(together, side)

    def predict(x: Tensor, sigma: float, given_BT: Tensor | None) -> Tensor:
        check_level(sigma, preconditioning.from_infinity)
        values = [weight(sigma) for weight in weights]
        idle = all(not isinstance(value, Tensor) and value == 1 for value in values)
        told, count = (sides[-1], 1) if idle else (together, len(sides))
        if given_BT is not None:
            told = replace(told, given_BT=given_BT.repeat(count, 1))
        sigma_B = same_level(x, count * len(x), sigma)
        said = preconditioning.predict(network, x.repeat(count, 1, 1, 1, 1), sigma_B, told).chunk(count)
        halves = [one.chunk(2, dim=1) for one in said] if with_variance else []
        said = [prediction for prediction, _ in halves] or said
        mixed = said[0]
        for before, after, value in zip(said, said[1:], values if count > 1 else [], strict=False):
            mixed = mixed + torch.as_tensor(value).to(mixed) * (after - before)
        return torch.cat([mixed, halves[-1][1]], dim=1) if with_variance else mixed

    return predict
