"""Networks by name: whom they follow, and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from models.conditioning import NUMBERS
from models.counting import count, network_of
from models.transformers import TransformerConfig
from models.video_unet import VideoUNetConfig
from warehouse.errors import WeightsError

NetworkConfig = VideoUNetConfig | TransformerConfig
"""The shape of any network."""


@dataclass(frozen=True)
class Named:
    """A network that others trained."""

    config: NetworkConfig
    follows: str
    """Paper or project."""
    loads: tuple[str, ...]
    """Layouts of `models.layouts` whose files it reads."""
    latent: tuple[int, int, int] = (1, 32, 32)
    """Frames, height and width of the latents that it was trained on."""


_SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}


def _sized(size: str, patch: int, **more: object) -> TransformerConfig:
    width, depth, num_heads = _SIZES[size]
    return TransformerConfig(width=width, depth=depth, num_heads=num_heads, patch=patch, **more)


def _per_size(
    prefix: str,
    follows: str,
    loads: tuple[str, ...],
    latent: tuple[int, int, int] = (1, 32, 32),
    **more: object,
) -> dict[str, Named]:
    return {
        f"{prefix}-{size}-{patch}": Named(_sized(size, patch, **more), follows, loads, latent)
        for size in _SIZES
        for patch in (2, 4, 8)
    }


_TEXT = {"attention": ("space",), "modulation": "single", "cross": (True,), "text_dim": 4096}
_PIXART = _sized("xl", 2, **_TEXT, null_tokens=120, position_scale=0.5, position_base=16)
_STDIT = _sized("xl", 2, **_TEXT, null_tokens=120, temporal="sequential", position_scale=0.5)
_LATTE_T2V = replace(
    _PIXART, null_tokens=0, depth=56, attention=("space", "time"), cross=(True, False), position_scale=1.0
)

_STDIT2 = replace(
    _STDIT,
    null_tokens=200,
    temporal="own",
    qk_norm=True,
    rotary="time",
    rotary_first=True,
    sizes=True,
    fps=True,
    num_frames=True,
    position_scale=1.0,
    position_side=64.0,
)
_STDIT3 = replace(
    _STDIT2,
    null_tokens=300,
    depth=56,
    attention=("space", "time"),
    temporal="none",
    rotary_first=False,
    sizes=False,
    num_frames=False,
    silent_time=True,
)
_OPEN_SORA_PLAN = TransformerConfig(
    width=2304,
    depth=32,
    num_heads=24,
    attention=("full", "full", *("skip", "skip_groups") * 14, "full", "full"),
    modulation="single",
    in_channels=8,
    cross=(True,),
    text_dim=4096,
    rotary="volume",
)

_LATTE = {"loads": ("dit_original",), "latent": (16, 32, 32)}
_STDIT_FILES = {"loads": ("pixart_original",), "latent": (16, 32, 32)}
_PIXART_FILES = ("pixart_original", "pixart_diffusers")
_OPEN_SORA = "Open-Sora 1.0, STDiT"

_UNET_FILES = ("unet_original", "unet_diffusers")
_SVD = "SVD, arXiv 2311.15127"
_SD21 = VideoUNetConfig(
    width=320,
    multipliers=(1, 2, 4, 4),
    blocks=2,
    attention=(True, True, True, False),
    head_dim=64,
    text_dim=1024,
    num_numbers=0,
    number_dim=256,
    pooled_text=False,
    text_mask=False,
    temporal=False,
    temporal_init="svd",
)
_SVD_T2V = replace(_SD21, temporal=True, num_numbers=len(NUMBERS))
_SVD_I2V = replace(_SVD_T2V, num_numbers=len(NUMBERS) + 1, condition_channels=4)
_SD15_INPAINTING = replace(_SD21, text_dim=768, num_heads=8, condition_channels=5)


def _latte_variants() -> dict[str, Named]:
    """Latte's variants 2 to 4 of every size. A block of variant 3 has 22 matrices of width^2 instead of 18, and there are
    as many fewer of them, so that the sizes stay.
    """
    named: dict[str, Named] = {}
    for size, (_, depth, _) in _SIZES.items():
        late = ("space",) * (depth // 2) + ("time",) * (depth // 2)
        both = _sized(size, 2, attention=("space",), modulation="block", temporal="normed")
        shapes = {
            "late": _sized(size, 2, attention=late, modulation="block"),
            "both": replace(both, depth=round(depth * 18 / 22)),
            "split": _sized(size, 2, attention=("split",), modulation="block"),
        }
        for number, (kind, config) in enumerate(shapes.items(), 2):
            files = {"loads": (), "latent": (16, 32, 32)} if kind == "both" else _LATTE
            named[f"latte-{size}-2-{kind}"] = Named(config, f"Latte, variant {number}", **files)
    return named


NETWORKS: dict[str, Named] = {
    "sd21": Named(_SD21, "Stable Diffusion 2.1, arXiv 2112.10752", _UNET_FILES, (1, 64, 64)),
    "svd-t2v-unlabelled": Named(
        replace(_SVD_T2V, num_numbers=0), f"{_SVD}, as its appendix D counts it", _UNET_FILES, (14, 40, 72)
    ),
    "svd-t2v": Named(_SVD_T2V, f"{_SVD}, told frame rate and motion", _UNET_FILES, (14, 40, 72)),
    "svd-i2v": Named(_SVD_I2V, f"{_SVD}, released: continues an image", _UNET_FILES, (14, 72, 128)),
    "svd-interpolation": Named(
        replace(_SVD_I2V, missing_size=(72, 128)),
        f"{_SVD}, appendix D.5: three frames between two",
        (),
        (5, 72, 128),
    ),
    "svd-multi-view": Named(
        replace(_SVD_I2V, num_numbers=len(NUMBERS) + 2),
        f"{_SVD}, appendix D.6: orbits, told the elevation",
        _UNET_FILES,
        (21, 72, 72),
    ),
    "sd15-inpainting": Named(
        _SD15_INPAINTING, "Stable Diffusion 1.5, inpainting, arXiv 2112.10752", _UNET_FILES, (1, 64, 64)
    ),
    "pseudo3d": Named(
        replace(_SD15_INPAINTING, temporal=True, pseudo3d=True, temporal_init="zero"),
        "Make a Stable Diffusion Video on home computers",
        (),
        (25, 64, 64),
    ),
    **_per_size(
        "dit",
        "DiT, arXiv 2212.09748, table 1",
        ("dit_original", "dit_diffusers"),
        attention=("full",),
        modulation="block",
        num_classes=1000,
    ),
    **_per_size(
        "latte",
        "Latte, arXiv 2401.03048, variant 1",
        **_LATTE,
        attention=("space", "time"),
        modulation="block",
    ),
    **_latte_variants(),
    "latte-t2v": Named(_LATTE_T2V, "LatteT2V", ("latte_t2v_diffusers",), (16, 64, 64)),
    "pixart-xl-2": Named(_PIXART, "PixArt-alpha, arXiv 2310.00426, 256 px", _PIXART_FILES),
    "pixart-xl-2-512": Named(
        replace(_PIXART, position_scale=1.0, position_base=32),
        "PixArt-alpha, 512 px",
        _PIXART_FILES,
        (1, 64, 64),
    ),
    "pixart-xl-2-1024": Named(
        replace(_PIXART, position_scale=2.0, position_base=64, sizes=True),
        "PixArt-alpha, 1024 px, told the picture's size",
        _PIXART_FILES,
        (1, 128, 128),
    ),
    "stdit-xl-2": Named(_STDIT, _OPEN_SORA, **_STDIT_FILES),
    "stdit-xl-2-parallel": Named(
        replace(_STDIT, temporal="parallel"), f"{_OPEN_SORA}, parallel variant", **_STDIT_FILES
    ),
    "stdit2-xl-2": Named(_STDIT2, "Open-Sora 1.1, STDiT2", ("pixart_original",), (16, 64, 64)),
    "stdit3-xl-2": Named(_STDIT3, "Open-Sora 1.2, STDiT3", ("stdit3_original",), (15, 90, 160)),
    "stdit3-3b-2": Named(
        replace(_STDIT3, width=1872, num_heads=26),
        "Open-Sora 1.2, STDiT3-3B",
        ("stdit3_original",),
        (15, 90, 160),
    ),
    "open-sora-plan-1.3": Named(
        _OPEN_SORA_PLAN, "Open-Sora-Plan 1.3, skiparse", ("pixart_diffusers",), (24, 60, 80)
    ),
}


@dataclass(frozen=True)
class Described:
    """What `cutroom networks` tells of one network."""

    parameters: int
    flops_per_sample: int
    """Of one forward pass over one clip of the size that it was trained on; a multiplication and an addition are two."""
    activation_bytes: int
    """What that pass keeps for the backward one in float32, without gradient checkpointing."""
    follows: str
    loads: tuple[str, ...]


def describe(name: str) -> Described:
    """Counts a network without making its weights. Raises WeightsError for a name that is not known."""
    named = _named(name)
    counted = count(named.config, named.latent)
    return Described(counted.parameters, counted.flops, counted.activation_bytes, named.follows, named.loads)


def build(name: str, device: str = "cpu") -> nn.Module:
    """A network with fresh weights; on the device "meta" with none. Raises WeightsError for a name that is not known."""
    config = _named(name).config
    with torch.device(device):
        return network_of(config)


def _named(name: str) -> Named:
    if name not in NETWORKS:
        raise WeightsError(f"there is no network {name!r}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name]
