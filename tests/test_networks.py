"""The published networks have the published sizes, and carry through the files of a trained network."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from models.conditioning import Conditioning
from models.networks import NETWORKS, build
from models.video_unet import VideoUNetConfig
from tests.small_networks import SMALL_NETWORKS, inputs_of, randomised
from training.recipe import with_settings

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
