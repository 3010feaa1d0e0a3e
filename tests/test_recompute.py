"""Gradients are the same bits whether blocks keep what they computed or compute it again."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from models.recompute import Recomputed, use_recompute
from tests.small_networks import SMALL_NETWORKS, inputs_of, randomised
from warehouse.errors import SettingsError


def gradients(network: nn.Module, name: str) -> tuple[list[torch.Tensor], int, int]:
    """Gradients, bytes that outlive the forward pass outside of blocks, and the FLOPs of both passes."""
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network(*inputs_of(name)).square().mean()
        loss.backward()
    return [p.grad for p in network.parameters() if p.grad is not None], kept, counter.get_total_flops()


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_gradients_are_the_same_bits(name):
    network = randomised(SMALL_NETWORKS[name].build())
    expected, kept, flops = gradients(network, name)
    assert len(expected) > 20
    for mode in ("selective", "block"):
        network.zero_grad()
        use_recompute(network, mode)
        found, kept_now, flops_now = gradients(network, name)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), mode
        assert kept_now < kept * (0.8 if mode == "selective" else 0.5)
        assert (flops_now == flops) == (mode == "selective"), (
            "matrix products are computed again in blocks alone"
        )


def test_the_first_blocks_can_be_spared():
    network = SMALL_NETWORKS["svd"].build()
    use_recompute(network, "block", keep_first=2)
    modes = [block.recompute for block in network.modules() if isinstance(block, Recomputed)]
    assert modes[:2] == ["none"] * 2
    assert set(modes[2:]) == {"block"}
    use_recompute(network, "none")
    assert {block.recompute for block in network.modules() if isinstance(block, Recomputed)} == {"none"}


def test_settings_that_are_not_known_are_refused():
    network = SMALL_NETWORKS["stdit"].build()
    with pytest.raises(SettingsError, match="recompute is 'all', expected one of none, selective, block"):
        use_recompute(network, "all")
    with pytest.raises(SettingsError, match="keep_first is 9, expected 0 to 3"):
        use_recompute(network, "block", keep_first=9)


def test_without_gradients_nothing_is_computed_again():
    network = randomised(SMALL_NETWORKS["stdit"].build())
    use_recompute(network, "block")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert not network(*inputs_of("stdit")).requires_grad
    use_recompute(network, "none")
    with torch.no_grad(), FlopCounterMode(display=False) as plain:
        network(*inputs_of("stdit"))
    assert counter.get_total_flops() == plain.get_total_flops()


@pytest.mark.long
@pytest.mark.parametrize("name", ["svd", "stdit3"])
@pytest.mark.parametrize("mode", ["none", "selective", "block"])
def test_networks_compile_as_one_graph(name, mode):
    torch.compiler.reset()
    network = randomised(SMALL_NETWORKS[name].build())
    use_recompute(network, mode)
    expected = network(*inputs_of(name))
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)(*inputs_of(name))
    torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=1e-5)
    compiled.square().mean().backward()
    assert network.conv_in.weight.grad.any() if name == "svd" else network.patches.weight.grad.any()
