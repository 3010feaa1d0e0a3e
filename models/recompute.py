"""Gradient checkpointing (Chen et al. 2016), set from outside: blocks forget what they computed and compute it again when
their gradients are due. The gradients are the same numbers.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from warehouse.errors import SettingsError

Recompute = Literal["none", "selective", "block"]

_aten = torch.ops.aten
_COSTLY = {
    getattr(_aten, name).default
    for name in (
        "mm",
        "addmm",
        "bmm",
        "convolution",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
}


class Recomputed(nn.Module):
    """A block that can be computed again: no randomness, no state that its forward changes."""

    recompute: Recompute = "none"

    def __call__(self, *args: Any) -> Any:
        if self.recompute == "none" or not torch.is_grad_enabled():
            return super().__call__(*args)
        how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        if self.recompute == "selective":
            # What is kept goes through hooks that are set around the network, offloading to the CPU among them.
            how |= {"context_fn": _selective, "respect_saved_tensors_hooks": True}
        return checkpoint(super().__call__, *args, **how)


def _keep_costly(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    costly = operation in _COSTLY
    return CheckpointPolicy.MUST_SAVE if costly else CheckpointPolicy.PREFER_RECOMPUTE


_selective = partial(create_selective_checkpoint_contexts, _keep_costly)


def use_recompute(network: nn.Module, mode: Recompute, keep_first: int = 0) -> None:
    """Sets what the blocks of a network compute again.

    Args:
        mode: "none"; "block", all but a block's input; "selective", all but the results of matrix products,
            convolutions and attention.
        keep_first: blocks, from the input on, that compute nothing again (the home-computer project spares two).

    Raises:
        SettingsError: the mode is not known, or the network has no more blocks than are to be kept.
    """
    if mode not in get_args(Recompute):
        raise SettingsError(f"recompute is {mode!r}, expected one of {', '.join(get_args(Recompute))}")
    blocks = [module for module in network.modules() if isinstance(module, Recomputed)]
    if mode != "none" and not 0 <= keep_first < len(blocks):
        raise SettingsError(
            f"keep_first is {keep_first}, expected 0 to {len(blocks) - 1}, below the number of blocks"
        )
    for index, block in enumerate(blocks):
        block.recompute = "none" if index < keep_first else mode
