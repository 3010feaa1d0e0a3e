"""Footage that a sample starts from, as latents."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from training.encoders import Autoencoder
from warehouse.errors import InputError, SettingsError

_IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def encoded(path: Path, frames_TCHW: Tensor, autoencoder: Autoencoder) -> Tensor:
    """Latents (C, T, h, w) of frames that were read from `path`. Raises SettingsError."""
    try:
        return autoencoder.encode(frames_TCHW[None])[0].movedim(0, 1)
    except (ValueError, InputError) as error:
        raise SettingsError(f"reference {path} cannot be encoded: {error}") from error


def read_frames(path: Path, height_px: int, width_px: int, fps: float) -> Tensor:
    """A picture, or a video's frames at `fps`, as (T, 3, height, width) in [-1, 1]. Raises SettingsError.

    Pictures are scaled until they cover height and width, and what stands out is cut off on both sides alike.
    """
    if not path.is_file():
        raise SettingsError(f"reference {path} is not there; expected a picture or a video")
    read = _picture if path.suffix.lower() in _IMAGES else _video
    try:
        frames_THWC = read(path, fps)
    except (OSError, ValueError, IndexError) as error:
        raise SettingsError(f"reference {path} cannot be read as a picture or a video: {error}") from error
    return torch.stack([_fitted(frame, height_px, width_px) for frame in frames_THWC])


def _picture(path: Path, _: float) -> list[Tensor]:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return [torch.from_numpy(np.asarray(image.convert("RGB")).copy())]


def _video(path: Path, fps: float) -> list[Tensor]:
    """At each of the times 0, 1 / fps, ... from the first frame on, the last frame that has begun."""
    import av

    frames: list[Tensor] = []
    with av.open(str(path)) as container:
        shown, begin, last = None, 0.0, 0.0
        for frame in container.decode(video=0):
            begin, last = (frame.time if shown is None else begin), frame.time
            while shown is not None and begin + len(frames) / fps < last - 1e-6:
                frames.append(shown)
            shown = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    if shown is None:
        raise ValueError("it has no frame")
    return [*frames, shown] if begin + len(frames) / fps <= last + 1e-6 else frames


def _fitted(frame_HWC: Tensor, height_px: int, width_px: int) -> Tensor:
    """(3, height, width) in [-1, 1]."""
    height, width, _ = frame_HWC.shape
    scale = max(height_px / height, width_px / width)
    size = max(height_px, round(height * scale)), max(width_px, round(width * scale))
    picture = frame_HWC.movedim(-1, 0)[None].float() / 127.5 - 1
    scaled = F.interpolate(picture, size, mode="bicubic", antialias=True).clamp(-1, 1)[0]
    top, left = (size[0] - height_px) // 2, (size[1] - width_px) // 2
    return scaled[:, top : top + height_px, left : left + width_px]
