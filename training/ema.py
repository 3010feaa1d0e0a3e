"""Moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def decay_at(num_updates: int, highest: float) -> float:
    """Decay of the n-th update: (1 + n) / (10 + n) until it reaches the highest (as in SVD's code)."""
    return min(highest, (1 + num_updates) / (10 + num_updates))


class Ema:
    """Averaged copies of a network's trainable parameters, in float32 beside them.

    The others, which never change, are taken from the network itself.
    """

    def __init__(self, network: nn.Module, highest_decay: float) -> None:
        self.highest_decay = highest_decay
        self.num_updates = 0
        self.averages = {
            name: parameter.detach().float().clone()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after an optimiser step."""
        current = dict(network.named_parameters())
        self.num_updates += 1
        share = 1 - decay_at(self.num_updates, self.highest_decay)
        torch._foreach_lerp_(
            list(self.averages.values()), [current[name].float() for name in self.averages], share
        )

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The whole state of the averaged network."""
        return {name: value.detach() for name, value in network.state_dict().items()} | self.averages

    def state_dict(self) -> dict[str, object]:
        return {"num_updates": self.num_updates, "averages": self.averages}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.num_updates = state["num_updates"]
        for name, average in self.averages.items():
            average.copy_(state["averages"][name])
