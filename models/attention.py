"""Attention of all networks: torch's scaled dot products, with queries and keys normalised and rotated where a network
asks for it.

Which kernel computes it is torch's choice unless `use_attention` says one. A kernel that cannot run on given inputs is
an error then, never a slower one in silence.

Axes: B sequences, N tokens, L tokens of a context with D channels, H heads of C channels, A axes of a position.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.positions import Pairing, rotate
from warehouse.errors import SettingsError

Kernel = Literal["auto", "flash", "efficient", "cudnn", "math"]

_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def attend(q_BHNC: Tensor, k_BHLC: Tensor, v_BHLC: Tensor, mask: Tensor | None, kernel: Kernel) -> Tensor:
    """softmax(q k^T / sqrt(C)) v, (B H N C); `mask`: bool, true = seen, of a shape that widens to (B H N L).

    Raises:
        SettingsError: the kernel cannot do this on this device.
    """
    chosen = nullcontext() if kernel == "auto" else sdpa_kernel(_KERNELS[kernel])
    with chosen:
        try:
            return F.scaled_dot_product_attention(q_BHNC, k_BHLC, v_BHLC, attn_mask=mask)
        except RuntimeError as error:
            if not str(error).startswith(("No available kernel", "No viable backend")):
                raise
            masked = "without a mask" if mask is None else "with a mask"
            raise SettingsError(
                f"attention kernel {kernel!r} cannot take queries of shape {tuple(q_BHNC.shape)} and keys of "
                f"{tuple(k_BHLC.shape)}, {q_BHNC.dtype}, {masked}, on {q_BHNC.device.type}; set attention to 'auto', "
                f"or to one of {', '.join(_KERNELS)} that can"
            ) from error


class Attention(nn.Module):
    """Multi-head attention of x to itself or to a context.

    Args:
        channels: of x, in and out.
        head_dim: channels of a head.
        context_dim: channels of a context token; None for self-attention.
        bias: whether queries, keys and values have one.
        qk_norm: whether each head's queries and keys are RMS-normalised, with learned weights (Open-Sora).
        pairing: which channels rotate together, where positions are given (`models.positions.rotate`).
        rotary_first: whether they rotate before they are normalised (Open-Sora 1.1).
    """

    kernel: Kernel = "auto"

    def __init__(
        self,
        channels: int,
        head_dim: int,
        context_dim: int | None = None,
        bias: bool = False,
        qk_norm: bool = False,
        pairing: Pairing = "halves",
        rotary_first: bool = False,
    ) -> None:
        super().__init__()
        source = channels if context_dim is None else context_dim
        self.head_dim, self.pairing, self.rotary_first = head_dim, pairing, rotary_first
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(source, channels, bias=bias)
        self.to_v = nn.Linear(source, channels, bias=bias)
        self.norm_q = nn.RMSNorm(head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.norm_k = nn.RMSNorm(head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.to_out = nn.Linear(channels, channels)

    def heads(self, x_BNC: Tensor) -> Tensor:
        return rearrange(x_BNC, "b n (h c) -> b h n c", c=self.head_dim)

    def _placed(self, z_BHNC: Tensor, norm: nn.Module, angles: Tensor | None) -> Tensor:
        """Queries or keys, normalised and rotated."""
        if angles is None:
            return norm(z_BHNC)
        if self.rotary_first:
            return norm(rotate(z_BHNC, angles, self.pairing))
        return rotate(norm(z_BHNC), angles, self.pairing)

    def forward(
        self,
        x_BNC: Tensor,
        context_BLD: Tensor | None = None,
        mask: Tensor | None = None,
        angles: Tensor | None = None,
    ) -> Tensor:
        """`mask`: bool, true = seen, (B L) for every query or (B N L); `angles`: positions
        of x in self-attention (`rotate`)."""
        source = x_BNC if context_BLD is None else context_BLD
        q = self._placed(self.heads(self.to_q(x_BNC)), self.norm_q, angles)
        k = self._placed(self.heads(self.to_k(source)), self.norm_k, angles)
        if mask is not None:
            mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
        attended = attend(q, k, self.heads(self.to_v(source)), mask, self.kernel)
        return self.to_out(rearrange(attended, "b h n c -> b n (h c)"))


def use_attention(network: nn.Module, kernel: Kernel) -> None:
    """Has all attention of a network computed by one kernel, or with "auto" by torch's choice.

    Raises SettingsError for a kernel that is not known, or one that this device never has.
    """
    if kernel not in get_args(Kernel):
        raise SettingsError(f"attention is {kernel!r}, expected one of {', '.join(get_args(Kernel))}")
    if kernel in ("efficient", "cudnn") and not torch.cuda.is_available():
        raise SettingsError(
            f"attention is {kernel!r}, which needs CUDA and there is none; expected auto, flash or math"
        )
    for module in network.modules():
        if isinstance(module, Attention):
            module.kernel = kernel
