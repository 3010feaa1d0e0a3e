"""What a network is told about a clip: text tokens, and numbers such as frame rate and motion.

The text of a clip can be dropped, which replaces it by the null text: zeros that are attended to, or in a network that has
one (PixArt, Open-Sora's STDiT) a caption of its own, of as many tokens as the text had. Training drops it at
random so that one network gives both sides of guidance; the numbers always stay (SVD keeps them too). Frames that join
the input are dropped apart from it: a network that continues an image does without both (SVD), one that paints what a
mask says needs mask and known frames on both sides (Stable Diffusion's inpainting).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from warehouse.errors import InputError

NUMBERS = ("fps", "motion")
NUM_MOTION_BUCKETS = 256


@dataclass(frozen=True)
class Conditioning:
    """One batch of conditioning.

    `text_BLD`: text tokens. `mask_BL`: bool, true where a token counts. `numbers_BN`: float32 in the order of
    NUMBERS (frames per second; motion bucket 0..255; a network that continues an image takes the standard
    deviation of that image's noise as a third, one that turns around it the elevation in degrees as a fourth),
    NaN where a clip's value is unknown. `label_B`: class as float32, NaN for none. `size_B3`: height and width in
    pixels, and height over width. `frames_BCTHW`: latents that join the input channels
    (`VideoUNetConfig.condition_channels`); for Stable Diffusion's inpainting first the mask (1 = to be painted),
    then the masked latents. `image_only_BT`: bool, true where a frame is an image of its own that temporal layers
    must leave alone. `given_BT`: bool, true where a frame of the input is given and clean
    (`models.edm.Preconditioning`). `shown_BT`: bool, true where `frames_BCTHW` holds a frame for a network that fills in
    the others (`VideoUNetConfig.missing_size`). `dropped_BL`: of clips whose text was dropped the mask that it had, false
    throughout for the others. What a network does not ask for is None.
    """

    text_BLD: Tensor
    mask_BL: Tensor
    numbers_BN: Tensor
    label_B: Tensor | None = None
    size_B3: Tensor | None = None
    frames_BCTHW: Tensor | None = None
    image_only_BT: Tensor | None = None
    given_BT: Tensor | None = None
    shown_BT: Tensor | None = None
    dropped_BL: Tensor | None = None

    def to(self, device: torch.device | str) -> Conditioning:
        return Conditioning(*(value if value is None else value.to(device) for value in vars(self).values()))


def drop_text(conditioning: Conditioning, drop_B: Tensor) -> Conditioning:
    """Replace what is asked for of the clips where `drop_B` (bool) is true: by the null text, and by no class."""
    text_BLD = conditioning.text_BLD.masked_fill(drop_B[:, None, None], 0.0)
    label_B = conditioning.label_B
    already_BL = _dropped(conditioning)
    newly_B1 = drop_B[:, None] & ~already_BL.any(1, keepdim=True)
    return replace(
        conditioning,
        text_BLD=text_BLD,
        dropped_BL=torch.where(newly_B1, conditioning.mask_BL, already_BL),
        mask_BL=conditioning.mask_BL | drop_B[:, None],
        label_B=None if label_B is None else label_B.masked_fill(drop_B, torch.nan),
    )


def _dropped(conditioning: Conditioning) -> Tensor:
    if conditioning.dropped_BL is None:
        return torch.zeros_like(conditioning.mask_BL)
    return conditioning.dropped_BL


def drop_frames(conditioning: Conditioning, drop_B: Tensor) -> Conditioning:
    """Replace the frames that join the input by zeros, where `drop_B` (bool) is true and there are any (SVD)."""
    frames = conditioning.frames_BCTHW
    if frames is None:
        return conditioning
    return replace(conditioning, frames_BCTHW=frames.masked_fill(drop_B[:, None, None, None, None], 0.0))


def without_text(conditioning: Conditioning) -> Conditioning:
    """The side of guidance that is not told the text: null text for every clip, all else unchanged."""
    return drop_text(conditioning, _everyone(conditioning))


def without_frames(conditioning: Conditioning) -> Conditioning:
    """The side of guidance that is not told the frames that join the input, all else unchanged."""
    return drop_frames(conditioning, _everyone(conditioning))


def _everyone(conditioning: Conditioning) -> Tensor:
    return torch.ones(len(conditioning.text_BLD), dtype=torch.bool, device=conditioning.text_BLD.device)


def draw_dropout(num_clips: int, rate: float, generator: torch.Generator) -> Tensor:
    """Which clips lose their text: bool (num_clips,), each true with probability `rate`, fixed by the
    generator.
    """
    return torch.rand(num_clips, generator=generator) < rate


def stack(first: Conditioning, second: Conditioning) -> Conditioning:
    """Two batches as one, first then second; the text of one alone may have been dropped.

    Raises InputError where one has what the other lacks, or in another shape.
    """
    if (first.dropped_BL is None) != (second.dropped_BL is None):
        first, second = (replace(each, dropped_BL=_dropped(each)) for each in (first, second))
    fields = {}
    for name, one in vars(first).items():
        other = getattr(second, name)
        shapes = ["missing" if value is None else tuple(value.shape[1:]) for value in (one, other)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{name} of the clips of two batches is {shapes[0]} and {shapes[1]}, expected the same in both; "
                f"give it to both, zeros where there is nothing to tell, or to none"
            )
        fields[name] = None if one is None else torch.cat([one, other])
    return Conditioning(**fields)


def frames_of(conditioning: Conditioning, index_T: Tensor) -> Conditioning:
    """What is told of some of the frames, and all that is told of the clip."""
    frames_dims = {"frames_BCTHW": 2, "image_only_BT": 1, "given_BT": 1, "shown_BT": 1}
    values = {name: getattr(conditioning, name) for name in frames_dims}
    chosen = {
        name: value.index_select(frames_dims[name], index_T.to(value.device))
        for name, value in values.items()
        if value is not None
    }
    return replace(conditioning, **chosen)


def motion_edges(motion_N: Tensor) -> Tensor:
    """The NUM_MOTION_BUCKETS - 1 inner edges that split known motion scores into equal shares (float32).

    Clips of unknown motion (NaN) are left out; with no known score the edges are all 0 and say nothing.
    """
    known = motion_N[~motion_N.isnan()].double()
    if not len(known):
        return torch.zeros(NUM_MOTION_BUCKETS - 1)
    quantiles = torch.arange(1, NUM_MOTION_BUCKETS, dtype=torch.float64) / NUM_MOTION_BUCKETS
    return torch.quantile(known, quantiles).float()


def motion_bucket(motion_B: Tensor, edges: Tensor) -> Tensor:
    """Bucket of each motion score as float32 0..len(edges): its quantile rank; NaN stays NaN."""
    bucket_B = torch.bucketize(motion_B, edges.to(motion_B.device), right=True).float()
    return bucket_B.masked_fill(motion_B.isnan(), torch.nan)
