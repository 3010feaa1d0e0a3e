"""Networks refuse what they cannot take, by name, before they compute."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.transformers import DiffusionTransformer
from tests.small_networks import SMALL_NETWORKS, inputs_of
from warehouse.errors import InputError


def refused(name: str, message: str, x=None, time=None, **fields) -> None:
    """On the meta device, so that nothing can have been computed."""
    with torch.device("meta"):
        network = SMALL_NETWORKS[name].build()
    x_BCTHW, time_B, told = inputs_of(name)
    x_BCTHW = x_BCTHW if x is None else x(x_BCTHW)
    with pytest.raises(InputError, match=message):
        network(x_BCTHW, time_B if time is None else time, replace(told, **fields))


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_wrong_channels_are_refused(name):
    channels = inputs_of(name)[0].shape[1]
    refused(
        name,
        rf"input is of shape \(2, {channels - 1}, 3, 8, 8\), expected \(clips, {channels}, frames, height, width\)",
        lambda x: x[:, 1:],
    )


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_sizes_that_do_not_divide_are_refused(name):
    refused(name, "size of the input is 8 x 7, expected multiples of 2; crop", lambda x: x[..., :7])


@pytest.mark.parametrize("name", [name for name in SMALL_NETWORKS if SMALL_NETWORKS[name].config.text_dim])
def test_text_of_another_encoder_is_refused(name):
    text = r"text is of shape \(2, 5, 21\), expected \(2, tokens, 20\)"
    refused(name, text, text_BLD=torch.zeros(2, 5, 21))
    refused(name, r"mask of the text is of shape \(2, 4\), expected \(2, 5\)", mask_BL=torch.ones(2, 4) > 0)


def test_other_conditioning_is_refused():
    refused("svd", r"numbers is of shape \(2, 2\), expected \(2, 3\)", numbers_BN=torch.zeros(2, 2))
    refused("svd", r"frames that join the input is missing, expected \(2, 4, 3, 8, 8\)", frames_BCTHW=None)
    refused("svd", r"noise level is of shape \(1,\), expected \(2,\)", time=torch.zeros(1))
    refused("svd", r"noise level is of shape \(2, 4\), expected \(2, 3\)", time=torch.zeros(2, 4))
    refused("svd interpolation", r"shown_BT is missing, expected \(2, 3\)", shown_BT=None)
    refused("pseudo3d", "image_only_BT is given, expected None", image_only_BT=torch.ones(2, 3) > 0)
    refused("dit", r"label is of shape \(3,\), expected \(2,\)", label_B=torch.zeros(3))
    refused("pixart", r"size told is missing, expected \(2, 3\)", size_B3=None)
    refused("stdit3", "number of numbers is 0, expected at least 1", numbers_BN=torch.zeros(2, 0))
    refused("latte", r"given_BT is of shape \(2, 4\), expected \(2, 3\)", given_BT=torch.ones(2, 4) > 0)


def test_an_interpolating_network_takes_the_size_that_it_learned():
    x_BCTHW, time_B, told = inputs_of("svd interpolation", side=4)
    with pytest.raises(InputError, match=r"size is \(4, 4\), expected \(8, 8\)"):
        SMALL_NETWORKS["svd interpolation"].build()(x_BCTHW, time_B, told)


def test_too_many_frames_are_refused():
    network = DiffusionTransformer(replace(SMALL_NETWORKS["latte"].config, max_frames=2))
    with pytest.raises(InputError, match="number of frames is 3, expected at most 2; give fewer"):
        network(*inputs_of("latte"))
