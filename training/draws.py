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
from models.frame_masks import draw_given
from training.objective import draw_sigmas
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
    the recipe gives none.
    """

    noise_BCTHW: Tensor
    sigma_B: Tensor
    drop_B: Tensor
    given_BT: Tensor | None

    def to(self, device: torch.device) -> Draws:
        """The same on a device."""
        return Draws(*(value if value is None else value.to(device) for value in vars(self).values()))


def draw(recipe: Recipe, position: int, rank: int, shape: tuple[int, ...]) -> Draws:
    """One rank's share of what is drawn for the global batch at `position`; shape: of the rank's latents."""
    first = rank * shape[0]
    mine = slice(first, first + shape[0])
    whole = generator(recipe.seed, "levels", position)
    levels = draw_sigmas(recipe.objective, recipe.batch_size, recipe.p_mean, recipe.p_std, whole)
    drop_B = draw_dropout(recipe.batch_size, recipe.text_dropout, whole)[mine]
    noise = sample_noise(shape, (recipe.seed, "noise"), position * recipe.batch_size + first)
    return Draws(noise, levels[mine], drop_B, _draw_given(recipe, position, shape[2], mine))


def _draw_given(recipe: Recipe, position: int, num_frames: int, mine: slice) -> Tensor | None:
    if not recipe.given.any():
        return None
    stream = generator(recipe.seed, "given", position)
    return draw_given(recipe.batch_size, num_frames, recipe.given, stream)[mine]
