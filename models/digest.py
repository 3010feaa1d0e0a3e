"""A name for weights that follows from their values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from torch import nn


def weights_digest(network: nn.Module, **facts: object) -> str:
    """sha256 (hex) over the network's parameters and buffers as float32, and over `facts` that change its output."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    state: Mapping = network.state_dict()
    for name in sorted(state):
        tensor = state[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
