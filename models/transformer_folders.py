"""The shape of a diffusion transformer as diffusers tells it in config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.networks import NETWORKS
from models.transformer_config import TransformerConfig
from warehouse.errors import WeightsError

_LIKE = {
    "DiTTransformer2DModel": "dit-xl-2",
    "PixArtTransformer2DModel": "pixart-xl-2",
    "LatteTransformer3DModel": "latte-t2v",
}
_EARLIER = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
"""What `Transformer2DModel` held, which was the class of both, by its kind of norm."""
CLASSES = (*_LIKE, "Transformer2DModel")


def transformer_from_diffusers(settings: Mapping[str, Any]) -> TransformerConfig:
    """The shape that a config.json tells.

    diffusers' DiT has an epsilon of 1e-5 in half of its norms where the authors and we have 1e-6.
    Raises WeightsError where it is of another class, lacks a setting, or tells what no network here has.
    """
    kind = settings.get("_class_name")
    kind = _EARLIER.get(settings.get("norm_type", ""), kind) if kind == "Transformer2DModel" else kind
    if kind not in _LIKE:
        raise WeightsError(f"config.json is of a {kind}: expected one of {', '.join(CLASSES)}")
    try:
        config = _shape(kind, settings)
        unlike = _unlike(kind, settings, config)
    except KeyError as error:
        raise WeightsError(f"config.json of a {kind} lacks {error}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise WeightsError(f"config.json is of no {kind}: {error}") from error
    if unlike:
        raise WeightsError(f"diffusers' {kind} and our networks differ in {', '.join(unlike)}")
    return config


def _shape(kind: str, settings: Mapping[str, Any]) -> TransformerConfig:
    num_heads, side, patch = (settings[n] for n in ("num_attention_heads", "sample_size", "patch_size"))
    config = replace(
        NETWORKS[_LIKE[kind]].config,
        width=num_heads * settings["attention_head_dim"],
        depth=settings["num_layers"] * (2 if kind == "LatteTransformer3DModel" else 1),
        num_heads=num_heads,
        patch=patch,
        in_channels=settings["in_channels"],
        out_channels=settings["out_channels"] or settings["in_channels"],
        null_tokens=0,
        position_base=side // patch,
    )
    if kind == "DiTTransformer2DModel":
        return replace(config, num_classes=settings["num_embeds_ada_norm"])
    sizes = settings.get("use_additional_conditions")
    return replace(
        config,
        text_dim=settings["caption_channels"],
        position_scale=float(settings.get("interpolation_scale") or max(side // 64, 1)),
        sizes=kind == "PixArtTransformer2DModel" and (side == 128 if sizes is None else sizes),
    )


def _unlike(kind: str, settings: Mapping[str, Any], config: TransformerConfig) -> list[str]:
    """Settings with which diffusers' class computes what no network here does."""
    has_text = kind != "DiTTransformer2DModel"
    expected = {
        "activation_fn": ("gelu-approximate",),
        "attention_bias": (True,),
        "norm_elementwise_affine": (False,),
        "norm_type": ("ada_norm_single",) if has_text else ("ada_norm_zero",),
        "norm_eps": (1e-6,) if has_text else (1e-6, 1e-5),
        "cross_attention_dim": (config.width,) if has_text else (None, config.width),
        "attention_type": (None, "default"),
    }
    return [f"{n} {settings.get(n)!r}" for n, values in expected.items() if settings.get(n) not in values]
