"""A latent video UNet: a function (x_BCTHW, c_noise_B, conditioning) -> same shape.

The layout is SVD's (arXiv 2311.15127: a temporal layer after every spatial ResBlock and every transformer;
none of them changes the number of frames) at any width. Without `temporal` it is Stable Diffusion 2's image
network, which the video network is started from. With `pseudo3d` the temporal layers are those of the home-computer
project instead (Make-A-Video's, arXiv 2209.14792, section 3.2): a convolution over frames after every convolution of
a frame, and an attention over frames in every transformer. Its group norms count each frame by itself here, so that it
begins as the image network; that project's count all frames of a clip together. `models.networks` has the published
sizes by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import (
    BlockConfig,
    Downsample,
    FrameConv,
    TemporalInit,
    Told,
    Upsample,
    VideoResBlock,
    VideoTransformer,
    sinusoid,
    zeroed,
)
from models.conditioning import Conditioning
from models.edm import Network
from models.inputs import check_unet
from models.transformer_config import expect_shape


@dataclass(frozen=True)
class VideoUNetConfig:
    """The shape of a network, and how it starts.

    `latent_channels`: channels in and out. `condition_channels`: channels of `Conditioning.frames_BCTHW`,
    which join the input. `width`: channels of the first level. `multipliers`: channels of each level over
    `width`; each level has half the height and width of the one before. `blocks`: ResBlocks a level on the
    way down (one more on the way up). `attention`: for each level whether its ResBlocks are followed by a
    transformer; the middle always has one. `head_dim`: channels of an attention head. `text_dim`: channels
    of a text token. `num_numbers`: micro-conditioning numbers, 0 for none. `number_dim`: features of each.
    `pooled_text`: whether the mean of the text tokens also goes into the embedding. `text_mask`: whether
    masked tokens are hidden; the published networks attend to all. `norm_eps`, `group_channels`: of group
    norms (`models.blocks.group_norm`). `temporal`: whether there are temporal layers. `temporal_init`:
    `zero`, they change nothing at first; `svd`, the published initialisation. `pseudo3d`: whether temporal
    layers are convolutions and attentions inside of the spatial ones. `num_heads`: heads of every
    attention; 0 where `head_dim` says it. `missing_size`: height and width of latents for a network that
    fills in frames: those that `Conditioning.shown_BT` does not name are replaced by a learned one of this
    size, and a channel tells which (SVD, appendix D.5); empty for other networks.
    """

    latent_channels: int = 4
    condition_channels: int = 0
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[bool, ...] = (False, True)
    head_dim: int = 32
    text_dim: int = 128
    num_numbers: int = 2
    number_dim: int = 32
    pooled_text: bool = True
    text_mask: bool = True
    norm_eps: float = 1e-5
    group_channels: int = 8
    temporal: bool = True
    temporal_init: TemporalInit = "zero"
    pseudo3d: bool = False
    num_heads: int = 0
    missing_size: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises SettingsError for a shape that cannot be built, or that could not compute."""
        least = min(self.width, self.blocks, self.group_channels, *self.multipliers)
        expect_shape(least > 0, "width, blocks, group_channels or multipliers", least, "at least 1 of each")
        levels, marks = len(self.multipliers), len(self.attention)
        expect_shape(
            levels == marks > 0, "attention", self.attention, f"{levels} marks, one a level (multipliers)"
        )
        attends = [*self.attention[:-1], True]  # the middle has the last level's channels
        for channels in (self.width * m for m, a in zip(self.multipliers, attends, strict=True) if a):
            parts, name = (self.num_heads, "num_heads") if self.num_heads else (self.head_dim, "head_dim")
            fits = parts > 0 and channels % parts == 0
            expect_shape(fits, name, parts, f"a divisor of a level's {channels} channels")
        even = self.number_dim % 2 == 0 and self.width % 2 == 0
        expect_shape(even, "width or number_dim", (self.width, self.number_dim), "even: sines and cosines")

    @property
    def in_channels(self) -> int:
        """Channels of the first convolution: the latents', those that join them, and the mark of what is shown."""
        return self.latent_channels + self.condition_channels + bool(self.missing_size)

    @property
    def says_variance(self) -> bool:
        """No UNet here says one (`TransformerConfig.says_variance`)."""
        return False

    @property
    def size_multiple(self) -> int:
        """Of which the latents' height and width are multiples: each level but the first halves them."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def embedding_dim(self) -> int:
        """Channels of the embedding of noise level, numbers and text."""
        return 4 * self.width

    def blocks_config(self) -> BlockConfig:
        """What all blocks have in common."""
        return BlockConfig(
            embedding_dim=self.embedding_dim,
            context_dim=self.text_dim,
            head_dim=self.head_dim,
            norm_eps=self.norm_eps,
            group_channels=self.group_channels,
            temporal=self.temporal and not self.pseudo3d,
            temporal_init=self.temporal_init,
            pseudo3d=self.temporal and self.pseudo3d,
            num_heads=self.num_heads,
        )


class Level(nn.Module):
    """One ResBlock and, where there is attention, one transformer."""

    def __init__(self, config: BlockConfig, in_channels: int, out_channels: int, attention: bool) -> None:
        super().__init__()
        self.res = VideoResBlock(config, in_channels, out_channels)
        self.attend = VideoTransformer(config, out_channels) if attention else None

    def forward(self, x: Tensor, told: Told) -> Tensor:
        x = self.res(x, told)
        return x if self.attend is None else self.attend(x, told)


class Embedding(nn.Module):
    """Noise level, numbers and the mean of the text as one vector for each clip (B E).

    With a level for each frame (B T), because some are given and clean, it is one for each frame (B T E).
    """

    def __init__(self, config: VideoUNetConfig) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.noise_dim, self.number_dim = config.width, config.number_dim
        self.noise = nn.Sequential(nn.Linear(config.width, dim), nn.SiLU(), nn.Linear(dim, dim))
        features = config.num_numbers * config.number_dim
        self.numbers = (
            nn.Sequential(nn.Linear(features, dim), nn.SiLU(), zeroed(nn.Linear(dim, dim)))
            if features
            else None
        )
        self.text = nn.Linear(config.text_dim, dim) if config.pooled_text else None

    def forward(self, c_noise_B: Tensor, conditioning: Conditioning) -> Tensor:
        dtype = self.noise[0].weight.dtype  # sinusoids are float32 whatever the network's dtype
        embedding_BE = self.noise(sinusoid(c_noise_B, self.noise_dim).to(dtype))
        clips = (len(c_noise_B), *[1] * (c_noise_B.ndim - 1), -1)
        if self.numbers is not None:
            numbers = sinusoid(conditioning.numbers_BN, self.number_dim).flatten(1).to(dtype)
            embedding_BE = embedding_BE + self.numbers(numbers).reshape(clips)
        if self.text is None:
            return embedding_BE
        mask_BL1 = conditioning.mask_BL[..., None]
        pooled_BD = (conditioning.text_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1)
        return embedding_BE + self.text(pooled_BD).reshape(clips)


class VideoUNet(nn.Module):
    """The UNet of a shape (module docstring): (x_BCTHW, c_noise_B, conditioning) -> same shape and type as x.

    x has `latent_channels`, in the type of the weights; height and width are multiples of 2 to the number of levels less
    one. `c_noise_B` is the noise level in the numbers of the objective (SVD: ln(sigma) / 4), (B T) where frames that are
    given have one of their own. Fresh weights say zero.
    """

    def __init__(self, config: VideoUNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = [config.width * multiplier for multiplier in config.multipliers]
        levels = list(zip(channels, config.attention, strict=True))
        blocks = config.blocks_config()
        self.embedding = Embedding(config)
        self.missing_frame = (
            nn.Parameter(torch.randn(config.condition_channels, *config.missing_size))
            if config.missing_size
            else None
        )
        self.conv_in = FrameConv(blocks.pseudo3d, config.in_channels, config.width, 3)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        current, skips = config.width, [config.width]
        for depth, (width, attention) in enumerate(levels):
            if depth:
                self.down.append(Downsample(blocks.pseudo3d, current))
                skips.append(current)
            for _ in range(config.blocks):
                self.down.append(Level(blocks, current, width, attention))
                current = width
                skips.append(current)
        self.middle = nn.ModuleList(
            [Level(blocks, current, current, True), Level(blocks, current, current, False)]
        )
        for depth, (width, attention) in reversed(list(enumerate(levels))):
            for _ in range(config.blocks + 1):
                self.up.append(Level(blocks, current + skips.pop(), width, attention))
                current = width
            if depth:
                self.up.append(Upsample(blocks.pseudo3d, current))
        self.norm_out = blocks.group_norm(current)
        self.conv_out = FrameConv(blocks.pseudo3d, current, config.latent_channels, 3, silent=True)

    def forward(self, x_BCTHW: Tensor, c_noise_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Raises InputError where shapes or conditioning are not what the network takes."""
        dtype = self.embedding.noise[0].weight.dtype
        check_unet(self.config, x_BCTHW, c_noise_B, conditioning, dtype)
        num_frames = x_BCTHW.shape[2]
        images_BT = conditioning.image_only_BT
        told = Told(
            embedding_BE=self.embedding(c_noise_B, conditioning),
            text_BLD=conditioning.text_BLD,
            mask_BL=conditioning.mask_BL if self.config.text_mask else None,
            num_frames=num_frames,
            image_only_BT=images_BT,
            all_images=images_BT is not None and bool(images_BT.all()),
        )
        x = rearrange(self._joined(x_BCTHW, conditioning), "b c t h w -> (b t) c h w")
        x = self.conv_in(x, num_frames)
        skips = [x]
        for layer in self.down:
            x = layer(x, told) if isinstance(layer, Level) else layer(x, num_frames)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, told)
        for layer in self.up:
            level = isinstance(layer, Level)
            x = layer(torch.cat([x, skips.pop()], dim=1), told) if level else layer(x, num_frames)
        x = self.conv_out(F.silu(self.norm_out(x)), num_frames)
        return rearrange(x, "(b t) c h w -> b c t h w", t=num_frames)

    def _joined(self, x_BCTHW: Tensor, conditioning: Conditioning) -> Tensor:
        """The input with the frames that join it, and with the channel that tells which of them are shown."""
        if not self.config.condition_channels:
            return x_BCTHW
        if self.missing_frame is None:
            return torch.cat([x_BCTHW, conditioning.frames_BCTHW], dim=1)
        shown = conditioning.shown_BT[:, None, :, None, None]
        frames = torch.where(shown, conditioning.frames_BCTHW, self.missing_frame[:, None])
        return torch.cat([x_BCTHW, frames, shown.expand_as(x_BCTHW[:, :1]).to(x_BCTHW)], dim=1)

    def temporal_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters (by name) that an image network does not have."""
        return ((name, value) for name, value in self.named_parameters() if is_temporal(name))


def with_images(network: Network, config: VideoUNetConfig) -> Network:
    """A UNet of this shape to which every clip of one frame is an image, as it is to those who train on both.

    By itself a UNet with temporal layers runs them on one frame too, unless `Conditioning.image_only_BT` says image, as
    SVD's released weights are run; a pseudo-3D one never does.
    """
    if not config.temporal or config.pseudo3d:
        return network

    def told_of_images(x_BCTHW: Tensor, c_noise_B: Tensor, conditioning: Conditioning) -> Tensor:
        if x_BCTHW.shape[2] == 1 and conditioning.image_only_BT is None:
            images_BT = torch.ones(len(x_BCTHW), 1, dtype=torch.bool, device=x_BCTHW.device)
            conditioning = replace(conditioning, image_only_BT=images_BT)
        return network(x_BCTHW, c_noise_B, conditioning)

    return told_of_images


def is_temporal(name: str) -> bool:
    """Whether a parameter's dotted name lies in a temporal layer or its blend."""
    return any(part.startswith("temporal") for part in name.split("."))


def widened(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights of an earlier network for one that takes more inputs: numbers after the earlier ones, frames that
    join the input. The new inputs have zero weights, so that the network begins as the earlier one. A null caption of
    another length is cut, or its last token repeated (Open-Sora 1.2).
    """
    wanted = network.state_dict()
    result = dict(tensors)
    for name in {"conv_in.weight", "embedding.numbers.0.weight"} & set(tensors) & set(wanted):
        added = wanted[name].shape[1] - tensors[name].shape[1]
        if added > 0:
            zeros = tensors[name].new_zeros(len(tensors[name]), added, *tensors[name].shape[2:])
            result[name] = torch.cat([tensors[name], zeros], dim=1)
    if "null_text" in tensors and "null_text" in wanted:
        last = len(tensors["null_text"]) - 1
        result["null_text"] = tensors["null_text"][torch.arange(len(wanted["null_text"])).clamp(max=last)]
    return result
