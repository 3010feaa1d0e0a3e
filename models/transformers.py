"""Diffusion transformers for images and video: a function (x_BCTHW, time_B, conditioning) -> (B, out, T, H, W).

One network of one kind of block; papers differ in four choices, which are settings here:

- what a block's attention looks at (`attention`): the positions of a frame, the frames of a position, or all tokens;
- how the noise level gets in (`modulation`): a linear layer in every block (adaLN-Zero: DiT, arXiv 2212.09748,
  section 3.2; Latte, arXiv 2401.03048) or one layer for all and a small table in each (adaLN-single: PixArt-alpha,
  arXiv 2310.00426, section 2.3; Open-Sora's STDiT);
- what is asked for: text by cross attention, a class, or nothing;
- where positions count from.

Axes as in `models.blocks`; P is the patch size, M the numbers of modulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import Attention, sinusoid, zeroed
from models.conditioning import Conditioning
from models.positions import frame_positions, grid_positions

Axis = Literal["full", "space", "time", "split"]
NOISE_DIM = 256


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a network.

    `attention`: what the blocks look at, repeated over the depth, as ("space", "time") for every other block; "full" is
    all tokens of a clip, "split" half of the heads over space and half over time. `temporal`: whether every block
    also has a temporal attention of its own, after the spatial one or beside it (STDiT). `cross`: for each entry of
    `attention` whether such blocks attend to the text. `text_dim`: channels of a text token; `num_classes`: of labels;
    None where there are none. `sizes`: whether the network is told height, width and aspect ratio (PixArt at 1024).
    `position_scale`, `position_base`: see `grid_positions`. `frame_scale`: frames that make one step of time.
    """

    width: int
    depth: int
    num_heads: int
    attention: tuple[Axis, ...]
    modulation: Literal["block", "single"]
    patch: int = 2
    in_channels: int = 4
    out_channels: int = 8
    mlp_ratio: int = 4
    temporal: Literal["none", "sequential", "parallel"] = "none"
    cross: tuple[bool, ...] = (False,)
    text_dim: int | None = None
    num_classes: int | None = None
    sizes: bool = False
    position_scale: float = 1.0
    position_base: int | None = None
    frame_scale: float = 1.0

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    def axis(self, index: int) -> Axis:
        """What block `index` looks at."""
        return self.attention[index % len(self.attention)]

    def attends_to_text(self, index: int) -> bool:
        """Whether block `index` attends to the text."""
        return self.cross[index % len(self.cross)]


def mlp(in_dim: int, hidden: int, out_dim: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, hidden), activation, nn.Linear(hidden, out_dim))


def along(attention: Attention, axis: Axis, x_BTSC: Tensor) -> Tensor:
    """Self-attention among the tokens that share a frame (space), a position (time), or a clip (full)."""
    num_clips, num_frames, _, _ = x_BTSC.shape
    if axis == "full":
        x = attention(rearrange(x_BTSC, "b t s c -> b (t s) c"))
        return rearrange(x, "b (t s) c -> b t s c", t=num_frames)
    if axis == "space":
        x = attention(rearrange(x_BTSC, "b t s c -> (b t) s c"))
        return rearrange(x, "(b t) s c -> b t s c", t=num_frames)
    x = attention(rearrange(x_BTSC, "b t s c -> (b s) t c"))
    return rearrange(x, "(b s) t c -> b t s c", b=num_clips)


class SplitAttention(Attention):
    """The first half of the heads looks along space, the second along time (Latte, variant 4)."""

    def forward(self, x_BTSC: Tensor) -> Tensor:
        q, k, v = (
            rearrange(f(x_BTSC), "b t s (h c) -> b h t s c", c=self.head_dim) for f in self.projections
        )
        half = q.shape[1] // 2
        space = F.scaled_dot_product_attention(q[:, :half], k[:, :half], v[:, :half])
        over_time = (rearrange(z[:, half:], "b h t s c -> b h s t c") for z in (q, k, v))
        time = rearrange(F.scaled_dot_product_attention(*over_time), "b h s t c -> b h t s c")
        return self.to_out(rearrange(torch.cat([space, time], 1), "b h t s c -> b t s (h c)"))

    @property
    def projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.to_q, self.to_k, self.to_v


class Block(nn.Module):
    """Attention, attention to the text where there is one, and an MLP; the first and the last are shifted, scaled and
    gated by the noise level.

    With `modulation` "block" both gates are zero at first, so the block begins as the identity (adaLN-Zero).
    """

    def __init__(self, config: TransformerConfig, index: int) -> None:
        super().__init__()
        width, head_dim = config.width, config.head_dim
        self.axis = config.axis(index)
        kind = SplitAttention if self.axis == "split" else Attention
        self.attend = kind(width, head_dim, bias=True)
        self.order = config.temporal
        self.temporal = Attention(width, head_dim, bias=True) if config.temporal != "none" else None
        if self.temporal is not None:
            zeroed(self.temporal.to_out)
        self.cross = Attention(width, head_dim, width, bias=True) if config.attends_to_text(index) else None
        if self.cross is not None:
            zeroed(self.cross.to_out)
        self.mlp = mlp(width, config.mlp_ratio * width, width, nn.GELU("tanh"))
        if config.modulation == "block":
            self.modulate = zeroed(nn.Linear(width, 6 * width))
        else:
            self.table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def modulation(self, embedding_BC: Tensor, shared_B6C: Tensor | None) -> tuple[Tensor, ...]:
        """shift, scale and gate of the attention, then of the MLP, each (B 1 1 C)."""
        if shared_B6C is None:
            values_B6C = self.modulate(F.silu(embedding_BC)).unflatten(1, (6, -1))
        else:
            values_B6C = self.table + shared_B6C
        return tuple(value[:, None, None] for value in values_B6C.unbind(1))

    def forward(
        self,
        x_BTSC: Tensor,
        embedding_BC: Tensor,
        shared_B6C: Tensor | None,
        text: tuple[Tensor, Tensor] | None,
        frames_TC: Tensor | None,
    ) -> Tensor:
        """`frames_TC`: positions of the frames where this block's own temporal attention is to add them."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(embedding_BC, shared_B6C)
        h = norm(x_BTSC) * (1 + scale) + shift
        attended = self.attend(h) if self.axis == "split" else along(self.attend, self.axis, h)
        if self.order == "parallel":
            attended = attended + along(self.temporal, "time", _with_frames(h, frames_TC))
        x = x_BTSC + gate * attended
        if self.order == "sequential":
            # On the bare stream, and under the same gate: so it is in STDiT 1.0.
            x = x + gate * along(self.temporal, "time", _with_frames(x, frames_TC))
        if self.cross is not None:
            num_frames = x.shape[1]
            asked = self.cross(rearrange(x, "b t s c -> b (t s) c"), *text)
            x = x + rearrange(asked, "b (t s) c -> b t s c", t=num_frames)
        return x + mlp_gate * self.mlp(norm(x) * (1 + mlp_scale) + mlp_shift)


def norm(x: Tensor) -> Tensor:
    """Layer norm without weights of its own: the modulation is its weights."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _with_frames(x_BTSC: Tensor, frames_TC: Tensor | None) -> Tensor:
    return x_BTSC if frames_TC is None else x_BTSC + frames_TC[:, None]


class Output(nn.Module):
    """Tokens to the values of their patches, zero at first."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        if config.modulation == "block":
            self.modulate = zeroed(nn.Linear(width, 2 * width))
        else:
            self.table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.single = config.modulation == "single"
        self.project = zeroed(nn.Linear(width, config.patch**2 * config.out_channels))

    def forward(self, x_BTSC: Tensor, embedding_BC: Tensor) -> Tensor:
        if self.single:
            values_B2C = self.table + embedding_BC[:, None]
        else:
            values_B2C = self.modulate(F.silu(embedding_BC)).unflatten(1, (2, -1))
        shift, scale = (value[:, None, None] for value in values_B2C.unbind(1))
        return self.project(norm(x_BTSC) * (1 + scale) + shift)


class Embedding(nn.Module):
    """Noise level, class and picture size as one vector for each clip (B C)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.noise = mlp(NOISE_DIM, width, width, nn.SiLU())
        self.classes = None if config.num_classes is None else nn.Embedding(config.num_classes + 1, width)
        self.side = mlp(NOISE_DIM, width // 3, width // 3, nn.SiLU()) if config.sizes else None
        self.aspect = mlp(NOISE_DIM, width // 3, width // 3, nn.SiLU()) if config.sizes else None

    def forward(self, time_B: Tensor, conditioning: Conditioning) -> Tensor:
        dtype = self.noise[0].weight.dtype
        embedding_BC = self.noise(sinusoid(time_B, NOISE_DIM).to(dtype))
        if self.classes is not None:
            unknown = torch.full_like(conditioning.label_B, self.classes.num_embeddings - 1)
            label_B = torch.where(conditioning.label_B.isnan(), unknown, conditioning.label_B).long()
            embedding_BC = embedding_BC + self.classes(label_B)
        if self.side is not None:
            features_B3N = sinusoid(conditioning.size_B3, NOISE_DIM).to(dtype)
            sides = self.side(features_B3N[:, :2]).flatten(1)
            embedding_BC = embedding_BC + torch.cat([sides, self.aspect(features_B3N[:, 2])], dim=1)
        return embedding_BC


class DiffusionTransformer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patches = nn.Conv2d(config.in_channels, width, config.patch, stride=config.patch)
        self.embedding = Embedding(config)
        self.shared = nn.Linear(width, 6 * width) if config.modulation == "single" else None
        self.text = None if config.text_dim is None else mlp(config.text_dim, width, width, nn.GELU("tanh"))
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.output = Output(config)

    def forward(self, x_BCTHW: Tensor, time_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Height and width are multiples of the patch; `time_B` is the noise level as the weights were trained with."""
        config, num_frames = self.config, x_BCTHW.shape[2]
        patches = self.patches(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"))
        rows, columns = patches.shape[-2:]
        x = rearrange(patches, "(b t) c h w -> b t (h w) c", t=num_frames)
        x = x + grid_positions(rows, columns, config.width, config.position_scale, config.position_base, x)
        embedding_BC = self.embedding(time_B, conditioning)
        shared = None if self.shared is None else self.shared(F.silu(embedding_BC)).unflatten(1, (6, -1))
        text = None if self.text is None else (self.text(conditioning.text_BLD), conditioning.mask_BL)
        frames_TC = frame_positions(num_frames, config.width, config.frame_scale, x)
        first_in_time = next((i for i in range(config.depth) if config.axis(i) != "space"), None)
        for index, block in enumerate(self.blocks):
            if index == first_in_time and num_frames > 1:
                x = x + frames_TC[:, None]
            own = frames_TC if block.temporal is not None and index == 0 else None
            x = block(x, embedding_BC, shared, text, own)
        return rearrange(
            self.output(x, embedding_BC),
            "b t (h w) (p q c) -> b c t (h p) (w q)",
            h=rows,
            p=config.patch,
            q=config.patch,
        )
