"""Diffusion transformers beside diffusers' own, by their published sizes, and by what must not change their output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models import layouts
from models.conditioning import Conditioning
from models.layouts import (
    Layout,
    dit_diffusers,
    dit_original,
    latte_t2v_diffusers,
    pixart_diffusers,
    pixart_original,
    read_weights,
    write_weights,
)
from models.networks import NETWORKS, build, describe
from models.transformers import DiffusionTransformer, TransformerConfig
from warehouse.errors import WeightsError

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


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        (SPACE, pixart_diffusers), (replace(SPACE, sizes=True), pixart_diffusers), (SPACE, pixart_original),
        (STDIT, pixart_original), (T2V, latte_t2v_diffusers), (DIT, dit_original), (LATTE, dit_original),
    ],
)  # fmt: skip
def test_weights_go_there_and_back(
    config: TransformerConfig, layout: Callable[[TransformerConfig], Layout]
) -> None:
    ours = randomised(DiffusionTransformer(config))
    written = write_weights(ours, layout(config))
    again = DiffusionTransformer(config)
    report = read_weights(again, written, layout(config))
    assert report.missing == report.unexpected == report.reshaped == ()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))


def test_what_does_not_fit_is_named() -> None:
    ours = randomised(DiffusionTransformer(STDIT))
    layout = pixart_original(STDIT)
    written = write_weights(ours, layout)
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


def test_stdit_starts_as_pixart_frame_by_frame() -> None:
    """Open-Sora's way to begin: PixArt's weights, temporal attention that says zero."""
    image = randomised(DiffusionTransformer(SPACE))
    video = DiffusionTransformer(STDIT).eval()
    report = read_weights(
        video, write_weights(image, pixart_original(SPACE)), pixart_original(STDIT), strict=False
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
