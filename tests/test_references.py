"""Pictures and videos that a sample starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from training.pictures import write_video
from training.references import read_reference
from warehouse.errors import SettingsError


class Pixels:
    """An autoencoder that changes nothing."""

    def encode(self, x_BTCHW: Tensor) -> Tensor:
        return x_BTCHW


def read(path: Path, height: int = 8, width: int = 8, fps: float = 8.0) -> Tensor:
    return read_reference(path, Pixels(), height, width, fps)


def test_a_picture_is_fitted_and_its_middle_kept(tmp_path: Path) -> None:
    picture = np.zeros((32, 96, 3), np.uint8)
    picture[:, 32:64] = (255, 0, 127)
    Image.fromarray(picture).save(tmp_path / "a.png")
    latents = read(tmp_path / "a.png", 16, 16)
    assert latents.shape == (3, 1, 16, 16)
    inside = latents[:, 0, :, 2:-2]
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
    latents = read(tmp_path / "a.mp4", fps=fps)
    found = ((latents.mean((0, 2, 3)) + 1) * 127.5 / 12).round().int().tolist()
    assert found == expected


def test_what_is_no_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone.png is not there; expected a picture or a video"):
        read(tmp_path / "gone.png")
    for name in ("a.png", "a.mp4"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(SettingsError, match=rf"{name} cannot be read as a picture or a video"):
            read(tmp_path / name)


def test_what_the_autoencoder_does_not_take_is_said(tmp_path: Path) -> None:
    class Fours(Pixels):
        def encode(self, x_BTCHW: Tensor) -> Tensor:
            raise ValueError(f"{x_BTCHW.shape[1]} frames")

    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(SettingsError, match=r"a.png cannot be encoded: 1 frames"):
        read_reference(tmp_path / "a.png", Fours(), 8, 8, 8.0)


def test_latents_are_the_autoencoders_own(tmp_path: Path) -> None:
    class Halves(Pixels):
        def encode(self, x_BTCHW: Tensor) -> Tensor:
            return x_BTCHW[..., ::2, ::2] * 3

    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(tmp_path / "a.png")
    latents = read_reference(tmp_path / "a.png", Halves(), 8, 8, 8.0)
    assert torch.equal(latents, torch.full((3, 1, 4, 4), 3.0))
