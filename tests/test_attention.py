"""Attention beside the formula, its kernels, and rotary positions beside complex numbers and diffusers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.attention import Attention, attend, use_attention
from models.positions import rotary_angles, rotate, volume
from warehouse.errors import SettingsError

MASK = torch.arange(7) < torch.tensor([[7], [3]])


def heads(seed: int, length: int = 7, channels: int = 8) -> torch.Tensor:
    return torch.randn(2, 3, length, channels, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", ["auto", "flash", "math"])
@pytest.mark.parametrize("mask", [None, MASK[:, None, None]], ids=["all", "masked"])
def test_attention_is_its_formula(kernel, mask):
    q, k, v = heads(0, 5), heads(1), heads(2)
    scores = q @ k.mT / 8**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(attend(q, k, v, mask, kernel), scores.softmax(-1) @ v, atol=1e-6, rtol=1e-5)


def test_the_kernel_that_was_asked_for_computes():
    attention = nn.Sequential(Attention(16, 8))
    computed = {}
    for kernel in ("flash", "math"):
        use_attention(attention, kernel)
        with FlopCounterMode(display=False) as counter:
            attention(torch.randn(2, 5, 16))
        computed[kernel] = {str(name) for name in counter.get_flop_counts()["Global"]}
    assert "aten._scaled_dot_product_flash_attention_for_cpu" in computed["flash"]
    assert not any("flash" in name for name in computed["math"])


def test_a_kernel_that_cannot_run_is_an_error():
    with pytest.raises(
        SettingsError, match=r"kernel 'efficient' cannot take queries of shape \(2, 3, 7, 8\).*on cpu"
    ):
        attend(heads(0), heads(1), heads(2), None, "efficient")
    with pytest.raises(SettingsError, match="attention is 'fast', expected one of auto, flash"):
        use_attention(Attention(16, 8), "fast")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without CUDA says")
def test_a_kernel_of_gpus_is_refused_before_any_compute():
    with pytest.raises(SettingsError, match="'cudnn', which needs CUDA"):
        use_attention(Attention(16, 8), "cudnn")


def test_normalised_queries_and_keys_forget_their_length():
    torch.manual_seed(0)
    attention, x = Attention(16, 8, qk_norm=True), torch.randn(2, 5, 16)
    before = attention(x)
    with torch.no_grad():
        attention.to_q.weight *= 7
        attention.to_k.weight *= 0.3
    torch.testing.assert_close(attention(x), before, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        attention.norm_q.weight *= 3
    assert (attention(x) - before).abs().max() > 1e-3


def test_pairs_turn_as_complex_numbers():
    x, angles = heads(0, channels=6), rotary_angles(torch.arange(7.0)[:, None], 6)
    turned = torch.view_as_complex(x.unflatten(-1, (3, 2))) * torch.exp(1j * angles[:, 0])
    torch.testing.assert_close(rotate(x, angles, "pairs"), torch.view_as_real(turned).flatten(-2))
    torch.testing.assert_close(angles[3, 0], 3 * 10_000.0 ** -(torch.arange(3) / 3))


def test_three_axes_turn_as_in_diffusers():
    from diffusers.models.embeddings import apply_rotary_emb_allegro, get_3d_rotary_pos_embed_allegro

    frames, rows, columns = 2, 3, 4
    x = heads(0, length=24, channels=12)
    *freqs, _, _, _ = get_3d_rotary_pos_embed_allegro(12, ((0, 0), (rows, columns)), (rows, columns), frames)
    at = volume(frames, rows, columns, x.device)
    expected = apply_rotary_emb_allegro(x, freqs, list(at.T[:, None]))
    torch.testing.assert_close(rotate(x, rotary_angles(at, 12), "halves"), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pairing", ["pairs", "halves"])
@pytest.mark.parametrize("shift", [(5.0, 0.0, 0.0), (1.0, 7.0, 2.0)])
def test_scores_depend_on_differences_of_positions(pairing, shift):
    q, k = heads(0, length=24, channels=12), heads(1, length=24, channels=12)
    at = volume(2, 3, 4, q.device)

    def scores(positions):
        angles = rotary_angles(positions, 12)
        return rotate(q, angles, pairing) @ rotate(k, angles, pairing).mT

    here = scores(at)
    torch.testing.assert_close(scores(at + torch.tensor(shift)), here, atol=1e-4, rtol=1e-4)
    assert (scores(at * 2) - here).abs().max() > 0.1
    torch.testing.assert_close(rotate(q, rotary_angles(at, 12), pairing).norm(dim=-1), q.norm(dim=-1))


def test_heads_that_do_not_split_over_the_axes_are_refused():
    with pytest.raises(SettingsError, match="heads have 8 channels, expected a multiple of 6"):
        rotary_angles(torch.zeros(4, 3), 8)
