"""Diffusion transformers beside diffusers' own, by their published sizes, and by what must not change their output."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models import layouts
from models.conditioning import Conditioning, drop_text, stack, without_text
from models.layouts import dit_diffusers, dit_original, latte_t2v_diffusers, pixart_diffusers, pixart_original
from models.networks import NETWORKS, build, describe
from models.transformers import DiffusionTransformer, TransformerConfig
from models.weight_names import Layout, read_weights, write_weights
from warehouse.errors import InputError, WeightsError

LATENT = (3, 8, 8)
SMALL = {"width": 48, "depth": 4, "num_heads": 4}
SPACE = TransformerConfig(**SMALL, attention=("space",), modulation="single", cross=(True,), text_dim=20)
STDIT = replace(SPACE, temporal="sequential")
T2V = replace(SPACE, attention=("space", "time"), cross=(True, False))
DIT = TransformerConfig(**SMALL, attention=("full",), modulation="block", num_classes=7)
LATTE = replace(DIT, attention=("space", "time"))


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.15
    return network.eval()


def inputs(num_clips: int = 2, num_frames: int = 3, side: int = 8) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(1)
    x_BCTHW = torch.randn(num_clips, 4, num_frames, side, side, generator=generator)
    text_BLD = torch.randn(num_clips, 5, 20, generator=generator)
    mask_BL = torch.arange(5)[None] < torch.tensor([[5], [2], [3], [4]])[:num_clips]
    label_B = torch.tensor([3.0, float("nan"), 0.0, 6.0])[:num_clips]
    size_B3 = torch.tensor([[64.0, 64.0, 1.0], [32.0, 64.0, 0.5]])[:num_clips]
    told = Conditioning(text_BLD, mask_BL, torch.zeros(num_clips, 2), label_B, size_B3)
    return x_BCTHW, torch.tensor([7.0, 523.0, 4.0, 99.0])[:num_clips], told


def frame_by_frame(x_BCTHW: Tensor) -> Tensor:
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("stdit-xl-2", 759_620_768),
        ("pixart-xl-2", 610_856_096),
        ("latte-t2v", 1_057_246_880),
        ("latte-xl-2", 673_681_568),
        ("dit-xl-2", 675_129_632 - 256 * 1152),
    ],
)
def test_published_sizes(name: str, count: int) -> None:
    """DiT-XL/2 is published with its table of 256 fixed positions."""
    assert sum(p.numel() for p in build(name, device="meta").parameters()) == count


@pytest.mark.parametrize("size", ["s", "b", "l", "xl"])
def test_lattes_variants_are_as_large_as_the_first(size: str) -> None:
    """Of XL/2 the paper counts 673.68 M for the variants 1 and 2, 676.33 M for 3 (arXiv 2401.03048)."""
    first, *others = (
        sum(p.numel() for p in build(f"latte-{size}-2{kind}", device="meta").parameters())
        for kind in ("", "-late", "-split", "-both")
    )
    assert others[:2] == [first, first]
    assert others[2] == pytest.approx(first, rel=0.025)
    if size == "xl":
        assert others[2] == pytest.approx(676.33e6, rel=0.01)


def test_every_named_network_is_built_from_its_name() -> None:
    assert {"dit-s-2", "dit-xl-2", "pixart-xl-2-1024", "latte-s-2", "stdit-xl-2"} <= NETWORKS.keys()
    with pytest.raises(WeightsError, match="no network 'dit-xxl'; there are "):
        build("dit-xxl")


def test_descriptions_are_those_of_the_papers() -> None:
    """DiT-XL/2 takes 118.64 billion multiply-adds and DiT-S/8 0.36 (DiT, table 4)."""
    assert describe("dit-xl-2").flops_per_sample / 2 == pytest.approx(118.64e9, rel=0.05)
    assert describe("dit-s-8").flops_per_sample / 2 == pytest.approx(0.36e9, rel=0.05)
    assert describe("stdit-xl-2").parameters == 759_620_768
    known = {name for named in NETWORKS.values() for name in named.loads}
    assert all(callable(getattr(layouts, name)) for name in known)


def theirs_pixart(**more: object) -> tuple[nn.Module, TransformerConfig]:
    from diffusers import PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=12, num_layers=4, cross_attention_dim=48, sample_size=8,
        caption_channels=20, interpolation_scale=2, **more,
    )  # fmt: skip
    return randomised(network), replace(SPACE, position_scale=2.0, position_base=4)


@pytest.mark.parametrize("side", [8, 12])
@pytest.mark.parametrize("sizes", [False, True])
def test_pixart_is_diffusers_own(sizes: bool, side: int) -> None:
    theirs, config = theirs_pixart(use_additional_conditions=sizes)
    ours = DiffusionTransformer(replace(config, sizes=sizes)).eval()
    read_weights(ours, theirs.state_dict(), pixart_diffusers(ours.config))
    x_BCTHW, time_B, told = inputs(num_frames=1, side=side)
    added = {"resolution": told.size_B3[:, :2], "aspect_ratio": told.size_B3[:, 2:]} if sizes else None
    with torch.no_grad():
        expected = theirs(
            x_BCTHW[:, :, 0], told.text_BLD, time_B, added, encoder_attention_mask=told.mask_BL.float()
        ).sample
        assert (ours(x_BCTHW, time_B, told)[:, :, 0] - expected).abs().max() < 1e-5
    assert_comes_back(theirs, write_weights(ours, pixart_diffusers(ours.config)))


def assert_comes_back(theirs: nn.Module, written: dict[str, Tensor]) -> None:
    """What was written is what diffusers' class loads and held before."""
    before = theirs.state_dict()
    again = randomised(copy.deepcopy(theirs), seed=1)
    again.load_state_dict(written, strict=True)
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


def test_latte_t2v_is_diffusers_own() -> None:
    from diffusers import LatteTransformer3DModel

    theirs = randomised(
        LatteTransformer3DModel(
            num_attention_heads=4, attention_head_dim=12, num_layers=2, in_channels=4, out_channels=8,
            sample_size=8, patch_size=2, attention_bias=True, cross_attention_dim=48, caption_channels=20,
            activation_fn="gelu-approximate", norm_type="ada_norm_single", norm_elementwise_affine=False,
            norm_eps=1e-6, num_embeds_ada_norm=1000, video_length=3,
        )
    )  # fmt: skip
    ours = DiffusionTransformer(replace(T2V, position_base=4)).eval()
    read_weights(ours, theirs.state_dict(), latte_t2v_diffusers(ours.config))
    x_BCTHW, time_B, told = inputs()
    told = replace(told, mask_BL=torch.ones_like(told.mask_BL))
    with torch.no_grad():
        expected = theirs(x_BCTHW, time_B, told.text_BLD).sample
        assert (ours(x_BCTHW, time_B, told) - expected).abs().max() < 1e-5
    assert_comes_back(theirs, write_weights(ours, latte_t2v_diffusers(ours.config)))


def test_dit_is_diffusers_own() -> None:
    from diffusers import DiTTransformer2DModel

    theirs = randomised(
        DiTTransformer2DModel(
            num_attention_heads=4, attention_head_dim=12, num_layers=4, sample_size=8, out_channels=8,
            num_embeds_ada_norm=7, norm_eps=1e-6,
        )
    )  # fmt: skip
    first = theirs.transformer_blocks[0].norm1.emb.state_dict()
    for block in theirs.transformer_blocks:
        block.norm1.emb.load_state_dict(first)  # the paper has one embedding for all blocks
        block.norm1.emb.time_proj.downscale_freq_shift = (
            0  # and the frequencies that the weights were trained with
        )
    ours = DiffusionTransformer(replace(DIT, position_base=4)).eval()
    read_weights(ours, theirs.state_dict(), dit_diffusers(ours.config))
    x_BCTHW, time_B, told = inputs(num_frames=1)
    label_B = torch.tensor([3, 7])
    with torch.no_grad():
        expected = theirs(x_BCTHW[:, :, 0], time_B, label_B).sample
        assert (ours(x_BCTHW, time_B, told)[:, :, 0] - expected).abs().max() < 1e-5
    written = write_weights(ours, dit_diffusers(ours.config))
    assert_comes_back(theirs, written)
    written["transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias"] += 1
    with pytest.raises(WeightsError, match=r"blocks.2.norm1.*linear_1.bias is not what transformer_blocks.0"):
        read_weights(ours, written, dit_diffusers(ours.config))


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        (SPACE, pixart_diffusers), (replace(SPACE, sizes=True), pixart_diffusers), (SPACE, pixart_original),
        (replace(STDIT, null_tokens=6), pixart_original), (T2V, latte_t2v_diffusers), (DIT, dit_original),
        (LATTE, dit_original),
    ],
)  # fmt: skip
def test_weights_go_there_and_back(
    config: TransformerConfig, layout: Callable[[TransformerConfig], Layout]
) -> None:
    ours = randomised(DiffusionTransformer(config))
    written = write_weights(ours, layout(config), LATENT)
    again = DiffusionTransformer(config)
    report = read_weights(again, written, layout(config))
    assert report.missing == report.unexpected == ()
    films = (
        {"patches.weight"} if config.temporal != "none" else set()
    )  # a kernel with an axis of frames there
    assert set(report.reshaped) == films
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))


def test_what_does_not_fit_is_named() -> None:
    ours = randomised(DiffusionTransformer(STDIT))
    layout = pixart_original(STDIT)
    with pytest.raises(WeightsError, match="holds pos_embed, pos_embed_temporal for latents of one size"):
        write_weights(ours, layout)
    written = write_weights(ours, layout, LATENT)
    assert written["blocks.0.attn.qkv.weight"].shape == (144, 48)
    del written["blocks.1.mlp.fc1.bias"]
    written["extra"] = torch.zeros(3)
    with pytest.raises(WeightsError, match=r"1 missing \(blocks.1.mlp.0.bias\), 1 unexpected \(extra\)"):
        read_weights(ours, written, layout)
    written["pos_embed"] = torch.zeros(1, 9, 48)
    written["x_embedder.proj.weight"] = written["x_embedder.proj.weight"].unsqueeze(2)
    report = read_weights(ours, written, layout, strict=False)
    assert report.missing == ("blocks.1.mlp.0.bias",)
    assert report.unexpected == ("extra",)
    assert report.reshaped == ("patches.weight",)
    written["x_embedder.proj.weight"] = torch.zeros(48, 4, 3, 3)
    with pytest.raises(
        WeightsError, match=r"shape \(48, 4, 3, 3\), expected \(48, 4, 2, 2\) for patches.weight"
    ):
        read_weights(ours, written, layout, strict=False)


@pytest.mark.parametrize("damaged", [torch.tensor(1.0), torch.zeros(2), torch.zeros(143, 48)])
def test_a_fused_weight_that_cannot_be_parted_is_named(damaged: Tensor) -> None:
    ours = DiffusionTransformer(STDIT)
    layout = pixart_original(STDIT)
    written = write_weights(ours, layout, LATENT) | {"blocks.0.attn.qkv.weight": damaged}
    with pytest.raises(
        WeightsError, match=r"blocks.0.attn.qkv.weight has shape .*3 equal parts.*to_q.weight"
    ):
        read_weights(ours, written, layout)


def test_a_number_in_place_of_a_weight_is_named():
    ours, layout = DiffusionTransformer(STDIT), pixart_original(STDIT)
    written = write_weights(ours, layout, LATENT) | {"blocks.0.attn.proj.weight": torch.tensor(1.0)}
    with pytest.raises(WeightsError, match=r"attn\.proj\.weight has shape \(\), expected \(48, 48\)"):
        read_weights(ours, written, layout)


def names_of_dit(depth: int) -> set[str]:
    """Of the state of DiT as its authors publish it; Latte's, without classes, has `temp_embed` besides."""
    modules = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear"]
    modules += ["final_layer.adaLN_modulation.1"]
    inside = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
    modules += [f"blocks.{i}.{name}" for i in range(depth) for name in inside]
    return {f"{name}.{leaf}" for name in modules for leaf in ("weight", "bias")} | {"pos_embed"}


def names_of_pixart(depth: int, temporal: bool) -> set[str]:
    """Of the state of PixArt-alpha as its authors publish it, and of Open-Sora 1.0's STDiT."""
    modules = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "t_block.1", "final_layer.linear"]
    modules += ["y_embedder.y_proj.fc1", "y_embedder.y_proj.fc2"]
    inside = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    inside += ["cross_attn.q_linear", "cross_attn.kv_linear", "cross_attn.proj"]
    inside += ["attn_temp.qkv", "attn_temp.proj"] if temporal else []
    modules += [f"blocks.{i}.{name}" for i in range(depth) for name in inside]
    tables = {f"blocks.{i}.scale_shift_table" for i in range(depth)} | {"final_layer.scale_shift_table"}
    fixed = {"pos_embed", "y_embedder.y_embedding"} | ({"pos_embed_temporal"} if temporal else set())
    return {f"{name}.{leaf}" for name in modules for leaf in ("weight", "bias")} | tables | fixed


@pytest.mark.parametrize(
    ("config", "layout", "names"),
    [
        (DIT, dit_original, names_of_dit(4) | {"y_embedder.embedding_table.weight"}),
        (replace(LATTE, num_classes=None), dit_original, names_of_dit(4) | {"temp_embed"}),
        (replace(SPACE, null_tokens=6), pixart_original, names_of_pixart(4, False)),
        (replace(STDIT, null_tokens=6), pixart_original, names_of_pixart(4, True)),
    ],
)  # fmt: skip
def test_original_files_hold_all_that_the_authors_classes_do(
    config: TransformerConfig, layout: Callable[[TransformerConfig], Layout], names: set[str]
) -> None:
    network = randomised(DiffusionTransformer(config))
    written = write_weights(network, layout(config), LATENT)
    assert set(written) == names
    if config.null_tokens:
        assert torch.equal(written["y_embedder.y_embedding"], network.null_text)


def test_positions_in_files_are_those_of_the_authors_formulas() -> None:
    """diffusers computes tables of its own by the formulas that DiT, PixArt and Latte share."""
    from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid, get_2d_sincos_pos_embed

    pixart = replace(SPACE, position_scale=2.0, position_base=4)
    for config, layout, options in (
        (DIT, dit_original, {"base_size": 4}),
        (pixart, pixart_original, {"base_size": 4, "interpolation_scale": 2.0}),
    ):
        table = layout(config).computed["pos_embed"](LATENT)
        theirs = get_2d_sincos_pos_embed(config.width, 4, **options, output_type="pt")
        torch.testing.assert_close(table, theirs.float()[None], atol=1e-6, rtol=0)
    moment = torch.arange(3) / 0.5
    theirs = get_1d_sincos_pos_embed_from_grid(48, moment, output_type="pt").float()
    timed = replace(STDIT, frame_scale=0.5)
    in_file = pixart_original(timed).computed["pos_embed_temporal"](LATENT)
    torch.testing.assert_close(in_file, theirs[None], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        dit_original(replace(LATTE, frame_scale=0.5)).computed["temp_embed"](LATENT),
        theirs[None],
        atol=1e-6,
        rtol=0,
    )


def test_rotary_frequencies_in_files_are_those_of_the_paper() -> None:
    """theta_i = 10000^(-2 i / d) (Su et al. 2021, section 3.2.2)."""
    turning = replace(STDIT, temporal="own", rotary="time", qk_norm=True)
    written = write_weights(DiffusionTransformer(turning), pixart_original(turning), LATENT)
    expected = [10_000.0 ** (-2 * i / 12) for i in range(6)]
    torch.testing.assert_close(written["rope.freqs"], torch.tensor(expected))
    assert not {"pos_embed", "pos_embed_temporal"} & set(written)


def test_diffusers_class_of_pixart_has_no_null_caption_though_its_early_files_do() -> None:
    theirs, config = theirs_pixart(use_additional_conditions=False)
    config = replace(config, null_tokens=6)
    null_LD = torch.randn(6, 20)
    ours = DiffusionTransformer(config)
    with pytest.raises(WeightsError, match=r"1 missing \(null_text\)"):
        read_weights(ours, theirs.state_dict(), pixart_diffusers(config))
    read_weights(
        ours, theirs.state_dict() | {"caption_projection.y_embedding": null_LD}, pixart_diffusers(config)
    )
    assert torch.equal(ours.null_text, null_LD)
    assert_comes_back(theirs, write_weights(ours, pixart_diffusers(config)))


def test_a_dropped_text_is_the_networks_own_null_caption() -> None:
    """PixArt replaces the tokens of a dropped caption, and goes on with its mask."""
    network = randomised(DiffusionTransformer(replace(SPACE, null_tokens=6)))
    network.null_text.copy_(torch.randn(6, 20, generator=torch.Generator().manual_seed(3)))
    x_BCTHW, time_B, told = inputs()
    by_hand = replace(told, text_BLD=network.null_text[:5].expand(2, -1, -1))
    with torch.no_grad():
        expected, asked = network(x_BCTHW, time_B, by_hand), network(x_BCTHW, time_B, told)
        torch.testing.assert_close(network(x_BCTHW, time_B, without_text(told)), expected)
        twice = drop_text(drop_text(told, torch.tensor([True, False])), torch.tensor([True, False]))
        some = network(x_BCTHW, time_B, twice)
        torch.testing.assert_close(some, torch.stack([expected[0], asked[1]]))
        both = stack(without_text(told), told)
        x, time = torch.cat([x_BCTHW] * 2), torch.cat([time_B] * 2)
        torch.testing.assert_close(network(x, time, both), torch.cat([expected, asked]), atol=1e-5, rtol=1e-5)
    assert (expected - asked).abs().mean() > 1e-3
    longer = replace(told, text_BLD=told.text_BLD.repeat(1, 2, 1), mask_BL=told.mask_BL.repeat(1, 2))
    with pytest.raises(InputError, match="number of text tokens is 10, expected at most 6"):
        network(x_BCTHW, time_B, longer)


def test_stdit_starts_as_pixart_frame_by_frame() -> None:
    """Open-Sora's way to begin: PixArt's weights, temporal attention that says zero."""
    image = randomised(DiffusionTransformer(SPACE))
    video = DiffusionTransformer(STDIT).eval()
    report = read_weights(
        video, write_weights(image, pixart_original(SPACE), LATENT), pixart_original(STDIT), strict=False
    )
    assert {name.split(".")[2] for name in report.missing} == {"temporal"}
    assert report.unexpected == ()
    x_BCTHW, time_B, told = inputs()
    with torch.no_grad():
        together = video(x_BCTHW, time_B, told)
        for t in range(3):
            assert (
                together[:, :, t] - image(x_BCTHW[:, :, t : t + 1], time_B, told)[:, :, 0]
            ).abs().max() < 2e-6


@pytest.mark.parametrize("config", [SPACE, T2V])
def test_masked_tokens_are_not_heard(config: TransformerConfig) -> None:
    network = randomised(DiffusionTransformer(config))
    x_BCTHW, time_B, told = inputs()
    noisy = replace(told, text_BLD=told.text_BLD.masked_fill(~told.mask_BL[..., None], 100.0))
    louder = replace(told, text_BLD=told.text_BLD + 1)
    with torch.no_grad():
        base = network(x_BCTHW, time_B, told)
        assert (network(x_BCTHW, time_B, noisy) - base).abs().max() < 1e-5
        assert (network(x_BCTHW, time_B, louder) - base).abs().max() > 1e-3


def test_pictures_and_clips_share_the_image_path() -> None:
    """A clip of one frame is a picture to a network whose blocks look at space alone."""
    network = randomised(DiffusionTransformer(SPACE))
    x_BCTHW, time_B, told = inputs()
    with torch.no_grad():
        frames = network(x_BCTHW, time_B, told)[:, :, 1:2]
        assert (network(x_BCTHW[:, :, 1:2], time_B, told) - frames).abs().max() < 1e-5
