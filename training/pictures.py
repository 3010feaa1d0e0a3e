"""Samples as pixels, and as files that people look at."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


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
