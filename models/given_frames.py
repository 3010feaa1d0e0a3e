"""Sampling from frames that are given: they are held while the others are made, and come out as they went in.

One rule covers all that starts from footage. A frame is held until the noise has fallen to its release: 0 for a frame
that shall stay (image to video, extension, connection, key frames), infinite for one that is to be made, and a level
in between for one that is to be edited (SDEdit, Meng et al. 2022): there it is let go, with that much noise on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor

from models.edm import per_frame
from models.guidance import FrameDenoiser
from models.samplers import Denoiser, Noise, Sampler, level_pairs, step_of


@dataclass(frozen=True)
class Given:
    """`latents_BCTHW`: clean, of any value where a frame is not given. `release_BT`: noise level down to which a frame is
    held.
    """

    latents_BCTHW: Tensor
    release_BT: Tensor

    @classmethod
    def none(cls, like_BCTHW: Tensor) -> Given:
        """Nothing is given."""
        num_clips, _, num_frames, *_ = like_BCTHW.shape
        release_BT = torch.full((num_clips, num_frames), inf, dtype=torch.float64, device=like_BCTHW.device)
        return cls(torch.zeros_like(like_BCTHW), release_BT)

    def with_frames(self, clip: int, start: int, frames_CTHW: Tensor, release: float = 0.0) -> Given:
        """One clip's frames from `start` on are these. Raises ValueError where they do not fit."""
        stop = start + frames_CTHW.shape[1]
        if not 0 <= start < stop <= self.latents_BCTHW.shape[2]:
            raise ValueError(f"frames {start} to {stop} of {self.latents_BCTHW.shape[2]} cannot be given")
        latents, levels = self.latents_BCTHW.clone(), self.release_BT.clone()
        latents[clip, :, start:stop] = frames_CTHW
        levels[clip, start:stop] = release
        return Given(latents, levels)

    def held(self, sigma: float) -> Tensor:
        """Frames that are held at a level above 0: bool (B, T)."""
        return self.release_BT < sigma

    def start(self, first_BCTHW: Tensor, sigma: float) -> Tensor:
        """Where a walk from level `sigma` begins: with noise of that level over the frames that are held, and for the
        others where it would begin without any (`models.samplers.initial_latents`).
        """
        if sigma == inf:  # there is nothing but noise, in all frames
            return first_BCTHW
        noise = first_BCTHW * (sigma / sqrt(1 + sigma**2))
        return torch.where(per_frame(self.held(sigma)), self.latents_BCTHW + noise, first_BCTHW)

    def kept(self, made_BCTHW: Tensor) -> Tensor:
        """What was made, with the frames that stay bit for bit as they were given."""
        return torch.where(per_frame(self.release_BT == 0), self.latents_BCTHW, made_BCTHW)


def release_of(edit_ratio: float, sigmas: Tensor) -> float:
    """The level at which a frame is let go for the last `edit_ratio` of the steps: 0 keeps it, 1 makes it anew."""
    step = round((1 - edit_ratio) * (len(sigmas) - 1))
    return inf if step == 0 else float(sigmas[step])


def holding(denoise: Denoiser, given: Given) -> Denoiser:
    """For networks that do not know of given frames: they see them as noisy as the others.

    What they make of the others then only leans on the given ones; `repeated` draws it nearer.
    """

    def held(x: Tensor, sigma: float) -> Tensor:
        held_BT = given.held(step_of(sigma))
        if held_BT.all():
            return given.latents_BCTHW
        return torch.where(per_frame(held_BT), given.latents_BCTHW, denoise(x, sigma))

    return held


def telling(denoise: FrameDenoiser, given: Given) -> Denoiser:
    """For networks that were trained with given frames: they see them clean, and are told which they are."""

    def held(x: Tensor, sigma: float) -> Tensor:
        held_BT = given.held(step_of(sigma))
        if held_BT.all():
            return given.latents_BCTHW
        seen = torch.where(per_frame(held_BT), given.latents_BCTHW, x)
        return torch.where(per_frame(held_BT), given.latents_BCTHW, denoise(seen, sigma, held_BT))

    return held


def repeated(sampler: Sampler, times: int) -> Sampler:
    """Each step `times` times, with fresh noise back up in between, so that all frames agree.

    This is RePaint's walk (Lugmayr et al. 2022, algorithm 1). `sampler` is one of ours; it forgets what it knows from
    the step before.
    """

    def sample(denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
        for sigma, following in level_pairs(sigmas):
            pair = torch.tensor([sigma, following], dtype=torch.float64)
            for _ in range(times - 1 if following > 0 else 0):
                ahead = sampler(denoise, x, pair, noise)
                x = noise(x) if sigma == inf else ahead + sqrt(sigma**2 - following**2) * noise(x)
            x = sampler(denoise, x, pair, noise)
        return x

    return sample


def continued(make: Callable[[int, Tensor | None], Tensor], num_loops: int, overlap: int) -> Tensor:
    """A video in `num_loops` pieces, each given the last `overlap` frames of the one before (Open-Sora 1.1).

    `make(loop, head_BCTHW)` samples a piece of n frames whose first ones are `head`, None for the first piece. The
    video has num_loops (n - overlap) + overlap frames.
    """
    video = make(0, None)
    for loop in range(1, num_loops):
        if not 0 < overlap < video.shape[2]:
            raise ValueError(
                f"{overlap} frames are carried over, expected at least 1 and fewer than a piece has"
            )
        piece = make(loop, video[:, :, -overlap:])
        video = torch.cat([video, piece[:, :, overlap:]], dim=2)
    return video
