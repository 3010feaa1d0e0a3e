"""Tiny autoencoders in their author's own files (madebyollin/taesd), read into diffusers' AutoencoderTiny.

A folder holds ``<name>_encoder.pth`` and ``<name>_decoder.pth``. The newer of them (taef2) have a wide 1x1 path beside
each of the blocks that work on the smallest grid; diffusers' class knows none, so it is added to those blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from models.tensor_files import load_tensors
from warehouse.errors import WeightsError

_WIDE = re.compile(r"layers\.(\d+)\.pool\.0\.weight")


class WideBlock(nn.Module):
    """A block of AutoencoderTiny whose input has passed a bottleneck of `width` channels: x + pool(x)."""

    def __init__(self, block: nn.Module, channels: int, width: int) -> None:
        super().__init__()
        self.conv, self.skip, self.fuse = block.conv, block.skip, block.fuse
        self.pool = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 1, bias=False),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = x_BCHW + self.pool(x_BCHW)
        return self.fuse(self.conv(x_BCHW) + self.skip(x_BCHW))


def find(folder: str) -> tuple[Path, Path] | None:
    """Encoder's and decoder's file in a folder; None where it holds no such pair. Raises WeightsError for several."""
    pairs = []
    for encoder in sorted(Path(folder).glob("*_encoder.pth")):
        decoder = encoder.with_name(encoder.name.replace("_encoder.pth", "_decoder.pth"))
        if decoder.exists():
            pairs.append((encoder, decoder))
    if len(pairs) > 1:
        names = ", ".join(encoder.name.removesuffix("_encoder.pth") for encoder, _ in pairs)
        raise WeightsError(
            f"{folder} holds {len(pairs)} autoencoders of taesd ({names}): expected one; give each a folder of its own"
        )
    return pairs[0] if pairs else None


def load(encoder: Path, decoder: Path) -> nn.Module:
    """An AutoencoderTiny. Raises WeightsError where the files are not of such a network."""
    from diffusers import AutoencoderTiny

    weights = {f"encoder.layers.{name}": value for name, value in _read(encoder).items()}
    for name, value in _read(decoder).items():  # its first layer, a clamp, is outside of diffusers' layers
        number, _, rest = name.partition(".")
        if not number.isdecimal():
            raise WeightsError(f"{decoder} names a weight {name!r}: expected names such as 1.weight")
        weights[f"decoder.layers.{int(number) - 1}.{rest}"] = value
    first = weights.get("decoder.layers.0.weight")
    if first is None or first.ndim != 4:
        raise WeightsError(f"{decoder} does not begin with a convolution, as a decoder of taesd does")
    network = AutoencoderTiny(latent_channels=first.shape[1])
    for part in ("encoder", "decoder"):
        _widen(getattr(network, part).layers, {k: v for k, v in weights.items() if k.startswith(part)})
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsError(f"{encoder} and {decoder} are not of a taesd network: {error}") from error
    return network


def _read(path: Path) -> Mapping[str, Tensor]:
    weights = load_tensors(path)
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise WeightsError(f"{path} holds a {type(weights).__name__}: expected names and their tensors")
    return {name: value.float() for name, value in weights.items()}


def _widen(layers: nn.Sequential, weights: Mapping[str, Tensor]) -> None:
    for name, value in weights.items():
        if found := _WIDE.search(name):
            number = int(found[1])
            layers[number] = WideBlock(layers[number], value.shape[1], value.shape[0])
