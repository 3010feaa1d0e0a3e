"""Names of an autoencoder's weights in files of Stable Diffusion and Stable Video Diffusion, beside diffusers' (see
`models.weight_names`; the networks here are diffusers' own classes, so theirs are "ours").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.latent_scaling import scale_in_file
from models.weight_names import Layout, read_weights
from warehouse.errors import WeightsError

ORIGINAL_KINDS = ("AutoencoderKL", "AutoencoderKLTemporalDecoder")
"""Classes that the authors' files hold."""
_TEMPORAL = {"in_layers.0": "norm1", "in_layers.2": "conv1", "out_layers.0": "norm2", "out_layers.3": "conv2"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_PREFIX = "first_stage_model."
_LATENT = ("quant_conv", "post_quant_conv")


def autoencoder_original(network: nn.Module) -> Layout:
    """The authors' layout of an AutoencoderKL or AutoencoderKLTemporalDecoder, without the prefix `first_stage_model.`.

    Levels of the decoder count from the finest one there, from the coarsest here; the middle's attention is made of
    1x1 convolutions there, of linear layers here. Raises WeightsError for a network of another class, or one that their
    code would compute otherwise.
    """
    if (kind := type(network).__name__) not in ORIGINAL_KINDS:
        raise WeightsError(
            f"the original layout has no names for a {kind}: expected {' or '.join(ORIGINAL_KINDS)}"
        )
    config = network.config
    unlike = {
        f"group norms of {config.get('norm_num_groups')} groups (it has 32)": config.get(
            "norm_num_groups", 32
        )
        != 32,
        f"act_fn {config.get('act_fn')}": config.get("act_fn", "silu") != "silu",
        "no attention in the middle": not config.get("mid_block_add_attention", True),
        f"a shift of {config.get('shift_factor')}": bool(config.get("shift_factor")),
    }
    if any(unlike.values()):
        differ = ", ".join(what for what, holds in unlike.items() if holds)
        raise WeightsError(f"Stability's autoencoder and this {kind} differ in {differ}")
    own = {name.rpartition(".")[0] for name in network.state_dict()} | set(network.state_dict())
    names = {theirs: ours for theirs, ours in _pairs(network) if ours in own}
    linear = tuple(n for n in names if ".mid.attn_1." in n and not n.endswith(".norm"))
    return Layout(names, convolutions=linear)


def read_original(network: nn.Module, file: Mapping[str, Tensor]) -> None:
    """Copies the weights of an original file into a network; raises WeightsError where they do not fit.

    SVD's file has no 1x1 convolution before the latents, which diffusers' class does: there it does nothing.
    """
    if "quant_conv.weight" not in file and hasattr(network, "quant_conv"):
        channels = network.quant_conv.in_channels
        identity = {"quant_conv.weight": torch.eye(channels)[..., None, None]}
        file = {**file, **identity, "quant_conv.bias": torch.zeros(channels)}
    read_weights(network, file, autoencoder_original(network))


def load_original(path: str) -> nn.Module:
    """The autoencoder in an original file: of its own, or a whole model's with the prefix `first_stage_model.`.

    Its sizes follow from the shapes; the scale of its latents is what the file tells (`scale_in_file`). Raises
    WeightsError where there is no such file, or no autoencoder in it.
    """
    import diffusers

    try:
        file = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is no file of safetensors: {error}") from error
    weights = {n.removeprefix(_PREFIX): v for n, v in file.items() if n.startswith(_PREFIX)} or file
    found = [re.fullmatch(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight", name) for name in weights]
    blocks = {(int(match[1]), int(match[2])): weights[match[0]] for match in found if match}
    if not blocks:
        raise WeightsError(
            f"{path} holds no autoencoder: expected names such as encoder.down.0.block.0.conv1.weight"
        )
    levels = 1 + max(level for level, _ in blocks)
    config = {
        "block_out_channels": tuple(len(blocks[level, 0]) for level in range(levels)),
        "layers_per_block": 1 + max(i for _, i in blocks),
        "latent_channels": weights["decoder.conv_in.weight"].shape[1],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "scaling_factor": scale_in_file(path),
    }
    if "decoder.conv_out.time_mix_conv.weight" in weights:
        network = diffusers.AutoencoderKLTemporalDecoder(**config)
    else:
        network = diffusers.AutoencoderKL(**config, up_block_types=("UpDecoderBlock2D",) * levels)
    read_original(network, weights)
    return network


def _pairs(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Theirs and ours, by module; more than any one network has."""
    yield from ((name, name) for name in _LATENT)
    yield "decoder.conv_out.time_mix_conv", "decoder.time_conv_out"
    for part in ("encoder", "decoder"):
        for theirs, ours in (("conv_in",) * 2, ("norm_out", "conv_norm_out"), ("conv_out",) * 2):
            yield f"{part}.{theirs}", f"{part}.{ours}"
        for i in (0, 1):
            yield from _block(f"{part}.mid.block_{i + 1}", f"{part}.mid_block.resnets.{i}")
        for theirs, ours in _ATTENTION.items():
            yield f"{part}.mid.attn_1.{theirs}", f"{part}.mid_block.attentions.0.{ours}"
    levels = len(network.decoder.up_blocks)
    for level in range(levels):
        for i in range(len(network.decoder.up_blocks[0].resnets)):
            yield from _block(f"encoder.down.{level}.block.{i}", f"encoder.down_blocks.{level}.resnets.{i}")
            place = levels - 1 - level
            yield from _block(f"decoder.up.{level}.block.{i}", f"decoder.up_blocks.{place}.resnets.{i}")
        yield f"encoder.down.{level}.downsample.conv", f"encoder.down_blocks.{level}.downsamplers.0.conv"
        yield f"decoder.up.{level}.upsample.conv", f"decoder.up_blocks.{place}.upsamplers.0.conv"


def _block(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    """A ResBlock, of pictures or, in a temporal decoder, of pictures and then of time."""
    for spatial in (ours, f"{ours}.spatial_res_block"):
        for name in ("norm1", "conv1", "norm2", "conv2"):
            yield f"{theirs}.{name}", f"{spatial}.{name}"
        yield f"{theirs}.nin_shortcut", f"{spatial}.conv_shortcut"
    for name, its in _TEMPORAL.items():
        yield f"{theirs}.time_stack.{name}", f"{ours}.temporal_res_block.{its}"
    yield f"{theirs}.mix_factor", f"{ours}.time_mixer.mix_factor"
