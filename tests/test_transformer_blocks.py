"""Blocks of diffusion transformers: sparse attention beside dense, given frames, images among frames, silent starts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.attention import Attention
from models.layouts import pixart_diffusers, pixart_original, stdit3_original
from models.networks import NETWORKS, build, describe
from models.positions import rotary_angles, volume
from models.transformer_blocks import Heard, over_skips, skipped, unskipped
from models.transformers import DiffusionTransformer
from models.weight_names import read_weights, write_weights
from tests.small_networks import SMALL_NETWORKS, inputs_of, randomised
from warehouse.errors import InputError

LATENT = (3, 8, 8)


def small(name: str, **changes: object) -> nn.Module:
    return randomised(DiffusionTransformer(replace(SMALL_NETWORKS[name].config, **changes)))


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("step", [2, 4])
def test_skipping_moves_every_token_to_one_place(step, groups):
    tokens = torch.arange(2 * 3 * step**2).reshape(2, -1)
    apart = skipped(tokens, step, groups)
    assert apart.shape == (2 * step, 3 * step)
    assert torch.equal(apart.flatten().sort().values, tokens.flatten())
    assert torch.equal(unskipped(apart, step, groups), tokens)
    rows = apart[::2]  # of the first clip
    met = rows // step % step if groups else rows % step
    assert torch.equal(met, torch.arange(step)[:, None].expand_as(met))


@torch.no_grad()
@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("frames", [4, 3], ids=["whole", "padded"])
def test_skipping_attention_is_dense_attention_with_a_mask(frames, groups):
    step, positions = 4, 8 if frames == 4 else 7
    attention = randomised(Attention(24, 12, bias=True, qk_norm=True))
    x_BTSC = torch.randn(2, frames, positions, 24, generator=torch.Generator().manual_seed(1))
    angles = rotary_angles(volume(frames, 1, positions, x_BTSC.device), 12)
    heard = Heard(x_BTSC, None, None, None, None, angles, None)
    token = torch.arange(frames * positions)
    row = token // step % step if groups else token % step
    seen = (row[:, None] == row[None]).expand(2, -1, -1)
    expected = attention(x_BTSC.flatten(1, 2), None, seen, angles).reshape_as(x_BTSC)
    found = over_skips(attention, x_BTSC, heard, step, groups)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (attention(x_BTSC.flatten(1, 2), None, None, angles) - expected.flatten(1, 2)).abs().max() > 1e-2


@torch.no_grad()
def test_with_dense_attention_open_sora_plan_is_diffusers_allegro():
    from diffusers import AllegroTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    theirs = randomised(
        AllegroTransformer3DModel(
            num_attention_heads=4, attention_head_dim=12, num_layers=3, in_channels=8, out_channels=8,
            cross_attention_dim=48, caption_channels=20,
        )
    )  # fmt: skip
    ours = DiffusionTransformer(replace(SMALL_NETWORKS["open-sora-plan"].config, attention=("full",))).eval()
    read_weights(ours, theirs.state_dict(), pixart_diffusers(ours.config))
    x_BCTHW, time_B, told = inputs_of("open-sora-plan")
    rows, columns = x_BCTHW.shape[3] // 2, x_BCTHW.shape[4] // 2
    *freqs, _, _, _ = get_3d_rotary_pos_embed_allegro(12, ((0, 0), (rows, columns)), (rows, columns), 3)
    at = volume(3, rows, columns, x_BCTHW.device).T[:, None].expand(-1, 2, -1)
    expected = theirs(x_BCTHW, told.text_BLD, time_B, None, told.mask_BL.float(), (freqs, list(at))).sample
    error = (ours(x_BCTHW, time_B, told) - expected).abs().max()
    assert error < 1e-5, error


def test_skipping_costs_what_the_report_of_open_sora_plan_says():
    """225.8 TFLOP for 93 frames at 480p, 386 with dense attention; STDiT3 takes 142 for 51 frames at 720p."""
    assert describe("open-sora-plan-1.3").flops_per_sample == pytest.approx(225.8e12, rel=0.05)
    assert describe("stdit3-xl-2").flops_per_sample == pytest.approx(142e12, rel=0.05)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("stdit2-xl-2", 767_452_064),  # the authors' log counts 731.90 times 1024^2
        ("stdit3-xl-2", 1_207_643_936),  # 1.12 times 1024^3
        ("latte-xl-2-both", 676_355_360),  # the paper counts 676.33 million
        ("open-sora-plan-1.3", 2_771_981_600),  # "2.7B"
    ],
)
def test_published_sizes(name, count):
    assert sum(parameter.numel() for parameter in build(name, device="meta").parameters()) == count


@torch.no_grad()
def test_a_given_frame_hears_of_no_noise():
    """Frames of an image network do not meet, so each must be as if its clip had its noise level."""
    network = small("pixart")
    x_BCTHW, time_B, told = inputs_of("pixart")
    given_BT = torch.tensor([[True, False, False], [False, True, True]])
    time_BT = time_B[:, None].expand(-1, 3).masked_fill(given_BT, 0)
    found = network(x_BCTHW, time_BT, replace(told, given_BT=given_BT))
    noisy, clean = network(x_BCTHW, time_B, told), network(x_BCTHW, torch.zeros(2), told)
    expected = torch.where(given_BT[:, None, :, None, None], clean, noisy)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (clean - noisy).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("name", ["stdit2", "stdit3", "latte", "open-sora-plan"])
def test_with_all_frames_given_there_is_no_noise_and_with_none_nothing_changes(name):
    network = small(name)
    x_BCTHW, time_B, told = inputs_of(name)
    none = replace(told, given_BT=torch.zeros(2, 3, dtype=torch.bool))
    base = network(x_BCTHW, time_B, told)
    frames = time_B[:, None].expand(-1, 3)
    torch.testing.assert_close(network(x_BCTHW, frames, none), base, atol=1e-5, rtol=1e-5)
    clean = network(x_BCTHW, torch.zeros(2), told)
    found = network(x_BCTHW, torch.zeros(2, 3), replace(told, given_BT=~none.given_BT))
    # The output of STDiT2 hears of the picture where frames are given.
    assert ((found - clean).abs().max() < 1e-5) == (name != "stdit2")
    assert (found - base).abs().max() > 1e-2


@torch.no_grad()
def test_stdit3_starts_as_its_image_network_frame_by_frame():
    """Open-Sora's way: its blocks over space are PixArt's, those over time begin silent (queries not normalised)."""
    config = replace(SMALL_NETWORKS["stdit3"].config, qk_norm=False)
    pixart = replace(config, depth=2, attention=("space",), rotary="none", fps=False)
    image, video = randomised(DiffusionTransformer(pixart)), DiffusionTransformer(config).eval()
    file = write_weights(image, pixart_original(pixart), LATENT)
    del file["pos_embed"]  # as Open-Sora does
    file = {name.replace("blocks.", "spatial_blocks."): value for name, value in file.items()}
    report = read_weights(video, file, stdit3_original(config), strict=False)
    assert report.unexpected == ()
    assert {name.split(".")[0] for name in report.missing} == {"blocks", "embedding"}
    assert {int(name.split(".")[1]) % 2 for name in report.missing if name.startswith("blocks")} == {1}
    _same_frame_by_frame(image, video, "stdit3")


@torch.no_grad()
def test_stdit2_starts_as_its_image_network_frame_by_frame():
    config = SMALL_NETWORKS["stdit2"].config
    image = randomised(DiffusionTransformer(replace(config, temporal="none", fps=False, num_frames=False)))
    for sizes in (image.embedding.side, image.embedding.aspect):
        nn.init.zeros_(sizes[-1].weight)  # STDiT2 does not tell its output the size, PixArt does
        nn.init.zeros_(sizes[-1].bias)
    video = DiffusionTransformer(config).eval()
    missing, unexpected = video.load_state_dict(image.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[2] for name in missing if name.startswith("blocks")} == {
        "temporal",
        "temporal_table",
    }
    _same_frame_by_frame(image, video, "stdit2")


def _same_frame_by_frame(image: nn.Module, video: nn.Module, name: str) -> None:
    x_BCTHW, time_B, told = inputs_of(name)
    together = video(x_BCTHW, time_B, told)
    frames = [image(frame, time_B, told) for frame in x_BCTHW.split(1, dim=2)]
    assert together.std() > 0.1
    assert (together - torch.cat(frames, dim=2)).abs().max() < 2e-6


@torch.no_grad()
@pytest.mark.parametrize("name", ["latte", "latte both", "latte t2v", "stdit", "stdit2", "stdit3"])
def test_images_and_clips_share_a_batch(name):
    """Frames that are images: of one clip, beside those of another, and after the frames of a clip."""
    network = small(name)
    x_BCTHW, time_B, told = inputs_of(name)
    images_BT = torch.tensor([[True, True, True], [False, False, True]])
    found = network(x_BCTHW, time_B, replace(told, image_only_BT=images_BT))
    shuffled = network(x_BCTHW.flip(2), time_B, replace(told, image_only_BT=images_BT))
    torch.testing.assert_close(shuffled[0], found[0].flip(1), atol=1e-5, rtol=1e-5)
    other = x_BCTHW.clone()
    other[1, :, 2] += 1
    changed = network(other, time_B, replace(told, image_only_BT=images_BT))
    torch.testing.assert_close(changed[1, :, :2], found[1, :, :2], atol=1e-6, rtol=1e-5)
    assert (changed[1, :, 2] - found[1, :, 2]).abs().max() > 1e-3
    if name != "stdit2":  # which is told the number of frames
        two = network(x_BCTHW[1:, :, :2], time_B[1:], _clip(told, 1))
        torch.testing.assert_close(found[1:, :, :2], two, atol=1e-5, rtol=1e-5)


def _clip(told, index: int):
    return type(told)(*(None if value is None else value[index : index + 1] for value in vars(told).values()))


def test_images_are_refused_where_all_tokens_meet():
    x_BCTHW, time_B, told = inputs_of("open-sora-plan")
    told = replace(told, image_only_BT=torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="image_only_BT is given, expected None"):
        small("open-sora-plan")(x_BCTHW, time_B, told)


@torch.no_grad()
@pytest.mark.parametrize("name", ["stdit2", "stdit3"])
def test_frame_rate_and_size_are_heard(name):
    network = small(name)
    x_BCTHW, time_B, told = inputs_of(name)
    base = network(x_BCTHW, time_B, told)
    faster = network(x_BCTHW, time_B, replace(told, numbers_BN=told.numbers_BN + 5))
    assert (faster - base).abs().amax((1, 2, 3, 4)).min() > 1e-3
    larger = network(x_BCTHW, time_B, replace(told, size_B3=told.size_B3 + 8))
    assert ((larger - base).abs().amax((1, 2, 3, 4)).min() > 1e-3) == (name == "stdit2")


def _span(side: int) -> Tensor:
    network = DiffusionTransformer(SMALL_NETWORKS["stdit3"].config)
    return network._grid(side // 2, side // 2, torch.zeros(()))


def test_pictures_of_all_sizes_span_the_positions_of_their_area():
    """At the side where the scale is 1 the grid counts patches; a larger picture has the same span, finer."""
    side = NETWORKS["stdit3-xl-2"].config.position_side
    assert side == 64
    counted = _span(64)[1]  # column 1, row 0
    torch.testing.assert_close(counted, _span(128)[2], atol=1e-6, rtol=1e-5)
    assert (counted - _span(128)[1]).abs().max() > 0.1


def test_published_names_of_stdit3_and_stdit2():
    stdit3 = randomised(DiffusionTransformer(SMALL_NETWORKS["stdit3"].config))
    file = write_weights(stdit3, stdit3_original(stdit3.config), LATENT)
    assert file["temporal_blocks.1.attn.q_norm.weight"].shape == (12,)
    assert torch.equal(file["spatial_blocks.1.attn.qkv.bias"][:48], stdit3.blocks[2].attend.to_q.bias)
    assert "fps_embedder.mlp.2.weight" in file
    stdit2 = randomised(DiffusionTransformer(SMALL_NETWORKS["stdit2"].config))
    file = write_weights(stdit2, pixart_original(stdit2.config), LATENT)
    assert file["blocks.3.scale_shift_table_temporal"].shape == (3, 48)
    assert {
        "t_block_temp.1.weight",
        "fl_embedder.mlp.0.bias",
        "blocks.0.attn_temp.k_norm.weight",
    } <= file.keys()
    again = DiffusionTransformer(stdit2.config)
    read_weights(again, {**file, "rope.freqs": torch.zeros(6)}, pixart_original(stdit2.config))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), stdit2.parameters(), strict=True))
