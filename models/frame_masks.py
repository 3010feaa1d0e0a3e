"""Which frames of a clip are given while a network trains, so that it learns to make the others from them.

The ways are Open-Sora's (1.1 to 1.3): one frame or up to a quarter of them at the head, the tail, both or anywhere,
half of them, single frames at random, or every second one. What a network makes of them:
`models.edm.Preconditioning.predict`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.edm import per_clip, per_frame
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
    v2v_head: float = 0.0
    """The first half of the frames."""
    v2v_tail: float = 0.0
    """The second half."""
    v2v_head_noisy: float = 0.0
    """The first half with a little noise, that of the image that SVD continues (`NOISY`), of which the network is not
    told: what it goes on from later was made by itself, and is not perfect."""

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
    "v2v_head": lambda n, _: _ends(n, n // 2, 0),
    "v2v_tail": lambda n, _: _ends(n, 0, n - n // 2),
    "v2v_head_noisy": lambda n, _: _ends(n, n // 2, 0),
}
"""For a number of frames, which of them are given: bool (T,)."""


NOISY = (-3.0, 0.5)
"""Mean and deviation of ln sigma on frames that are given with noise (arXiv 2311.15127, appendix D.4)."""


def draw_given(
    num_clips: int, num_frames: int, ratios: GivenRatios, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Frames that are given, bool (num_clips, num_frames), each clip's way drawn by the ratios; and the level of the noise
    on them, (num_clips,), mostly 0.

    A clip of which nothing would be left to make is given nothing; so an image never is.
    """
    given_BT, sigma_B = torch.zeros(num_clips, num_frames, dtype=torch.bool), torch.zeros(num_clips)
    shares = torch.tensor(list(vars(ratios).values()), dtype=torch.float64)
    for clip, given_T in enumerate(given_BT):
        place = torch.rand((), generator=generator, dtype=torch.float64)
        way = int(torch.searchsorted(shares.cumsum(0), place, right=True))
        if way < len(shares):
            name = list(vars(ratios))[way]
            drawn = WAYS[name](num_frames, generator)
            given_T.copy_(drawn & ~drawn.all())
            if name == "v2v_head_noisy":
                sigma_B[clip] = (NOISY[0] + NOISY[1] * torch.randn((), generator=generator)).exp()
    return given_BT, sigma_B


def with_noise_on_given(x0: Tensor, noise: Tensor, given_BT: Tensor, sigma_B: Tensor) -> Tensor:
    """Clips x0 (B, C, T, H, W) with noise of these levels on the frames that are given: there `noise` has no other use."""
    return torch.where(per_frame(given_BT), x0 + per_clip(sigma_B, x0) * noise, x0)
