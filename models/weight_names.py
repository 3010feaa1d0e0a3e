"""Reading and writing weights under the names that the files of others have for them.

A table pairs the name of a module or parameter in the file with ours (`models.layouts` has them all). Several of ours
for one of theirs means that theirs holds them on top of each other (a fused query, key and value).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from warehouse.errors import WeightsError

Names = dict[str, str | tuple[str, ...]]
Latent = tuple[int, int, int]
"""Frames, height and width of latents."""
Computed = Callable[[Latent], Tensor]


@dataclass(frozen=True)
class Layout:
    """How a file names what a network holds."""

    names: Mapping[str, str | tuple[str, ...]]
    """Theirs to ours, by module or parameter."""
    computed: Mapping[str, Computed] = field(default_factory=dict)
    """Names in the file that hold what we compute, as positions for latents of one size; passed over when reading."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Names in the file that hold once more what another one holds."""
    unwritten: tuple[str, ...] = ()
    """Names that are read where a file has them, but which the class that reads what we write does not know."""
    vectors: tuple[str, ...] = ()
    """Names in the file that hold one number as a vector where ours is a number."""
    films: tuple[str, ...] = ()
    """Modules in the file whose kernels have an axis of frames, of length 1, where ours have none."""
    convolutions: tuple[str, ...] = ()
    """Modules in the file that are 1x1 convolutions where ours are linear layers."""


@dataclass(frozen=True)
class Report:
    """What did not go one to one when weights were read."""

    missing: tuple[str, ...]
    """Ours that the file does not have."""
    unexpected: tuple[str, ...]
    """Names in the file that the layout does not know."""
    reshaped: tuple[str, ...]
    """Ours that the file holds with axes of length 1 more or less."""
    passed: tuple[str, ...] = ()
    """Names in the file that hold what is computed here, or a copy."""


def read_weights(
    network: nn.Module, file: Mapping[str, Tensor], layout: Layout, strict: bool = True
) -> Report:
    """Copies weights into a network.

    Raises:
        WeightsError: a shape does not fit, what should be a copy is none, or, if strict, a name is missing or not
            expected.
    """
    _check_copies(file, layout.copies)
    own = network.state_dict()
    found: dict[str, Tensor] = {}
    unexpected, reshaped, passed = [], [], []
    for name, value in file.items():
        ours = _find(layout.names, name)
        if ours is None:
            (passed if name in {*layout.computed, *layout.copies} else unexpected).append(name)
            continue
        for target, part in zip(ours, _parts(name, value, ours), strict=True):
            if target not in own:
                unexpected.append(name)
                continue
            shape = own[target].shape
            if part.shape != shape:
                _check_shape(name, part, target, shape)
                reshaped.append(target)
            found[target] = part.reshape(shape)
    missing = tuple(name for name in own if name not in found)
    if strict and (missing or unexpected):
        raise WeightsError(
            f"the file does not fit: {_some('missing', missing)}, {_some('unexpected', unexpected)}; "
            "check layout and configuration"
        )
    network.load_state_dict(found, strict=False)
    return Report(missing, tuple(unexpected), tuple(reshaped), tuple(passed))


def _parts(name: str, value: Tensor, ours: tuple[str, ...]) -> tuple[Tensor, ...]:
    """What a tensor of the file holds of each of ours. Raises WeightsError where it has no such equal parts."""
    if len(ours) > 1 and (value.ndim == 0 or len(value) % len(ours)):
        raise WeightsError(
            f"{name} has shape {tuple(value.shape)}, expected a first axis in {len(ours)} equal parts: "
            f"{', '.join(ours)}; the file is damaged, or of a network with another configuration"
        )
    return value.chunk(len(ours)) if len(ours) > 1 else (value,)


def _check_shape(name: str, part: Tensor, target: str, shape: torch.Size) -> None:
    """Raises WeightsError where a part differs from ours in more than axes of length 1."""
    if _full(part.shape) != _full(shape):
        raise WeightsError(
            f"{name} has shape {tuple(part.shape)}, expected {tuple(shape)} for {target}; "
            f"the file is of a network with another configuration"
        )


def write_weights(network: nn.Module, layout: Layout, latent: Latent | None = None) -> dict[str, Tensor]:
    """A network's weights under the names of a layout.

    Args:
        latent: the latents that the file is for, asked for by layouts that hold fixed positions.

    Raises:
        WeightsError: the layout has no name for a weight, or holds positions and no `latent` is given.
    """
    if layout.computed and latent is None:
        raise WeightsError(
            f"the layout holds {', '.join(layout.computed)} for latents of one size: name their frames, height and width"
        )
    own = network.state_dict()
    written: dict[str, Tensor] = {}
    left = set(own)
    for theirs, ours in layout.names.items():
        ours = (ours,) if isinstance(ours, str) else ours
        if theirs in layout.unwritten:
            left -= set(ours)
            continue
        for suffix in ("", ".weight", ".bias"):
            parts = [own.get(name + suffix) for name in ours]
            if parts[0] is not None:
                written[theirs + suffix] = torch.cat(parts) if len(parts) > 1 else parts[0].clone()
                left -= {name + suffix for name in ours}
    for name in written.keys() & set(layout.vectors):
        written[name] = written[name].reshape(1)
    for name in written.keys() & {f"{module}.weight" for module in layout.convolutions}:
        written[name] = written[name][..., None, None]
    for name in written.keys() & {f"{module}.weight" for module in layout.films}:
        written[name] = written[name].unsqueeze(2)
    if left:
        raise WeightsError(f"the layout has no name for {_some('ours', sorted(left))}")
    written |= {copy: written[name].clone() for copy, name in layout.copies.items()}
    return written | {name: compute(latent) for name, compute in layout.computed.items()}


def _check_copies(file: Mapping[str, Tensor], copies: Mapping[str, str]) -> None:
    """The networks here have one weight for all copies; one that was trained apart from the others cannot be read."""
    for copy, name in copies.items():
        if copy in file and name in file and not torch.equal(file[copy], file[name]):
            raise WeightsError(f"{copy} is not what {name} is, expected a copy; networks here hold it once")


def known_names(file: Mapping[str, Tensor], layout: Layout) -> int:
    """How many names of a file a layout knows."""
    fixed = {*layout.computed, *layout.copies}
    return sum(name in fixed or _find(layout.names, name) is not None for name in file)


def _find(names: Mapping[str, str | tuple[str, ...]], name: str) -> tuple[str, ...] | None:
    """Ours for a name in the file: listed itself, or as a module with this parameter."""
    module, _, parameter = name.rpartition(".")
    for key, suffix in ((name, ""), (module, f".{parameter}")):
        if key in names:
            ours = names[key]
            return tuple(one + suffix for one in ((ours,) if isinstance(ours, str) else ours))
    return None


def _full(shape: Iterable[int]) -> list[int]:
    return [length for length in shape if length != 1]


def _some(what: str, names: Iterable[str]) -> str:
    names = list(names)
    return f"{len(names)} {what}" + (f" ({', '.join(names[:5])})" if names else "")
