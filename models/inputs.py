"""What networks take, checked before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    """An axis that is named may have any length."""
    got = None if value is None else tuple(value.shape)
    fits = got is not None and len(got) == len(expected)
    fits = fits and all(isinstance(e, str) or g == e for g, e in zip(got, expected, strict=True))
    wanted = f"({', '.join(map(str, expected))}{',' if len(expected) == 1 else ''})"
    _expect(
        fits,
        what,
        "missing" if got is None else f"of shape {got}",
        wanted,
        "check the batch and the network's config",
    )


def _common(x_BCTHW: Tensor, time_B: Tensor, told: Conditioning, channels: int, multiple: int) -> None:
    _shaped(x_BCTHW, "input", ("clips", channels, "frames", "height", "width"))
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
    for name in ("given_BT", "image_only_BT"):
        if getattr(told, name) is not None:
            _shaped(getattr(told, name), name, (num_clips, num_frames))


def _text(told: Conditioning, num_clips: int, text_dim: int) -> None:
    _shaped(told.text_BLD, "text", (num_clips, "tokens", text_dim))
    _shaped(told.mask_BL, "mask of the text", (num_clips, told.text_BLD.shape[1]))


def check_transformer(
    config: TransformerConfig, x_BCTHW: Tensor, time_B: Tensor, conditioning: Conditioning
) -> None:
    """Raises InputError where a DiffusionTransformer of this shape cannot take a batch."""
    _common(x_BCTHW, time_B, conditioning, config.in_channels, config.patch)
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
        _text(conditioning, num_clips, config.text_dim)
    if config.num_classes is not None:
        _shaped(conditioning.label_B, "label", (num_clips,))
    if config.sizes:
        _shaped(conditioning.size_B3, "size told", (num_clips, 3))
    if config.fps or config.num_frames:
        _shaped(conditioning.numbers_BN, "numbers", (num_clips, "numbers"))
        count = conditioning.numbers_BN.shape[1]
        _expect(count > 0, "number of numbers", count, "at least 1", "the first one is the frames per second")
    if conditioning.image_only_BT is not None:
        _expect(
            config.mixes_freely,
            "image_only_BT",
            "given",
            "None: frames of this network meet outside of attention over time",
            "give images as clips of one frame",
        )


def check_unet(config: VideoUNetConfig, x_BCTHW: Tensor, time_B: Tensor, conditioning: Conditioning) -> None:
    """Raises InputError where a VideoUNet of this shape cannot take a batch."""
    _common(x_BCTHW, time_B, conditioning, config.latent_channels, 2 ** (len(config.multipliers) - 1))
    num_clips, _, num_frames, height, width = x_BCTHW.shape
    _text(conditioning, num_clips, config.text_dim)
    if config.num_numbers:
        _shaped(conditioning.numbers_BN, "numbers", (num_clips, config.num_numbers))
    if config.condition_channels:
        frames = (num_clips, config.condition_channels, num_frames, height, width)
        _shaped(conditioning.frames_BCTHW, "frames that join the input", frames)
    if config.missing_size:
        _shaped(conditioning.shown_BT, "shown_BT", (num_clips, num_frames))
        learned = "what stands for missing frames is learned at one size; set missing_size"
        _expect((height, width) == config.missing_size, "size", (height, width), config.missing_size, learned)
    if config.pseudo3d and conditioning.image_only_BT is not None:
        apart = "convolutions over frames mix them; give images as clips of one frame"
        _expect(False, "image_only_BT", "given", "None", apart)
