"""Pictures and videos that a sample starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from training.pictures import write_video
from training.references import encoded, read_frames
from warehouse.errors import SettingsError


def read(path: Path, height: int = 8, width: int = 8, fps: float = 8.0) -> Tensor:
    """(channels, frames, height, width)."""
    return read_frames(path, height, width, fps).movedim(0, 1)


def test_a_picture_is_fitted_and_its_middle_kept(tmp_path: Path) -> None:
    picture = np.zeros((32, 96, 3), np.uint8)
    picture[:, 32:64] = (255, 0, 127)
    Image.fromarray(picture).save(tmp_path / "a.png")
    frames = read(tmp_path / "a.png", 16, 16)
    assert frames.shape == (3, 1, 16, 16)
    inside = frames[:, 0, :, 2:-2]
    for channel, value in enumerate((1.0, -1.0, 127 / 127.5 - 1)):
        assert (inside[channel] - value).abs().max() < 0.02
    Image.fromarray(picture.swapaxes(0, 1)).save(tmp_path / "b.jpg", quality=95)
    assert (read(tmp_path / "b.jpg", 16, 16)[0, 0, 2:-2] - 1).abs().max() < 0.05
    assert read(tmp_path / "a.png", 32, 96).shape == (3, 1, 32, 96)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(10.0, list(range(20))), (5.0, list(range(0, 20, 2))), (20.0, [i // 2 for i in range(39)])],
)
def test_a_videos_frames_come_at_the_rate_that_is_asked(
    tmp_path: Path, fps: float, expected: list[int]
) -> None:
    frames = np.repeat(np.arange(20, dtype=np.uint8) * 12, 32 * 32 * 3).reshape(20, 32, 32, 3)
    write_video(tmp_path / "a.mp4", frames, fps=10)
    found = ((read(tmp_path / "a.mp4", fps=fps).mean((0, 2, 3)) + 1) * 127.5 / 12).round().int().tolist()
    assert found == expected


def test_what_is_no_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone.png is not there; expected a picture or a video"):
        read(tmp_path / "gone.png")
    for name in ("a.png", "a.mp4"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(SettingsError, match=rf"{name} cannot be read as a picture or a video"):
            read(tmp_path / name)


def test_what_the_autoencoder_does_not_take_is_said(tmp_path: Path) -> None:
    class Fours:
        def encode(self, x_BTCHW: Tensor) -> Tensor:
            raise ValueError(f"{x_BTCHW.shape[1]} frames")

    with pytest.raises(SettingsError, match=r"a.png cannot be encoded: 1 frames"):
        encoded(tmp_path / "a.png", torch.zeros(1, 3, 8, 8), Fours())


def test_latents_are_the_autoencoders_own(tmp_path: Path) -> None:
    class Halves:
        def encode(self, x_BTCHW: Tensor) -> Tensor:
            return x_BTCHW[..., ::2, ::2] * 3

    latents = encoded(tmp_path / "a.png", torch.ones(2, 3, 8, 8), Halves())
    assert torch.equal(latents, torch.full((3, 2, 4, 4), 3.0))
