"""Sampling from networks that are shown frames: which ones a request names, and how they join the input.

Networks trained here are shown latents with noise on them, and hear text. Those of SVD's authors are shown latents of a
picture that had the noise itself, hear the picture's CLIP token in place of text, and one frame a second less than there
are (arXiv 2311.15127, appendix D.4; their `fps_id`). What is shown is not held: a network makes all frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.given_frames import Given
from models.joined_frames import Scaling, joined, noised, places
from models.samplers import noise_of
from models.video_unet import VideoUNetConfig
from training.checkpoints import Weights
from training.draws import generator
from training.encoders import Encoders
from training.prompts import Request
from training.sample_settings import Numbers
from warehouse.errors import SettingsError

AUGMENTATION = 0.02
"""Noise on a frame that is shown, as SVD is sampled."""
_STRATEGIES = {1: "'0'", 2: "'0;0,1,0,-1'"}


@dataclass(frozen=True)
class Showing:
    """A network that is shown frames, and what they are prepared with; it hears a picture's token where there is an image
    encoder.
    """

    config: VideoUNetConfig
    encoders: Encoders
    augmentation: float
    """The noise on the frames."""

    def check(
        self, requests: Sequence[Request], loops: int, carry: int, latent: tuple[int, int, int]
    ) -> None:
        """Raises SettingsError where requests name other frames than the network is shown, or sizes do not fit it.

        latent: frames, height and width. Pieces after the first are shown the last frame of the one before.
        """
        missing, wanted = self.config.missing_size, places(self.config, latent[0])
        if missing and missing != latent[1:]:
            raise SettingsError(
                f"latents have a size of {latent[1:]}, but the network was trained for {missing} alone "
                f"(network.missing_size): sample in that size"
            )
        if latent[0] <= len(wanted):
            raise SettingsError(
                f"a piece has {latent[0]} latent frames, expected more than the {len(wanted)} that the network is shown"
            )
        if loops > 1 and carry != 1:
            raise SettingsError(
                f"carry is {carry}, expected 1: the network is shown one frame of the piece before"
            )
        for request in requests:
            for loop in range(loops):
                _check_shown(request, loop, latent[0], wanted[1:] if loop else wanted, len(wanted))

    def told(
        self, told: Conditioning, given: Given, pixels_BCHW: Tensor | None, seeds: Sequence[int], loop: int
    ) -> Conditioning:
        """`told` with the frames of `given` that the network is shown; `pixels_BCHW`: the first, for a picture's token."""
        num_frames = given.latents_BCTHW.shape[2]
        noise = noise_of([generator("sample", seed, "shown", loop) for seed in seeds])
        sigma_B = given.latents_BCTHW.new_full((len(seeds),), self.augmentation)
        if self.encoders.image is None:
            frames_BCFHW = given.latents_BCTHW[:, :, places(self.config, num_frames)]
            frames_BCFHW = noised(frames_BCFHW, sigma_B, noise(frames_BCFHW))
        else:
            noisy_BTCHW = (pixels_BCHW + self.augmentation * noise(pixels_BCHW))[:, None]
            frames_BCFHW = self.encoders.autoencoder.encode(noisy_BTCHW).movedim(1, 2).to(given.latents_BCTHW)
            token_BLD = self.encoders.image.encode(pixels_BCHW).to(given.latents_BCTHW)
            heard_BL = torch.ones_like(token_BLD[..., 0], dtype=torch.bool)
            told = replace(told, text_BLD=token_BLD, mask_BL=heard_BL)
        return joined(told, Scaling.of(self.encoders.autoencoder).undone(frames_BCFHW), num_frames)

    def pixels(
        self, requests: Sequence[Request], loop: int, pictures: Mapping[str, Tensor], given: Given
    ) -> Tensor | None:
        """First frames of a piece (B, 3, H, W), as they were read, or made for the piece before; None if not needed."""
        if self.encoders.image is None:
            return None
        if loop:
            first_BTCHW = given.latents_BCTHW[:, :, :1].movedim(1, 2)
            return self.encoders.autoencoder.decode(first_BTCHW)[:, 0].clamp(-1, 1)
        firsts = [request.placements[0] for request in requests]
        named = [request.references[p.reference] for request, p in zip(requests, firsts, strict=True)]
        return torch.stack([pictures[n][p.reference_start] for n, p in zip(named, firsts, strict=True)])


def _check_shown(request: Request, loop: int, num_frames: int, expected: list[int], num_shown: int) -> None:
    placements = [placement for placement in request.placements if placement.loop == loop]
    targets = [p.target_start + (num_frames if p.target_start < 0 else 0) for p in placements]
    if sorted(targets) == expected and all(p.length == 1 and p.edit_ratio == 0 for p in placements):
        return
    asked = ", ".join(f"{p.length} from {t} on" for p, t in zip(placements, targets, strict=True)) or "none"
    where = " and ".join(map(str, expected)) or "none"
    raise SettingsError(
        f"the network is shown {num_shown} of the frames of a piece, and makes all: piece {loop} is given {asked}, "
        f"expected {where} of the {num_frames}, each alone and without an edit ratio; for a video of one piece, name "
        f"{'a file' if num_shown == 1 else 'two files'} with reference_path and {_STRATEGIES[num_shown]} as mask_strategy"
    )


def showing_of(weights: Weights, encoders: Encoders, augmentation: float | None) -> Showing | None:
    """None for a network that is shown no frames. Raises SettingsError for what it needs and lacks, or has no use of."""
    shown = isinstance(weights.config, VideoUNetConfig) and bool(places(weights.config, 1))
    picture = hears_picture(weights)
    if augmentation is not None and (not shown or augmentation < 0):
        raise SettingsError(
            f"augmentation is {augmentation}, expected 0 or more, for a network that is shown frames"
        )
    if picture and encoders.image is None:
        raise SettingsError(
            "the network hears a picture in place of text: name its image encoder, as image_encoder in SVD's folder"
        )
    if not picture and encoders.image is not None:
        raise SettingsError("an image encoder is named, but the network hears text: leave it out")
    if not shown:
        return None
    return Showing(weights.config, encoders, AUGMENTATION if augmentation is None else augmentation)


def hears_picture(weights: Weights) -> bool:
    """Whether a network is of SVD's authors and continues a picture; those trained here hear text."""
    config = weights.config
    imported = "imported" in weights.origin and isinstance(config, VideoUNetConfig)
    return imported and config.temporal and bool(places(config, 1))


def numbers_told(weights: Weights, fps: float, numbers: Numbers, showing: Showing | None) -> list[float]:
    """What a network is told in the order of `models.conditioning.Conditioning`, `fps` as it counts them.

    Raises SettingsError.
    """
    asks = isinstance(weights.config, VideoUNetConfig) and weights.config.num_numbers > 3
    if asks != (numbers.elevation is not None):
        raise SettingsError(
            f"elevation is {numbers.elevation}, expected {'degrees' if asks else 'none'}: the network is told "
            f"{'the camera height of an orbit' if asks else 'no such number'}"
        )
    told = [fps, numbers.motion_bucket]
    told += [] if showing is None else [showing.augmentation]
    return told + ([] if numbers.elevation is None else [numbers.elevation])
