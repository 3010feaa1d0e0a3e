"""A small network of every kind, and what it takes: for tests that hold for all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.conditioning import Conditioning
from models.networks import NETWORKS
from models.transformers import DiffusionTransformer, TransformerConfig
from models.video_unet import VideoUNet, VideoUNetConfig

_UNET = {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (True, False), "text_dim": 20}
_UNET |= {"group_channels": 2, "number_dim": 8}
_TRANSFORMER = {"width": 48, "depth": 4, "num_heads": 4}


@dataclass(frozen=True)
class Small:
    config: TransformerConfig | VideoUNetConfig
    frames: int = 3

    def build(self) -> nn.Module:
        unet = isinstance(self.config, VideoUNetConfig)
        return VideoUNet(self.config) if unet else DiffusionTransformer(self.config)


def _small(name: str, **more: object) -> Small:
    """A named network at a small size."""
    config = NETWORKS[name].config
    if isinstance(config, VideoUNetConfig):
        heads = {"num_heads": 2} if config.num_heads else {"head_dim": 8}
        return Small(replace(config, **_UNET, **heads, **more))
    text = {"text_dim": 20} if config.text_dim else {}
    classes = {"num_classes": 7} if config.num_classes else {}
    return Small(replace(config, **{**_TRANSFORMER, **text, **classes, **more}))


SMALL_NETWORKS: dict[str, Small] = {
    "sd21": _small("sd21"),
    "svd": _small("svd-i2v"),
    "dit": _small("dit-xl-2"),
    "latte": _small("latte-xl-2"),
    "latte late": _small("latte-xl-2-late", attention=("space",) * 2 + ("time",) * 2),
    "latte split": _small("latte-xl-2-split"),
    "latte t2v": _small("latte-t2v"),
    "pixart": _small("pixart-xl-2-1024"),
    "stdit": _small("stdit-xl-2"),
    "stdit parallel": _small("stdit-xl-2-parallel"),
    "latte both": _small("latte-xl-2-both"),
    "stdit2": _small("stdit2-xl-2"),
    "stdit3": _small("stdit3-xl-2"),
    "open-sora-plan": _small(
        "open-sora-plan-1.3", attention=("full", "skip", "skip_groups"), depth=3, skip_step=2
    ),
    "svd interpolation": _small("svd-interpolation", missing_size=(8, 8)),
    "svd multi-view": _small("svd-multi-view"),
    "inpainting": _small("sd15-inpainting"),
    "pseudo3d": _small("pseudo3d"),
}


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter at random, so that no zero hides a mistake; weights of norms stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.2 if parameter.ndim < 2 else 0.9 * parameter[0].numel() ** -0.5
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_((parameter == 1) + spread * noise)
    return network.eval()


def inputs_of(name: str, num_clips: int = 2, side: int = 8) -> tuple[Tensor, Tensor, Conditioning]:
    """Latents, noise level and conditioning of a batch whose clips differ in everything."""
    small = SMALL_NETWORKS[name]
    config, generator = small.config, torch.Generator().manual_seed(1)
    unet = isinstance(config, VideoUNetConfig)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    channels = config.latent_channels if unet else config.in_channels
    size = (small.frames, side, side)
    order = torch.arange(num_clips)
    told = Conditioning(
        draw(num_clips, 5, config.text_dim or 1),
        torch.arange(5) < (5 - order[:, None] * 2),
        draw(num_clips, config.num_numbers if unet else 1).abs() * 9,
        order * 2.0,
        torch.stack([64.0 + 8 * order, 64.0 - 8 * order, 1 + 0.2 * order], dim=1),
        draw(num_clips, config.condition_channels, *size) if unet and config.condition_channels else None,
        shown_BT=torch.arange(small.frames).expand(num_clips, -1) % 2 == 0
        if unet and config.missing_size
        else None,
    )
    return draw(num_clips, channels, *size), draw(num_clips), told
