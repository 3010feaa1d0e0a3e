"""diffusers' networks and ours compute the same from the same weights, in their layout and in ours."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import nn

from models.conditioning import Conditioning
from models.layouts import unet_diffusers, unet_original
from models.networks import NETWORKS, build
from models.video_unet import VideoUNet, VideoUNetConfig, is_temporal
from models.weight_names import read_weights, write_weights
from training.checkpoints import Weights, start_from
from warehouse.errors import WeightsError

SMALL = {"width": 32, "multipliers": (1, 2, 4), "attention": (True, True, False), "group_channels": 1}
SD21, SVD_I2V = NETWORKS["sd21"].config, NETWORKS["svd-i2v"].config
IMAGES = replace(SD21, **SMALL, head_dim=8, text_dim=24)
VIDEO = replace(SVD_I2V, **SMALL, head_dim=8, text_dim=24, number_dim=32)
PUBLIC = {
    "block_out_channels": (32, 64, 128),
    "layers_per_block": 2,
    "cross_attention_dim": 24,
    "sample_size": 16,
    "out_channels": 4,
}
IMAGE_SETTINGS = {
    "attention_head_dim": (5, 10, 20, 20),  # in this class the number of heads
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}


def their_images() -> nn.Module:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        **PUBLIC,
        in_channels=4,
        attention_head_dim=(4, 8, 16),
        use_linear_projection=True,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def their_video() -> nn.Module:
    torch.manual_seed(0)
    blocks = (
        "CrossAttnDownBlockSpatioTemporal",
        "CrossAttnDownBlockSpatioTemporal",
        "DownBlockSpatioTemporal",
    )
    network = UNetSpatioTemporalConditionModel(
        **PUBLIC,
        in_channels=8,
        num_attention_heads=(4, 8, 16),
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        down_block_types=blocks,
        up_block_types=("UpBlockSpatioTemporal", *["CrossAttnUpBlockSpatioTemporal"] * 2),
    )
    for name, module in network.named_modules():
        if isinstance(module, nn.GroupNorm) and "res_block" in name:
            module.eps = 1e-5  # as in the authors' code; diffusers has 1e-6 in most of its ResBlocks
    return network


def randomised(network: nn.Module) -> nn.Module:
    """Every parameter at random, the zero-initialised ones and the blends included; outputs near 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.3 if parameter.ndim < 2 else 0.7 * parameter[0].numel() ** -0.5
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def ours(config: VideoUNetConfig, theirs: nn.Module) -> VideoUNet:
    network = VideoUNet(config).to(theirs.dtype).eval()
    report = read_weights(network, theirs.state_dict(), unet_diffusers(config))
    blends = {name for name in network.state_dict() if name.endswith("blend.mix")}
    assert set(report.reshaped) == blends, "they alone are numbers here and vectors there"
    return network


def original_names(config: VideoUNetConfig) -> dict[str, str]:
    """Our names to the original files'."""
    with torch.device("meta"):
        network = VideoUNet(config)
    own = network.state_dict()
    written = write_weights(network, unet_original(config)).keys()
    layout = unet_original(config).names
    pairs = {}
    for name in written:
        module, _, leaf = name.rpartition(".")
        pairs[layout[name] if name in layout else f"{layout[module]}.{leaf}"] = name
    assert pairs.keys() == own.keys()
    return pairs


def inputs(num_frames: int, num_tokens: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(1)
    x_BCTHW = torch.randn(2, 4, num_frames, 16, 16, generator=generator).to(dtype)
    text_BLD = torch.randn(2, num_tokens, 24, generator=generator).to(dtype)
    mask_BL = torch.ones(2, num_tokens, dtype=torch.bool)
    numbers_BN = torch.tensor([[6.0, 127.0, 0.02], [11.0, 30.0, 0.3]])
    return x_BCTHW, Conditioning(text_BLD, mask_BL, numbers_BN, frames_BCTHW=x_BCTHW.roll(1, 0))


# Rounding shrinks with the precision, another formula or another weight does not.
PRECISIONS = pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])


@torch.no_grad()
@PRECISIONS
@pytest.mark.parametrize("num_frames", [1, 3])
def test_the_video_network_is_that_of_diffusers(num_frames, dtype, bound):
    theirs = randomised(their_video()).to(dtype)
    x_BCTHW, told = inputs(num_frames=num_frames, num_tokens=5, dtype=dtype)
    c_noise_B = torch.tensor([-1.2, 1.6])
    sample = torch.cat([x_BCTHW, told.frames_BCTHW], dim=1).transpose(1, 2)
    expected = theirs(sample, c_noise_B, told.text_BLD, told.numbers_BN).sample.transpose(1, 2)
    assert 0.3 < expected.std() < 3
    error = (ours(VIDEO, theirs)(x_BCTHW, c_noise_B, told) - expected).abs().max()
    assert error <= bound, error


@torch.no_grad()
@PRECISIONS
def test_the_image_network_is_that_of_diffusers(dtype, bound):
    theirs = randomised(their_images()).to(dtype)
    x_BCTHW, told = inputs(num_frames=1, num_tokens=7, dtype=dtype)
    timesteps = torch.tensor([3.0, 981.0])
    expected = theirs(x_BCTHW[:, :, 0], timesteps, told.text_BLD).sample
    assert 0.3 < expected.std() < 3
    error = (ours(IMAGES, theirs)(x_BCTHW, timesteps, told)[:, :, 0] - expected).abs().max()
    assert error <= bound, error


@torch.no_grad()
@pytest.mark.parametrize(("config", "public"), [(IMAGES, their_images), (VIDEO, their_video)])
def test_weights_come_back_as_they_were(config, public):
    theirs = randomised(public())
    expected, back = theirs.state_dict(), write_weights(ours(config, theirs), unet_diffusers(config))
    assert set(back) == set(expected)
    assert all(torch.equal(back[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("name", "public"), [("sd21", UNet2DConditionModel), ("svd-i2v", UNetSpatioTemporalConditionModel)]
)
def test_published_sizes_have_the_keys_and_shapes_of_diffusers(name, public):
    settings = {} if name == "svd-i2v" else IMAGE_SETTINGS
    with torch.device("meta"):
        theirs = public(**settings).state_dict()
    back = write_weights(build(name, device="meta"), unet_diffusers(NETWORKS[name].config))
    assert {name: value.shape for name, value in back.items()} == {
        name: value.shape for name, value in theirs.items()
    }


def test_weights_that_do_not_fit_are_told_by_name():
    theirs, network, layout = their_video().state_dict(), VideoUNet(VIDEO), unet_diffusers(VIDEO)
    theirs["extra.weight"] = theirs.pop("conv_out.bias")
    told = r"1 missing \(conv_out\.bias\), 1 unexpected \(extra\.weight\)"
    with pytest.raises(WeightsError, match=told):
        read_weights(network, theirs, layout)
    report = read_weights(network, theirs, layout, strict=False)
    assert (report.missing, report.unexpected) == (("conv_out.bias",), ("extra.weight",))
    theirs["conv_in.weight"] = theirs["conv_in.weight"][:, :4]
    with pytest.raises(
        WeightsError, match=r"conv_in\.weight has shape \(32, 4, 3, 3\), expected \(32, 8, 3, 3\)"
    ):
        read_weights(network, theirs, layout)


def test_a_network_without_a_public_place_is_not_written():
    with pytest.raises(WeightsError, match=r"no name for 2 ours \(embedding\.text\.bias"):
        write_weights(VideoUNet(VideoUNetConfig()), unet_diffusers(VideoUNetConfig()))


def test_original_keys_of_the_image_network_are_those_that_diffusers_reads():
    original = original_names(SD21)
    marks = {f"model.diffusion_model.{name}": torch.tensor(i) for i, name in enumerate(original.values())}
    read = convert_ldm_unet_checkpoint(marks, {"layers_per_block": 2})
    layout = unet_diffusers(SD21).names
    found = {}
    for name, mark in read.items():
        module, _, leaf = name.rpartition(".")
        found[f"{layout[module]}.{leaf}"] = int(mark)
    assert found == {name: i for i, name in enumerate(original)}
    upsamplings = {name for name in original.values() if name.endswith(".conv.weight")}
    assert upsamplings == {f"output_blocks.{place}.conv.weight" for place in ("2.1", "5.2", "8.2")}


def test_original_keys_of_the_video_network_are_the_image_networks_and_the_temporal_ones():
    keys = original_names(SVD_I2V)
    assert len(set(keys.values())) == 1428
    temporal = {name for name in keys.values() if re.search("time_(stack|mixer|pos_embed)", name)}
    assert temporal == {keys[name] for name in keys if is_temporal(name)}
    labels = {f"label_emb.0.{layer}.{leaf}" for layer in (0, 2) for leaf in ("weight", "bias")}
    assert set(keys.values()) - temporal - labels == set(original_names(SD21).values())
    assert {
        "input_blocks.1.0.time_stack.in_layers.2.weight",
        "input_blocks.1.0.time_mixer.mix_factor",
        "input_blocks.11.0.time_stack.emb_layers.1.bias",
        "middle_block.1.time_stack.0.ff_in.net.0.proj.weight",
        "middle_block.1.time_pos_embed.2.weight",
        "output_blocks.11.1.time_stack.0.attn2.to_out.0.bias",
        "output_blocks.11.1.time_mixer.mix_factor",
    } <= temporal


@torch.no_grad()
def test_original_files_load_and_come_back():
    network, back = randomised(VideoUNet(VIDEO)), VideoUNet(VIDEO)
    public = write_weights(network, unet_original(VIDEO))
    read_weights(back, public, unet_original(VIDEO))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in back.state_dict().items())
    assert public["middle_block.0.time_mixer.mix_factor"].shape == (1,)


@torch.no_grad()
@pytest.mark.parametrize("temporal_init", ["zero", "svd"])
def test_a_video_network_starts_as_the_published_image_network(temporal_init):
    theirs = randomised(their_images())
    config = replace(IMAGES, temporal=True, temporal_init=temporal_init)
    video = VideoUNet(config).eval()
    start_from(video, Weights(IMAGES, ours(IMAGES, theirs).state_dict(), torch.zeros(255), {}))
    x_BCTHW, told = inputs(num_frames=3, num_tokens=7)
    timesteps = torch.tensor([3.0, 981.0])
    frames = [theirs(frame, timesteps, told.text_BLD).sample for frame in x_BCTHW.unbind(2)]
    error = (video(x_BCTHW, timesteps, told) - torch.stack(frames, dim=2)).abs().max()
    assert (error <= 1e-5) == (temporal_init == "zero"), error


@torch.no_grad()
@pytest.mark.parametrize("told_before", [0, 2])
def test_an_image_to_video_network_starts_as_the_network_without_its_new_inputs(told_before):
    before = replace(VIDEO, condition_channels=0, num_numbers=told_before)
    earlier, video = randomised(VideoUNet(before)), VideoUNet(VIDEO).eval()
    start_from(video, Weights(before, earlier.state_dict(), torch.zeros(255), {}))
    x_BCTHW, told = inputs(num_frames=3, num_tokens=5)
    c_noise_B = torch.tensor([-1.2, 1.6])
    expected = earlier(x_BCTHW, c_noise_B, replace(told, numbers_BN=told.numbers_BN[:, :told_before]))
    torch.testing.assert_close(video(x_BCTHW, c_noise_B, told), expected, atol=1e-5, rtol=0)


def test_an_earlier_network_with_more_inputs_is_refused():
    video = VideoUNet(replace(VIDEO, condition_channels=0))
    with pytest.raises(WeightsError, match=r"conv_in\.weight"):
        start_from(video, Weights(VIDEO, VideoUNet(VIDEO).state_dict(), torch.zeros(255), {}))
