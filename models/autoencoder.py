"""Autoencoders between pixels and latents, published or embedded, behind one small interface.

Shapes: B batch, C channels, T frames, H and W height and width (latents: an eighth of the pixels' for f8, and for
those that are causal in time the first frame and a quarter of the others).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from torch import nn

from models import taesd
from models.autoencoder_layouts import load_original
from models.digest import weights_digest
from models.latent_scaling import scaling
from models.whole_weights import LOADING_FAILS, whole
from warehouse.errors import InputError, WeightsError

_VIDEO = {"AutoencoderKLCogVideoX": "temporal_compression_ratio", "AutoencoderKLWan": "scale_factor_temporal"}
"""Those that work on whole videos, a few frames at a time, and where their configuration has frames a latent."""
_CLASSES = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderKLTemporalDecoder", *_VIDEO)
_CHUNK_PX = 2**20  # pixels worked on at once where frames are apart: 4 frames of 512x512 or 256 of 64x64
_TOGETHER_PX = 14 * 576 * 1024
"""Pixels that a temporal decoder sees at once where nothing else is set: SVD's 14 frames at SVD's size. Its largest
activation, 256 channels a pixel, then takes 8.5 GB in float32."""


class Autoencoder:
    """A frozen autoencoder in diffusers' classes; latents come scaled to a standard deviation of about one.

    `downsampling` is the ratio of sides, `time_downsampling` that of frames after the first, `latent_channels` the
    latents' C, `scale_factor` and `shift` what turns the network's own latents into ours (shift first; numbers, or one
    per channel, (C, 1, 1)), `digest` names weights and scaling together. `decode_frames`: frames that a temporal decoder
    sees at once; None: as many as have the pixels of SVD's 14 frames of 576x1024, at least one. Raises InputError for
    fewer than one.
    """

    def __init__(self, network: nn.Module, decode_frames: int | None = None) -> None:
        if decode_frames is not None and decode_frames < 1:
            raise InputError(f"decode_frames is {decode_frames}, expected at least 1, or None for SVD's")
        config = network.config
        self.decode_frames = decode_frames
        self.network = network.eval().requires_grad_(False)
        self.kind = type(network).__name__
        self.latent_channels: int = config.get("latent_channels") or config.z_dim
        self.time_downsampling: int = config[_VIDEO[self.kind]] if self.kind in _VIDEO else 1
        self.downsampling = 2 ** (_num_levels(config) - 1) * (config.get("patch_size") or 1)
        scale, shift = scaling(config)
        self.scale_factor, self.shift = _numbers(scale), _numbers(shift)
        self.digest = weights_digest(network, kind=self.kind, scale=scale, shift=shift)

    @property
    def device(self) -> torch.device:
        """Where the weights are; inputs are brought there."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in and returns."""
        return next(self.network.parameters()).dtype

    def latent_frames(self, num_frames: int) -> int:
        """Frames of the latents of so many frames.

        Raises InputError where these are not one and a multiple of `time_downsampling`.
        """
        later, left = divmod(num_frames - 1, self.time_downsampling)
        if num_frames < 1 or left:
            nearest = (
                [1] if num_frames < 1 else [num_frames - left, num_frames - left + self.time_downsampling]
            )
            raise InputError(
                f"number of frames is {num_frames}, but a {self.kind} takes one and a multiple of "
                f"{self.time_downsampling} besides; take {' or '.join(map(str, nearest))}"
            )
        return 1 + later

    def to(self, device: torch.device | str) -> Autoencoder:
        """Move the weights; returns itself."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def encode(self, x_BTCHW: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Latents z_BTCHW of frames in [-1, 1]: the posterior's mode, or a sample of it where `generator` is given.

        Raises ValueError where height or width is no multiple of `downsampling`, or frames are not B,T,3,H,W, and
        InputError for a number of frames that `latent_frames` refuses.
        """
        self._check(x_BTCHW, 3, multiple=self.downsampling)
        self.latent_frames(x_BTCHW.shape[1])
        frame_px = x_BTCHW.shape[-1] * x_BTCHW.shape[-2]
        chunks = self._videos(x_BTCHW) if self.kind in _VIDEO else self._chunks(x_BTCHW, frame_px)
        parts = [self._moments(chunk) for chunk in chunks]
        z_NCHW = torch.cat([mean for mean, _ in parts])
        if generator is not None:
            noise = torch.randn(
                z_NCHW.shape, generator=generator, device=generator.device, dtype=torch.float32
            )
            z_NCHW = z_NCHW + torch.cat([std for _, std in parts]) * noise.to(z_NCHW)
        z_NCHW = (z_NCHW - _on(z_NCHW, self.shift)) * _on(z_NCHW, self.scale_factor)
        return rearrange(z_NCHW, "(b t) c h w -> b t c h w", b=len(x_BTCHW))

    @torch.no_grad()
    def moments(self, x_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the posterior of frames in [-1, 1], as the network has them: not scaled.

        The deviation of a network without a posterior is zero. Raises ValueError for a network of whole videos.
        """
        if self.kind in _VIDEO:
            raise ValueError(f"a {self.kind} has no moments of single frames; use AutoencoderKL, say")
        self._check(x_NCHW[None], 3, multiple=self.downsampling)
        parts = [
            self._moments(chunk) for chunk in self._chunks(x_NCHW[None], x_NCHW.shape[-1] * x_NCHW.shape[-2])
        ]
        return torch.cat([mean for mean, _ in parts]), torch.cat([std for _, std in parts])

    @torch.no_grad()
    def decode(self, z_BTCHW: torch.Tensor) -> torch.Tensor:
        """Frames x_BTCHW, about [-1, 1] and not clipped, of latents that `encode` or a sampler gave.

        A temporal decoder (SVD's) sees up to `decode_frames` frames of a video at once. Where the video is longer it is
        decoded in pieces of that many frames, as few as cover it, which overlap evenly and are joined in the middle of
        what two of them have in common; frames near such a seam are not those of a decoding as a whole.
        """
        self._check(z_BTCHW, self.latent_channels, multiple=1)
        frame_px = z_BTCHW.shape[-1] * z_BTCHW.shape[-2] * self.downsampling**2
        z_BTCHW = z_BTCHW / _on(z_BTCHW, self.scale_factor) + _on(z_BTCHW, self.shift)
        if self.kind in _VIDEO:
            x_BTCHW = torch.cat([self.network.decode(z).sample for z in self._videos(z_BTCHW)]).movedim(1, 2)
            # Of an even number of latents CogVideoX's makes as many frames of the first one as of the others.
            return x_BTCHW[:, -1 - self.time_downsampling * (z_BTCHW.shape[1] - 1) :]
        if self.kind == "AutoencoderKLTemporalDecoder":
            videos = [self._decode_together(z_TCHW, frame_px) for z_TCHW in z_BTCHW]
            return torch.stack(videos)
        x_NCHW = torch.cat([self.network.decode(z_NCHW).sample for z_NCHW in self._chunks(z_BTCHW, frame_px)])
        return rearrange(x_NCHW, "(b t) c h w -> b t c h w", b=len(z_BTCHW))

    def _decode_together(self, z_TCHW: torch.Tensor, frame_px: int) -> torch.Tensor:
        parts = []
        for seen, kept in _pieces(len(z_TCHW), self.decode_frames or max(1, _TOGETHER_PX // frame_px)):
            piece = z_TCHW[seen].to(self.device, self.dtype)
            parts.append(self.network.decode(piece, num_frames=len(piece)).sample[kept])
        return torch.cat(parts)

    def _moments(self, x_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.kind == "AutoencoderTiny":  # has no posterior: its latents are the code itself
            z_NCHW = self.network.encode(x_NCHW).latents
            return z_NCHW, torch.zeros_like(z_NCHW)
        posterior = self.network.encode(x_NCHW).latent_dist
        if self.kind in _VIDEO:  # (1, C, T, H, W), as frames
            return posterior.mean[0].movedim(1, 0), posterior.std[0].movedim(1, 0)
        return posterior.mean, posterior.std

    def _videos(self, frames_BTCHW: torch.Tensor) -> Iterator[torch.Tensor]:
        """Video by video as (1, C, T, H, W); the network itself goes through its frames a few at a time."""
        for frames_TCHW in frames_BTCHW:
            yield frames_TCHW.movedim(1, 0)[None].to(self.device, self.dtype)

    def _chunks(self, frames_BTCHW: torch.Tensor, frame_px: int) -> Iterator[torch.Tensor]:
        frames_NCHW = rearrange(frames_BTCHW, "b t c h w -> (b t) c h w")
        for chunk in frames_NCHW.split(max(1, _CHUNK_PX // frame_px)):
            yield chunk.to(self.device, self.dtype)

    def _check(self, frames: torch.Tensor, channels: int, multiple: int) -> None:
        if frames.ndim != 5 or frames.shape[2] != channels:
            raise ValueError(f"expected B,T,{channels},H,W, got shape {tuple(frames.shape)}")
        if frames.shape[-1] % multiple or frames.shape[-2] % multiple:
            raise ValueError(
                f"height and width must be multiples of {multiple}, got {tuple(frames.shape[-2:])}"
            )


def load_autoencoder(
    name_or_path: str = "embedded",
    dtype: torch.dtype = torch.float32,
    *,
    subfolder: str | None = None,
    decode_frames: int | None = None,
) -> Autoencoder:
    """The embedded autoencoder, or one from a folder or a hub in diffusers' layout (`subfolder`: "vae" in a pipeline),
    or a folder with a pair of files of taesd, or a file of Stable Diffusion or Stable Video Diffusion (.safetensors).
    `decode_frames`: see `Autoencoder`.

    Raises WeightsError where it cannot be read or is of another class than AutoencoderKL, AutoencoderTiny,
    AutoencoderKLTemporalDecoder (SVD's), and, of a quarter of the frames, AutoencoderKLCogVideoX and AutoencoderKLWan.
    """
    if name_or_path == "embedded":
        from models.embedded import load_autoencoder as load_embedded

        network = load_embedded()
    elif tiny := taesd.find(name_or_path):
        network = taesd.load(*tiny)
    elif name_or_path.endswith(".safetensors"):
        network = load_original(name_or_path)
    else:
        network = _load_published(name_or_path, subfolder)
    loaded = Autoencoder(network, decode_frames)
    nn.Module.to(loaded.network, dtype)  # after the digest, which must not depend on what we compute in
    return loaded


def _load_published(name_or_path: str, subfolder: str | None) -> nn.Module:
    import diffusers

    where = name_or_path if subfolder is None else f"{name_or_path}/{subfolder}"
    try:
        config = diffusers.AutoencoderKL.load_config(name_or_path, subfolder=subfolder)
        kind = config.get("_class_name")
        if kind in _CLASSES:
            cls = getattr(diffusers, kind)
            how = {"low_cpu_mem_usage": False, "output_loading_info": True}
            return whole(cls.from_pretrained(name_or_path, subfolder=subfolder, **how), where, alone=True)
    except LOADING_FAILS as error:
        raise WeightsError(
            f"no autoencoder at {where!r}: expected a hub id or a folder with config.json and weights in diffusers' "
            f"layout, or 'embedded' ({error})"
        ) from error
    raise WeightsError(f"{where!r} holds a {kind}: expected one of {', '.join(_CLASSES)}")


def _pieces(num_frames: int, together: int) -> list[tuple[slice, slice]]:
    """Which frames are decoded together, and which of these are kept."""
    together = min(together, num_frames)
    count = -(-num_frames // together)
    starts = [i * (num_frames - together) // max(1, count - 1) for i in range(count)]
    seams = [(before + together + after) // 2 for before, after in pairwise(starts)]
    kept = zip([0, *seams], [*seams, num_frames], strict=True)
    return [
        (slice(start, start + together), slice(first - start, last - start))
        for start, (first, last) in zip(starts, kept, strict=True)
    ]


def _num_levels(config: Mapping[str, Any]) -> int:
    """Levels of resolution; between two neighbours the sides are halved."""
    names = ("block_out_channels", "encoder_block_out_channels", "dim_mult")
    return len(next(config[name] for name in names if config.get(name)))


def _numbers(value: float | list[float]) -> float | torch.Tensor:
    return torch.tensor(value)[:, None, None] if isinstance(value, list) else value


def _on(like: torch.Tensor, value: float | torch.Tensor) -> float | torch.Tensor:
    return value.to(like) if isinstance(value, torch.Tensor) else value
