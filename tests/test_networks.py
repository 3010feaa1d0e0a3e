"""The published networks have the published sizes, and carry through the files of a trained network."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from models.networks import NETWORKS, build
from models.video_unet import VideoUNetConfig
from training.recipe import with_settings

# The paper (appendix D) counts 1521 million parameters, 656 million of them temporal; the exact figures are those of
# the authors' code and of diffusers' classes for the released files.
PARAMETERS = {
    "sd21": 865_910_724,
    "svd-t2v-unlabelled": 1_521_987_562,
    "svd-t2v": 1_524_283_882,
    "svd-i2v": 1_524_623_082,
}


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


@pytest.mark.parametrize("name", PARAMETERS)
def test_configs_survive_the_file_of_a_trained_network(name):
    described = json.loads(json.dumps(asdict(NETWORKS[name].config)))
    assert with_settings(VideoUNetConfig(), described, "network") == NETWORKS[name].config
