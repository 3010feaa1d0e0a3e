"""Blocks of diffusion transformers. Tokens are (B T S C); axes as in `models.blocks`, M the numbers of modulation.

What a block's numbers of modulation come from is (B T M C), or (B 1 M C) where all frames are noised alike: frames that
are given are told the noise level 0 (Open-Sora's masked training).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import Attention, attend
from models.blocks import zeroed
from models.positions import Pairing
from models.recompute import Recomputed
from models.transformer_config import Axis, TransformerConfig


@dataclass(frozen=True)
class Heard:
    """What every block hears besides its input.

    `embedding_BTC`: noise level and what else is told. `shared_BTMC`: six numbers of modulation for all blocks, None
    where each block makes its own. `temporal_BTMC`: three more for attention over time (STDiT2). `text`: tokens
    (B L C) and mask (B L). `frames_TC`: positions of frames that are added. `angles_NAF`: those that rotate.
    `image_only_BT`: bool, true where a frame is an image of its own, None where none is.
    """

    embedding_BTC: Tensor
    shared_BTMC: Tensor | None
    temporal_BTMC: Tensor | None
    text: tuple[Tensor, Tensor] | None
    frames_TC: Tensor | None
    angles_NAF: Tensor | None
    image_only_BT: Tensor | None


def mlp(in_dim: int, hidden: int, out_dim: int, activation: nn.Module) -> nn.Sequential:
    """Two linear layers, (..., in_dim) to (..., out_dim), with an activation on the `hidden` channels in between."""
    return nn.Sequential(nn.Linear(in_dim, hidden), activation, nn.Linear(hidden, out_dim))


def norm(x: Tensor) -> Tensor:
    """Layer norm without weights of its own: the modulation is its weights."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def over_space(attention: Attention, x_BTSC: Tensor) -> Tensor:
    """Self-attention among the tokens of a frame."""
    x = attention(rearrange(x_BTSC, "b t s c -> (b t) s c"))
    return rearrange(x, "(b t) s c -> b t s c", b=len(x_BTSC))


def over_time(attention: Attention, x_BTSC: Tensor, heard: Heard) -> Tensor:
    """Self-attention among the frames of a position; 0 for frames that are images, which no other frame sees."""
    num_clips, num_frames, num_positions, _ = x_BTSC.shape
    images_BT, seen = heard.image_only_BT, None
    if images_BT is not None:
        same = torch.eye(num_frames, dtype=torch.bool, device=x_BTSC.device)
        seen = ~(images_BT[:, :, None] | images_BT[:, None, :]) | same
        seen = seen.repeat_interleave(num_positions, 0)
    x = attention(rearrange(x_BTSC, "b t s c -> (b s) t c"), None, seen, heard.angles_NAF)
    x = rearrange(x, "(b s) t c -> b t s c", b=num_clips)
    return x if images_BT is None else x.masked_fill(images_BT[..., None, None], 0)


def over_clip(attention: Attention, x_BTSC: Tensor, heard: Heard) -> Tensor:
    """Self-attention among all tokens of a clip."""
    x = attention(rearrange(x_BTSC, "b t s c -> b (t s) c"), None, None, heard.angles_NAF)
    return rearrange(x, "b (t s) c -> b t s c", t=x_BTSC.shape[1])


def skipped(x: Tensor, step: int, groups: bool) -> Tensor:
    """Tokens (B N ...) as (step B, N / step, ...): each row holds every step-th token, or with `groups` every step-th
    group of `step` tokens. N is a multiple of step^2 (Open-Sora-Plan 1.3: skiparse).
    """
    pattern = "b (n m k) ... -> (m b) (n k) ..." if groups else "b (n m k) ... -> (k b) (n m) ..."
    return rearrange(x, pattern, m=step, k=step)


def unskipped(x: Tensor, step: int, groups: bool) -> Tensor:
    """`skipped` undone."""
    pattern = "(m b) (n k) ... -> b (n m k) ..." if groups else "(k b) (n m) ... -> b (n m k) ..."
    return rearrange(x, pattern, m=step, k=step)


def over_skips(attention: Attention, x_BTSC: Tensor, heard: Heard, step: int, groups: bool) -> Tensor:
    """Self-attention among tokens of a clip that are `skipped` into one row; what pads the rows is not seen."""
    num_clips, num_frames, num_positions, _ = x_BTSC.shape
    length = num_frames * num_positions
    padding = -length % step**2
    tokens = F.pad(rearrange(x_BTSC, "b t s c -> b (t s) c"), (0, 0, 0, padding))
    angles, seen = heard.angles_NAF, None
    if angles is not None:
        angles = F.pad(angles, (0, 0, 0, 0, 0, padding))
        angles = skipped(angles[None], step, groups).repeat_interleave(num_clips, 0)
    if padding:
        real_N = torch.arange(length + padding, device=x_BTSC.device) < length
        seen = skipped(real_N[None], step, groups).repeat_interleave(num_clips, 0)
    x = attention(skipped(tokens, step, groups), None, seen, angles)
    return rearrange(unskipped(x, step, groups)[:, :length], "b (t s) c -> b t s c", t=num_frames)


class SplitAttention(Attention):
    """The first half of the heads looks along space, the second along time (Latte, variant 4)."""

    def forward(self, x_BTSC: Tensor) -> Tensor:
        q, k, v = (
            rearrange(f(x_BTSC), "b t s (h c) -> b h t s c", c=self.head_dim)
            for f in (self.to_q, self.to_k, self.to_v)
        )
        q, k = self.norm_q(q), self.norm_k(k)
        half = q.shape[1] // 2
        space = attend(
            *(rearrange(z[:, :half], "b h t s c -> (b t) h s c") for z in (q, k, v)), None, self.kernel
        )
        time = attend(
            *(rearrange(z[:, half:], "b h t s c -> (b s) h t c") for z in (q, k, v)), None, self.kernel
        )
        space = rearrange(space, "(b t) h s c -> b t s (h c)", b=len(x_BTSC))
        time = rearrange(time, "(b s) h t c -> b t s (h c)", b=len(x_BTSC))
        return self.to_out(torch.cat([space, time], dim=-1))


def _attention(config: TransformerConfig, kind: type[Attention] = Attention) -> Attention:
    pairing: Pairing = "halves" if config.rotary == "volume" else "pairs"
    return kind(
        config.width,
        config.head_dim,
        bias=True,
        qk_norm=config.qk_norm,
        pairing=pairing,
        rotary_first=config.rotary_first,
    )


class Block(Recomputed):
    """Attention, attention to the text where there is one, and an MLP; the first and the last are shifted, scaled and
    gated by the noise level.

    With `modulation` "block" both gates are zero at first, so the block begins as the identity (adaLN-Zero).
    """

    def __init__(self, config: TransformerConfig, index: int) -> None:
        super().__init__()
        width = config.width
        self.axis: Axis = config.axis(index)
        self.skip_step = config.skip_step
        self.attend = _attention(config, SplitAttention if self.axis == "split" else Attention)
        self.order = config.temporal
        self.adds_frames = index == config.first_in_time
        self.tells_frames = index == 0 and config.temporal in ("sequential", "parallel")
        self.temporal = _attention(config) if config.temporal != "none" else None
        self.temporal_table = (
            nn.Parameter(torch.randn(3, width) / width**0.5) if self.order == "own" else None
        )
        cross = config.attends_to_text(index)
        self.cross = Attention(width, config.head_dim, width, bias=True) if cross else None
        self.mlp = mlp(width, config.mlp_ratio * width, width, nn.GELU("tanh"))
        if config.modulation == "block":
            self.modulate = zeroed(nn.Linear(width, 6 * width))
        else:
            self.table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self._silence(config)

    def _silence(self, config: TransformerConfig) -> None:
        """Zeroes what is to change nothing at first."""
        silent = [] if self.temporal is None else [self.temporal.to_out]
        silent += [] if self.cross is None else [self.cross.to_out]
        if config.silent_time and self.axis == "time":
            silent += [self.attend.to_out, self.mlp[-1]]
        for module in silent:
            zeroed(module)

    def modulation(self, heard: Heard) -> tuple[Tensor, ...]:
        """shift, scale and gate of the attention, then of the MLP, each (B T 1 C) or (B 1 1 C)."""
        if heard.shared_BTMC is None:
            values_BTMC = self.modulate(F.silu(heard.embedding_BTC)).unflatten(2, (6, -1))
        else:
            values_BTMC = self.table + heard.shared_BTMC
        return tuple(value[:, :, None] for value in values_BTMC.unbind(2))

    def look(self, h_BTSC: Tensor, heard: Heard) -> Tensor:
        """What the block's first attention says."""
        if self.axis == "space":
            return over_space(self.attend, h_BTSC)
        if self.axis == "time":
            return over_time(self.attend, h_BTSC, heard)
        if self.axis == "split":
            return self.attend(h_BTSC)
        if self.axis == "full":
            return over_clip(self.attend, h_BTSC, heard)
        return over_skips(self.attend, h_BTSC, heard, self.skip_step, self.axis == "skip_groups")

    def look_over_time(
        self, x_BTSC: Tensor, h_BTSC: Tensor, heard: Heard, numbers: tuple[Tensor, ...]
    ) -> Tensor:
        """What the block's own attention over time adds after its first one; `h_BTSC` is what that one saw."""
        shift, scale, gate = numbers
        if self.order == "sequential":
            h = x_BTSC  # the bare stream, and the first attention's gate: so it is in STDiT 1.0
        elif self.order == "parallel":
            h = h_BTSC
        else:
            if self.temporal_table is not None:
                table_BTMC = self.temporal_table + heard.temporal_BTMC
                shift, scale, gate = (value[:, :, None] for value in table_BTMC.unbind(2))
            h = norm(x_BTSC) * (1 + scale) + shift
        if self.tells_frames:
            h = h + heard.frames_TC[:, None]
        return gate * over_time(self.temporal, h, heard)

    def forward(self, x_BTSC: Tensor, heard: Heard) -> Tensor:
        x, images_BT = x_BTSC, heard.image_only_BT
        if self.adds_frames and x.shape[1] > 1:
            added = heard.frames_TC[:, None]
            x = x + (added if images_BT is None else added * ~images_BT[..., None, None])
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(heard)
        h = norm(x) * (1 + scale) + shift
        attended = x + gate * self.look(h, heard)
        if self.temporal is not None:
            attended = attended + self.look_over_time(attended, h, heard, (shift, scale, gate))
        if self.cross is not None:
            asked = self.cross(rearrange(attended, "b t s c -> b (t s) c"), *heard.text)
            attended = attended + rearrange(asked, "b (t s) c -> b t s c", t=x.shape[1])
        result = attended + mlp_gate * self.mlp(norm(attended) * (1 + mlp_scale) + mlp_shift)
        if self.axis == "time" and images_BT is not None:
            return torch.where(images_BT[..., None, None], x, result)
        return result


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

    def forward(self, x_BTSC: Tensor, embedding_BTC: Tensor) -> Tensor:
        if self.single:
            values_BTMC = self.table + embedding_BTC[:, :, None]
        else:
            values_BTMC = self.modulate(F.silu(embedding_BTC)).unflatten(2, (2, -1))
        shift, scale = (value[:, :, None] for value in values_BTMC.unbind(2))
        return self.project(norm(x_BTSC) * (1 + scale) + shift)
