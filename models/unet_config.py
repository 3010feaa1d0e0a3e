"""The shape of a UNet as diffusers writes it in config.json, there and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.networks import NETWORKS
from models.video_unet import VideoUNetConfig
from warehouse.errors import WeightsError

IMAGES, VIDEO = "UNet2DConditionModel", "UNetSpatioTemporalConditionModel"
_GROUPS = 32  # of every group norm in diffusers' classes
_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": _GROUPS,
    "only_cross_attention": False,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
}
"""Settings of diffusers that no weight shows, with the value that our networks have. Left out, they have it too."""


def to_diffusers(config: VideoUNetConfig) -> tuple[str, dict[str, Any]]:
    """The class and the arguments of diffusers' network with these weights.

    diffusers' video ResBlocks have an epsilon of 1e-6 where the authors and we have 1e-5; no argument changes it.
    Raises WeightsError where diffusers has no such network.
    """
    kind = VIDEO if config.temporal else IMAGES
    _refuse(f"diffusers' {kind}", _unlike(config))
    suffix = "SpatioTemporal" if config.temporal else "2D"
    down = [f"{'CrossAttn' if attends else ''}DownBlock{suffix}" for attends in config.attention]
    up = [f"{'CrossAttn' if attends else ''}UpBlock{suffix}" for attends in reversed(config.attention)]
    widths = [config.width * multiplier for multiplier in config.multipliers]
    heads = [config.num_heads or width // config.head_dim for width in widths]
    settings: dict[str, Any] = {
        "in_channels": config.latent_channels + config.condition_channels,
        "out_channels": config.latent_channels,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": widths,
        "layers_per_block": config.blocks,
        "cross_attention_dim": config.text_dim,
    }
    if config.temporal:
        numbers = {"projection_class_embeddings_input_dim": config.num_numbers * config.number_dim}
        return kind, settings | numbers | {
            "addition_time_embed_dim": config.number_dim,
            "num_attention_heads": heads,
        }
    # In this class the number of heads goes by the name of their size.
    return kind, settings | {"attention_head_dim": heads, "use_linear_projection": not config.num_heads}


def from_diffusers(settings: Mapping[str, Any]) -> VideoUNetConfig:
    """The shape that a config.json tells.

    Raises WeightsError where it is of another class, lacks a setting, or tells what no network here has.
    """
    kind = settings.get("_class_name")
    if kind not in (IMAGES, VIDEO):
        raise WeightsError(f"config.json is of a {kind}: expected {IMAGES} or {VIDEO}")
    unlike = [f"{n} {settings[n]!r}" for n, ours in _FIXED.items() if settings.get(n, ours) != ours]
    _refuse(f"diffusers' {kind}", unlike)
    try:
        config = _shape(settings, kind == VIDEO)
        _, again = to_diffusers(config)
        told = {"use_linear_projection": False, **settings, **_heads(settings, kind == VIDEO)}
    except KeyError as error:
        raise WeightsError(f"config.json of a {kind} lacks {error}") from error
    except (TypeError, ValueError, ArithmeticError, IndexError) as error:
        raise WeightsError(f"config.json is of no {kind}: {error}") from error
    wrong = [f"{n} {told.get(n)!r}" for n in again if _plain(told.get(n)) != _plain(again[n])]
    _refuse(f"diffusers' {kind}", wrong)
    return config


def _heads(settings: Mapping[str, Any], temporal: bool) -> dict[str, list[int]]:
    """Heads of every level, under the name that the class has for them."""
    name = "num_attention_heads" if temporal else "attention_head_dim"
    heads = settings[name]
    return {name: [heads] * len(settings["block_out_channels"]) if isinstance(heads, int) else heads}


def _shape(settings: Mapping[str, Any], temporal: bool) -> VideoUNetConfig:
    widths = settings["block_out_channels"]
    (heads,) = _heads(settings, temporal).values()
    # Stable Diffusion 1 has one number of heads, and convolutions around its attention.
    num_heads = 0 if temporal or settings.get("use_linear_projection") else heads[0]
    number_dim = settings["addition_time_embed_dim"] if temporal else 256
    return replace(
        NETWORKS["svd-t2v" if temporal else "sd21"].config,
        latent_channels=settings["out_channels"],
        condition_channels=settings["in_channels"] - settings["out_channels"],
        width=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=settings["layers_per_block"],
        attention=tuple(name.startswith("CrossAttn") for name in settings["down_block_types"]),
        **({"num_heads": num_heads} if num_heads else {"head_dim": widths[0] // heads[0]}),
        text_dim=settings["cross_attention_dim"],
        num_numbers=settings["projection_class_embeddings_input_dim"] // number_dim if temporal else 0,
        number_dim=number_dim,
        group_channels=max(1, min(8, widths[0] // _GROUPS)),
    )


def check_original(config: VideoUNetConfig) -> None:
    """Raises WeightsError where Stability's code would compute otherwise with weights of this shape."""
    _refuse("Stability's code", _unlike_published(config))


def _unlike_published(config: VideoUNetConfig) -> list[str]:
    """Settings that no published code has a place for."""
    smallest = min(32, config.width // config.group_channels)
    checks = {
        f"group norms of {smallest} groups (it has {_GROUPS})": smallest != _GROUPS,
        "pooled_text": config.pooled_text,
        "text_mask": config.text_mask,
        f"norm_eps {config.norm_eps}": config.norm_eps != 1e-5,
        "pseudo3d": config.temporal and config.pseudo3d,
        "missing_size": bool(config.missing_size),
    }
    return [what for what, holds in checks.items() if holds]


def _unlike(config: VideoUNetConfig) -> list[str]:
    """Settings that diffusers' class has no place for."""
    checks = {
        "no numbers": config.temporal and not config.num_numbers,
        "numbers": not config.temporal and config.num_numbers > 0,
        f"head_dim {config.head_dim}, which does not divide the widths": not config.num_heads
        and config.width % config.head_dim > 0,
    }
    return [*_unlike_published(config), *(what for what, holds in checks.items() if holds)]


def _refuse(theirs: str, unlike: list[str]) -> None:
    if unlike:
        raise WeightsError(f"{theirs} and our networks differ in {', '.join(unlike)}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
