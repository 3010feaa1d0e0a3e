"""Other ways to noise and to predict, as preconditionings: networks trained on discrete steps, and rectified flow.

A network that was trained on x_t = sqrt(a_t) x0 + sqrt(1 - a_t) n sees data plus sigma times noise, scaled by
1 / sqrt(1 + sigma²), with sigma_t = sqrt((1 - a_t) / a_t). One that was trained on (1 - t) x0 + t n sees it scaled by
1 / (1 + sigma), with sigma = t / (1 - t). So every sampler takes all of them.

Where nothing is left of the data (a_t = 0, t = 1) sigma is infinite, and both networks see the noise itself.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import cos, pi
from typing import Literal

import torch
from torch import Tensor

from models.edm import Preconditioning, at_least_float32, per_clip
from warehouse.errors import SettingsError

Prediction = Literal["epsilon", "v", "sample"]
NUM_STEPS = 1000


def linear_betas() -> Tensor:
    """Variances of DDPM's steps (Ho et al. 2020, section 4), float64 (1000,)."""
    return torch.linspace(1e-4, 0.02, NUM_STEPS, dtype=torch.float64)


def scaled_linear_betas() -> Tensor:
    """Variances whose roots are evenly spaced, as Stable Diffusion has them."""
    return torch.linspace(0.00085**0.5, 0.012**0.5, NUM_STEPS, dtype=torch.float64).square()


def cosine_betas() -> Tensor:
    """Variances of the cosine schedule (Nichol and Dhariwal 2021, eq. 17), at most 0.999."""
    kept = [cos((i / NUM_STEPS + 0.008) / 1.008 * pi / 2) ** 2 for i in range(NUM_STEPS + 1)]
    ratios = [1 - after / before for before, after in itertools.pairwise(kept)]
    return torch.tensor(ratios, dtype=torch.float64).clamp(max=0.999)


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """The schedule moved and stretched so that nothing is left of the data at its end (Lin et al. 2023, algorithm 1)."""
    roots = (1 - betas).cumprod(0).sqrt()
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    kept = roots.square()
    return 1 - torch.cat([kept[:1], kept[1:] / kept[:-1]])


def sigmas_of(betas: Tensor) -> Tensor:
    """Rising noise levels of a schedule, (1000,); the last is infinite if it has zero terminal SNR."""
    kept = (1 - betas).cumprod(0)
    return ((1 - kept) / kept).sqrt()


@dataclass(frozen=True, eq=False)
class Discrete(Preconditioning):
    """A network of DDPM's kind: it is told the index of the step, and predicts the noise, v or the data.

    Raises SettingsError where it is to predict the noise of a step that has nothing else.
    """

    sigmas: Tensor
    """Noise level of each step, rising; the last is infinite with zero terminal SNR."""
    prediction: Prediction = "epsilon"

    def __post_init__(self) -> None:
        if self.sigmas[-1].isinf() and not self.from_infinity:
            raise SettingsError(
                "prediction is 'epsilon' on a schedule with zero terminal SNR, expected 'v' or 'sample': at its last "
                "step the input is the noise, and to predict it says nothing of the data"
            )

    @property
    def from_infinity(self) -> bool:
        return self.prediction != "epsilon"

    def c_skip(self, sigma: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return torch.ones_like(sigma)
        return torch.zeros_like(sigma) if self.prediction == "sample" else _data_share(sigma) ** 2

    def c_out(self, sigma: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return -sigma
        return torch.ones_like(sigma) if self.prediction == "sample" else -_noise_share(sigma)

    def c_in(self, sigma: Tensor) -> Tensor:
        return torch.where(sigma.isinf(), 1.0, _data_share(sigma))

    def c_noise(self, sigma: Tensor) -> Tensor:
        """Index of the step, between two steps by the logarithm of sigma, at the ends the first and the last."""
        levels = self.sigmas.to(sigma.device).log()
        wanted = sigma.to(levels.dtype).log()
        high = torch.searchsorted(levels, wanted).clamp(1, len(levels) - 1)
        share = (wanted - levels[high - 1]) / (levels[high] - levels[high - 1])
        return (high - 1 + torch.where(sigma.isinf(), 1.0, share.clamp(0, 1))).to(sigma.dtype)

    def target(self, x0: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
        sigma = per_clip(at_least_float32(sigma_B), x0)
        if self.prediction == "v":
            return _data_share(sigma) * noise - _noise_share(sigma) * x0
        return noise if self.prediction == "epsilon" else x0

    def respaced(self, *num_steps: int) -> Tensor:
        """Falling noise levels of evenly spaced steps, the last one included, with a closing 0 (DDIM, 4.2).

        Several numbers: of the steps in each of as many equal parts of the schedule, that with the least noise first
        (IDDPM, section 4). One step of a part is its last: from a lower one no walk can begin. Raises ValueError where a
        part has fewer steps than are asked for.
        """
        parts = torch.arange(len(self.sigmas)).tensor_split(len(num_steps))
        steps = [_spread(part, wanted) for part, wanted in zip(parts, num_steps, strict=True)]
        return torch.cat([self.sigmas[torch.cat(steps).flip(0)], self.sigmas.new_zeros(1)])


def _data_share(sigma: Tensor) -> Tensor:
    """1 / sqrt(1 + sigma²): how much of the data is in what a network of DDPM's kind sees; 0 at infinity."""
    return 1 / torch.hypot(sigma, torch.ones_like(sigma))


def _noise_share(sigma: Tensor) -> Tensor:
    """sigma / sqrt(1 + sigma²): how much of the noise is in it; 1 at infinity."""
    return _data_share(1 / sigma)


def _spread(part: Tensor, wanted: int) -> Tensor:
    """`wanted` of a part's steps, evenly spaced from its first to its last; one is the last."""
    if not 1 <= wanted <= len(part):
        raise ValueError(f"{wanted} steps were asked of {len(part)}, expected 1 to {len(part)}")
    if wanted == 1:
        return part[-1:]
    return part[torch.linspace(0, len(part) - 1, wanted, dtype=torch.float64).round().long()]


def min_snr_weight(prediction: Prediction, sigma: Tensor, gamma: float = 5.0) -> Tensor:
    """Factor of the loss on the prediction, so that that on the data is weighted min(SNR, gamma) (Hang et al. 2023)."""
    snr = sigma**-2
    over = {"epsilon": snr, "v": snr + 1, "sample": torch.ones_like(snr)}[prediction]
    return snr.clamp(max=gamma) / over


def offset_noise(noise_BCTHW: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """The noise plus `amount` times one number for each clip and channel, the same in all frames."""
    offset = torch.randn(*noise_BCTHW.shape[:2], 1, 1, 1, generator=generator)
    return noise_BCTHW + amount * offset.to(noise_BCTHW)


class Flow(Preconditioning):
    """Rectified flow as Open-Sora 1.2 trains it: told 1000 t, the network predicts data minus noise.

    Its logit-normal times, shifted, are `log_normal_sigmas` with a mean of ln(shift) and a deviation of 1.
    """

    from_infinity = True

    def c_skip(self, sigma: Tensor) -> Tensor:
        return self.c_in(sigma)

    def c_out(self, sigma: Tensor) -> Tensor:
        return 1 / (1 + 1 / sigma)

    def c_in(self, sigma: Tensor) -> Tensor:
        return torch.where(sigma.isinf(), 1.0, 1 / (1 + sigma))

    def c_noise(self, sigma: Tensor) -> Tensor:
        return NUM_STEPS * self.c_out(sigma)

    def target(self, x0: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
        return x0 - noise


def flow_shift(height_px: int, width_px: int, latent_frames: int) -> float:
    """How much more noise larger and longer clips get, over a picture of 512 x 512 (Open-Sora 1.2)."""
    return (height_px * width_px / 512**2) ** 0.5 * latent_frames**0.5


def shifted(time: Tensor, shift: float) -> Tensor:
    """Times 0 to 1 moved towards noise; computed in float64, because half precision loses the small ones."""
    wide = time.double()
    return (shift * wide / (1 + (shift - 1) * wide)).to(time.dtype)


def flow_sigmas(num_steps: int, shift: float = 1.0) -> Tensor:
    """Falling noise levels of evenly spaced, then shifted, times: (num_steps + 1,), float64.

    They begin at time 1, where the level is infinite, and close with 0.
    """
    time = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    return shift * (time / (1 - time))  # as `shifted`, which rounds the first to beside 1 for some shifts
