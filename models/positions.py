"""Positions of tokens: as sines and cosines that are added (Vaswani et al. 2017, section 3.5; two dimensions as in DiT),
and as rotations of queries and keys (Su et al. 2021; three dimensions as in Open-Sora-Plan).
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from warehouse.errors import SettingsError

Pairing = Literal["pairs", "halves"]


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


def rotary_angles(positions_NA: Tensor, head_dim: int) -> Tensor:
    """Angles of rotary positions (Su et al. 2021), (N, A, F) in float32: each of A axes turns its own share of the head,
    F = head_dim / (2 A) pairs of channels, at frequencies from 1 down to almost 1 / 10,000.

    Raises SettingsError for heads that do not split so.
    """
    num_axes = positions_NA.shape[1]
    if head_dim % (2 * num_axes):
        raise SettingsError(
            f"heads have {head_dim} channels, expected a multiple of {2 * num_axes} for rotary positions along "
            f"{num_axes} axes; change width or num_heads"
        )
    num_pairs = head_dim // (2 * num_axes)
    frequency = rotary_frequencies(num_pairs).to(positions_NA.device)
    return (positions_NA.double()[..., None] * frequency).float()


def rotary_frequencies(num_pairs: int) -> Tensor:
    """Angles of one step (num_pairs,), float64, from 1 down to almost 1 / 10,000."""
    return 10_000.0 ** -(torch.arange(num_pairs, dtype=torch.float64) / num_pairs)


def rotate(x_BHNC: Tensor, angles: Tensor, pairing: Pairing) -> Tensor:
    """Turns pairs of channels by the angles of their token; scalar products then depend on differences of positions alone.

    Args:
        angles: (N A F), or (B N A F) where sequences hold other positions.
        pairing: "pairs" turns neighbouring channels together (Open-Sora), "halves" the first half of an axis's share
            with the second (Open-Sora-Plan).
    """
    cos, sin = angles.cos().unsqueeze(-4), angles.sin().unsqueeze(-4)
    num_axes, num_pairs = angles.shape[-2:]
    names = "(a f two)" if pairing == "pairs" else "(a two f)"
    wide = x_BHNC.to(torch.promote_types(x_BHNC.dtype, torch.float32))
    x = rearrange(wide, f"b h n {names} -> two b h n a f", two=2, a=num_axes, f=num_pairs)
    turned = torch.stack([x[0] * cos - x[1] * sin, x[1] * cos + x[0] * sin])
    return rearrange(turned, f"two b h n a f -> b h n {names}").to(x_BHNC.dtype)


def volume(num_frames: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """Frame, row and column of every token of a clip, (T H W, 3)."""
    axes = (torch.arange(length, device=device) for length in (num_frames, rows, columns))
    return torch.cartesian_prod(*axes)
