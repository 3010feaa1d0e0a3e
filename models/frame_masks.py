"""Which frames of a clip are given while a network trains, so that it learns to make the others from them.

The ways are Open-Sora's (1.1 to 1.3): one frame or up to a quarter of them at the head, the tail, both or anywhere, single
frames at random, or every second one. What a network makes of them: `models.edm.Preconditioning.predict`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from warehouse.errors import SettingsError


@dataclass(frozen=True)
class GivenRatios:
    """Shares of the clips whose frames are given in each way; from the others nothing is given."""

    image_head: float = 0.0
    """The first frame: image to video."""
    image_tail: float = 0.0
    """The last frame."""
    image_head_tail: float = 0.0
    """The first and the last frame."""
    image_random: float = 0.0
    """One frame anywhere."""
    quarter_head: float = 0.0
    """The first frames, up to a quarter of the clip: extension after."""
    quarter_tail: float = 0.0
    """The last frames: extension before."""
    quarter_head_tail: float = 0.0
    """Frames at both ends: connection of two clips."""
    quarter_random: float = 0.0
    """Neighbouring frames anywhere."""
    random: float = 0.0
    """Each frame with a probability that is drawn for the clip, from 0.1 to 0.9."""
    interpolate: float = 0.0
    """Every second frame, from the first or the second on."""
    loop: float = 0.0
    """The first and the last frame, as `image_head_tail`; Open-Sora 1.3's name."""

    def __post_init__(self) -> None:
        total = sum(vars(self).values())
        if min(vars(self).values()) < 0 or total > 1 + 1e-9:
            raise SettingsError(
                f"shares of clips with given frames are {vars(self)} and sum to {total}: expected none below 0 and a "
                f"sum of at most 1"
            )

    def any(self) -> bool:
        return any(vars(self).values())


def _number(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _ends(num_frames: int, head: int, tail: int) -> Tensor:
    index = torch.arange(num_frames)
    return (index < head) | (index >= num_frames - tail)


def _run(num_frames: int, length: int, generator: torch.Generator) -> Tensor:
    start = _number(0, num_frames - length, generator)
    index = torch.arange(num_frames)
    return (index >= start) & (index < start + length)


def _quarter(num_frames: int, generator: torch.Generator) -> int:
    return _number(1, max(1, num_frames // 4), generator)


def _scattered(num_frames: int, generator: torch.Generator) -> Tensor:
    share = 0.1 + 0.8 * torch.rand((), generator=generator)
    return torch.rand(num_frames, generator=generator) < share


def _every_second(num_frames: int, generator: torch.Generator) -> Tensor:
    return torch.arange(num_frames) % 2 == _number(0, 1, generator)


WAYS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "image_head": lambda n, _: _ends(n, 1, 0),
    "image_tail": lambda n, _: _ends(n, 0, 1),
    "image_head_tail": lambda n, _: _ends(n, 1, 1),
    "image_random": lambda n, g: _run(n, 1, g),
    "quarter_head": lambda n, g: _ends(n, _quarter(n, g), 0),
    "quarter_tail": lambda n, g: _ends(n, 0, _quarter(n, g)),
    "quarter_head_tail": lambda n, g: _ends(n, _quarter(n, g), _quarter(n, g)),
    "quarter_random": lambda n, g: _run(n, _quarter(n, g), g),
    "random": _scattered,
    "interpolate": _every_second,
    "loop": lambda n, _: _ends(n, 1, 1),
}
"""For a number of frames, which of them are given: bool (T,)."""


def draw_given(num_clips: int, num_frames: int, ratios: GivenRatios, generator: torch.Generator) -> Tensor:
    """Frames that are given, bool (num_clips, num_frames), each clip's way drawn by the ratios.

    A clip of which nothing would be left to make is given nothing; so an image never is.
    """
    given_BT = torch.zeros(num_clips, num_frames, dtype=torch.bool)
    shares = torch.tensor(list(vars(ratios).values()), dtype=torch.float64)
    for given_T in given_BT:
        place = torch.rand((), generator=generator, dtype=torch.float64)
        way = int(torch.searchsorted(shares.cumsum(0), place, right=True))
        if way < len(shares):
            drawn = WAYS[list(vars(ratios))[way]](num_frames, generator)
            given_T.copy_(drawn & ~drawn.all())
    return given_BT
