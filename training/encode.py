"""Frames and captions to what a network trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Encoder(Protocol):
    """What is needed of an autoencoder here."""

    def encode(self, x_BTCHW: Tensor) -> Tensor:
        """Scaled latents (B, T, C, h, w) of frames in [-1, 1]."""


class TextEncoder(Protocol):
    """What is needed of a text encoder here."""

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D) and mask (B, L), true where a token counts."""


def encode_clips(
    frames_BTHWC: np.ndarray, captions: Sequence[str], autoencoder: Encoder, text_encoder: TextEncoder
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents (B, T, C, h, w) float16, text (B, L, D) float16 and mask (B, L) bool of uint8 RGB clips.

    Clips are encoded one by one, so that a clip's latents do not depend on its neighbours.
    """
    latents = [autoencoder.encode(to_unit_range(frames_THWC[None])) for frames_THWC in frames_BTHWC]
    text_BLD, mask_BL = text_encoder.encode(list(captions))
    return (
        torch.cat(latents).cpu().numpy().astype(np.float16),
        text_BLD.cpu().numpy().astype(np.float16),
        mask_BL.cpu().numpy().astype(np.bool_),
    )


def to_unit_range(frames_BTHWC: np.ndarray) -> Tensor:
    """uint8 RGB frames as float32 (B, T, C, H, W) in [-1, 1]."""
    return torch.from_numpy(frames_BTHWC).movedim(-1, 2).float() / 127.5 - 1
