"""Videos from prompts with a trained stage's averaged weights, from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.diffusers_samplers import sampler_named
from models.edm import SVD, Network, Preconditioning
from models.given_frames import Given, continued, holding, repeated, telling
from models.guidance import FrameDenoiser, Weight, guided_denoiser, guided_with_variance
from models.learned_variance import VarianceDenoiser
from models.samplers import initial_latents, noise_of
from models.windows import windowed_guidance
from training.checkpoints import Weights, load_weights
from training.draws import generator
from training.encoders import Autoencoder, Encoders, TextEncoder
from training.guiding import LEARNED, check_latents, check_network, sides_of, weights_of
from training.objective import prediction_of
from training.painting import Painting, painting_of
from training.pictures import to_pixels
from training.prompts import Request, given_of, read_prompt
from training.references import encoded, read_frames
from training.sample_settings import Numbers, Sampling, VideoShape
from training.showing import Showing, numbers_told, showing_of
from training.trained import Trained
from warehouse.errors import SettingsError


@dataclass(frozen=True)
class TrainedNetwork:
    """A network, and what of its training sampling must know."""

    network: Network
    """It says variances too where the sampler is `training.guiding.LEARNED`."""
    preconditioning: Preconditioning = SVD
    """Of the objective that it was trained with."""
    knows_given: bool = False
    """Whether it was trained with frames that are given."""
    empty: tuple[Tensor, Tensor] | None = None
    """What stands for no text (`training.guiding.sides_of`)."""


@torch.no_grad()
def sample_latents(
    model: TrainedNetwork,
    conditioning: Conditioning,
    shape: tuple[int, int, int, int],
    seeds: Sequence[int],
    sampling: Sampling,
    given: Given | None = None,
    loop: int = 0,
) -> Tensor:
    """Latents (B, C, T, h, w) of one clip for each seed; shape: (C, T, h, w).

    `given`: frames to go on from. `loop`: number of the piece, which has noise of its own. Raises SettingsError where the
    sampler cannot go on from given frames.
    """
    piece = () if loop == 0 else ("loop", loop)
    generators, sigmas = [generator("sample", seed, *piece) for seed in seeds], sampling.sigmas
    highest = float(sigmas[0])
    first = initial_latents((len(seeds), *shape), highest, generators).to(conditioning.text_BLD)
    channels, num_frames = shape[:2]
    sides = sides_of(conditioning, channels, sampling.frames_guidance is not None, model.empty)
    text_weight = sampling.weight(num_frames)
    weights = weights_of(text_weight, sampling.frames_guidance, sampling.guided_channels, channels)
    if given is not None and sampling.sampler == LEARNED:
        raise SettingsError(
            f"sampler is {LEARNED!r}, which cannot go on from given frames: expected none, or sampler 'ddpm'"
        )
    denoise = _denoiser(model, sides, weights, num_frames, sampling)
    if given is not None:
        denoise = telling(denoise, given) if model.knows_given else holding(denoise, given)
        first = given.start(first, highest)
    sampler = sampler_named(sampling.sampler)
    sampler = repeated(sampler, sampling.repeats) if sampling.repeats > 1 else sampler
    made = sampler(denoise, first, sigmas, noise_of(generators))
    return made if given is None else given.kept(made)


def _denoiser(
    model: TrainedNetwork,
    sides: Sequence[Conditioning],
    weights: Sequence[Weight],
    num_frames: int,
    sampling: Sampling,
) -> FrameDenoiser | VarianceDenoiser:
    if sampling.sampler == LEARNED:
        return guided_with_variance(model.preconditioning, model.network, sides, weights)
    if sampling.window is None:
        return guided_denoiser(model.preconditioning, model.network, sides, weights)
    window = (num_frames, sampling.window, sampling.overlap, sampling.seamless)
    return windowed_guidance(model.preconditioning, model.network, sides, weights, *window)


@dataclass(frozen=True)
class _References:
    """The files that requests name, by name, at the size of the videos."""

    pixels: dict[str, Tensor]
    """Frames (T, 3, height, width) in [-1, 1]."""
    latents: dict[str, Tensor]
    """(C, T, h, w), float32."""

    @classmethod
    def read(
        cls, requests: Sequence[Request], video: VideoShape, autoencoder: Autoencoder, device: str
    ) -> _References:
        names = {name for request in requests for name in request.references}
        size = video.height_px, video.width_px, video.fps
        pixels = {name: read_frames(Path(name), *size) for name in names}
        latents = {name: encoded(Path(name), pixels[name], autoencoder) for name in names}
        return cls(pixels, {name: value.float().to(device) for name, value in latents.items()})


@dataclass(frozen=True)
class _Sampler:
    """A trained network and all that its samples have in common."""

    model: TrainedNetwork
    shape: tuple[int, int, int, int]
    """Of the latents of a piece, (C, T, h, w)."""
    numbers_N: Tensor
    size_3: Tensor
    references: _References
    texts: list[tuple[Tensor, Tensor]]
    """Tokens and mask of every request, for each piece."""
    sampling: Sampling
    showing: Showing | None
    painting: Painting | None

    @classmethod
    def of(
        cls,
        weights: Weights,
        requests: Sequence[Request],
        encoders: Encoders,
        video: VideoShape,
        numbers: Numbers,
        sampling: Sampling,
        device: str,
    ) -> _Sampler:
        """Looks at everything before anything is sampled. Raises SettingsError."""
        trained, autoencoder = Trained.of(weights.origin), encoders.autoencoder
        latent_frames = autoencoder.latent_frames(video.num_frames)
        check_network(weights.config, trained, sampling.sampler, sampling.frames_guidance, latent_frames)
        sampling = sampling.following(trained, (video.height_px, video.width_px, latent_frames))
        showing = showing_of(weights, encoders, numbers.augmentation)
        told = numbers_told(weights, video.fps - trained.fps_less, numbers, showing)
        check_latents(weights.config, autoencoder, video.height_px, video.width_px)
        latent = video.latent(latent_frames, autoencoder.downsampling)
        if showing is not None:
            showing.check(requests, sampling.loops, sampling.carry, latent)
        references = _References.read(requests, video, autoencoder, device)
        for request in requests:
            request.check_fit(references.latents, latent_frames)
        pieces = [[request.text(loop) for request in requests] for loop in range(sampling.loops)]
        return cls(
            model=_model(weights, trained, sampling, encoders.text, device),
            shape=(weights.config.latent_channels, *latent),
            numbers_N=torch.tensor(told, device=device),
            size_3=torch.tensor(
                [video.height_px, video.width_px, video.height_px / video.width_px], device=device
            ),
            references=references,
            texts=[_encoded(encoders.text, texts, device) for texts in pieces],
            sampling=sampling,
            showing=showing,
            painting=painting_of(weights.config, autoencoder, video.height_px, video.width_px),
        )

    def video(self, requests: Sequence[Request], first: int, seed: int) -> Tensor:
        """Latents (B, C, T, h, w) of neighbouring requests, of which `first` is the number of the first."""
        these = slice(first, first + len(requests))
        seeds = [seed + first + i for i in range(len(requests))]

        def make(loop: int, head_BCTHW: Tensor | None) -> Tensor:
            told = self._told(*(part[these] for part in self.texts[loop]))
            like = told.text_BLD.new_empty((len(requests), *self.shape))
            given = given_of(requests, loop, self.references.latents, like, self.sampling.sigmas)
            for clip in range(0 if head_BCTHW is None else len(requests)):
                given = given.with_frames(clip, 0, head_BCTHW[clip])
            some = given if given.release_BT.isfinite().any() else None
            if self.painting is not None:
                told = self.painting.told(told, given)
            if self.showing is not None:
                pixels_BCHW = self.showing.pixels(requests, loop, self.references.pixels, given)
                told, some = self.showing.told(told, given, pixels_BCHW, seeds, loop), None
            return sample_latents(self.model, told, self.shape, seeds, self.sampling, some, loop)

        return continued(make, self.sampling.loops, self.sampling.carry)

    def _told(self, text_BLD: Tensor, mask_BL: Tensor) -> Conditioning:
        num = len(text_BLD)
        numbers_BN, size_B3 = self.numbers_N.expand(num, -1), self.size_3.expand(num, -1)
        return Conditioning(text_BLD, mask_BL, numbers_BN, text_BLD.new_full((num,), torch.nan), size_B3)


def _model(
    weights: Weights, trained: Trained, sampling: Sampling, text_encoder: TextEncoder, device: str
) -> TrainedNetwork:
    network = weights.network().to(device)
    return TrainedNetwork(
        network if sampling.sampler == LEARNED else prediction_of(network, weights.config),
        trained.objective.preconditioning,
        knows_given=any(weights.origin.get("recipe", {}).get("given", {}).values()),
        empty=_encoded(text_encoder, [""], device) if trained.empty_text else None,
    )


def sample_videos(
    weights: Path,
    prompts: Sequence[str | Request],
    encoders: Encoders,
    *,
    video: VideoShape = VideoShape(),  # noqa: B008 (frozen, as are the next two)
    numbers: Numbers = Numbers(),  # noqa: B008
    sampling: Sampling = Sampling(),  # noqa: B008
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Frames (B, T, H, W, 3) uint8, one video a prompt; prompt i starts from noise of its own, keyed by seed + i.

    `weights`: a weights file or the folder of a finished run. `prompts`: as `training.prompts` reads them. `device`: where
    the network computes; the encoders lie where they are. `progress` is told before every batch how many prompts are
    done, and of how many.

    Raises:
        InputError: the autoencoder does not take so many frames; nothing was computed then.
        SettingsError: windows, pieces or frames that are given do not fit, or the weights cannot be sampled so; nothing
            was sampled then.
    """
    sampling.check_frames(encoders.autoencoder.latent_frames(video.num_frames))
    requests = [read_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    for request in requests:
        request.check_loops(sampling.loops)
    sampler = _Sampler.of(load_weights(weights), requests, encoders, video, numbers, sampling, device)
    videos = []
    for start in range(0, len(requests), sampling.batch_size):
        progress(start, len(requests))
        latents_BCTHW = sampler.video(requests[start : start + sampling.batch_size], start, seed)
        videos.append(to_pixels(encoders.autoencoder.decode(latents_BCTHW.movedim(1, 2))))
    return np.concatenate(videos)


def _encoded(text_encoder: TextEncoder, texts: Sequence[str], device: str) -> tuple[Tensor, Tensor]:
    text_BLD, mask_BL = text_encoder.encode(texts)
    return text_BLD.float().to(device), mask_BL.bool().to(device)
