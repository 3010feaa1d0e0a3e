"""Which sides guidance mixes for a sample, and with which weights, as its settings and the weights' own past say."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from models.conditioning import Conditioning
from models.guidance import (
    Weight,
    constant,
    frames_then_text,
    on_channels,
    with_and_without_anything,
    with_and_without_text,
)
from models.networks import NetworkConfig
from models.video_unet import VideoUNetConfig
from training.encoders import Autoencoder
from training.objective import Name
from training.trained import Trained
from warehouse.errors import SettingsError

LEARNED = "iddpm"
"""The sampler that takes the variances that a network says (`models.learned_variance.ancestral`)."""
OF_OBJECTIVE: dict[str, Name] = {LEARNED: "iddpm", "rectified_flow": "flow"}
"""Samplers that are for one objective."""


def sides_of(
    conditioning: Conditioning, channels: int, frames_apart: bool, empty: tuple[Tensor, Tensor] | None
) -> list[Conditioning]:
    """From the side that is told least to the one that is told all, for latents of so many channels.

    Frames to continue are dropped together with the text, or with `frames_apart` before it. Where a mask joins the input
    too, both stay on all sides. `empty`: tokens (1, L, D) and mask (1, L) of what stands for no text; None for the null
    text of networks that were trained here.
    """
    frames = conditioning.frames_BCTHW
    continued = frames is not None and frames.shape[1] == channels
    both = with_and_without_anything if continued else with_and_without_text
    sides = (frames_then_text if frames_apart else both)(conditioning)
    if empty is None:
        return sides
    clips = len(conditioning.text_BLD)
    text_BLD, mask_BL = empty[0].expand(clips, -1, -1), empty[1].expand(clips, -1)
    return [*(replace(side, text_BLD=text_BLD, mask_BL=mask_BL) for side in sides[:-1]), sides[-1]]


def weights_of(
    text: Weight, frames: float | None, guided_channels: int | None, channels: int
) -> list[Weight]:
    """Of the steps between the sides: the frames' own scale first where there is one.

    Raises SettingsError where fewer than `guided_channels` channels are there.
    """
    weights = [text] if frames is None else [constant(frames), text]
    if guided_channels is None:
        return weights
    if not 1 <= guided_channels <= channels:
        raise SettingsError(f"guided_channels is {guided_channels}, expected 1 to the latents' {channels}")
    return [on_channels(weight, [i < guided_channels for i in range(channels)]) for weight in weights]


def check_latents(config: NetworkConfig, autoencoder: Autoencoder, height_px: int, width_px: int) -> None:
    """Raises SettingsError where an autoencoder makes no latents that a network takes of pictures of this size."""
    channels, downsampling = autoencoder.latent_channels, autoencoder.downsampling
    if channels != config.latent_channels:
        raise SettingsError(
            f"the autoencoder's latents have {channels} channels, the network's {config.latent_channels}: name the "
            f"autoencoder that it was trained with (encode.autoencoder)"
        )
    multiple = downsampling * config.size_multiple
    if height_px % multiple or width_px % multiple or min(height_px, width_px) < 1:
        raise SettingsError(
            f"pictures are {height_px} x {width_px}, expected multiples of {multiple}: the autoencoder divides sides by "
            f"{downsampling}, and the network takes multiples of {config.size_multiple}; choose another size "
            f"(encode.buckets)"
        )


def check_network(
    config: NetworkConfig,
    trained: Trained,
    sampler: str,
    frames: float | None,
    num_frames: int,
) -> None:
    """Raises SettingsError where these weights cannot be sampled so; `num_frames`: of the latents."""
    wanted = OF_OBJECTIVE.get(sampler, trained.objective.name)
    if wanted != trained.objective.name:
        raise SettingsError(
            f"sampler is {sampler!r} and the network was trained as {trained.objective.name}, expected objective "
            f"{wanted}; train with it, or choose another sampler"
        )
    if trained.single_frames and num_frames > 1:
        raise SettingsError(
            f"{num_frames} frames are asked of a network that was trained on images alone, in which they would have "
            f"nothing to do with each other: ask for 1, or train its temporal layers on clips first"
        )
    joined = config.condition_channels if isinstance(config, VideoUNetConfig) else 0
    if frames is not None and joined != config.latent_channels:
        what = (
            "a mask joins the network's input too, without which it paints nothing"
            if joined
            else "no frames join the network's input"
        )
        raise SettingsError(f"frames_guidance is {frames}, but {what}; leave it out")
