"""Videos from prompts with a trained stage's averaged weights, from fixed seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from models.conditioning import Conditioning
from models.diffusers_samplers import sampler_named
from models.edm import SVD, karras_sigmas
from models.guidance import guided_denoiser, linear, with_and_without_text
from models.samplers import initial_latents, noise_of
from training.checkpoints import load_weights
from training.draws import generator
from warehouse.errors import SettingsError


class Decoder(Protocol):
    """What is needed of an autoencoder here."""

    downsampling: int

    def latent_frames(self, num_frames: int) -> int:
        """Frames of the latents of so many frames."""

    def decode(self, z_BTCHW: Tensor) -> Tensor:
        """Frames in about [-1, 1] of scaled latents."""


class TextEncoder(Protocol):
    """What is needed of a text encoder here."""

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D) and mask (B, L), true where a token counts."""


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    `num_steps` noise levels fall from `sigma_max` to `sigma_min` (Karras). `guidance`: weights at the
    first and the last frame. `batch_size`: samples at once; it changes none of them.
    """

    num_steps: int = 16
    sampler: str = "euler"
    sigma_min: float = 0.02
    sigma_max: float = 20.0
    guidance: tuple[float, float] = (3.0, 3.0)
    batch_size: int = 16

    def __post_init__(self) -> None:
        sampler_named(self.sampler)
        if not 0 < self.sigma_min < self.sigma_max or self.num_steps < 2:
            raise SettingsError(
                f"sigma_min {self.sigma_min}, sigma_max {self.sigma_max}, num_steps {self.num_steps}: "
                f"expected "
                "0 < sigma_min < sigma_max and at least 2 steps"
            )


@torch.no_grad()
def sample_latents(
    network: nn.Module,
    conditioning: Conditioning,
    shape: tuple[int, int, int, int],
    seeds: Sequence[int],
    sampling: Sampling,
) -> Tensor:
    """Latents (B, C, T, h, w) of one clip for each seed; shape: (C, T, h, w)."""
    generators = [generator("sample", seed) for seed in seeds]
    first = initial_latents((len(seeds), *shape), sampling.sigma_max, generators)
    weight = linear(*sampling.guidance, shape[1])
    denoise = guided_denoiser(SVD, network, with_and_without_text(conditioning), [weight])
    sigmas = karras_sigmas(sampling.num_steps, sampling.sigma_min, sampling.sigma_max)
    return sampler_named(sampling.sampler)(
        denoise, first.to(conditioning.text_BLD), sigmas, noise_of(generators)
    )


def sample_videos(
    weights: Path,
    prompts: Sequence[str],
    autoencoder: Decoder,
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
) -> np.ndarray:
    """Frames (B, T, H, W, 3) uint8, one video a prompt; prompt i starts from noise of its own, keyed by
    seed + i.

    `weights`: a weights file or the folder of a finished run. `motion_bucket`: 0 (still) to 255.
    """
    sampling = sampling or Sampling()
    loaded = load_weights(weights)
    network = loaded.network().to(device)
    text_BLD, mask_BL = text_encoder.encode(list(prompts))
    numbers_BN = torch.tensor([fps, motion_bucket]).expand(len(prompts), 2)
    told = Conditioning(text_BLD.float(), mask_BL.bool(), numbers_BN).to(device)
    scale = autoencoder.downsampling
    latent_frames = autoencoder.latent_frames(num_frames)
    shape = (loaded.config.latent_channels, latent_frames, height_px // scale, width_px // scale)
    videos = []
    for start in range(0, len(prompts), sampling.batch_size):
        these = slice(start, start + sampling.batch_size)
        some = Conditioning(told.text_BLD[these], told.mask_BL[these], told.numbers_BN[these])
        seeds = [seed + start + i for i in range(len(some.text_BLD))]
        latents_BCTHW = sample_latents(network, some, shape, seeds, sampling)
        videos.append(to_pixels(autoencoder.decode(latents_BCTHW.movedim(1, 2))))
    return np.concatenate(videos)


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
