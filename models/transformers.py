"""Diffusion transformers for images and video: a function (x_BCTHW, time_B, conditioning) -> (B, out, T, H, W).

One network of one kind of block; papers differ in few choices, which are settings (`models.transformer_config`):

- what a block's attention looks at (`attention`): the positions of a frame, the frames of a position, all tokens, or
  those a step apart (Open-Sora-Plan 1.3);
- how the noise level gets in (`modulation`): a linear layer in every block (adaLN-Zero: DiT, arXiv 2212.09748,
  section 3.2; Latte, arXiv 2401.03048) or one layer for all and a small table in each (adaLN-single: PixArt-alpha,
  arXiv 2310.00426, section 2.3; Open-Sora's STDiT);
- what is asked for: text by cross attention, a class, or nothing;
- where positions count from, and whether they are added to the tokens or rotate them.

Axes as in `models.blocks`; M the numbers of modulation.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import sinusoid, zeroed
from models.conditioning import Conditioning
from models.inputs import check_transformer
from models.positions import frame_positions, grid_positions, rotary_angles, volume
from models.transformer_blocks import Block, Heard, Output, mlp
from models.transformer_config import TransformerConfig

__all__ = ["DiffusionTransformer", "TransformerConfig"]

NOISE_DIM = 256


class Embedding(nn.Module):
    """Noise level, class, size, frame rate and number of frames as vectors of the network's width."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.noise = mlp(NOISE_DIM, width, width, nn.SiLU())
        self.classes = None if config.num_classes is None else nn.Embedding(config.num_classes + 1, width)
        self.side = mlp(NOISE_DIM, width // 3, width // 3, nn.SiLU()) if config.sizes else None
        self.aspect = mlp(NOISE_DIM, width // 3, width // 3, nn.SiLU()) if config.sizes else None
        self.fps = mlp(NOISE_DIM, width, width, nn.SiLU()) if config.fps else None
        self.frames = mlp(NOISE_DIM, width, width, nn.SiLU()) if config.num_frames else None
        if self.fps is not None:
            zeroed(self.fps[-1])  # a network that was not told the frame rate goes on as it was

    def features(self, value: Tensor) -> Tensor:
        return sinusoid(value, NOISE_DIM).to(self.noise[0].weight.dtype)  # sinusoids are float32

    def level(self, time: Tensor) -> Tensor:
        """The noise level of clips (B 1 C), or of frames (B T C)."""
        level = self.noise(self.features(time))
        return level[:, None] if time.ndim == 1 else level

    def picture(self, conditioning: Conditioning) -> Tensor | float:
        """What is told of the picture, (B 1 C)."""
        told: Tensor | float = 0.0
        if self.classes is not None:
            unknown = torch.full_like(conditioning.label_B, self.classes.num_embeddings - 1)
            label_B = torch.where(conditioning.label_B.isnan(), unknown, conditioning.label_B).long()
            told = told + self.classes(label_B)[:, None]
        if self.side is not None:
            features_B3N = self.features(conditioning.size_B3)
            sides = self.side(features_B3N[:, :2]).flatten(1)
            told = told + torch.cat([sides, self.aspect(features_B3N[:, 2])], dim=1)[:, None]
        return told

    def motion(self, conditioning: Conditioning, num_frames: int) -> Tensor | float:
        """What is told of time, (B 1 C)."""
        told: Tensor | float = 0.0
        if self.frames is not None:
            count = torch.full_like(conditioning.numbers_BN[:, :1], num_frames)
            told = told + self.frames(self.features(count))
        if self.fps is not None:
            told = told + self.fps(self.features(conditioning.numbers_BN[:, :1]))
        return told


class DiffusionTransformer(nn.Module):
    """A diffusion transformer of any shape (module docstring): (x_BCTHW, time_B, conditioning) -> (B, out, T, H, W).

    x has `in_channels`, the result `out_channels`, both in the type of the weights. Fresh weights say zero. The noise
    level comes in the numbers of the objective: published weights have 0 to 1000.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patches = nn.Conv2d(config.in_channels, width, config.patch, stride=config.patch)
        self.embedding = Embedding(config)
        self.shared = nn.Linear(width, 6 * width) if config.modulation == "single" else None
        self.shared_temporal = nn.Linear(width, 3 * width) if config.temporal == "own" else None
        self.text = None if config.text_dim is None else mlp(config.text_dim, width, width, nn.GELU("tanh"))
        if config.null_tokens:  # drawn once and never trained, as in PixArt and STDiT
            null_LD = torch.randn(config.null_tokens, config.text_dim) / config.text_dim**0.5
            self.register_buffer("null_text", null_LD)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.output = Output(config)

    def forward(self, x_BCTHW: Tensor, time_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Height and width are multiples of the patch; `time_B` is the noise level as the weights were trained with,
        or (B T) where frames that are given have one of their own.

        Raises:
            InputError: shapes, types or conditioning are not what the network takes.
        """
        config = self.config
        check_transformer(config, x_BCTHW, time_B, conditioning, self.patches.weight.dtype)
        num_frames = x_BCTHW.shape[2]
        patches = self.patches(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"))
        rows, columns = patches.shape[-2:]
        x = rearrange(patches, "(b t) c h w -> b t (h w) c", t=num_frames)
        if config.rotary != "volume":
            x = x + self._grid(rows, columns, x)
        heard, output_BTC = self._heard(x, rows, columns, time_B, conditioning)
        for block in self.blocks:
            x = block(x, heard)
        return rearrange(
            self.output(x, output_BTC),
            "b t (h w) (p q c) -> b c t (h p) (w q)",
            h=rows,
            p=config.patch,
            q=config.patch,
        )

    def _grid(self, rows: int, columns: int, like: Tensor) -> Tensor:
        config, scale, base = self.config, self.config.position_scale, self.config.position_base
        if config.position_side is not None:
            scale = config.patch * (rows * columns) ** 0.5 / config.position_side
            base = round((rows * columns) ** 0.5)
        return grid_positions(rows, columns, config.width, scale, base, like)

    def _angles(self, num_frames: int, rows: int, columns: int, device: torch.device) -> Tensor | None:
        if self.config.rotary == "none":
            return None
        time = self.config.rotary == "time"
        at = (
            torch.arange(num_frames, device=device)[:, None]
            if time
            else volume(num_frames, rows, columns, device)
        )
        return rotary_angles(at, self.config.head_dim)

    def _asked(self, conditioning: Conditioning) -> tuple[Tensor, Tensor] | None:
        """Tokens of the text and which count; a text that was dropped is the null caption, as long as the text was."""
        if self.text is None:
            return None
        text_BLD, mask_BL = conditioning.text_BLD, conditioning.mask_BL
        if self.config.null_tokens and conditioning.dropped_BL is not None:
            dropped_B1 = conditioning.dropped_BL.any(1, keepdim=True)
            null_LD = self.null_text[: text_BLD.shape[1]].to(text_BLD)
            text_BLD = torch.where(dropped_B1[..., None], null_LD, text_BLD)
            mask_BL = torch.where(dropped_B1, conditioning.dropped_BL, mask_BL)
        return self.text(text_BLD), mask_BL

    def _heard(
        self, x_BTSC: Tensor, rows: int, columns: int, time_B: Tensor, conditioning: Conditioning
    ) -> tuple[Heard, Tensor]:
        """What the blocks hear, and what the output does."""
        config, num_frames, given_BT = self.config, x_BTSC.shape[1], conditioning.given_BT
        level = self.embedding.level(time_B)
        picture = self.embedding.picture(conditioning)
        motion = self.embedding.motion(conditioning, num_frames)
        own = self.shared_temporal is not None
        embedding = level + picture if own else level + picture + motion
        output = embedding
        if own:
            # STDiT2 tells its output the bare noise level, but of given frames the picture too.
            output = level if given_BT is None else torch.where(given_BT[..., None], embedding, level)
        shared = None if self.shared is None else self.shared(F.silu(embedding)).unflatten(2, (6, -1))
        temporal = self.shared_temporal(F.silu(level + motion)).unflatten(2, (3, -1)) if own else None
        heard = Heard(
            embedding_BTC=embedding,
            shared_BTMC=shared,
            temporal_BTMC=temporal,
            text=self._asked(conditioning),
            frames_TC=frame_positions(num_frames, config.width, config.frame_scale, x_BTSC),
            angles_NAF=self._angles(num_frames, rows, columns, x_BTSC.device),
            image_only_BT=conditioning.image_only_BT,
        )
        return heard, output
