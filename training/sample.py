"""Videos from prompts with a trained stage's averaged weights, from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.diffusers_samplers import sampler_named
from models.edm import SVD, Network, Preconditioning
from models.given_frames import Given, continued, holding, repeated, telling
from models.guidance import (
    FrameDenoiser,
    Weight,
    guided_denoiser,
    guided_with_variance,
    linear,
    oscillating,
    triangle,
)
from models.learned_variance import VarianceDenoiser
from models.noise import flow_shift
from models.samplers import SAMPLERS, initial_latents, noise_of
from models.windows import windowed_guidance
from training.checkpoints import load_weights
from training.draws import generator
from training.guiding import LEARNED, OF_OBJECTIVE, check_latents, check_network, sides_of, weights_of
from training.objective import Objective, prediction_of
from training.pictures import to_pixels
from training.prompts import Request, given_of, read_prompt
from training.references import encoded, read_frames
from training.showing import Showing, numbers_told, showing_of
from training.trained import Levels, Spacing, Trained
from warehouse.errors import SettingsError

SHAPES: dict[str, Callable[[float, float, int], Weight]] = {"linear": linear, "triangle": triangle}
"""How guidance changes over the frames."""


class Autoencoder(Protocol):
    """What is needed of an autoencoder here."""

    downsampling: int
    latent_channels: int

    def latent_frames(self, num_frames: int) -> int:
        """Frames of the latents of so many frames. Raises InputError for a number that it does not take."""

    def encode(self, x_BTCHW: Tensor) -> Tensor:
        """Scaled latents of frames in [-1, 1]."""

    def decode(self, z_BTCHW: Tensor) -> Tensor:
        """Frames in about [-1, 1] of scaled latents."""


class TextEncoder(Protocol):
    """What is needed of a text encoder here."""

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D) and mask (B, L), true where a token counts."""


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    `spacing`, `num_steps`, `sigma_min` and `sigma_max` are noise levels (`training.trained.Levels`); what is None is
    as the weights say it, but for the spacing where a sigma is said: that is Karras's. `levels`: they themselves,
    once the weights are known (`following`). `shift`: of a flow's times towards noise (None: as the weights ask for
    it, and with the sampler rectified_flow for size and length). `sampler`: a name that
    `models.diffusers_samplers.sampler_named` knows, some are for one objective (`training.guiding.OF_OBJECTIVE`).
    `guidance`: weights at the first and the last frame, or with the shape "triangle" at both ends and in the middle;
    `frames_guidance`: the scale of the frames that join the input, apart from the text's (None: one scale for both);
    `guided_channels`: how many of the latents' first channels are guided, as 3 in Open-Sora 1.0 (None: all);
    `oscillating`: every second step after the tenth goes without. `window`: latent frames that the network sees at
    once where a video has more (None: all), `overlap` of them shared with the next window. `seamless`: the last frame
    goes on at the first. `repeats`: of each step, so that frames that are given agree with the others in a network
    that was not trained with any. `loops`: pieces of a video, each given the last `carry` latent frames of the one
    before. Latent frames are frames, unless the autoencoder compresses time. `batch_size`: samples at once; it
    changes none of them.
    """

    num_steps: int | None = None
    sampler: str = "euler"
    spacing: Spacing | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    shift: float | None = None
    levels: tuple[float, ...] | None = None
    guidance: tuple[float, float] = (3.0, 3.0)
    guidance_shape: str = "linear"
    frames_guidance: float | None = None
    guided_channels: int | None = None
    oscillating: bool = False
    window: int | None = None
    overlap: int = 0
    seamless: bool = False
    repeats: int = 1
    loops: int = 1
    carry: int = 1
    batch_size: int = 16

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


@torch.no_grad()
def sample_latents(
    network: Network,
    conditioning: Conditioning,
    shape: tuple[int, int, int, int],
    seeds: Sequence[int],
    sampling: Sampling,
    given: Given | None = None,
    *,
    told: bool = False,
    loop: int = 0,
    preconditioning: Preconditioning = SVD,
    empty: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Latents (B, C, T, h, w) of one clip for each seed; shape: (C, T, h, w).

    `given`: frames to go on from; `told`: whether the network was trained with such. `loop`: number of the piece, which
    has noise of its own. `preconditioning`: of the objective that the network was trained with. `empty`: as
    `training.guiding.sides_of` has it. The network says variances too where the sampler is `training.guiding.LEARNED`.
    """
    piece = () if loop == 0 else ("loop", loop)
    generators, sigmas = [generator("sample", seed, *piece) for seed in seeds], sampling.sigmas
    highest = float(sigmas[0])
    first = initial_latents((len(seeds), *shape), highest, generators).to(conditioning.text_BLD)
    sides = sides_of(conditioning, shape[0], sampling.frames_guidance is not None, empty)
    weights = weights_of(
        sampling.weight(shape[1]), sampling.frames_guidance, sampling.guided_channels, shape[0]
    )
    if given is not None and sampling.sampler == LEARNED:
        raise SettingsError(
            f"sampler is {LEARNED!r}, which cannot go on from given frames: expected none, or sampler 'ddpm'"
        )
    denoise = _denoiser(preconditioning, network, sides, weights, shape[1], sampling)
    if given is not None:
        denoise = telling(denoise, given) if told else holding(denoise, given)
        first = given.start(first, highest)
    sampler = sampler_named(sampling.sampler)
    sampler = repeated(sampler, sampling.repeats) if sampling.repeats > 1 else sampler
    made = sampler(denoise, first, sigmas, noise_of(generators))
    return made if given is None else given.kept(made)


def _denoiser(
    preconditioning: Preconditioning,
    network: Network,
    sides: Sequence[Conditioning],
    weights: Sequence[Weight],
    num_frames: int,
    sampling: Sampling,
) -> FrameDenoiser | VarianceDenoiser:
    if sampling.sampler == LEARNED:
        return guided_with_variance(preconditioning, network, sides, weights)
    if sampling.window is None:
        return guided_denoiser(preconditioning, network, sides, weights)
    window = (num_frames, sampling.window, sampling.overlap, sampling.seamless)
    return windowed_guidance(preconditioning, network, sides, weights, *window)


@dataclass(frozen=True)
class _Sampler:
    """A trained network and all that its samples have in common."""

    network: Network
    preconditioning: Preconditioning
    told: bool
    shape: tuple[int, int, int, int]
    numbers_N: Tensor
    size_3: Tensor
    references: dict[str, Tensor]
    texts: list[tuple[Tensor, Tensor]]
    """Tokens and mask of every request, for each piece."""
    empty: tuple[Tensor, Tensor] | None
    """Of no text, where the network was told it so."""
    sampling: Sampling
    showing: Showing | None
    pictures: dict[str, Tensor]
    """Frames of the references."""

    def video(self, requests: Sequence[Request], first: int, seed: int) -> Tensor:
        """Latents (B, C, T, h, w) of neighbouring requests, of which `first` is the number of the first."""
        these = slice(first, first + len(requests))
        seeds = [seed + first + i for i in range(len(requests))]

        def make(loop: int, head_BCTHW: Tensor | None) -> Tensor:
            told = self._told(*(part[these] for part in self.texts[loop]))
            like = told.text_BLD.new_empty((len(requests), *self.shape))
            given = given_of(requests, loop, self.references, like, self.sampling.sigmas)
            for clip in range(0 if head_BCTHW is None else len(requests)):
                given = given.with_frames(clip, 0, head_BCTHW[clip])
            some = given if given.release_BT.isfinite().any() else None
            if self.showing is not None:
                pixels_BCHW = self.showing.pixels(requests, loop, self.pictures, given)
                told, some = self.showing.told(told, given, pixels_BCHW, seeds, loop), None
            return sample_latents(
                self.network,
                told,
                self.shape,
                seeds,
                self.sampling,
                some,
                told=self.told,
                loop=loop,
                preconditioning=self.preconditioning,
                empty=self.empty,
            )

        return continued(make, self.sampling.loops, self.sampling.carry)

    def _told(self, text_BLD: Tensor, mask_BL: Tensor) -> Conditioning:
        num = len(text_BLD)
        numbers_BN, size_B3 = self.numbers_N.expand(num, -1), self.size_3.expand(num, -1)
        return Conditioning(text_BLD, mask_BL, numbers_BN, text_BLD.new_full((num,), torch.nan), size_B3)


def sample_videos(
    weights: Path,
    prompts: Sequence[str | Request],
    autoencoder: Autoencoder,
    text_encoder: TextEncoder,
    *,
    seed: int = 0,
    num_frames: int = 8,
    height_px: int = 64,
    width_px: int = 64,
    fps: float = 8.0,
    motion_bucket: float = 127.0,
    sampling: Sampling | None = None,
    image_encoder: Any | None = None,
    augmentation: float | None = None,
    elevation: float | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Frames (B, T, H, W, 3) uint8, one video a prompt; prompt i starts from noise of its own, keyed by
    seed + i.

    `weights`: a weights file or the folder of a finished run. `prompts`: as `training.prompts` reads them.
    `num_frames`: of a piece. `motion_bucket`: 0 (still) to 255. For networks that are shown frames (`training.showing`):
    `image_encoder`, a `models.image_encoder.ImageEncoder` where they hear a picture's token; `augmentation`, the noise on
    what they are shown; `elevation`, in degrees, where they are told it. `progress` is told before every batch how many
    prompts are done, and of how many.

    Raises:
        InputError: the autoencoder does not take so many frames; nothing was computed then.
        SettingsError: windows, pieces or frames that are given do not fit, or the weights cannot be sampled so; nothing
            was sampled then.
    """
    sampling = sampling or Sampling()
    latent_frames = autoencoder.latent_frames(num_frames)
    sampling.check_frames(latent_frames)
    requests = [read_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    for request in requests:
        request.check_loops(sampling.loops)
    loaded = load_weights(weights)
    trained = Trained.of(loaded.origin)
    check_network(loaded.config, trained, sampling.sampler, sampling.frames_guidance, latent_frames)
    sampling = sampling.following(trained, (height_px, width_px, latent_frames))
    showing = showing_of(loaded, autoencoder, image_encoder, augmentation)
    numbers = numbers_told(loaded, fps - trained.fps_less, motion_bucket, showing, elevation)
    check_latents(loaded.config, autoencoder.latent_channels, autoencoder.downsampling, height_px, width_px)
    scale, recipe = autoencoder.downsampling, loaded.origin.get("recipe", {})
    latent = latent_frames, height_px // scale, width_px // scale
    if showing is not None:
        showing.check(requests, sampling.loops, sampling.carry, latent)
    names = {name for request in requests for name in request.references}
    pictures = {name: read_frames(Path(name), height_px, width_px, fps) for name in names}
    references = {name: encoded(Path(name), pictures[name], autoencoder).float().to(device) for name in names}
    for request in requests:
        request.check_fit(references, latent_frames)
    network = loaded.network().to(device)
    shared = _Sampler(
        network if sampling.sampler == LEARNED else prediction_of(network, loaded.config),
        trained.objective.preconditioning,
        any(recipe.get("given", {}).values()),
        (loaded.config.latent_channels, *latent),
        torch.tensor(numbers, device=device),
        torch.tensor([height_px, width_px, height_px / width_px], device=device),
        references,
        [_encoded(text_encoder, [r.text(loop) for r in requests], device) for loop in range(sampling.loops)],
        _encoded(text_encoder, [""], device) if trained.empty_text else None,
        sampling,
        showing,
        pictures,
    )
    videos = []
    for start in range(0, len(requests), sampling.batch_size):
        progress(start, len(requests))
        latents_BCTHW = shared.video(requests[start : start + sampling.batch_size], start, seed)
        videos.append(to_pixels(autoencoder.decode(latents_BCTHW.movedim(1, 2))))
    return np.concatenate(videos)


def _encoded(text_encoder: TextEncoder, texts: Sequence[str], device: str) -> tuple[Tensor, Tensor]:
    text_BLD, mask_BL = text_encoder.encode(texts)
    return text_BLD.float().to(device), mask_BL.bool().to(device)
