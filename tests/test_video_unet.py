"""The video UNet: its image mode, its start, its symmetries, and what it listens to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.blocks import TemporalConv, sinusoid
from models.conditioning import Conditioning
from models.video_unet import VideoUNet, VideoUNetConfig, is_temporal
from training.objective import prediction_of

TINY = VideoUNetConfig(width=16, multipliers=(1, 2), attention=(True, True), head_dim=8, text_dim=12)
IMAGES = VideoUNetConfig(**{**vars(TINY), "temporal": False})


def randomised(network: VideoUNet, keep_temporal: bool = False, seed: int = 0) -> VideoUNet:
    """Random weights everywhere (zero ones would hide mistakes), but for temporal layers where they are
    to be kept.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not (keep_temporal and is_temporal(name)):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def inputs(num_clips=3, num_frames=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_BCTHW = torch.randn(num_clips, 4, num_frames, 8, 8, generator=generator)
    text_BLD = torch.randn(num_clips, 5, 12, generator=generator)
    mask_BL = torch.arange(5) < torch.tensor([[3], [5], [1]])[:num_clips]
    numbers_BN = torch.tensor([[8.0, 3.0], [4.0, 200.0], [12.0, 90.0]])[:num_clips]
    return x_BCTHW, torch.randn(num_clips, generator=generator), Conditioning(text_BLD, mask_BL, numbers_BN)


def one_frame(function, x_BCTHW, c_noise_B, conditioning):
    told = replace(conditioning, image_only_BT=torch.ones(len(x_BCTHW), 1, dtype=torch.bool))
    frames = [function(frame, c_noise_B, told) for frame in x_BCTHW.split(1, dim=2)]
    return torch.cat(frames, dim=2)


@torch.no_grad()
def test_inserted_temporal_layers_change_nothing_frame_by_frame():
    images = randomised(VideoUNet(IMAGES))
    video = randomised(VideoUNet(TINY), keep_temporal=True)
    missing = video.load_state_dict(images.state_dict(), strict=False)
    assert missing.missing_keys == [name for name, _ in video.temporal_parameters()]
    assert not missing.unexpected_keys
    expected = one_frame(images, *inputs())
    assert expected.std() > 0.1
    torch.testing.assert_close(video(*inputs()), expected, atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_an_image_is_the_image_networks_whatever_the_temporal_layers_hold():
    video = randomised(VideoUNet(TINY))
    images = VideoUNet(IMAGES).eval()
    images.load_state_dict(
        {name: value for name, value in video.state_dict().items() if not is_temporal(name)}
    )
    torch.testing.assert_close(one_frame(video, *inputs()), one_frame(images, *inputs()))
    difference = (video(*inputs()) - one_frame(images, *inputs())).abs().mean()
    assert difference > 0.01, "trained temporal layers must act on several frames"
    x_BCTHW, c_noise_B, told = inputs(num_frames=1)
    untold = (video(x_BCTHW, c_noise_B, told) - images(x_BCTHW, c_noise_B, told)).abs().mean()
    assert untold > 0.01, "and on one that is not said to be an image"
    heard = prediction_of(video, TINY)
    torch.testing.assert_close(heard(x_BCTHW, c_noise_B, told), images(x_BCTHW, c_noise_B, told))
    as_video = replace(told, image_only_BT=torch.zeros(3, 1, dtype=torch.bool))
    assert torch.equal(heard(x_BCTHW, c_noise_B, as_video), video(x_BCTHW, c_noise_B, told))
    assert torch.equal(heard(*inputs()), video(*inputs()))
    still = VideoUNet(replace(TINY, pseudo3d=True)).eval()
    assert prediction_of(still, still.config) is still, "its temporal layers let one frame be"


@torch.no_grad()
def test_frames_that_are_images_pass_by_the_temporal_layers():
    video = randomised(VideoUNet(TINY))
    x_BCTHW, c_noise_B, told = inputs()
    image_only_BT = torch.tensor([[True] * 4, [False] * 4, [True] * 4])
    marked = video(x_BCTHW, c_noise_B, replace(told, image_only_BT=image_only_BT))
    alone = one_frame(video, x_BCTHW, c_noise_B, told)
    torch.testing.assert_close(marked[[0, 2]], alone[[0, 2]])
    torch.testing.assert_close(marked[1], video(x_BCTHW, c_noise_B, told)[1])
    assert (marked[1] - alone[1]).abs().mean() > 0.01


@torch.no_grad()
def test_started_as_published_the_temporal_transformers_change_the_image_network():
    images = randomised(VideoUNet(IMAGES))
    video = VideoUNet(replace(TINY, temporal_init="svd")).eval()
    video.load_state_dict(images.state_dict(), strict=False)
    expected = one_frame(images, *inputs())
    change = (video(*inputs()) - expected).abs().mean() / expected.abs().mean()
    assert 0.01 < change < 0.5


@torch.no_grad()
def test_condition_frames_join_the_input():
    network = randomised(VideoUNet(replace(TINY, condition_channels=4, num_numbers=3)))
    x_BCTHW, c_noise_B, told = inputs()
    numbers_BN = torch.cat([told.numbers_BN, torch.full((3, 1), 0.02)], dim=1)
    told = replace(told, numbers_BN=numbers_BN, frames_BCTHW=x_BCTHW.roll(1, 0))
    base = network(x_BCTHW, c_noise_B, told)
    assert base.shape == x_BCTHW.shape
    other = network(x_BCTHW, c_noise_B, replace(told, frames_BCTHW=torch.zeros_like(x_BCTHW)))
    assert (base - other).abs().mean() > 1e-3


@torch.no_grad()
def test_without_a_text_mask_every_token_is_heard():
    network = randomised(VideoUNet(replace(TINY, text_mask=False, pooled_text=False)))
    x_BCTHW, c_noise_B, told = inputs()
    hidden = told.text_BLD.masked_fill(~told.mask_BL[..., None], 7.0)
    heard = network(x_BCTHW, c_noise_B, replace(told, text_BLD=hidden)) - network(x_BCTHW, c_noise_B, told)
    assert heard.abs().amax((1, 2, 3, 4))[[0, 2]].min() > 1e-3, "clips 0 and 2 have masked tokens"


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY, IMAGES], ids=["video", "images"])
def test_clips_do_not_mix(config):
    network = randomised(VideoUNet(config))
    x_BCTHW, c_noise_B, told = inputs()
    order = torch.tensor([2, 0, 1])
    permuted = Conditioning(told.text_BLD[order], told.mask_BL[order], told.numbers_BN[order])
    expected = network(x_BCTHW, c_noise_B, told)[order]
    torch.testing.assert_close(
        network(x_BCTHW[order], c_noise_B[order], permuted), expected, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_frames_know_their_order():
    network = randomised(VideoUNet(TINY))
    x_BCTHW, c_noise_B, told = inputs()
    backwards = network(x_BCTHW.flip(2), c_noise_B, told).flip(2)
    assert (backwards - network(x_BCTHW, c_noise_B, told)).abs().mean() > 1e-3


@torch.no_grad()
def test_it_hears_text_numbers_and_noise_but_no_masked_token():
    network = randomised(VideoUNet(TINY))
    x_BCTHW, c_noise_B, told = inputs()
    base = network(x_BCTHW, c_noise_B, told)

    def change(**fields):
        return (
            (network(x_BCTHW, c_noise_B, Conditioning(**{**vars(told), **fields})) - base)
            .abs()
            .amax((1, 2, 3, 4))
        )

    hidden = told.text_BLD.masked_fill(~told.mask_BL[..., None], 7.0)
    assert change(text_BLD=hidden).max() < 1e-5
    assert change(text_BLD=told.text_BLD.roll(1, 0)).min() > 1e-3
    assert change(numbers_BN=told.numbers_BN + torch.tensor([3.0, 0.0])).min() > 1e-4
    assert change(numbers_BN=told.numbers_BN + torch.tensor([0.0, 9.0])).min() > 1e-4
    assert change(numbers_BN=torch.full((3, 2), torch.nan)).min() > 1e-4
    assert (network(x_BCTHW, c_noise_B + 0.5, told) - base).abs().mean() > 1e-3


def test_fresh_network_says_zero_and_learns_everywhere():
    network = VideoUNet(TINY)
    assert not network(*inputs()).any()
    randomised(network)(*inputs()).square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_temporal_conv_is_the_three_dimensional_one():
    conv = TemporalConv(3, 5)
    x_BCTHW = torch.randn(2, 3, 6, 4, 5)
    torch.testing.assert_close(conv(x_BCTHW), torch.nn.Conv3d.forward(conv, x_BCTHW), atol=1e-6, rtol=1e-5)


def test_sinusoid_of_an_unknown_value_is_zero_and_of_a_known_one_never():
    features = sinusoid(torch.tensor([torch.nan, 0.0, 3.0]), 8)
    assert not features[0].any()
    torch.testing.assert_close(features[1:].square().sum(-1), torch.full((2,), 4.0))
