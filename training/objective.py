"""What a network is trained to say of a noisy clip, and how it is heard again: by the name of the objective.

    edm       v of SVD's preconditioning, levels log-normal with p_mean and p_std (Karras et al. 2022; arXiv 2311.15127)
    flow      data minus noise of rectified flow; the same levels are logit-normal times with the shift exp(p_mean)
              (Open-Sora 1.2; Esser et al. 2024, section 3.1)
    epsilon   the noise on 1000 steps, all as often (Ho et al. 2020)
    v         its mixture with the data (Salimans and Ho 2022), on the same steps
    sample    the data, on the same steps
    iddpm     the noise and its variance on the same steps (Nichol and Dhariwal 2021, eq. 16)

Transformers mostly say twice the latents' channels, the second half for a variance. It is trained by iddpm alone; the
others let it be, as Open-Sora 1.2 does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.edm import SVD, Network, Preconditioning, clip_losses, log_normal_sigmas
from models.learned_variance import hybrid_losses, without_variance
from models.networks import NetworkConfig
from models.noise import (
    Discrete,
    Flow,
    Prediction,
    cosine_betas,
    flow_shift,
    linear_betas,
    min_snr_weight,
    scaled_linear_betas,
    sigmas_of,
    zero_terminal_snr,
)
from models.video_unet import VideoUNetConfig, with_images
from warehouse.errors import SettingsError

Name = Literal["edm", "flow", "epsilon", "v", "sample", "iddpm"]
Betas = Literal["linear", "scaled_linear", "cosine"]

BETAS: dict[Betas, Callable[[], Tensor]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "cosine": cosine_betas,
}


@dataclass(frozen=True)
class Objective:
    """Settings that a name does not have stay as they are; another value is an error."""

    name: Name = "edm"
    betas: Betas = "linear"
    """Noise of the 1000 steps: DDPM's, Stable Diffusion's, or the cosine schedule."""
    zero_terminal_snr: bool = False
    """Whether the last step is noise alone (Lin et al. 2023); for v and sample."""
    min_snr: float | None = None
    """Weighs the error of the data with the signal-to-noise ratio up to this, say 5 (Hang et al. 2023); none weighs the
    squared error of what the network says alike. For epsilon, v and sample."""
    offset_noise: float = 0.0
    """Deviation of a number that a clip's noise has besides in each channel, the same everywhere; 0 for none."""
    times: Literal["logit_normal", "uniform"] = "logit_normal"
    """How often flow's times come, before they are shifted; p_std is for logit-normal ones."""
    size_shift: bool = False
    """Whether larger and longer clips get more noise (`models.noise.flow_shift`); for flow."""

    def __post_init__(self) -> None:
        steps, predicts = self.name not in ("edm", "flow"), self.name in ("epsilon", "v", "sample")
        self._only("betas", "linear", steps, "epsilon, v, sample and iddpm, which have steps")
        self._only(
            "zero_terminal_snr",
            False,
            self.name in ("v", "sample"),
            "v and sample: where no data is left, its noise tells nothing of it",
        )
        self._only("min_snr", None, predicts, "epsilon, v and sample")
        self._only("times", "logit_normal", self.name == "flow", "flow")
        self._only("size_shift", False, self.name == "flow", "flow")
        if self.offset_noise < 0 or (self.min_snr is not None and self.min_snr <= 0):
            raise SettingsError(
                f"objective.offset_noise is {self.offset_noise}, expected 0 or more; objective.min_snr is {self.min_snr}, "
                f"expected none or above 0"
            )

    def _only(self, setting: str, default: object, known: bool, names: str) -> None:
        value = getattr(self, setting)
        if value != default and not known:
            raise SettingsError(
                f"objective.{setting} is {value}, but objective.name {self.name}: expected {default}, or a name among "
                f"{names}"
            )

    @property
    def preconditioning(self) -> Preconditioning:
        """How the network hears a noisy clip, and what it says of it."""
        match self.name:
            case "edm":
                return SVD
            case "flow":
                return Flow()
        return self.steps

    @property
    def steps(self) -> Discrete:
        """Of those that have steps."""
        prediction = "epsilon" if self.name == "iddpm" else cast(Prediction, self.name)
        return _steps(self.betas, self.zero_terminal_snr, prediction)

    def draw_sigmas(self, num: int, p_mean: float, p_std: float, generator: torch.Generator) -> Tensor:
        """Noise levels of `num` clips, float32 (num,)."""
        if self.name not in ("edm", "flow"):
            sigmas = self.steps.sigmas
            return sigmas[torch.randint(len(sigmas), (num,), generator=generator)].float()
        if self.times == "logit_normal":
            return log_normal_sigmas(num, p_mean, p_std, generator)
        # One time from each of `num` equal parts of the whole; t / (1 - t) is its level.
        part = torch.randperm(num, generator=generator, dtype=torch.float64)
        time = (part + torch.rand(num, generator=generator, dtype=torch.float64)) / num
        return (time.clamp(1e-6, 1 - 1e-6).logit() + p_mean).exp().float()

    def shift(self, height_px: int, width_px: int, latent_frames: int) -> float:
        """What noise levels of clips of this size are multiplied with; 1 without `size_shift`."""
        return flow_shift(height_px, width_px, latent_frames) if self.size_shift else 1.0


@lru_cache
def _steps(betas: Betas, no_data_at_last: bool, prediction: Prediction) -> Discrete:
    variances = BETAS[betas]()
    return Discrete(sigmas_of(zero_terminal_snr(variances) if no_data_at_last else variances), prediction)


def prediction_of(network: Network, config: NetworkConfig) -> Network:
    """A network of this shape without the variance that it may say; to a UNet a clip of one frame is an image."""
    if isinstance(config, VideoUNetConfig):
        return with_images(network, config)
    return without_variance(network) if config.says_variance else network


def training_losses(
    objective: Objective,
    network: Network,
    config: NetworkConfig,
    x0: Tensor,
    noise: Tensor,
    sigma_B: Tensor,
    conditioning: Conditioning,
) -> Tensor:
    """Loss of every clip (B,), float32, at levels that `Objective.draw_sigmas` gave."""
    if objective.name == "iddpm":
        step_B = objective.steps.c_noise(sigma_B.double()).round().long()
        return hybrid_losses(objective.steps, network, x0, noise, step_B, conditioning)
    prediction = prediction_of(network, config)
    losses_B = clip_losses(objective.preconditioning, prediction, x0, noise, sigma_B, conditioning)
    if objective.min_snr is None:
        return losses_B
    return losses_B * min_snr_weight(objective.steps.prediction, sigma_B, objective.min_snr)
