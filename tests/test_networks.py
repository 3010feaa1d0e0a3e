"""The published networks have the published sizes, and carry through the files of a trained network."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from models.conditioning import Conditioning
from models.counting import network_of
from models.networks import NETWORKS, build
from models.video_unet import VideoUNetConfig
from tests.small_networks import SMALL_NETWORKS, inputs_of, randomised
from training.recipe import with_settings
from warehouse.errors import SettingsError

# The paper (appendix D) counts 1521 million parameters, 656 million of them temporal; the exact figures are those of
# the authors' code and of diffusers' classes for the released files.
PARAMETERS = {
    "sd21": 865_910_724,
    "svd-t2v-unlabelled": 1_521_987_562,
    "svd-t2v": 1_524_283_882,
    "svd-i2v": 1_524_623_082,
}
UNETS = [name for name, named in NETWORKS.items() if isinstance(named.config, VideoUNetConfig)]


def size(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_sizes(name):
    assert size(build(name, device="meta").parameters()) == PARAMETERS[name]


def test_temporal_layers_are_656_million_of_svd_and_none_of_the_image_network():
    video = build("svd-t2v-unlabelled", device="meta")
    assert size(parameter for _, parameter in video.temporal_parameters()) == 656_076_838
    assert sum(name.endswith("blend.mix") for name, _ in video.temporal_parameters()) == 38
    assert not list(build("sd21", device="meta").temporal_parameters())


def test_the_released_network_has_1428_tensors():
    assert len(build("svd-i2v", device="meta").state_dict()) == 1428


@pytest.mark.parametrize("name", UNETS)
def test_configs_survive_the_file_of_a_trained_network(name):
    described = json.loads(json.dumps(asdict(NETWORKS[name].config)))
    assert with_settings(VideoUNetConfig(), described, "network") == NETWORKS[name].config


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_clips_do_not_mix_and_frames_know_their_order(name):
    network = randomised(SMALL_NETWORKS[name].build())
    x_BCTHW, time_B, told = inputs_of(name)
    order = torch.tensor([1, 0])
    permuted = Conditioning(*(None if value is None else value[order] for value in vars(told).values()))
    base = network(x_BCTHW, time_B, told)
    found = network(x_BCTHW[order], time_B[order], permuted)
    torch.testing.assert_close(found, base[order], atol=1e-5, rtol=1e-5)
    if told.frames_BCTHW is not None:
        told = Conditioning(**{**vars(told), "frames_BCTHW": told.frames_BCTHW.flip(2)})
    shuffled = network(x_BCTHW.flip(2), time_B, told).flip(2)
    image_network = name in ("sd21", "inpainting", "pixart")
    assert ((shuffled - base).abs().max() > 1e-3) != image_network


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_a_fresh_network_says_zero_and_learns_everywhere(name):
    network = SMALL_NETWORKS[name].build()
    assert not network(*inputs_of(name)).any()
    randomised(network)(*inputs_of(name)).square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("latte-xl-2", {"width": 98}, "width is 98, expected a multiple of num_heads, whose heads share it"),
        ("latte-xl-2", {"width": 18, "num_heads": 3}, "width is 18, expected a multiple of 4: sines"),
        (
            "pixart-xl-2-1024",
            {"width": 64},
            "width is 64, expected a multiple of 3: height, width and aspect",
        ),
        ("stdit3-xl-2", {"width": 36, "num_heads": 4}, "channels of a head is 9, expected a multiple of 2"),
        ("open-sora-plan-1.3", {"width": 64, "num_heads": 4}, "head is 16, expected a multiple of 6"),
        ("latte-xl-2-split", {"width": 60, "num_heads": 5}, "num_heads is 5, expected an even number"),
        ("dit-xl-2", {"depth": 0}, "depth, .* is 0, expected at least 1 of each"),
        ("dit-xl-2", {"attention": ()}, "attention or cross is 0, expected at least 1 of each"),
        ("sd21", {"multipliers": (1, 2)}, "attention is .*, expected 2 marks, one a level"),
        ("sd21", {"multipliers": (), "attention": ()}, "attention is .*, expected 0 marks"),
        ("sd21", {"head_dim": 48}, "head_dim is 48, expected a divisor of a level's 320 channels"),
        ("pseudo3d", {"num_heads": 7}, "num_heads is 7, expected a divisor of a level's 320 channels"),
        ("svd-t2v", {"number_dim": 7}, r"number_dim is \(320, 7\), expected even"),
        ("sd21", {"blocks": 0}, "blocks, group_channels or multipliers is 0"),
        ("sd21", {"group_channels": 12}, "width is 320, expected channels that 26 groups share evenly"),
    ],
)
def test_shapes_that_cannot_be_are_refused_before_weights_are_made(name, changes, message):
    with pytest.raises(SettingsError, match=message), torch.device("meta"):
        network_of(replace(NETWORKS[name].config, **changes))
