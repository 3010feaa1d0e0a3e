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
from training.references import read_reference
from training.sample import (
    Sampling,
    contact_sheet,
    sample_latents,
    sample_videos,
    to_pixels,
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


def random_network():
    network = VideoUNet(CONFIG)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


NETWORK = random_network()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, Weights(CONFIG, NETWORK.state_dict(), torch.zeros(255), {}))
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


def test_given_frames_are_in_the_video_as_the_autoencoder_has_them(weights, autoencoder, tmp_path):
    Image.fromarray(moving_square()[2, :, :48]).save(tmp_path / "a.png")
    latents = read_reference(tmp_path / "a.png", autoencoder, 32, 16, 8.0)
    own = to_pixels(autoencoder.decode(latents.movedim(0, 1)[None]))[0, 0]
    prompt = f'red {{"reference_path": "{tmp_path}/a.png", "mask_strategy": "0;0,0,0,-1"}}'
    options = {"num_frames": 5, "height_px": 32, "width_px": 16, "sampling": Sampling(num_steps=3)}
    video, plain = sample_videos(weights, [prompt, "red"], autoencoder, Letters(), **options)
    assert np.abs(video[[0, 4]].astype(int) - own).max() <= 1
    assert np.abs(plain[[0, 4]].astype(int) - own).mean() > 10
    assert np.array_equal(
        plain, sample_videos(weights, ["blue", "red"], autoencoder, Letters(), **options)[1]
    )


def test_a_network_is_told_of_given_frames_if_it_was_trained_with_them(tmp_path, autoencoder):
    Image.fromarray(moving_square()[2, :, :48]).save(tmp_path / "a.png")
    prompt = f'red {{"reference_path": "{tmp_path}/a.png", "mask_strategy": "0"}}'
    seen = []

    def made(origin):
        save_weights(
            tmp_path / "w.safetensors", Weights(CONFIG, NETWORK.state_dict(), torch.zeros(255), origin)
        )
        hook = torch.nn.modules.module.register_module_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[1].shape) if isinstance(module, VideoUNet) else None
        )
        try:
            options = {"num_frames": 3, "height_px": 16, "width_px": 16, "sampling": Sampling(num_steps=2)}
            sample_videos(tmp_path / "w.safetensors", [prompt], autoencoder, Letters(), **options)
        finally:
            hook.remove()

    made({"recipe": {"given": {"image_head": 0.2, "loop": 0.0}}})
    made({"recipe": {"given": {"image_head": 0.0, "loop": 0.0}}})
    made({})
    assert seen == [(2, 3)] * 2 + [(2,)] * 4


def test_longer_videos_are_made_in_windows_or_pieces(weights, autoencoder):
    def sample(num_frames, **options):
        sampling = Sampling(num_steps=3, **options)
        shape = {"num_frames": num_frames, "height_px": 16, "width_px": 16}
        return sample_videos(weights, ["red", "|0| red |1| blue"][: options.get("loops", 1)], autoencoder, Letters(),
                             sampling=sampling, **shape)  # fmt: skip

    assert sample(11, window=4, overlap=2).shape[1] == 11
    assert sample(8, window=4, overlap=2, seamless=True).shape[1] == 8
    first, second = sample(4, loops=2, carry=1)
    assert first.shape[0] == 2 * (4 - 1) + 1
    assert np.abs(first[:4].astype(int) - sample(4)[0]).max() <= 1, "the first piece is made alone"
    assert (first[4:] != second[4:]).any(), "the second piece has a text of its own"
    with pytest.raises(SettingsError, match="carry is 4, expected fewer than the 4 frames"):
        sample(4, loops=2, carry=4)
    with pytest.raises(SettingsError, match="window 4, overlap 4, 8 frames"):
        sample(8, window=4, overlap=4)
    with pytest.raises(SettingsError, match="piece 1 is asked for, but the video has 1"):
        sample_videos(weights, ["|0| a |1| b"], autoencoder, Letters())
    assert Sampling().over(8, 8) == Sampling()
    assert Sampling().over(9, 8) == Sampling(window=8, overlap=4)
    assert Sampling(seamless=True, overlap=1).over(6, 8) == Sampling(seamless=True, window=6, overlap=1)


def test_wrong_sampling_is_refused():
    with pytest.raises(SettingsError, match="sampler is 'plms', expected one of euler, heun"):
        Sampling(sampler="plms")
    with pytest.raises(SettingsError, match="sigma_min 3"):
        Sampling(sigma_min=3, sigma_max=2)
    with pytest.raises(SettingsError, match="guidance_shape is 'round', expected one of linear, triangle"):
        Sampling(guidance_shape="round")
    with pytest.raises(SettingsError, match="steps of pndm cannot be repeated"):
        Sampling(sampler="pndm", repeats=2)
    with pytest.raises(SettingsError, match="one loop where the video is seamless"):
        Sampling(seamless=True, loops=2)
    with pytest.raises(SettingsError, match="a seamless video needs windows"):
        Sampling(seamless=True).check_frames(8)


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
