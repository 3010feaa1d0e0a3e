"""Sampling, and what it is written to."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from PIL import Image

from models.autoencoder import load_autoencoder
from models.conditioning import Conditioning
from models.edm import SVD
from models.video_unet import VideoUNet, VideoUNetConfig
from training.checkpoints import Weights, save_weights
from training.sample import (
    Sampling,
    contact_sheet,
    sample_latents,
    sample_videos,
    write_image,
    write_video,
)
from warehouse.errors import SettingsError

CONFIG = VideoUNetConfig(width=8, attention=(False, True), head_dim=8, text_dim=6, number_dim=8)


class Letters:
    """A text encoder of a line: each character's code in a vector."""

    def encode(self, captions):
        codes_BL = torch.tensor([[ord(letter) for letter in caption.ljust(5)[:5]] for caption in captions])
        tokens_BLD = torch.sin(codes_BL[..., None] * torch.arange(1, 7) / 10)
        return tokens_BLD, torch.tensor([[i < len(caption) for i in range(5)] for caption in captions])


@pytest.fixture(scope="module")
def autoencoder():
    return load_autoencoder("embedded")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    network = VideoUNet(CONFIG)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_weights(path, Weights(CONFIG, network.state_dict(), torch.zeros(255), {}))
    return path


def test_a_network_that_knows_the_data_samples_it():
    """Data that is one point a prompt: the flow must end there, from any noise."""
    known = torch.randn(3, 4, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    told = Conditioning(
        torch.arange(1, 4.0)[:, None, None].expand(3, 2, 5),
        torch.ones(3, 2, dtype=torch.bool),
        torch.zeros(3, 2),
    )

    def network(x, c_noise_B, conditioning):
        sigma = (4 * c_noise_B).exp()[:, None, None, None, None]
        which = conditioning.text_BLD[:, 0, 0].long()
        x0 = torch.cat([torch.zeros_like(known[:1]), known])[which]
        return SVD.target(x0, (x * (1 + sigma**2).sqrt() - x0) / sigma, sigma.flatten())

    for sampler in ("euler", "heun", "euler_ancestral"):
        sampling = Sampling(num_steps=12, sampler=sampler, guidance=(1.0, 1.0))
        found = sample_latents(network, told, known.shape[1:], [5, 6, 7], sampling)
        torch.testing.assert_close(found, known, atol=2e-2, rtol=0)
    doubled = sample_latents(
        network, told, known.shape[1:], [5, 6, 7], Sampling(num_steps=12, guidance=(1.0, 2.0))
    )
    torch.testing.assert_close(doubled[:, :, 1], 2 * known[:, :, 1], atol=4e-2, rtol=0)


def test_samples_follow_seed_and_prompt_and_not_the_batch(weights, autoencoder):
    prompts = ["red", "blue", "red", "green", "red"]

    def sample(prompts, seed=3, **options):
        options = {"num_frames": 3, "height_px": 32, "width_px": 16} | options
        return sample_videos(weights, prompts, autoencoder, Letters(), seed=seed, **options)

    few = Sampling(num_steps=3, batch_size=2)
    videos = sample(prompts, sampling=few)
    assert videos.shape == (5, 3, 32, 16, 3)
    assert videos.dtype == np.uint8
    assert np.abs(videos - sample(prompts, sampling=Sampling(num_steps=3)).astype(int)).max() <= 1
    assert np.abs(videos[2:4] - sample(prompts[2:4], seed=5, sampling=few).astype(int)).max() <= 1
    assert (videos[0] != videos[2]).any(), "equal prompts get noise of their own"
    assert (sample(["blue"], sampling=few) != videos[:1]).any()
    assert (sample(["red"], sampling=few, motion_bucket=0.0) != videos[:1]).any()


def test_wrong_sampling_is_refused():
    with pytest.raises(SettingsError, match="sampler is 'plms', expected one of euler, heun"):
        Sampling(sampler="plms")
    with pytest.raises(SettingsError, match="sigma_min 3"):
        Sampling(sigma_min=3, sigma_max=2)


def moving_square():
    frames = np.full((6, 48, 64, 3), 60, np.uint8)
    for i, frame in enumerate(frames):
        frame[16:32, 8 * i : 8 * i + 16] = (220, 60, 40)
    return frames


def test_a_written_video_has_its_frames_size_and_rate(tmp_path):
    frames = moving_square()
    write_video(tmp_path / "out.mp4", frames, fps=7.5)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == 7.5
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).mean() < 4
    assert list(tmp_path.iterdir()) == [tmp_path / "out.mp4"]


def test_a_contact_sheet_shows_middle_frames_row_by_row(tmp_path):
    videos = np.zeros((5, 3, 4, 6, 3), np.uint8)
    videos[:, 1] = (10 * np.arange(1, 6))[:, None, None, None]
    sheet = contact_sheet(videos, num_columns=2, scale=2)
    assert sheet.shape == (24, 24, 3)
    assert sheet[::8, ::12, 0].tolist() == [[10, 20], [30, 40], [50, 0]]
    write_image(tmp_path / "sheet.png", sheet)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), sheet)
