"""The shape of a diffusion transformer: what `models.transformers` builds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warehouse.errors import SettingsError

Axis = Literal["full", "space", "time", "split", "skip", "skip_groups"]
Temporal = Literal["none", "sequential", "parallel", "normed", "own"]


def expect_shape(holds: bool, what: str, got: object, expected: str) -> None:
    """Raises SettingsError for a setting of a network's shape."""
    if not holds:
        raise SettingsError(f"the network's {what} is {got}, expected {expected}")


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a network.

    `attention`: what the blocks look at, repeated over the depth, as ("space", "time") for every other block; "full" is
    all tokens of a clip, "split" half of the heads over space and half over time, "skip" every `skip_step`-th token,
    "skip_groups" every `skip_step`-th group of as many tokens (Open-Sora-Plan 1.3). `temporal`: whether every block
    also has a temporal attention of its own: after the spatial one on the bare stream ("sequential") or beside it
    ("parallel", both STDiT), after it under the same modulation ("normed", Latte's variant 3) or under three numbers
    of its own ("own", STDiT2). `cross`: for each entry of `attention` whether such blocks attend to the text.
    `text_dim`: channels of a text token; `null_tokens`: tokens of the caption that stands for a text that is dropped,
    and so the most that a text may have; 0 where zeros do. `num_classes`: of labels; None where there are none.
    `sizes`: whether the network is told height, width and aspect ratio; `fps`, `num_frames`: whether it is told these.
    `qk_norm`: whether queries and keys are normalised. `rotary`: what rotates them, in self-attention: nothing, the
    frame in attention over time, or frame, row and column; what rotates is not added to the tokens. `rotary_first`:
    whether it rotates them before they are normalised.
    `position_scale`, `position_base`: see `grid_positions`; `position_side` replaces both: pictures of every size span the
    positions of a square of this many latents a side, but for a rounding that STDiT2 has.
    `frame_scale`: frames that make one step of time. `silent_time`: whether blocks over time begin as the identity.
    `max_frames`: the most frames that it takes; None for any number.
    """

    width: int
    depth: int
    num_heads: int
    attention: tuple[Axis, ...]
    modulation: Literal["block", "single"]
    patch: int = 2
    in_channels: int = 4
    out_channels: int = 8
    mlp_ratio: int = 4
    temporal: Temporal = "none"
    cross: tuple[bool, ...] = (False,)
    text_dim: int | None = None
    null_tokens: int = 0
    num_classes: int | None = None
    sizes: bool = False
    fps: bool = False
    num_frames: bool = False
    qk_norm: bool = False
    rotary: Literal["none", "time", "volume"] = "none"
    rotary_first: bool = False
    skip_step: int = 4
    position_scale: float = 1.0
    position_base: int | None = None
    position_side: float | None = None
    frame_scale: float = 1.0
    silent_time: bool = False
    max_frames: int | None = None

    def __post_init__(self) -> None:
        """Raises SettingsError for a shape that cannot be built, or that could not compute."""
        least = min(self.width, self.depth, self.num_heads, self.patch, len(self.attention), len(self.cross))
        expect_shape(least > 0, "width, depth, num_heads, patch, attention or cross", 0, "at least 1 of each")
        parts = {
            "num_heads, whose heads share it": self.num_heads,
            "4: sines and cosines of rows and of columns": 4,
            "3: height, width and aspect are told in a third each (sizes)": 3 if self.sizes else 1,
        }
        for why, part in parts.items():
            expect_shape(self.width % part == 0, "width", self.width, f"a multiple of {why} ({part})")
        pairs = {"none": 1, "time": 2, "volume": 6}[self.rotary]
        turned = f"a multiple of {pairs}, channels that rotary positions turn together: width over num_heads"
        expect_shape(self.head_dim % pairs == 0, "channels of a head", self.head_dim, turned)
        halves = "split" not in self.attention or self.num_heads % 2 == 0
        expect_shape(
            halves, "num_heads", self.num_heads, "an even number: half look along space, half along time"
        )

    @property
    def latent_channels(self) -> int:
        """Channels of the latents, as UNets call them."""
        return self.in_channels

    @property
    def says_variance(self) -> bool:
        """Whether half of what the network says is for a variance (`models.learned_variance`)."""
        return self.out_channels == 2 * self.in_channels

    @property
    def size_multiple(self) -> int:
        """Of which the latents' height and width are multiples."""
        return self.patch

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    def axis(self, index: int) -> Axis:
        """What block `index` looks at."""
        return self.attention[index % len(self.attention)]

    def attends_to_text(self, index: int) -> bool:
        """Whether block `index` attends to the text."""
        return self.cross[index % len(self.cross)]

    @property
    def first_in_time(self) -> int | None:
        """The block before which the positions of frames are added to the tokens; None where they are not."""
        if self.rotary != "none":
            return None
        if self.temporal == "normed":
            return 0
        return next((i for i in range(self.depth) if self.axis(i) != "space"), None)

    @property
    def mixes_freely(self) -> bool:
        """Whether some frames of a clip may be images of their own: only attention over time lets frames meet."""
        return {self.axis(index) for index in range(self.depth)} <= {"space", "time"}
