"""What one forward pass costs, counted without weights and without computing: floating-point operations, and the bytes
that it leaves for the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from models.conditioning import NUMBERS, Conditioning
from models.transformers import DiffusionTransformer, TransformerConfig
from models.video_unet import VideoUNet, VideoUNetConfig

NUM_TOKENS = 120
"""Text tokens of a counted sample."""


@dataclass(frozen=True)
class Counted:
    """What a network costs: its parameters, and one forward pass over one clip."""

    parameters: int
    """Numbers in all weights, trained or not."""
    flops: int
    """A multiplication and an addition are two."""
    activation_bytes: int
    """Kept for the backward pass in float32, parameters apart, with attention that does not keep its matrix."""


def network_of(config: TransformerConfig | VideoUNetConfig) -> nn.Module:
    """The network of a shape, with fresh weights from torch's random state on its default device, in its default type."""
    return VideoUNet(config) if isinstance(config, VideoUNetConfig) else DiffusionTransformer(config)


def count(config: TransformerConfig | VideoUNetConfig, latent: tuple[int, int, int]) -> Counted:
    """Counts one clip of latents with these frames, height and width.

    Blocks that repeat are counted once: a transformer of one and of two rounds tells what a round costs.
    """
    if isinstance(config, VideoUNetConfig):
        return _count(config, latent)
    round_length = lcm(len(config.attention), len(config.cross))
    num_rounds, rest = divmod(config.depth, round_length)
    if rest or num_rounds < 3:
        return _count(config, latent)
    one, two = (_count(replace(config, depth=rounds * round_length), latent) for rounds in (1, 2))
    totals = {
        name: value + (num_rounds - 1) * (getattr(two, name) - value) for name, value in vars(one).items()
    }
    return Counted(**totals)


def _count(config: TransformerConfig | VideoUNetConfig, latent: tuple[int, int, int]) -> Counted:
    with torch.device("meta"):
        network, inputs = network_of(config), sample_inputs(config, latent)
    parameters = list(network.parameters())
    known = {parameter.untyped_storage()._cdata for parameter in parameters}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in known:
            kept[storage] = tensor  # held, so that no other storage takes its place
        return tensor

    with _FusedAttention(), _Operations() as operations, saved_tensors_hooks(pack, lambda tensor: tensor):
        network(*inputs)
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return Counted(sum(parameter.numel() for parameter in parameters), operations.flops, total)


class _Operations(TorchDispatchMode):
    """torch's FlopCounterMode without its table of modules, in half of its time."""

    flops = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        formula = flop_registry.get(operation._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


class _FusedAttention(TorchFunctionMode):
    """Meta tensors have no fused attention, which every device has; theirs would keep its matrix."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return fused(*args, **(kwargs or {}))[0]
        return function(*args, **(kwargs or {}))


def sample_inputs(
    config: TransformerConfig | VideoUNetConfig, latent: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Conditioning]:
    """One clip of the shape that a network takes, of zeros."""
    frames, height, width = latent
    unet = isinstance(config, VideoUNetConfig)
    condition = config.condition_channels if unet else 0
    told = Conditioning(
        torch.zeros(1, NUM_TOKENS, config.text_dim or 1),
        torch.ones(1, NUM_TOKENS, dtype=torch.bool),
        torch.zeros(1, config.num_numbers if unet else len(NUMBERS)),
        torch.zeros(1),
        torch.zeros(1, 3),
        torch.zeros(1, condition, frames, height, width) if condition else None,
        shown_BT=torch.ones(1, frames, dtype=torch.bool) if unet and config.missing_size else None,
    )
    channels = config.latent_channels if unet else config.in_channels
    return torch.zeros(1, channels, frames, height, width), torch.zeros(1), told
