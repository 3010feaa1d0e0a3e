"""What a network is trained to say of a noisy clip, and how it is heard again: by the name of the objective.

    edm     v of SVD's preconditioning, levels log-normal with p_mean and p_std (Karras et al. 2022; arXiv 2311.15127)
    flow    data minus noise of rectified flow; the same levels are logit-normal times with the shift exp(p_mean)
            (Open-Sora 1.2; Esser et al. 2024, section 3.1)
    iddpm   the noise and its variance on 1000 steps of linear betas, all as often (Nichol and Dhariwal 2021, eq. 16)

Transformers mostly say twice the latents' channels, the second half for a variance. It is trained by iddpm alone; the
others let it be, as Open-Sora 1.2 does.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.edm import SVD, Network, Preconditioning, clip_losses, log_normal_sigmas
from models.learned_variance import hybrid_losses, without_variance
from models.networks import NetworkConfig
from models.noise import Discrete, Flow, linear_betas, sigmas_of
from models.video_unet import VideoUNetConfig, with_images

Objective = Literal["edm", "flow", "iddpm"]

STEPS = Discrete(sigmas_of(linear_betas()))
"""Those of iddpm."""
PRECONDITIONINGS: dict[Objective, Preconditioning] = {"edm": SVD, "flow": Flow(), "iddpm": STEPS}


def prediction_of(network: Network, config: NetworkConfig) -> Network:
    """A network of this shape without the variance that it may say; to a UNet a clip of one frame is an image."""
    if isinstance(config, VideoUNetConfig):
        return with_images(network, config)
    return without_variance(network) if config.says_variance else network


def draw_sigmas(
    objective: Objective, num: int, p_mean: float, p_std: float, generator: torch.Generator
) -> Tensor:
    """Noise levels of `num` clips, float32 (num,)."""
    if objective == "iddpm":
        return STEPS.sigmas[torch.randint(len(STEPS.sigmas), (num,), generator=generator)].float()
    return log_normal_sigmas(num, p_mean, p_std, generator)


def training_losses(
    objective: Objective,
    network: Network,
    config: NetworkConfig,
    x0: Tensor,
    noise: Tensor,
    sigma_B: Tensor,
    conditioning: Conditioning,
) -> Tensor:
    """Loss of every clip (B,), float32, at levels that `draw_sigmas` gave."""
    if objective == "iddpm":
        step_B = STEPS.c_noise(sigma_B.double()).round().long()
        return hybrid_losses(STEPS, network, x0, noise, step_B, conditioning)
    preconditioning, prediction = PRECONDITIONINGS[objective], prediction_of(network, config)
    return clip_losses(preconditioning, prediction, x0, noise, sigma_B, conditioning)
