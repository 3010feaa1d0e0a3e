"""Noise, preconditioning and loss of EDM (Karras et al. 2022, table 1), with the v-form that SVD trains.

A network F sees a scaled noisy input and predicts a mixture of data and noise; the denoiser around it is

    D(x; sigma) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x; c_noise(sigma))

Both papers weight the squared error of D by 1 / c_out², so the loss of D is the plain squared error of F
against one target. The loss is computed on that target: it has no factor that blows up as sigma falls to
0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from models.conditioning import Conditioning

Network = Callable[[Tensor, Tensor, Conditioning], Tensor]


def per_frame(value_BT: Tensor) -> Tensor:
    """View one number per frame so that it broadcasts over the channels, height and width of x_BCTHW."""
    return value_BT[:, None, :, None, None]


def per_clip(value_B: Tensor, like: Tensor) -> Tensor:
    """View one number per clip so that it broadcasts over every other axis of `like`."""
    return value_B.reshape(-1, *[1] * (like.ndim - 1))


def at_least_float32(value: Tensor) -> Tensor:
    """Half precision is for latents, not for noise levels: it takes sigma = 2 of a flow for step 668 instead of 666.7."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def same_level(x: Tensor, num: int, sigma: float) -> Tensor:
    """One noise level for `num` clips (num,): where x is, and at least in float32 whatever x is in."""
    return at_least_float32(x.new_empty(num)).fill_(sigma)


def noisy(x0: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
    """Data plus sigma times noise, in the data's dtype; at an infinite level, where no data is left, the noise itself."""
    sigma_B = at_least_float32(sigma_B)
    finite_B = sigma_B.isfinite()
    sigma = per_clip(sigma_B.masked_fill(~finite_B, 0.0), x0)
    return torch.where(per_clip(finite_B, x0), x0 + sigma * noise, noise).to(x0.dtype)


class Preconditioning(ABC):
    """The four scalings as functions of sigma (any shape, positive), and what the network is to say.

    Noisy latents are data plus sigma times noise for all of them, whatever their authors call the same thing. At an
    infinite sigma they are the noise itself, and the scalings are the limits that go with it.
    """

    from_infinity: bool = False
    """Whether the network can be asked at an infinite sigma."""
    given_sigma: ClassVar[float] = 0.0
    """The level that a network is told of a frame that is given, and clean (Open-Sora 1.1: t = 0)."""

    @abstractmethod
    def c_skip(self, sigma: Tensor) -> Tensor: ...

    @abstractmethod
    def c_out(self, sigma: Tensor) -> Tensor: ...

    @abstractmethod
    def c_in(self, sigma: Tensor) -> Tensor: ...

    @abstractmethod
    def c_noise(self, sigma: Tensor) -> Tensor:
        """What the network is told of sigma."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
        """What F should say: (x0 - c_skip x) / c_out with x = x0 + sigma n, in a form without 1/sigma."""

    def weight(self, sigma: Tensor) -> Tensor:
        """lambda(sigma), the weight of |D - x0|² under which the loss is the plain squared error of F."""
        return self.c_out(sigma) ** -2

    def predict(self, network: Network, x: Tensor, sigma_B: Tensor, conditioning: Conditioning) -> Tensor:
        """F for a noisy x of noise level sigma_B, one for each clip.

        Where frames are given, x is clean in them, they come in at the scale of data without noise, and the network
        is told a level for each frame, (B, T), theirs being `given_sigma`. The input keeps x's dtype, the level is at
        least float32.
        """
        sigma_B = at_least_float32(sigma_B)
        if conditioning.given_BT is None:
            seen = (per_clip(self.c_in(sigma_B), x) * x).to(x.dtype)
            return network(seen, self.c_noise(sigma_B), conditioning)
        given_BT = conditioning.given_BT
        level_BT = sigma_B[:, None].expand(given_BT.shape)
        scale_BT = self.c_in(level_BT.masked_fill(given_BT, 0.0))
        told_BT = self.c_noise(level_BT.masked_fill(given_BT, self.given_sigma))
        return network((per_frame(scale_BT) * x).to(x.dtype), told_BT, conditioning)

    def denoise(self, network: Network, x: Tensor, sigma_B: Tensor, conditioning: Conditioning) -> Tensor:
        """D: the estimate of the clean latents, same shape and dtype as x."""
        prediction = self.predict(network, x, sigma_B, conditioning)
        return self.compose(x, sigma_B, prediction, conditioning.given_BT)

    def compose(
        self, x: Tensor, sigma_B: Tensor, prediction: Tensor, given_BT: Tensor | None = None
    ) -> Tensor:
        """D from what the network says, in x's dtype; frames that are given stay as they are."""
        sigma_B = at_least_float32(sigma_B)
        denoised = per_clip(self.c_skip(sigma_B), x) * x + per_clip(self.c_out(sigma_B), x) * prediction
        denoised = denoised.to(x.dtype)
        return denoised if given_BT is None else torch.where(per_frame(given_BT), x, denoised)


@dataclass(frozen=True)
class Karras(Preconditioning):
    """EDM's own scalings.

    `sigma_data`: standard deviation of the clean data. `sign`: of c_out; with +1 the network predicts
    towards the data (EDM), with -1 and unit data it predicts v = (n - sigma x0) / sqrt(1 + sigma²) (SVD).
    """

    given_sigma: ClassVar[float] = 0.002
    """The lowest level of SVD's schedule; of 0 there is no logarithm."""
    sigma_data: float
    sign: int

    def c_skip(self, sigma: Tensor) -> Tensor:
        return (self.sigma_data * self.c_in(sigma)) ** 2

    def c_out(self, sigma: Tensor) -> Tensor:
        return self.sign * self.sigma_data * sigma * self.c_in(sigma)

    def c_in(self, sigma: Tensor) -> Tensor:
        """1 / sqrt(sigma² + sigma_data²), without a square that half precision cannot hold."""
        return 1 / torch.hypot(sigma, torch.full_like(sigma, self.sigma_data))

    def c_noise(self, sigma: Tensor) -> Tensor:
        return 0.25 * sigma.log()

    def target(self, x0: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
        sigma = per_clip(at_least_float32(sigma_B), x0)
        scale = self.sign / self.sigma_data * self.c_in(sigma)
        return scale * (sigma * x0 - self.sigma_data**2 * noise)


EDM = Karras(sigma_data=0.5, sign=1)
SVD = Karras(sigma_data=1.0, sign=-1)


def clip_losses(
    preconditioning: Preconditioning,
    network: Network,
    x0: Tensor,
    noise: Tensor,
    sigma_B: Tensor,
    conditioning: Conditioning,
) -> Tensor:
    """Weighted denoising loss of every clip (B,), in float32: mean over its elements of (F - target)².

    Frames that are given go in clean, and count for nothing.
    """
    x, given_BT = noisy(x0, noise, sigma_B), conditioning.given_BT
    if given_BT is not None:
        x = torch.where(per_frame(given_BT), x0, x)
    prediction = preconditioning.predict(network, x, sigma_B, conditioning)
    error = prediction.float() - preconditioning.target(x0, noise, sigma_B).float()
    if given_BT is None:
        return error.square().flatten(1).mean(1)
    loss_BT = error.square().mean((1, 3, 4)).masked_fill(given_BT, 0.0)
    return loss_BT.sum(1) / (~given_BT).sum(1).clamp(min=1)


def log_normal_sigmas(num: int, p_mean: float, p_std: float, generator: torch.Generator) -> Tensor:
    """`num` noise levels with ln sigma ~ N(P_mean, P_std²), one drawn from each of `num` equal slices of
    probability.

    The strata leave every level's own distribution as it is and take most of the batch-to-batch variance
    away.
    """
    quantile_B = (torch.arange(num) + torch.rand(num, generator=generator)) / num
    quantile_B = quantile_B[torch.randperm(num, generator=generator)].clamp(1e-6, 1 - 1e-6)
    return (p_mean + p_std * math.sqrt(2) * torch.erfinv(2 * quantile_B - 1)).exp()


def karras_sigmas(
    num_steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0
) -> Tensor:
    """Falling noise levels of a sampler with a closing 0: (num_steps + 1,), float64 (EDM eq. 5; SVD's
    defaults).
    """
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])
