"""Networks of other libraries, taken whole or not at all.

These libraries make up at random what a file lacks, and leave out what it has besides; they log it. Sampling and encoding
would go on with such a network, and nothing would say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from torch import nn

from warehouse.errors import WeightsError

LOADING_FAILS = (OSError, ValueError, RuntimeError, SafetensorError)
"""What diffusers and transformers raise where there are no weights, or damaged ones, or those of another network."""


def whole(loaded: tuple[nn.Module, Mapping[str, Any]], name: str, alone: bool = False) -> nn.Module:
    """The network that `from_pretrained(..., output_loading_info=True)` gave.

    Args:
        name: where it was loaded from.
        alone: whether the file must hold nothing else; those of encoders may hold a whole CLIP, say.

    Raises:
        WeightsError: a weight was missing or of another shape, or one was left over.
    """
    network, info = loaded
    kinds = {"missing_keys": "lacks", "mismatched_keys": "has in another shape"}
    kinds |= {"unexpected_keys": "has besides"} if alone else {}
    wrong = {what: sorted(map(str, info.get(kind, ()))) for kind, what in kinds.items()}
    told = [f"{what} {len(names)} ({', '.join(names[:3])})" for what, names in wrong.items() if names]
    if told:
        raise WeightsError(
            f"{name!r} holds no whole {type(network).__name__}: it {', '.join(told)}; fetch it again, or name another"
        )
    return network
