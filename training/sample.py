"""Videos from prompts with a trained stage's averaged weights, from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.diffusers_samplers import sampler_named
from models.edm import SVD, Network, Preconditioning, karras_sigmas
from models.given_frames import Given, continued, holding, repeated, telling
from models.guidance import (
    FrameDenoiser,
    Weight,
    guided_denoiser,
    guided_with_variance,
    linear,
    oscillating,
    triangle,
    with_and_without_text,
)
from models.learned_variance import VarianceDenoiser
from models.noise import flow_shift, flow_sigmas
from models.samplers import SAMPLERS, initial_latents, noise_of
from models.windows import windowed_guidance
from training.checkpoints import load_weights
from training.draws import generator
from training.objective import PRECONDITIONINGS, STEPS, prediction_of
from training.prompts import Request, given_of, read_prompt
from training.references import read_reference
from warehouse.errors import SettingsError

SHAPES: dict[str, Callable[[float, float, int], Weight]] = {"linear": linear, "triangle": triangle}
"""How guidance changes over the frames."""


class Autoencoder(Protocol):
    """What is needed of an autoencoder here."""

    downsampling: int

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

    `num_steps` noise levels fall from `sigma_max` to `sigma_min` (Karras). `sampler`: a name that
    `models.diffusers_samplers.sampler_named` knows. Two walk the levels that their objectives train instead:
    `rectified_flow` its times, moved towards noise by `shift` (None: as the videos' size and length ask, Open-Sora
    1.2), `iddpm` its steps, with the variances that were learned. `guidance`: weights at the first and the last frame,
    or with the shape "triangle" at both ends and in the middle; `oscillating`: every second step after the tenth goes
    without. `window`: latent frames that the network sees at once where a video has more (None: all), `overlap` of them
    shared with the next window. `seamless`: the last frame goes on at the first. `repeats`: of each step, so that frames
    that are given agree with the others in a network that was not trained with any. `loops`: pieces of a video, each
    given the last `carry` latent frames of the one before. Latent frames are frames, unless the autoencoder compresses
    time. `batch_size`: samples at once; it changes none of them.
    """

    num_steps: int = 16
    sampler: str = "euler"
    sigma_min: float = 0.02
    sigma_max: float = 20.0
    shift: float | None = None
    guidance: tuple[float, float] = (3.0, 3.0)
    guidance_shape: str = "linear"
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
        if not 0 < self.sigma_min < self.sigma_max or self.num_steps < 2:
            raise SettingsError(
                f"sigma_min {self.sigma_min}, sigma_max {self.sigma_max}, num_steps {self.num_steps}: "
                f"expected "
                "0 < sigma_min < sigma_max and at least 2 steps"
            )
        if self.shift is not None and self.shift <= 0:
            raise SettingsError(f"shift is {self.shift}, expected a number above 0, or none")
        if self.sampler == "iddpm" and self.window is not None:
            raise SettingsError(
                "sampler is 'iddpm', whose variances cannot be blended over windows: expected no window, or sampler 'ddpm'"
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

    @property
    def sigmas(self) -> Tensor:
        """Falling noise levels with a closing 0; the first is infinite with `rectified_flow`."""
        if self.sampler == "rectified_flow":
            return flow_sigmas(self.num_steps, 1.0 if self.shift is None else self.shift)
        if self.sampler == "iddpm":
            return STEPS.respaced(self.num_steps)
        return karras_sigmas(self.num_steps, self.sigma_min, self.sigma_max)

    def of_size(self, height_px: int, width_px: int, latent_frames: int) -> Sampling:
        """With the shift for videos of this size and length, where none is set."""
        shift = flow_shift(height_px, width_px, latent_frames)
        return self if self.shift is not None else replace(self, shift=shift)

    def check_objective(self, objective: str) -> None:
        """Raises SettingsError where a network that was trained so cannot be walked with this sampler."""
        wanted = {"rectified_flow": "flow", "iddpm": "iddpm"}.get(self.sampler, objective)
        if wanted != objective:
            raise SettingsError(
                f"sampler is {self.sampler!r} and the network was trained as {objective}, expected objective {wanted}; "
                f"train with it, or choose another sampler"
            )

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
) -> Tensor:
    """Latents (B, C, T, h, w) of one clip for each seed; shape: (C, T, h, w).

    `given`: frames to go on from; `told`: whether the network was trained with such. `loop`: number of the piece, which
    has noise of its own. `preconditioning`: of the objective that the network was trained with. The network says a
    variance too for the sampler `iddpm` alone.
    """
    piece = () if loop == 0 else ("loop", loop)
    generators = [generator("sample", seed, *piece) for seed in seeds]
    sigmas = sampling.sigmas
    first = initial_latents((len(seeds), *shape), sigmas[0].item(), generators).to(conditioning.text_BLD)
    denoise = _denoiser(preconditioning, network, conditioning, shape[1], sampling)
    if given is not None and sampling.sampler == "iddpm":
        raise SettingsError(
            "sampler is 'iddpm', which cannot go on from given frames: expected none, or sampler 'ddpm'"
        )
    if given is not None:
        denoise = telling(denoise, given) if told else holding(denoise, given)
        first = given.start(first, sigmas[0].item())
    sampler = sampler_named(sampling.sampler)
    sampler = repeated(sampler, sampling.repeats) if sampling.repeats > 1 else sampler
    made = sampler(denoise, first, sigmas, noise_of(generators))
    return made if given is None else given.kept(made)


def _denoiser(
    preconditioning: Preconditioning,
    network: Network,
    conditioning: Conditioning,
    num_frames: int,
    sampling: Sampling,
) -> FrameDenoiser | VarianceDenoiser:
    sides, weights = with_and_without_text(conditioning), [sampling.weight(num_frames)]
    if sampling.sampler == "iddpm":
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
    sampling: Sampling

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
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Frames (B, T, H, W, 3) uint8, one video a prompt; prompt i starts from noise of its own, keyed by
    seed + i.

    `weights`: a weights file or the folder of a finished run. `prompts`: as `training.prompts` reads them.
    `num_frames`: of a piece. `motion_bucket`: 0 (still) to 255. `progress` is told before every batch how many
    prompts are done, and of how many.

    Raises:
        InputError: the autoencoder does not take so many frames; nothing was computed then.
        SettingsError: windows, pieces or frames that are given do not fit; nothing was sampled then.
    """
    sampling = sampling or Sampling()
    latent_frames = autoencoder.latent_frames(num_frames)
    sampling.check_frames(latent_frames)
    requests = [read_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    for request in requests:
        request.check_loops(sampling.loops)
    loaded = load_weights(weights)
    names = {name for request in requests for name in request.references}
    references = {
        name: read_reference(Path(name), autoencoder, height_px, width_px, fps).float().to(device)
        for name in names
    }
    for request in requests:
        request.check_fit(references, latent_frames)
    scale, recipe = autoencoder.downsampling, loaded.origin.get("recipe", loaded.origin)
    objective, network = recipe.get("objective", "edm"), loaded.network().to(device)
    sampling.check_objective(objective)
    shared = _Sampler(
        network if sampling.sampler == "iddpm" else prediction_of(network, loaded.config),
        PRECONDITIONINGS[objective],
        any(recipe.get("given", {}).values()),
        (loaded.config.latent_channels, latent_frames, height_px // scale, width_px // scale),
        torch.tensor([fps, motion_bucket], device=device),
        torch.tensor([height_px, width_px, height_px / width_px], device=device),
        references,
        [_encoded(text_encoder, requests, loop, device) for loop in range(sampling.loops)],
        sampling.of_size(height_px, width_px, latent_frames),
    )
    videos = []
    for start in range(0, len(requests), sampling.batch_size):
        progress(start, len(requests))
        latents_BCTHW = shared.video(requests[start : start + sampling.batch_size], start, seed)
        videos.append(to_pixels(autoencoder.decode(latents_BCTHW.movedim(1, 2))))
    return np.concatenate(videos)


def _encoded(
    text_encoder: TextEncoder, requests: Sequence[Request], loop: int, device: str
) -> tuple[Tensor, Tensor]:
    text_BLD, mask_BL = text_encoder.encode([request.text(loop) for request in requests])
    return text_BLD.float().to(device), mask_BL.bool().to(device)


def to_pixels(x_BTCHW: Tensor) -> np.ndarray:
    """uint8 (B, T, H, W, 3) of frames in [-1, 1]; what lies outside is clipped."""
    return ((x_BTCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(2, -1).cpu().numpy()


def write_video(path: Path, frames_THWC: np.ndarray, fps: float) -> None:
    """An mp4 (H.264) of uint8 RGB frames; height and width must be even. Needs PyAV."""
    import av

    temporary = path.with_name(f"{path.name}.tmp")
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "14"}
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    temporary.replace(path)


def contact_sheet(videos_BTHWC: np.ndarray, num_columns: int = 8, scale: int = 1) -> np.ndarray:
    """Middle frames side by side, uint8 (rows H scale, columns W scale, 3); cells without a video are
    black.
    """
    middle = videos_BTHWC[:, videos_BTHWC.shape[1] // 2].repeat(scale, 1).repeat(scale, 2)
    num, height, width, _ = middle.shape
    num_rows = -(-num // num_columns)
    cells = np.zeros((num_rows * num_columns, height, width, 3), np.uint8)
    cells[:num] = middle
    rows = cells.reshape(num_rows, num_columns, height, width, 3).swapaxes(1, 2)
    return rows.reshape(num_rows * height, num_columns * width, 3)


def write_image(path: Path, image_HWC: np.ndarray) -> None:
    """A PNG of a uint8 RGB image. Needs Pillow."""
    from PIL import Image

    temporary = path.with_name(f"{path.name}.tmp")
    Image.fromarray(image_HWC).save(temporary, format="PNG")
    temporary.replace(path)
