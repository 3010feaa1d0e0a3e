"""Every random number of a training step, as a function of (seed, position) and not of ranks, workers or
devices.

There is no random state to save: a run resumed at a position draws what the uninterrupted one would have
drawn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from models.conditioning import draw_dropout
from models.edm import log_normal_sigmas
from models.frame_masks import draw_given
from models.joined_frames import Joining
from models.noise import offset_noise
from training.recipe import Recipe


def generator(*key: int | str) -> torch.Generator:
    """A generator on the CPU whose stream depends on every part of the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def sample_noise(shape: tuple[int, ...], key: tuple[int | str, ...], first: int) -> Tensor:
    """Standard normal noise in which entry i comes from a generator of its own, keyed by `first` + i."""
    samples = [torch.randn(shape[1:], generator=generator(*key, first + i)) for i in range(shape[0])]
    return torch.stack(samples)


@dataclass(frozen=True)
class Draws:
    """For each clip its noise, noise level, whether its text is dropped, and which of its frames are given, None where
    the recipe gives none, with the level of the noise on these.
    """

    noise_BCTHW: Tensor
    sigma_B: Tensor
    drop_B: Tensor
    given_BT: Tensor | None = None
    given_sigma_B: Tensor | None = None

    def to(self, device: torch.device) -> Draws:
        """The same on a device."""
        return Draws(*(value if value is None else value.to(device) for value in vars(self).values()))


def draw(recipe: Recipe, position: int, rank: int, shape: tuple[int, ...]) -> Draws:
    """One rank's share of what is drawn for the global batch at `position`; shape: of the rank's latents."""
    first = rank * shape[0]
    mine = slice(first, first + shape[0])
    whole = generator(recipe.seed, "levels", position)
    levels = recipe.objective.draw_sigmas(recipe.batch_size, recipe.p_mean, recipe.p_std, whole)
    drop_B = draw_dropout(recipe.batch_size, recipe.text_dropout, whole)[mine]
    noise = _draw_noise(recipe, position * recipe.batch_size + first, shape)
    if not recipe.given.any():
        return Draws(noise, levels[mine], drop_B)
    stream = generator(recipe.seed, "given", position)
    given_BT, given_sigma_B = draw_given(recipe.batch_size, shape[2], recipe.given, stream)
    return Draws(noise, levels[mine], drop_B, given_BT[mine], given_sigma_B[mine])


def _draw_noise(recipe: Recipe, first: int, shape: tuple[int, ...]) -> Tensor:
    """Entry i is of the clip that comes as number `first` + i in training."""
    noise = sample_noise(shape, (recipe.seed, "noise"), first)
    amount = recipe.objective.offset_noise
    if not amount:
        return noise
    streams = [generator(recipe.seed, "offset", first + i) for i in range(len(noise))]
    pairs = zip(noise.split(1), streams, strict=True)
    return torch.cat([offset_noise(one, amount, stream) for one, stream in pairs])


@dataclass(frozen=True)
class JoinedDraws:
    """For each clip the noise on the frames that join its input, the level of that, and whether they are dropped, and
    the text with them.
    """

    noise_BCFHW: Tensor
    sigma_B: Tensor
    drop_B: Tensor
    drop_text_B: Tensor


def draw_joined(
    joining: Joining, key: tuple[int | str, ...], batch_size: int, rank: int, shape: tuple[int, ...]
) -> JoinedDraws:
    """One rank's share of what is drawn for the batch of a key; shape: of the rank's frames (B, C, F, H, W)."""
    first = rank * shape[0]
    mine = slice(first, first + shape[0])
    whole = generator(*key)
    sigma_B = log_normal_sigmas(batch_size, joining.p_mean, joining.p_std, whole)[mine]
    place_B = torch.rand(batch_size, generator=whole)[mine]
    with_text_B = place_B < joining.dropout_with_text
    drop_B = place_B < joining.dropout_with_text + joining.dropout
    return JoinedDraws(sample_noise(shape, (*key, "noise"), first), sigma_B, drop_B, with_text_B)
