"""UNets that came after SVD's and before it: frames between two, views around a thing, and convolutions over frames."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from models.blocks import FrameConv
from models.layouts import unet_diffusers
from models.networks import NETWORKS, build
from models.video_unet import VideoUNet, is_temporal
from models.weight_names import read_weights, write_weights
from tests.small_networks import SMALL_NETWORKS, inputs_of, randomised
from training.checkpoints import Weights, start_from

INPAINTING = SMALL_NETWORKS["inpainting"].config
PUBLISHED = replace(NETWORKS["sd15-inpainting"].config, width=32, multipliers=(1, 2), attention=(True, False))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sd15-inpainting", 859_535_364),  # 859,520,964 of Stable Diffusion 1.5 and five more input channels
        ("pseudo3d", 1_100_578_616),  # "about 1.1B"
        ("svd-interpolation", 1_524_623_082 + 9 * 320 + 4 * 72 * 128),
        ("svd-multi-view", 1_524_623_082 + 256 * 1280),
    ],
)
def test_sizes(name, count):
    assert sum(parameter.numel() for parameter in build(name, device="meta").parameters()) == count


def test_the_temporal_part_of_the_pseudo3d_network_is_all_that_the_image_network_lacks():
    video, image = (build(name, device="meta") for name in ("pseudo3d", "sd15-inpainting"))
    temporal = {name for name, _ in video.temporal_parameters()}
    assert temporal == video.state_dict().keys() - image.state_dict().keys()
    convolutions = [module for module in video.modules() if isinstance(module, FrameConv)]
    assert all(module.temporal is not None for module in convolutions)
    assert not any(type(module) is nn.Conv2d for module in video.modules())


def _theirs() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return randomised(
        UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=2,
            cross_attention_dim=20,
            sample_size=8,
            in_channels=9,
            out_channels=4,
            attention_head_dim=8,  # in this class the number of heads
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
    )


@torch.no_grad()
def test_the_pseudo3d_network_starts_as_diffusers_inpainting_network_frame_by_frame():
    theirs, config = _theirs(), replace(PUBLISHED, text_dim=20, group_channels=1)
    image = VideoUNet(config).eval()
    read_weights(image, theirs.state_dict(), unet_diffusers(config))
    back = write_weights(image, unet_diffusers(config))
    assert {name: value.shape for name, value in back.items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
    video = VideoUNet(replace(config, temporal=True, pseudo3d=True, temporal_init="zero")).eval()
    start_from(video, Weights(config, image.state_dict(), torch.zeros(255), {}))
    x_BCTHW, time_B, told = inputs_of("inpainting")
    joined = torch.cat([x_BCTHW, told.frames_BCTHW], dim=1)
    expected = [theirs(frame, time_B, told.text_BLD).sample for frame in joined.unbind(2)]
    found = video(x_BCTHW, time_B, told)
    assert (found - torch.stack(expected, dim=2)).abs().max() < 1e-5
    # The image network keeps frames apart; asked for all at once it rounds as the video network does.
    assert (found - image(x_BCTHW, time_B, told)).abs().max() < 2e-6


def _frames(x_BCTHW, told):
    return zip(x_BCTHW.split(1, dim=2), told.frames_BCTHW.split(1, dim=2), strict=True)


@torch.no_grad()
def test_one_frame_passes_by_the_convolutions_over_frames():
    video = randomised(SMALL_NETWORKS["pseudo3d"].build())
    image = SMALL_NETWORKS["inpainting"].build().eval()
    image.load_state_dict({n: v for n, v in video.state_dict().items() if not is_temporal(n)})
    x_BCTHW, time_B, told = inputs_of("pseudo3d")
    for frame, condition in _frames(x_BCTHW, told):
        alone = replace(told, frames_BCTHW=condition)
        torch.testing.assert_close(video(frame, time_B, alone), image(frame, time_B, alone))


@torch.no_grad()
def test_started_as_published_its_attention_over_frames_is_random():
    x_BCTHW, time_B, told = inputs_of("pseudo3d")
    image = randomised(VideoUNet(INPAINTING))
    config = replace(SMALL_NETWORKS["pseudo3d"].config, temporal_init="svd")
    video = VideoUNet(config).eval()
    video.load_state_dict(image.state_dict(), strict=False)
    frames = torch.cat(
        [image(x, time_B, replace(told, frames_BCTHW=y)) for x, y in _frames(x_BCTHW, told)], 2
    )
    assert (video(x_BCTHW, time_B, told) - frames).abs().max() > 1e-3


@torch.no_grad()
def test_a_convolution_over_frames_is_that_of_torch():
    conv = randomised(FrameConv(True, 4, 6, 3))
    x = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    frames = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1).unflatten(0, (2, 3)).transpose(1, 2)
    expected = nn.functional.conv3d(frames, conv.temporal.weight, conv.temporal.bias, padding=(1, 0, 0))
    torch.testing.assert_close(conv(x, 3), expected.transpose(1, 2).flatten(0, 1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_missing_frames_are_learned_and_given_ones_are_told():
    network = randomised(SMALL_NETWORKS["svd interpolation"].build())
    x_BCTHW, time_B, told = inputs_of("svd interpolation")
    assert told.shown_BT.tolist() == [[True, False, True]] * 2
    base = network(x_BCTHW, time_B, told)
    hidden, given = told.frames_BCTHW.clone(), told.frames_BCTHW.clone()
    hidden[:, :, 1] += 1
    given[:, :, 2] += 1
    assert torch.equal(network(x_BCTHW, time_B, replace(told, frames_BCTHW=hidden)), base)
    assert (network(x_BCTHW, time_B, replace(told, frames_BCTHW=given)) - base).abs().max() > 1e-3
    network.missing_frame += 1
    assert (network(x_BCTHW, time_B, told) - base).abs().max() > 1e-3
    learned = replace(told, frames_BCTHW=network.missing_frame[None, :, None].expand(2, -1, 3, -1, -1))
    everything = network(x_BCTHW, time_B, replace(learned, shown_BT=torch.ones(2, 3) > 0))
    nothing = network(x_BCTHW, time_B, replace(learned, shown_BT=torch.zeros(2, 3) > 0))
    assert (everything - nothing).abs().max() > 1e-3, "the mask channel alone tells them apart"


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "numbers"), [("svd interpolation", 2), ("svd multi-view", 3), ("svd multi-view", 0)]
)
def test_variants_start_as_the_network_without_their_new_inputs(name, numbers):
    config = SMALL_NETWORKS[name].config
    condition = 4 if numbers == 3 else 0
    before = replace(config, missing_size=(), condition_channels=condition, num_numbers=numbers)
    earlier, video = randomised(VideoUNet(before)), SMALL_NETWORKS[name].build().eval()
    start_from(video, Weights(before, earlier.state_dict(), torch.zeros(255), {}))
    x_BCTHW, time_B, told = inputs_of(name)
    plain = replace(told, numbers_BN=told.numbers_BN[:, :numbers], shown_BT=None)
    expected = earlier(x_BCTHW, time_B, plain)
    assert (video(x_BCTHW, time_B, told) - expected).abs().max() < 2e-6


@torch.no_grad()
def test_the_elevation_is_heard():
    network = randomised(SMALL_NETWORKS["svd multi-view"].build())
    x_BCTHW, time_B, told = inputs_of("svd multi-view")
    higher = told.numbers_BN + torch.tensor([0.0, 0.0, 0.0, 15.0])
    changed = network(x_BCTHW, time_B, replace(told, numbers_BN=higher)) - network(x_BCTHW, time_B, told)
    assert changed.abs().amax((1, 2, 3, 4)).min() > 1e-4


def test_what_stands_for_missing_frames_is_read_from_the_first_step_on():
    """Its values are random, since the weights that read it begin at zero: both at zero would never learn."""
    config = SMALL_NETWORKS["svd interpolation"].config
    before = replace(config, missing_size=(), condition_channels=0)
    earlier, video = randomised(VideoUNet(before)), VideoUNet(config)
    start_from(video, Weights(before, earlier.state_dict(), torch.zeros(255), {}))
    x_BCTHW, time_B, told = inputs_of("svd interpolation")
    told = replace(told, shown_BT=torch.zeros(2, 3, dtype=torch.bool))
    video(x_BCTHW, time_B, told).square().mean().backward()
    assert video.conv_in.weight.grad[:, 4:8].any()
