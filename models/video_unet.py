"""A latent video UNet: a function (x_BCTHW, c_noise_B, conditioning) -> same shape.

The layout is SVD's (a temporal layer after every spatial ResBlock and every transformer; none of them
changes the number of frames) at any width. Without `temporal` it is the image network that the video
network is started from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import Downsample, Upsample, VideoResBlock, VideoTransformer, group_norm, sinusoid, zeroed
from models.conditioning import Conditioning


@dataclass(frozen=True)
class VideoUNetConfig:
    """The shape of a network.

    `width`: channels of the first level. `multipliers`: channels of each level over `width`; each level
    has half the height and width of the one before. `blocks`: ResBlocks a level on the way down (one more
    on the way up). `attention`: for each level whether its ResBlocks are followed by a transformer; the
    middle always has one. `text_dim`: channels of a text token. `num_numbers`: micro-conditioning
    numbers. `pooled_text`: whether the mean of the text tokens also goes into the embedding. `temporal`:
    whether there are temporal layers.
    """

    latent_channels: int = 4
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[bool, ...] = (False, True)
    head_dim: int = 32
    text_dim: int = 128
    num_numbers: int = 2
    number_dim: int = 32
    pooled_text: bool = True
    temporal: bool = True

    @property
    def embedding_dim(self) -> int:
        return 4 * self.width


class Level(nn.Module):
    """One ResBlock and, where there is attention, one transformer."""

    def __init__(self, config: VideoUNetConfig, in_channels: int, out_channels: int, attention: bool) -> None:
        super().__init__()
        self.res = VideoResBlock(in_channels, out_channels, config.embedding_dim, config.temporal)
        self.attend = (
            VideoTransformer(out_channels, config.head_dim, config.text_dim, config.temporal)
            if attention
            else None
        )

    def forward(self, x: Tensor, embedding_BE: Tensor, conditioning: Conditioning, num_frames: int) -> Tensor:
        x = self.res(x, embedding_BE, num_frames)
        if self.attend is None:
            return x
        return self.attend(x, conditioning.text_BLD, conditioning.mask_BL, num_frames)


class Embedding(nn.Module):
    """Noise level, numbers and the mean of the text as one vector for each clip (B E)."""

    def __init__(self, config: VideoUNetConfig) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.noise_dim, self.number_dim = config.width, config.number_dim
        self.noise = nn.Sequential(nn.Linear(config.width, dim), nn.SiLU(), nn.Linear(dim, dim))
        numbers = config.num_numbers * config.number_dim
        self.numbers = nn.Sequential(nn.Linear(numbers, dim), nn.SiLU(), zeroed(nn.Linear(dim, dim)))
        self.text = nn.Linear(config.text_dim, dim) if config.pooled_text else None

    def forward(self, c_noise_B: Tensor, conditioning: Conditioning) -> Tensor:
        embedding_BE = self.noise(sinusoid(c_noise_B, self.noise_dim))
        numbers = sinusoid(conditioning.numbers_BN, self.number_dim).flatten(1)
        embedding_BE = embedding_BE + self.numbers(numbers)
        if self.text is None:
            return embedding_BE
        mask_BL1 = conditioning.mask_BL[..., None]
        pooled_BD = (conditioning.text_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1)
        return embedding_BE + self.text(pooled_BD)


class VideoUNet(nn.Module):
    def __init__(self, config: VideoUNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = [config.width * multiplier for multiplier in config.multipliers]
        levels = list(zip(channels, config.attention, strict=True))
        self.embedding = Embedding(config)
        self.conv_in = nn.Conv2d(config.latent_channels, config.width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        current, skips = config.width, [config.width]
        for depth, (width, attention) in enumerate(levels):
            if depth:
                self.down.append(Downsample(current))
                skips.append(current)
            for _ in range(config.blocks):
                self.down.append(Level(config, current, width, attention))
                current = width
                skips.append(current)
        self.middle = nn.ModuleList(
            [Level(config, current, current, True), Level(config, current, current, False)]
        )
        for depth, (width, attention) in reversed(list(enumerate(levels))):
            for _ in range(config.blocks + 1):
                self.up.append(Level(config, current + skips.pop(), width, attention))
                current = width
            if depth:
                self.up.append(Upsample(current))
        self.norm_out = group_norm(current)
        self.conv_out = zeroed(nn.Conv2d(current, config.latent_channels, 3, padding=1))

    def forward(self, x_BCTHW: Tensor, c_noise_B: Tensor, conditioning: Conditioning) -> Tensor:
        num_frames = x_BCTHW.shape[2]
        embedding_BE = self.embedding(c_noise_B, conditioning)
        x = rearrange(x_BCTHW, "b c t h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        x = self.conv_in(x)
        skips = [x]
        for layer in self.down:
            x = layer(x, embedding_BE, conditioning, num_frames) if isinstance(layer, Level) else layer(x)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, embedding_BE, conditioning, num_frames)
        for layer in self.up:
            if isinstance(layer, Level):
                x = layer(torch.cat([x, skips.pop()], dim=1), embedding_BE, conditioning, num_frames)
            else:
                x = layer(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return rearrange(x, "(b t) c h w -> b c t h w", t=num_frames)

    def temporal_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters (by name) that an image network does not have."""
        return ((name, value) for name, value in self.named_parameters() if is_temporal(name))


def is_temporal(name: str) -> bool:
    """Whether a parameter's dotted name lies in a temporal layer or its blend."""
    return any(part.startswith("temporal") for part in name.split("."))
