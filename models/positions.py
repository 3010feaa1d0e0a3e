"""Fixed positions of tokens as sines and cosines (Vaswani et al. 2017, section 3.5; two dimensions as in DiT)."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos(position_N: Tensor, dim: int) -> Tensor:
    """[sin, cos] features (N, dim) in float32, with dim / 2 frequencies from 1 down to almost 1 / 10,000."""
    frequency = 10_000.0 ** -(
        torch.arange(dim // 2, dtype=torch.float64, device=position_N.device) / (dim // 2)
    )
    angle = position_N.double()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def grid_positions(rows: int, columns: int, dim: int, scale: float, base: int | None, like: Tensor) -> Tensor:
    """Positions of a frame's patches, (rows * columns, dim): the first half of the channels tells the column.

    Args:
        scale: a step of one patch is 1 / scale.
        base: if given, the grid is stretched to this many steps whatever its size, so that a network made for one
            size takes others (PixArt); else a patch has the same position at every size (STDiT).
    """
    row = torch.arange(rows, dtype=torch.float32, device=like.device) / scale
    column = torch.arange(columns, dtype=torch.float32, device=like.device) / scale
    if base is not None:
        row, column = row * base / rows, column * base / columns
    table_HWD = torch.cat(
        [
            sincos(column, dim // 2)[None].expand(rows, -1, -1),
            sincos(row, dim // 2)[:, None].expand(-1, columns, -1),
        ],
        dim=2,
    )
    return table_HWD.flatten(0, 1).to(like.dtype)


def frame_positions(num_frames: int, dim: int, scale: float, like: Tensor) -> Tensor:
    """Positions of frames, (num_frames, dim); a step of one frame is 1 / scale."""
    return sincos(torch.arange(num_frames, device=like.device) / scale, dim).to(like.dtype)
