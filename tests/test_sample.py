"""Sampling, and what it is written to."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from models.autoencoder import Autoencoder, load_autoencoder
from models.conditioning import Conditioning
from models.edm import SVD
from models.given_frames import Given
from models.video_unet import VideoUNet, VideoUNetConfig
from training.checkpoints import Weights, save_weights
from training.encoders import Encoders
from training.pictures import contact_sheet, to_pixels, write_image, write_video
from training.references import read_frames
from training.sample import TrainedNetwork, sample_latents, sample_videos
from training.sample_settings import Numbers, Sampling, VideoShape
from warehouse.errors import InputError, SettingsError

CONFIG = VideoUNetConfig(width=8, attention=(False, True), head_dim=8, text_dim=6, number_dim=8)


class Letters:
    """A text encoder of a line: each character's code in a vector."""

    def encode(self, captions):
        codes_BL = torch.tensor([[ord(letter) for letter in caption.ljust(5)[:5]] for caption in captions])
        tokens_BLD = torch.sin(codes_BL[..., None] * torch.arange(1, 7) / 10)
        return tokens_BLD, torch.tensor([[i < len(caption) for i in range(5)] for caption in captions])


@pytest.fixture(scope="module")
def encoders():
    return Encoders(load_autoencoder("embedded"), Letters())


def random_network():
    torch.manual_seed(0)
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
        found = sample_latents(TrainedNetwork(network), told, known.shape[1:], [5, 6, 7], sampling)
        torch.testing.assert_close(found, known, atol=2e-2, rtol=0)
    sampling = Sampling(num_steps=12, guidance=(1.0, 2.0))
    doubled = sample_latents(TrainedNetwork(network), told, known.shape[1:], [5, 6, 7], sampling)
    torch.testing.assert_close(doubled[:, :, 1], 2 * known[:, :, 1], atol=4e-2, rtol=0)


def test_samples_follow_seed_and_prompt_and_not_the_batch(weights, encoders):
    prompts = ["red", "blue", "red", "green", "red"]

    def sample(prompts, seed=3, **options):
        return sample_videos(weights, prompts, encoders, video=VideoShape(3, 32, 16), seed=seed, **options)

    few = Sampling(num_steps=3, batch_size=2)
    videos = sample(prompts, sampling=few)
    assert videos.shape == (5, 3, 32, 16, 3)
    assert videos.dtype == np.uint8
    assert np.abs(videos - sample(prompts, sampling=Sampling(num_steps=3)).astype(int)).max() <= 1
    assert np.abs(videos[2:4] - sample(prompts[2:4], seed=5, sampling=few).astype(int)).max() <= 1
    assert (videos[0] != videos[2]).any(), "equal prompts get noise of their own"
    assert (sample(["blue"], sampling=few) != videos[:1]).any()
    assert (sample(["red"], sampling=few, numbers=Numbers(0.0)) != videos[:1]).any()


def test_given_frames_are_in_the_video_as_the_autoencoder_has_them(weights, encoders, tmp_path):
    Image.fromarray(moving_square()[2, :, :48]).save(tmp_path / "a.png")
    frames = read_frames(tmp_path / "a.png", 32, 16, 8.0)
    own = to_pixels(encoders.autoencoder.decode(encoders.autoencoder.encode(frames[None])))[0, 0]
    prompt = f'red {{"reference_path": "{tmp_path}/a.png", "mask_strategy": "0;0,0,0,-1"}}'
    options = {"video": VideoShape(5, 32, 16), "sampling": Sampling(num_steps=3)}
    video, plain = sample_videos(weights, [prompt, "red"], encoders, **options)
    assert np.abs(video[[0, 4]].astype(int) - own).max() <= 1
    assert np.abs(plain[[0, 4]].astype(int) - own).mean() > 10
    assert np.array_equal(plain, sample_videos(weights, ["blue", "red"], encoders, **options)[1])


def test_a_network_is_told_of_given_frames_if_it_was_trained_with_them(tmp_path, encoders):
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
            options = {"video": VideoShape(3, 16, 16), "sampling": Sampling(num_steps=2)}
            sample_videos(tmp_path / "w.safetensors", [prompt], encoders, **options)
        finally:
            hook.remove()

    made({"recipe": {"given": {"image_head": 0.2, "loop": 0.0}}})
    made({"recipe": {"given": {"image_head": 0.0, "loop": 0.0}}})
    made({})
    assert seen == [(2, 3)] * 2 + [(2,)] * 4


def test_longer_videos_are_made_in_windows_or_pieces(weights, encoders):
    def sample(num_frames, prompt="red", **options):
        options = {"video": VideoShape(num_frames, 16, 16), "sampling": Sampling(num_steps=3, **options)}
        return sample_videos(weights, [prompt], encoders, **options)[0].astype(int)

    assert len(sample(11, window=4, overlap=2)) == 11
    assert len(sample(8, window=4, overlap=2, seamless=True)) == 8
    red = sample(4, loops=2, carry=1)
    assert len(red) == 2 * (4 - 1) + 1
    assert np.abs(red[:4] - sample(4)).max() <= 1, "the first piece is made alone"
    green = sample(4, "|0| red |1| green", loops=2, carry=1)
    assert np.abs(green[:4] - red[:4]).max() <= 1
    assert np.abs(green[4:] - red[4:]).mean() > 1, "the second piece has a text of its own"
    after_blue = sample(4, "|0| blue |1| green", loops=2, carry=1)
    assert (after_blue[4:] != green[4:]).any(), "the second piece hears of the first"
    with pytest.raises(SettingsError, match="carry is 4, expected fewer than the 4 latent frames"):
        sample(4, loops=2, carry=4)
    with pytest.raises(SettingsError, match="window 4, overlap 4, 8 latent frames"):
        sample(8, window=4, overlap=4)
    with pytest.raises(SettingsError, match="piece 1 is asked for, but the video has 1"):
        sample_videos(weights, ["|0| a |1| b"], encoders)


class Fours:
    """An autoencoder of whole videos that computes nothing that can be kept: one latent frame and one more every four."""

    downsampling, latent_channels = 8, 4

    def latent_frames(self, num_frames):
        return Autoencoder.latent_frames(self, num_frames)

    kind, time_downsampling = "Fours", 4

    def encode(self, x_BTCHW):
        num = self.latent_frames(x_BTCHW.shape[1])
        return torch.zeros(len(x_BTCHW), num, 4, x_BTCHW.shape[3] // 8, x_BTCHW.shape[4] // 8)

    def decode(self, z_BTCHW):
        num_clips, num_frames, _, height, width = z_BTCHW.shape
        return torch.zeros(num_clips, 1 + 4 * (num_frames - 1), 3, 8 * height, 8 * width)


def test_where_time_is_compressed_other_numbers_of_frames_are_refused_before_anything(tmp_path, weights):
    """There are no weights at the path, and no frames are computed: nothing but the message can come of it."""

    def sample(num_frames, path=tmp_path / "none", prompt="red", **options):
        options = {"video": VideoShape(num_frames, 16, 16), "sampling": Sampling(num_steps=2, **options)}
        return sample_videos(path, [prompt], Encoders(Fours(), Letters()), **options)[0]

    for number, nearest in ((8, "5 or 9"), (2, "1 or 5"), (16, "13 or 17")):
        with pytest.raises(
            InputError, match=f"number of frames is {number}, .* of 4 besides; take {nearest}$"
        ):
            sample(number)
    with pytest.raises(SettingsError, match="carry is 3, expected fewer than the 3 latent frames"):
        sample(9, loops=2, carry=3)
    with pytest.raises(SettingsError, match="window 4, overlap 2, 3 latent frames"):
        sample(9, window=4, overlap=2)
    assert len(sample(9, weights, loops=2, carry=1)) == 1 + 4 * (2 * (3 - 1) + 1 - 1)
    assert len(sample(17, weights, window=3, overlap=1, seamless=True)) == 17
    write_video(tmp_path / "five.mp4", moving_square()[:5], fps=8.0)
    write_video(tmp_path / "six.mp4", moving_square(), fps=8.0)

    def between(file, placements):
        return f'red {{"reference_path": "{tmp_path}/{file}", "mask_strategy": "{placements}"}}'

    assert len(sample(9, weights, between("five.mp4", "0;0,0,1,-1"))) == 9
    with pytest.raises(
        SettingsError, match=r"six.mp4 cannot be encoded: number of frames is 6.*; take 5 or 9"
    ):
        sample(9, weights, between("six.mp4", "0"))
    fits = r"five.mp4 has 2 latent frames and the piece 3"
    with sampled_networks() as calls, pytest.raises(SettingsError, match=fits):
        sample(9, weights, between("five.mp4", "0;1,0,2"), loops=2, carry=1)
    assert calls == [], "the second piece is looked at before the first is made"


@contextmanager
def sampled_networks():
    """Counts the calls of every network."""
    calls = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: calls.append(module) if isinstance(module, VideoUNet) else None
    )
    try:
        yield calls
    finally:
        hook.remove()


NEAR = 0.9


def ideal_network(x, c_noise, _):
    """Says what it should of frames that are jointly normal, NEAR correlated from one to the next."""
    count = torch.arange(x.shape[2])
    covariance = NEAR ** (count[:, None] - count).abs().double()
    level = (4 * c_noise.double()).exp().reshape(len(x), -1)[0].expand(len(count))
    noisy = x.double() * (1 + torch.where(level < 0.003, 0, level).square()).sqrt()[:, None, None]
    matrix = covariance @ torch.linalg.inv(covariance + torch.diag(level.square()))
    clean = torch.einsum("st,bcthw->bcshw", matrix, noisy)
    c_skip, c_out = SVD.c_skip(level)[:, None, None], SVD.c_out(level)[:, None, None]
    return ((clean - c_skip * noisy) / c_out).to(x)


def made(num_frames, given=None, *, seed=0, told=False, loop=0, **options):
    """One clip of 40 x 40 independent positions, without guidance."""
    sampling = Sampling(**{"num_steps": 30, "guidance": (1.0, 1.0), "sigma_max": 80.0} | options)
    told_of = Conditioning(torch.zeros(1, 2, 5), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2))
    shape = (4, num_frames, 40, 40)
    model = TrainedNetwork(ideal_network, knows_given=told)
    return sample_latents(model, told_of, shape, [seed], sampling, given, loop)


def ends_given(num_frames):
    """The first and the last frame are 1.5."""
    frame = torch.full((4, 1, 40, 40), 1.5)
    given = Given.none(torch.zeros(1, 4, num_frames, 40, 40))
    return given.with_frames(0, 0, frame).with_frames(0, num_frames - 1, frame)


def test_seamless_windows_join_the_last_frame_to_the_first():
    video = made(20, window=10, overlap=5, seamless=True)
    step = (video - video.roll(1, 2)).square().mean((0, 1, 3, 4))
    assert (step / (2 * (1 - NEAR)) - 1).abs().max() < 0.25


def test_given_frames_say_of_the_others_what_they_should():
    """The mean in the middle of 9 frames is known; untold networks come near it where steps are repeated."""
    given, weight = ends_given(9), 2 * NEAR**4 / (1 + NEAR**8)
    off = {}
    for name, options in {
        "told": {"told": True, "sampler": "heun"},
        "told, of diffusers": {"told": True, "sampler": "pndm"},
        "untold": {"sampler": "euler_ancestral"},
        "repeated": {"sampler": "euler_ancestral", "repeats": 8},
    }.items():
        video = made(9, given, **options)
        assert torch.equal(video[:, :, [0, 8]], given.latents_BCTHW[:, :, [0, 8]])
        off[name] = abs(video[:, :, 4].mean().item() - 1.5 * weight)
    assert off["told"] < 0.06
    assert off["repeated"] < off["untold"] / 2


def test_given_frames_begin_with_the_noise_of_the_first_level():
    first = []

    def network(x, *_):
        first.append(x[0, :, 0].mean().item() * (1 + 80.0**2) ** 0.5)
        return torch.zeros_like(x)

    told_of = Conditioning(torch.zeros(1, 2, 5), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2))
    given = Given.none(torch.zeros(1, 4, 3, 40, 40)).with_frames(0, 0, torch.full((4, 1, 40, 40), 30.0))
    sampling = Sampling(num_steps=2, sigma_max=80.0, guidance=(1.0, 1.0))
    sample_latents(TrainedNetwork(network), told_of, (4, 3, 40, 40), [0], sampling, given)
    assert first[0] == pytest.approx(30, abs=4)


def test_pieces_have_noise_of_their_own_and_guidance_oscillates_after_ten_steps():
    assert torch.equal(made(3, loop=1), made(3, loop=1))
    assert (made(3, loop=1) - made(3)).abs().mean() > 0.5

    def network(x, _, told):
        return torch.ones_like(x) * told.text_BLD.mean((1, 2))[:, None, None, None, None]

    def guided(**options):
        told_of = Conditioning(torch.ones(1, 2, 5), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2))
        sampling = Sampling(guidance=(5.0, 5.0), **options)
        return sample_latents(TrainedNetwork(network), told_of, (4, 2, 3, 3), [0], sampling)

    assert torch.equal(guided(num_steps=11, oscillating=True), guided(num_steps=11))
    assert (guided(num_steps=14, oscillating=True) - guided(num_steps=14)).abs().min() > 1e-3


def test_pictures_and_latents_that_the_network_does_not_take_are_refused_before_it_computes(
    tmp_path, weights, encoders
):
    def sample(path, height_px, width_px):
        video = VideoShape(2, height_px, width_px)
        return sample_videos(path, ["red"], encoders, video=video, sampling=Sampling(num_steps=2))

    calls = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda *called: calls.append(called))
    for height, width in ((68, 64), (64, 68), (72, 64), (0, 64)):
        with pytest.raises(SettingsError, match=f"are {height} x {width}, expected multiples of 16"):
            sample(weights, height, width)
    config = replace(CONFIG, latent_channels=8)
    save_weights(tmp_path / "w", Weights(config, VideoUNet(config).state_dict(), torch.zeros(255), {}))
    with pytest.raises(
        SettingsError, match=r"latents have 4 channels, the network's 8: name the autoencoder"
    ):
        sample(tmp_path / "w", 64, 64)
    hook.remove()
    assert not calls
    assert sample(weights, 48, 80).shape == (1, 2, 48, 80, 3)


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
