"""What networks take, checked before anything is computed.

Shapes and types are always looked at. Values are where that makes nobody wait: on the CPU, and not while a graph is
recorded. Samplers, whose noise levels are plain numbers, have them checked on every device (`check_level`).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.transformer_config import TransformerConfig
from warehouse.errors import InputError

if TYPE_CHECKING:
    from models.video_unet import VideoUNetConfig


def _expect(holds: bool, what: str, got: object, expected: object, mend: str) -> None:
    if not holds:
        raise InputError(f"{what} is {got}, expected {expected}; {mend}")


def _shaped(value: Tensor | None, what: str, expected: tuple[int | str, ...]) -> None:
    """An axis that is named may have any length but 0."""
    got = None if value is None else tuple(value.shape)
    fits = got is not None and len(got) == len(expected)
    fits = fits and all(g == e or (isinstance(e, str) and g > 0) for g, e in zip(got, expected, strict=True))
    wanted = f"({', '.join(map(str, expected))}{',' if len(expected) == 1 else ''})"
    _expect(
        fits,
        what,
        "missing" if got is None else f"of shape {got}",
        wanted,
        "check the batch and the network's config",
    )


def _typed(value: Tensor, what: str, dtype: torch.dtype) -> None:
    """As the weights are; with autocast, which casts them both, any type of broken numbers."""
    cast = torch.is_autocast_enabled(value.device.type) if value.device.type != "meta" else False
    fits = value.is_floating_point() if cast else value.dtype is dtype
    kind = "a floating point type" if cast else f"{dtype}, the type of the weights"
    _expect(fits, f"type of the {what}", value.dtype, kind, "cast it with .to()")


def _boolean(value: Tensor, what: str) -> None:
    _expect(value.dtype is torch.bool, f"type of {what}", value.dtype, torch.bool, "cast it with .bool()")


def _seen(value: Tensor) -> bool:
    """Whether looking at values costs no wait."""
    return value.device.type == "cpu" and not torch.compiler.is_compiling()


def check_level(sigma: float, from_infinity: bool = False) -> None:
    """Raises InputError for a noise level that no clip has; an infinite one is for networks that can be asked there
    (`models.edm.Preconditioning`).
    """
    mend = "sample from finite levels down to the closing 0, which no network is asked about"
    holds = 0 < sigma < inf or (from_infinity and sigma == inf)
    _expect(holds, "noise level", sigma, "a finite number above 0", mend)


def _common(
    x_BCTHW: Tensor,
    time_B: Tensor,
    told: Conditioning,
    channels: int,
    multiple: int,
    dtype: torch.dtype,
) -> None:
    _shaped(x_BCTHW, "input", ("clips", channels, "frames", "height", "width"))
    _typed(x_BCTHW, "input", dtype)
    num_clips, _, num_frames, height, width = x_BCTHW.shape
    _expect(
        height % multiple == 0 and width % multiple == 0,
        "size of the input",
        f"{height} x {width}",
        f"multiples of {multiple}",
        "crop or resize the latents",
    )
    per_frame = time_B.ndim == 2
    _shaped(time_B, "noise level", (num_clips, num_frames) if per_frame else (num_clips,))
    _expect(
        time_B.is_floating_point(),
        "type of the noise level",
        time_B.dtype,
        "a floating point type",
        "cast it",
    )
    if _seen(time_B):
        finite = "finite numbers"
        _expect(bool(time_B.isfinite().all()), "noise level", time_B.tolist(), finite, "check what drew it")
    for name in ("given_BT", "image_only_BT"):
        if getattr(told, name) is not None:
            _shaped(getattr(told, name), name, (num_clips, num_frames))
            _boolean(getattr(told, name), name)


def _text(told: Conditioning, num_clips: int, text_dim: int, dtype: torch.dtype) -> None:
    _shaped(told.text_BLD, "text", (num_clips, "tokens", text_dim))
    _typed(told.text_BLD, "text", dtype)
    _shaped(told.mask_BL, "mask of the text", (num_clips, told.text_BLD.shape[1]))
    _boolean(told.mask_BL, "the mask of the text")


def _short_enough(text_BLD: Tensor, null_tokens: int) -> None:
    """What a text that is dropped is replaced by must be as long as the text."""
    shorter = "its null caption has no more; encode shorter texts (encode.max_length)"
    num_tokens = text_BLD.shape[1]
    at_most = f"at most {null_tokens}"
    _expect(not 0 < null_tokens < num_tokens, "number of text tokens", num_tokens, at_most, shorter)


def _label(label_B: Tensor | None, num_clips: int, num_classes: int) -> None:
    _shaped(label_B, "label", (num_clips,))
    if _seen(label_B):
        known = label_B.isnan() | ((label_B >= 0) & (label_B < num_classes))
        classes = f"0 to {num_classes - 1}, or NaN for none"
        _expect(bool(known.all()), "label", label_B.tolist(), classes, "check the data's classes")


def check_transformer(
    config: TransformerConfig,
    x_BCTHW: Tensor,
    time_B: Tensor,
    conditioning: Conditioning,
    dtype: torch.dtype,
) -> None:
    """Raises InputError where a DiffusionTransformer of this shape, with weights of `dtype`, cannot take a batch."""
    _common(x_BCTHW, time_B, conditioning, config.in_channels, config.size_multiple, dtype)
    num_clips, num_frames = len(x_BCTHW), x_BCTHW.shape[2]
    if config.max_frames is not None:
        fewer = "give fewer frames, or sample in overlapping windows"
        _expect(
            num_frames <= config.max_frames,
            "number of frames",
            num_frames,
            f"at most {config.max_frames}",
            fewer,
        )
    if config.text_dim is not None:
        _text(conditioning, num_clips, config.text_dim, dtype)
        _short_enough(conditioning.text_BLD, config.null_tokens)
    if config.num_classes is not None:
        _label(conditioning.label_B, num_clips, config.num_classes)
    if config.sizes:
        _shaped(conditioning.size_B3, "size told", (num_clips, 3))
    if config.fps or config.num_frames:
        _shaped(conditioning.numbers_BN, "numbers (the first the frames per second)", (num_clips, "numbers"))
    if conditioning.image_only_BT is not None:
        _expect(
            config.mixes_freely,
            "image_only_BT",
            "given",
            "None: frames of this network meet outside of attention over time",
            "give images as clips of one frame",
        )


def check_unet(
    config: VideoUNetConfig,
    x_BCTHW: Tensor,
    time_B: Tensor,
    conditioning: Conditioning,
    dtype: torch.dtype,
) -> None:
    """Raises InputError where a VideoUNet of this shape, with weights of `dtype`, cannot take a batch."""
    _common(x_BCTHW, time_B, conditioning, config.latent_channels, config.size_multiple, dtype)
    num_clips, _, num_frames, height, width = x_BCTHW.shape
    _text(conditioning, num_clips, config.text_dim, dtype)
    if config.num_numbers:
        _shaped(conditioning.numbers_BN, "numbers", (num_clips, config.num_numbers))
    if config.condition_channels:
        frames = (num_clips, config.condition_channels, num_frames, height, width)
        _shaped(conditioning.frames_BCTHW, "frames that join the input", frames)
        _typed(conditioning.frames_BCTHW, "frames that join the input", dtype)
    if config.missing_size:
        _shaped(conditioning.shown_BT, "shown_BT", (num_clips, num_frames))
        _boolean(conditioning.shown_BT, "shown_BT")
        learned = "what stands for missing frames is learned at one size; set missing_size"
        _expect((height, width) == config.missing_size, "size", (height, width), config.missing_size, learned)
    if config.pseudo3d and conditioning.image_only_BT is not None:
        apart = "convolutions over frames mix them; give images as clips of one frame"
        _expect(False, "image_only_BT", "given", "None", apart)
