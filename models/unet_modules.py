"""Modules of Stable Diffusion 2's and Stable Video Diffusion's UNets: one table for both public layouts.

A row names a module here, in diffusers (UNet2DConditionModel, UNetSpatioTemporalConditionModel) and in the original
files (without their prefix `model.diffusion_model.`).
"""

from __future__ import annotations

from collections.abc import Iterator

from models.video_unet import VideoUNetConfig

Row = tuple[str, str, str]
"""A module's dotted name here, in diffusers and in the original."""

ENDS: tuple[Row, ...] = (
    ("embedding.noise.0", "time_embedding.linear_1", "time_embed.0"),
    ("embedding.noise.2", "time_embedding.linear_2", "time_embed.2"),
    ("embedding.numbers.0", "add_embedding.linear_1", "label_emb.0.0"),
    ("embedding.numbers.2", "add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "conv_in", "input_blocks.0.0"),
    ("norm_out", "conv_norm_out", "out.0"),
    ("conv_out", "conv_out", "out.2"),
)
RES_BLOCK: tuple[Row, ...] = (
    ("norm_in", "norm1", "in_layers.0"),
    ("conv_in", "conv1", "in_layers.2"),
    ("embed", "time_emb_proj", "emb_layers.1"),
    ("norm_out", "norm2", "out_layers.0"),
    ("conv_out", "conv2", "out_layers.3"),
    ("skip", "conv_shortcut", "skip_connection"),
)
TRANSFORMER: tuple[Row, ...] = (
    ("norm", "norm", "norm"),
    ("project_in", "proj_in", "proj_in"),
    ("project_out", "proj_out", "proj_out"),
    ("temporal.frame_index.0", "time_pos_embed.linear_1", "time_pos_embed.0"),
    ("temporal.frame_index.2", "time_pos_embed.linear_2", "time_pos_embed.2"),
)
BLEND: Row = ("temporal_blend", "time_mixer", "time_mixer")
TOKEN_BLOCK: tuple[tuple[str, str], ...] = (
    ("norm_in", "norm_in"),
    ("feed_forward_in.into", "ff_in.net.0.proj"),
    ("feed_forward_in.out", "ff_in.net.2"),
    ("norm_self", "norm1"),
    *((f"self_attention.to_{part}", f"attn1.to_{part}") for part in "qkv"),
    ("self_attention.to_out", "attn1.to_out.0"),
    ("norm_text", "norm2"),
    *((f"text_attention.to_{part}", f"attn2.to_{part}") for part in "qkv"),
    ("text_attention.to_out", "attn2.to_out.0"),
    ("norm_ff", "norm3"),
    ("feed_forward.into", "ff.net.0.proj"),
    ("feed_forward.out", "ff.net.2"),
)
"""Inside a block of attentions both public layouts use one set of names."""


def _below(place: Row, rows: tuple[Row, ...]) -> Iterator[Row]:
    for row in rows:
        names = [".".join(filter(None, pair)) for pair in zip(place, row, strict=True)]
        yield names[0], names[1], names[2]


def _res(place: Row, temporal: bool) -> Iterator[Row]:
    spatial: Row = ("spatial", "spatial_res_block" if temporal else "", "")
    over_frames: Row = ("temporal", "temporal_res_block", "time_stack")
    for part in (spatial, over_frames):
        yield from _below(place, tuple(_below(part, RES_BLOCK)))
    yield from _below(place, (BLEND,))


def _transformer(place: Row) -> Iterator[Row]:
    blocks = tuple((ours, theirs, theirs) for ours, theirs in TOKEN_BLOCK)
    spatial: Row = ("spatial", "transformer_blocks.0", "transformer_blocks.0")
    over_frames: Row = ("temporal", "temporal_transformer_blocks.0", "time_stack.0")
    yield from _below(place, (*TRANSFORMER, BLEND))
    for part in (spatial, over_frames):
        yield from _below(place, tuple(_below(part, blocks)))


def _level(config: VideoUNetConfig, ours: str, block: str, number: int, original: str) -> Iterator[Row]:
    """A ResBlock and the transformer after it, whether a network has one or not."""
    first, _, index = original.rpartition(".")
    yield from _res((f"{ours}.res", f"{block}.resnets.{number}", original), config.temporal)
    attention = f"{first}.{int(index) + 1}"
    yield from _transformer((f"{ours}.attend", f"{block}.attentions.{number}", attention))


def _down(config: VideoUNetConfig) -> Iterator[Row]:
    index = 0
    for depth in range(len(config.multipliers)):
        if depth:
            original = f"input_blocks.{index + 1}.0.op"
            yield f"down.{index}", f"down_blocks.{depth - 1}.downsamplers.0.conv", original
            index += 1
        for number in range(config.blocks):
            original = f"input_blocks.{index + 1}.0"
            yield from _level(config, f"down.{index}", f"down_blocks.{depth}", number, original)
            index += 1


def _up(config: VideoUNetConfig) -> Iterator[Row]:
    """The original keeps an upsampling in the list of the ResBlock before it, so its numbers fall behind."""
    index = original = 0
    attends = tuple(reversed(config.attention))
    for depth, attention in enumerate(attends):
        for number in range(config.blocks + 1):
            place = f"output_blocks.{original}.0"
            yield from _level(config, f"up.{index}", f"up_blocks.{depth}", number, place)
            index, original = index + 1, original + 1
        if depth < len(attends) - 1:
            place = f"output_blocks.{original - 1}.{2 if attention else 1}.conv"
            yield f"up.{index}", f"up_blocks.{depth}.upsamplers.0.conv", place
            index += 1


def unet_modules(config: VideoUNetConfig) -> Iterator[Row]:
    """Every module that a UNet of this shape may have; names of what it lacks stand for nothing."""
    yield from ENDS
    yield from _down(config)
    yield from _level(config, "middle.0", "mid_block", 0, "middle_block.0")
    yield from _res(("middle.1.res", "mid_block.resnets.1", "middle_block.2"), config.temporal)
    yield from _up(config)
