"""How to sample, and what the videos are to be: settings that know nothing of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.diffusers_samplers import sampler_named
from models.guidance import Weight, linear, oscillating, triangle
from models.noise import flow_shift
from models.samplers import SAMPLERS
from training.guiding import LEARNED, OF_OBJECTIVE
from training.objective import Objective
from training.trained import Levels, Spacing, Trained
from warehouse.errors import SettingsError

SHAPES: dict[str, Callable[[float, float, int], Weight]] = {"linear": linear, "triangle": triangle}
"""How guidance changes over the frames."""


@dataclass(frozen=True)
class VideoShape:
    """Size and rate of the videos."""

    num_frames: int = 8
    """Of a piece, where a video is made in several."""
    height_px: int = 64
    width_px: int = 64
    fps: float = 8.0

    def latent(self, latent_frames: int, downsampling: int) -> tuple[int, int, int]:
        """Frames, height and width of their latents."""
        return latent_frames, self.height_px // downsampling, self.width_px // downsampling


@dataclass(frozen=True)
class Numbers:
    """Numbers that a network is told of every video, beside the frame rate."""

    motion_bucket: float = 127.0
    """0 (still) to 255."""
    augmentation: float | None = None
    """Noise on frames that a network is shown (`training.showing`); None takes `training.showing.AUGMENTATION`."""
    elevation: float | None = None
    """Of the camera, in degrees, where the network asks for it."""


@dataclass(frozen=True)
class Sampling:
    """How to sample. Latent frames are frames, unless the autoencoder compresses time."""

    num_steps: int | None = None
    """With `spacing`, `sigma_min` and `sigma_max` the noise levels (`training.trained.Levels`). What is None is as the
    weights say it, but for the spacing where a sigma is said: that is Karras's."""
    sampler: str = "euler"
    """A name that `models.diffusers_samplers.sampler_named` knows; some are for one objective
    (`training.guiding.OF_OBJECTIVE`)."""
    spacing: Spacing | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    shift: float | None = None
    """Of a flow's times towards noise; None: as the weights ask for it, and with the sampler rectified_flow for size and
    length."""
    levels: tuple[float, ...] | None = None
    """The noise levels themselves, once the weights are known (`following`)."""
    guidance: tuple[float, float] = (3.0, 3.0)
    """Weights at the first and the last frame, or with the shape "triangle" at both ends and in the middle."""
    guidance_shape: str = "linear"
    """One of `SHAPES`."""
    frames_guidance: float | None = None
    """The scale of the frames that join the input, apart from the text's; None: one scale for both."""
    guided_channels: int | None = None
    """How many of the latents' first channels are guided, as 3 in Open-Sora 1.0; None: all."""
    oscillating: bool = False
    """Every second step after the tenth goes without guidance."""
    window: int | None = None
    """Latent frames that the network sees at once where a video has more; None: all."""
    overlap: int = 0
    """Latent frames of a window that are shared with the next."""
    seamless: bool = False
    """The last frame goes on at the first."""
    repeats: int = 1
    """Of each step, so that frames that are given agree with the others in a network that was not trained with any."""
    loops: int = 1
    """Pieces of a video."""
    carry: int = 1
    """Last latent frames of a piece that are given to the next."""
    batch_size: int = 16
    """Samples at once; it changes none of them."""

    def __post_init__(self) -> None:
        sampler_named(self.sampler)
        if self.shift is not None and self.shift <= 0:
            raise SettingsError(f"shift is {self.shift}, expected a number above 0, or none")
        if self.sampler == LEARNED and (self.window is not None or self.loops > 1):
            raise SettingsError(
                f"sampler is {LEARNED!r}, whose variances cannot be blended over windows, and which cannot go on from a "
                f"piece: expected no window and one piece, or sampler 'ddpm'"
            )
        if self.guidance_shape not in SHAPES:
            raise SettingsError(
                f"guidance_shape is {self.guidance_shape!r}, expected one of {', '.join(SHAPES)}"
            )
        if self.repeats > 1 and self.sampler not in SAMPLERS:
            raise SettingsError(
                f"steps of {self.sampler} cannot be repeated; expected repeats 1, or one of {', '.join(SAMPLERS)}"
            )
        if min(self.repeats, self.loops, self.carry) < 1 or (self.seamless and self.loops > 1):
            raise SettingsError(
                f"repeats {self.repeats}, loops {self.loops}, carry {self.carry}, seamless {self.seamless}: expected at "
                f"least 1 each, and one loop where the video is seamless"
            )

    def over(self, num_frames: int, trained_frames: int) -> Sampling:
        """With windows, half of each shared where nothing else is said, if more frames are wanted than were trained, or
        the video is to be seamless.
        """
        if num_frames <= trained_frames and not self.seamless:
            return self
        window = min(num_frames, trained_frames)
        return replace(self, window=window, overlap=self.overlap or window // 2)

    def following(self, trained: Trained, size: tuple[int, int, int] = (512, 512, 1)) -> Sampling:
        """With the noise levels that the weights ask for where nothing else is said. Raises SettingsError.

        `size`: height and width in pixels, and latent frames, which a flow's times are shifted for.
        """
        said = {name: getattr(self, name) for name in ("spacing", "num_steps", "sigma_min", "sigma_max")}
        if said["sigma_min"] is not None or said["sigma_max"] is not None:
            said["spacing"] = said["spacing"] or "karras"
        levels = replace(trained.levels, **{name: value for name, value in said.items() if value is not None})
        if self.shift is not None and levels.spacing != "times":
            raise SettingsError(
                f"shift is {self.shift}, but the noise levels are {levels.spacing} ones: leave it out, it moves times"
            )
        if levels.spacing != "karras" and not (self.sigma_min is None and self.sigma_max is None):
            raise SettingsError(
                f"sigma_min is {self.sigma_min}, sigma_max {self.sigma_max}, but spacing is {levels.spacing}, which has "
                f"levels of its own: leave them out, or set spacing to karras"
            )
        shift = flow_shift(*size) if self.sampler == "rectified_flow" else trained.objective.shift(*size)
        shift = shift if self.shift is None else self.shift
        return replace(self, levels=tuple(levels.sigmas(trained.objective, shift).tolist()))

    @property
    def sigmas(self) -> Tensor:
        """Falling noise levels with a closing 0; before the weights are known, those of the sampler's objective."""
        objective = Objective(OF_OBJECTIVE.get(self.sampler, "edm"))
        levels = self.levels or self.following(Trained(objective, Levels.of(objective))).levels
        return torch.tensor(levels, dtype=torch.float64)

    def check_frames(self, num_frames: int) -> None:
        """Raises SettingsError where windows or pieces do not fit a piece of this many latent frames."""
        if self.loops > 1 and self.carry >= num_frames:
            raise SettingsError(
                f"carry is {self.carry}, expected fewer than the {num_frames} latent frames of a piece: carry fewer, "
                f"or make longer pieces"
            )
        if self.window is not None and not 0 <= self.overlap < self.window <= num_frames:
            raise SettingsError(
                f"window {self.window}, overlap {self.overlap}, {num_frames} latent frames: expected "
                f"0 <= overlap < window <= frames"
            )
        if self.seamless and (self.window is None or not self.overlap):
            raise SettingsError(
                "a seamless video needs windows that overlap: set window, and overlap to 1 or more"
            )

    def weight(self, num_frames: int) -> Weight:
        """Of guidance, over the frames of a piece."""
        weight = SHAPES[self.guidance_shape](*self.guidance, num_frames)
        return oscillating(weight, self.sigmas) if self.oscillating else weight
