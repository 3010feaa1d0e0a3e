"""Blocks of image and video UNets (SVD, arXiv 2311.15127, and the latent diffusion UNet that it extends).

Every temporal block works on the output of a spatial one and is blended with it by a learned weight. Frames
that are said to be images pass by it; a clip of one frame that is not said to be one goes through it, as in the
published networks. Started at `zero` it changes nothing, so that an
image network which gets temporal blocks begins as the same network; started as `svd` its transformers are
random, as in the published code.

Axes: B clips, C channels, T frames, H W height and width, S = H W positions, L text tokens, D text channels,
E channels of the embedding of noise level and numbers, N any sequence. Images are (B T) C H W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import Attention
from models.recompute import Recomputed
from models.transformer_config import expect_shape

TemporalInit = Literal["svd", "zero"]


@dataclass(frozen=True)
class BlockConfig:
    """What all blocks of a network have in common.

    `embedding_dim`: channels of the embedding of noise level and numbers. `context_dim`: channels of a text
    token. `head_dim`: channels of an attention head. `norm_eps`, `group_channels`: see `group_norm`.
    `temporal`: whether temporal layers follow the spatial ones (SVD). `pseudo3d`: whether they are inside of them
    (`FrameConv`, `SpatialBlock`). `temporal_init`: how they start (see the module). `num_heads`: of every attention,
    whatever its channels; 0 where `head_dim` says it.
    """

    embedding_dim: int
    context_dim: int
    head_dim: int
    norm_eps: float
    group_channels: int
    temporal: bool
    temporal_init: TemporalInit
    pseudo3d: bool = False
    num_heads: int = 0

    def head_width(self, channels: int) -> int:
        """Channels of a head in an attention of this many channels."""
        return channels // self.num_heads if self.num_heads else self.head_dim

    def group_norm(self, channels: int) -> nn.GroupNorm:
        return group_norm(channels, self.group_channels, self.norm_eps)


@dataclass(frozen=True)
class Told:
    """What every block hears besides its input.

    `embedding_BE`, or one for each frame (B T E); `text_BLD`; `mask_BL`: bool, true where a token counts, None
    where all do; `num_frames`; `image_only_BT`: bool, true where a frame is an image of its own, None where none is;
    `all_images`: whether every frame is one, so that temporal blocks need not be computed.
    """

    embedding_BE: Tensor
    text_BLD: Tensor
    mask_BL: Tensor | None
    num_frames: int
    image_only_BT: Tensor | None
    all_images: bool = False

    def embedding_per_frame(self) -> Tensor:
        """(B T) E."""
        if self.embedding_BE.ndim == 3:
            return self.embedding_BE.flatten(0, 1)
        return self.embedding_BE.repeat_interleave(self.num_frames, 0)


def zeroed(module: nn.Module) -> nn.Module:
    """The same module with all parameters set to 0."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(channels: int, group_channels: int, eps: float) -> nn.GroupNorm:
    """32 groups as usual, fewer where a group would have less than `group_channels` channels: a group of one
    channel would undo the embedding added to it. Raises SettingsError where they do not divide the channels.
    """
    groups = max(1, min(32, channels // group_channels))
    expect_shape(channels % groups == 0, "width", channels, f"channels that {groups} groups share evenly")
    return nn.GroupNorm(groups, channels, eps=eps)


def sinusoid(value: Tensor, dim: int) -> Tensor:
    """[cos, sin] features of any numbers: (..., dim). NaN, an unknown value, gives all zeros."""
    half = dim // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=value.device) / half)
    angle = value.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1).nan_to_num(nan=0.0)


class TemporalConv(nn.Conv3d):
    """Convolution over 3 frames at each position, (B C T H W); run in two dimensions, where kernels are
    fast.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        width = x_BCTHW.shape[-1]
        x = rearrange(x_BCTHW, "b c t h w -> b c t (h w)")
        return rearrange(
            F.conv2d(x, self.weight[..., 0], self.bias, padding=(1, 0)), "b c t (h w) -> b c t h w", w=width
        )


class FrameConv(nn.Conv2d):
    """Convolution of every frame, (B T) C H W; with `pseudo3d` another one over frames follows, at first the identity.
    One frame stays purely spatial.

    Args:
        kernel: height and width of the kernel; padded so that the size stays, divided by `stride`.
        silent: whether the convolution of frames is zero at first.
    """

    def __init__(
        self,
        pseudo3d: bool,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        silent: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2)
        if silent:
            zeroed(self)
        self.temporal = TemporalConv(out_channels, out_channels) if pseudo3d else None
        if self.temporal is not None:
            zeroed(self.temporal)
            with torch.no_grad():
                self.temporal.weight[:, :, 1, 0, 0].fill_diagonal_(1)

    def forward(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        x = super().forward(x_NCHW)
        if self.temporal is None or num_frames == 1:
            return x
        clips = rearrange(x, "(b t) c h w -> b c t h w", t=num_frames)
        return rearrange(self.temporal(clips), "b c t h w -> (b t) c h w")


class Blend(nn.Module):
    """alpha spatial + (1 - alpha) temporal, alpha = sigmoid of a learned number (0.62 at first, as in SVD),
    and 1 for frames that are images. Both are (B T ...).
    """

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.tensor(0.5))

    def forward(self, spatial: Tensor, temporal: Tensor, image_only_BT: Tensor | None) -> Tensor:
        alpha = self.mix.sigmoid().to(spatial.dtype)
        if image_only_BT is not None:
            alpha = torch.where(image_only_BT, torch.ones_like(alpha), alpha)
            alpha = alpha.reshape(*image_only_BT.shape, *[1] * (spatial.ndim - 2))
        return torch.lerp(temporal, spatial, alpha)


class SpatialResBlock(nn.Module):
    """GN-SiLU-conv, plus embedding, GN-SiLU-conv (zero at first), plus skip, on each frame."""

    def __init__(self, config: BlockConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm_in = config.group_norm(in_channels)
        self.conv_in = FrameConv(config.pseudo3d, in_channels, out_channels, 3)
        self.embed = nn.Linear(config.embedding_dim, out_channels)
        self.norm_out = config.group_norm(out_channels)
        self.conv_out = FrameConv(config.pseudo3d, out_channels, out_channels, 3, silent=True)
        same = in_channels == out_channels
        self.skip = None if same else FrameConv(config.pseudo3d, in_channels, out_channels, 1)

    def forward(self, x_NCHW: Tensor, embedding_NE: Tensor, num_frames: int) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x_NCHW)), num_frames)
        h = h + self.embed(F.silu(embedding_NE))[..., None, None]
        h = self.conv_out(F.silu(self.norm_out(h)), num_frames)
        return h + (x_NCHW if self.skip is None else self.skip(x_NCHW, num_frames))


class TemporalResBlock(nn.Module):
    """The same over frames at each position; the last convolution is zero at first (also in SVD), so it
    begins as the identity.
    """

    def __init__(self, config: BlockConfig, channels: int) -> None:
        super().__init__()
        self.norm_in = config.group_norm(channels)
        self.conv_in = TemporalConv(channels, channels)
        self.embed = nn.Linear(config.embedding_dim, channels)
        self.norm_out = config.group_norm(channels)
        self.conv_out = zeroed(TemporalConv(channels, channels))

    def forward(self, x_BCTHW: Tensor, embedding_BE: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x_BCTHW)))
        added = self.embed(F.silu(embedding_BE))
        h = h + (added[..., None] if added.ndim == 2 else added.movedim(1, 2))[..., None, None]
        return x_BCTHW + self.conv_out(F.silu(self.norm_out(h)))


class VideoResBlock(Recomputed):
    """Spatial ResBlock, then with `temporal` the temporal one and their blend."""

    def __init__(self, config: BlockConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.spatial = SpatialResBlock(config, in_channels, out_channels)
        self.temporal = TemporalResBlock(config, out_channels) if config.temporal else None
        self.temporal_blend = Blend() if config.temporal else None

    def forward(self, x_NCHW: Tensor, told: Told) -> Tensor:
        spatial = self.spatial(x_NCHW, told.embedding_per_frame(), told.num_frames)
        if self.temporal is None or told.all_images:
            return spatial
        clips = rearrange(spatial, "(b t) c h w -> b c t h w", t=told.num_frames)
        temporal = rearrange(self.temporal(clips, told.embedding_BE), "b c t h w -> b t c h w")
        spatial = rearrange(spatial, "(b t) c h w -> b t c h w", t=told.num_frames)
        return self.temporal_blend(spatial, temporal, told.image_only_BT).flatten(0, 1)


class GatedFeedForward(nn.Module):
    """GEGLU of four times the width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.into = nn.Linear(channels, 8 * channels)
        self.out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.into(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))


class SpatialBlock(nn.Module):
    """Attention among the positions of a frame, attention to the text, feed-forward. Tokens are (B T S C).

    With `pseudo3d`, attention among the frames of a position comes before the feed-forward; started at `zero` it says
    nothing, started as `svd` it is random, as in the home-computer project.
    """

    def __init__(self, config: BlockConfig, channels: int) -> None:
        super().__init__()
        head_dim = config.head_width(channels)
        self.norm_self, self.norm_text, self.norm_ff = (nn.LayerNorm(channels) for _ in range(3))
        self.self_attention = Attention(channels, head_dim)
        self.text_attention = Attention(channels, head_dim, config.context_dim)
        self.temporal_norm = nn.LayerNorm(channels) if config.pseudo3d else None
        self.temporal_attention = Attention(channels, head_dim) if config.pseudo3d else None
        if self.temporal_attention is not None and config.temporal_init == "zero":
            zeroed(self.temporal_attention.to_out)
        self.feed_forward = GatedFeedForward(channels)

    def forward(self, x_BTSC: Tensor, told: Told) -> Tensor:
        num_clips, num_frames, num_positions, _ = x_BTSC.shape
        x = rearrange(x_BTSC, "b t s c -> (b t) s c")
        x = x + self.self_attention(self.norm_self(x))
        x = rearrange(x, "(b t) s c -> b (t s) c", b=num_clips)
        x = x + self.text_attention(self.norm_text(x), told.text_BLD, told.mask_BL)
        if self.temporal_attention is not None and num_frames > 1:
            x = rearrange(x, "b (t s) c -> (b s) t c", t=num_frames)
            x = x + self.temporal_attention(self.temporal_norm(x))
            x = rearrange(x, "(b s) t c -> b (t s) c", s=num_positions)
        x = x + self.feed_forward(self.norm_ff(x))
        return rearrange(x, "b (t s) c -> b t s c", t=num_frames, s=num_positions)


class TemporalBlock(nn.Module):
    """Attention among the frames of a position. Tokens are (B T S C).

    Started at `zero`, its four outputs and that of the frame index are zero and the block begins as the
    identity; started as `svd` they are random, which changes the image network by a few percent.
    """

    def __init__(self, config: BlockConfig, channels: int) -> None:
        super().__init__()
        self.frame_index = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels)
        )
        self.norm_in, self.norm_self, self.norm_text, self.norm_ff = (
            nn.LayerNorm(channels) for _ in range(4)
        )
        self.feed_forward_in, self.feed_forward = GatedFeedForward(channels), GatedFeedForward(channels)
        head_dim = config.head_width(channels)
        self.self_attention = Attention(channels, head_dim)
        self.text_attention = Attention(channels, head_dim, config.context_dim)
        if config.temporal_init == "zero":
            for residual in self.residuals():
                zeroed(residual)

    def residuals(self) -> tuple[nn.Module, ...]:
        """The layers whose outputs are added to what comes in."""
        attentions = (self.self_attention.to_out, self.text_attention.to_out)
        return self.frame_index[-1], self.feed_forward_in.out, self.feed_forward.out, *attentions

    def forward(self, x_BTSC: Tensor, told: Told) -> Tensor:
        num_clips, num_frames, num_positions, channels = x_BTSC.shape
        index_T = torch.arange(num_frames, device=x_BTSC.device)
        x = x_BTSC + self.frame_index(sinusoid(index_T, channels).to(x_BTSC))[:, None]
        x = x + self.feed_forward_in(self.norm_in(x))
        x = rearrange(x, "b t s c -> (b s) t c")
        x = x + self.self_attention(self.norm_self(x))
        x = rearrange(x, "(b s) t c -> b (t s) c", b=num_clips)
        x = x + self.text_attention(self.norm_text(x), told.text_BLD, told.mask_BL)
        x = x + self.feed_forward(self.norm_ff(x))
        return rearrange(x, "b (t s) c -> b t s c", t=num_frames, s=num_positions)


class VideoTransformer(Recomputed):
    """Spatial block, then with `temporal` the temporal one and their blend, inside one residual branch."""

    def __init__(self, config: BlockConfig, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, config.group_channels, eps=1e-6)
        self.project_in = nn.Linear(channels, channels)
        self.spatial = SpatialBlock(config, channels)
        self.temporal = TemporalBlock(config, channels) if config.temporal else None
        self.temporal_blend = Blend() if config.temporal else None
        self.project_out = zeroed(nn.Linear(channels, channels))

    def forward(self, x_NCHW: Tensor, told: Told) -> Tensor:
        height = x_NCHW.shape[-2]
        tokens = rearrange(self.norm(x_NCHW), "(b t) c h w -> b t (h w) c", t=told.num_frames)
        tokens = self.spatial(self.project_in(tokens), told)
        if self.temporal is not None and not told.all_images:
            tokens = self.temporal_blend(tokens, self.temporal(tokens, told), told.image_only_BT)
        return x_NCHW + rearrange(self.project_out(tokens), "b t (h w) c -> (b t) c h w", h=height)


class Downsample(FrameConv):
    """Half of height and width."""

    def __init__(self, pseudo3d: bool, channels: int) -> None:
        super().__init__(pseudo3d, channels, channels, 3, stride=2)


class Upsample(FrameConv):
    """Twice the height and width."""

    def __init__(self, pseudo3d: bool, channels: int) -> None:
        super().__init__(pseudo3d, channels, channels, 3)

    def forward(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        return super().forward(F.interpolate(x_NCHW, scale_factor=2.0, mode="nearest"), num_frames)
