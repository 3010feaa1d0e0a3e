"""Counts without weights, beside torch's own counter and beside what a real run keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from models.counting import count, network_of, sample_inputs
from models.networks import NETWORKS, build, describe
from tests.small_networks import SMALL_NETWORKS


def really(config, latent) -> tuple[int, int, int]:
    """Parameters, FLOPs and bytes that a run on the CPU keeps: each piece of memory once, parameters apart."""
    network, kept = network_of(config), {}
    own = {parameter.data_ptr() for parameter in network.parameters()}

    def pack(tensor):
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            kept[memory.data_ptr()] = memory
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(pack, lambda tensor: tensor):
        network(*sample_inputs(config, latent))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters, counter.get_total_flops(), sum(memory.nbytes() for memory in kept.values())


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_counts_are_those_of_a_real_run(name):
    config = SMALL_NETWORKS[name].config
    latent = (4, 8, 8)
    counted, (parameters, flops, kept) = count(config, latent), really(config, latent)
    assert counted.parameters == parameters
    assert counted.flops == pytest.approx(flops, rel=0.05)
    assert counted.activation_bytes == pytest.approx(kept, rel=0.1)


def test_rounds_of_blocks_are_counted_once():
    config = replace(SMALL_NETWORKS["latte t2v"].config, depth=14)
    parameters, flops, kept = really(config, (4, 8, 8))
    counted = count(config, (4, 8, 8))
    assert counted.parameters == parameters
    assert counted.flops == flops
    assert counted.activation_bytes == pytest.approx(kept, rel=0.02)


@pytest.mark.parametrize("name", ["stdit3-xl-2", "latte-t2v", "svd-i2v", "dit-s-8"])
def test_described_parameters_are_those_of_the_network(name):
    built = build(name, device="meta")
    assert describe(name).parameters == sum(parameter.numel() for parameter in built.parameters())


def test_bytes_grow_with_the_clip():
    config = NETWORKS["dit-s-8"].config
    one, four = count(config, (1, 32, 32)).activation_bytes, count(config, (4, 32, 32)).activation_bytes
    assert 3 < four / one < 4.2


def test_counting_leaves_no_trace():
    count(SMALL_NETWORKS["dit"].config, (1, 8, 8))
    assert torch.empty(1).device.type == "cpu"
