"""A head on the embedded CoCa's image embedding that gives the project's own aesthetics scale, 1 to 10."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.embedded.store import load_weights, read_config


class AestheticsHead(nn.Module):
    """score_B = 1 + 9 sigmoid(MLP(e_BD)) of a unit-length image embedding: sharp, centred, saturated, textless is high."""

    def __init__(self, embedding: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(embedding, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, e_BD: Tensor) -> Tensor:
        """Scores (B,) of unit-length embeddings."""
        return 1 + 9 * torch.sigmoid(self.layers(e_BD)[:, 0])


def build_aesthetics(config: dict[str, Any]) -> AestheticsHead:
    """The head of `config` with fresh weights."""
    return AestheticsHead(**config)


def load_aesthetics() -> AestheticsHead:
    """The trained head in float32, in evaluation mode; it takes (B, D) unit-length embeddings of `load_coca().model`."""
    head = build_aesthetics(read_config("aesthetics"))
    load_weights("aesthetics", head)
    return head.eval()
