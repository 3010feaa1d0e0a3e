"""More frames than a network was trained on: it denoises overlapping windows of them, and what it says is blended.

All windows share one noisy video, so at each step neighbours are brought to agree where they overlap (MultiDiffusion,
Bar-Tal et al. 2023, over time). Windows that go past the end and on at the beginning make a loop without a seam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi

import torch
from torch import Tensor

from models.conditioning import Conditioning, frames_of
from models.edm import Network, Preconditioning
from models.guidance import FrameDenoiser, Weight, at_frames, guided_denoiser


def window_starts(num_frames: int, window: int, overlap: int, loop: bool) -> list[int]:
    """First frames of the windows, evenly spread, with at least `overlap` frames in common with their neighbours.

    Raises ValueError where windows of that size and overlap cannot cover the frames.
    """
    if not 0 <= overlap < window <= num_frames:
        raise ValueError(
            f"windows of {window} frames that share {overlap} cannot cover {num_frames}: expected "
            f"0 <= overlap < window <= frames"
        )
    step = window - overlap
    if loop:
        num = -(-num_frames // step)
        return [round(i * num_frames / num) for i in range(num)]
    steps = -(-(num_frames - window) // step)
    return [round(i * (num_frames - window) / max(1, steps)) for i in range(steps + 1)]


def window_weights(window: int, overlap: int) -> Tensor:
    """How much a window's frames count: less and less over the overlap towards both of its ends, by a squared sine.

    What a window that begins says of its first frames comes in gently: a straight ramp leaves three times the seam.
    """
    index = torch.arange(window)
    inside = torch.minimum(index, window - 1 - index) + 0.5
    return torch.sin((inside / max(overlap, 0.5)).clamp(max=1) * pi / 2).square()


def windowed(
    denoise_at: Callable[[Tensor], FrameDenoiser],
    num_frames: int,
    window: int,
    overlap: int,
    loop: bool = False,
) -> FrameDenoiser:
    """A denoiser of `num_frames` from denoisers of windows; `denoise_at` is told the indices of a window's frames.

    Conditions that go by frames are for it to choose from: `windowed_guidance` does.
    """
    parts = []
    for start in window_starts(num_frames, window, overlap, loop):
        index_T = (start + torch.arange(window)) % num_frames
        parts.append((index_T, denoise_at(index_T)))
    weights_T = window_weights(window, overlap)[:, None, None]

    def denoise(x_BCTHW: Tensor, sigma: float, given_BT: Tensor | None = None) -> Tensor:
        total = torch.zeros_like(x_BCTHW)
        count = x_BCTHW.new_zeros(num_frames, 1, 1)
        weights = weights_T.to(x_BCTHW)
        for index_T, inner in parts:
            index = index_T.to(x_BCTHW.device)
            told = () if given_BT is None else (given_BT[:, index],)
            total.index_add_(2, index, weights * inner(x_BCTHW[:, :, index], sigma, *told))
            count.index_add_(0, index, weights)
        return total / count

    return denoise


def windowed_guidance(
    preconditioning: Preconditioning,
    network: Network,
    sides: Sequence[Conditioning],
    weights: Sequence[Weight],
    num_frames: int,
    window: int,
    overlap: int,
    loop: bool = False,
) -> FrameDenoiser:
    """`models.guidance.guided_denoiser` in windows, each with its own frames of all conditions and weights."""

    def denoise_at(index_T: Tensor) -> FrameDenoiser:
        told = [frames_of(side, index_T) for side in sides]
        return guided_denoiser(
            preconditioning, network, told, [at_frames(weight, index_T) for weight in weights]
        )

    return windowed(denoise_at, num_frames, window, overlap, loop)
