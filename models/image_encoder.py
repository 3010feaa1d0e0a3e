"""The frozen image encoder whose embedding is the context of image-to-video networks (SVD, appendix D.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.digest import weights_digest
from models.whole_weights import LOADING_FAILS, whole
from warehouse.errors import WeightsError

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on."""


class ImageEncoder:
    """CLIP's image tower with its projection: one token for a picture."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)
        self.side: int = network.config.image_size
        self.width: int = network.config.projection_dim
        self.digest = weights_digest(network, side=self.side)

    def to(self, device: torch.device | str) -> ImageEncoder:
        """Move the weights; returns itself."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def encode(self, x_BCHW: Tensor) -> Tensor:
        """Tokens (B, 1, D) float32 of RGB pictures in [-1, 1], which are stretched to a square: nothing is cropped.

        Raises ValueError where they are not B,3,H,W.
        """
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != 3:
            raise ValueError(f"expected B,3,H,W, got shape {tuple(x_BCHW.shape)}")
        weights = next(self.network.parameters())
        square = shrink(x_BCHW.float(), (self.side, self.side))
        mean, std = (torch.tensor(values, device=square.device)[:, None, None] for values in (_MEAN, _STD))
        pixels = ((square + 1) / 2 - mean) / std
        return self.network(pixels.to(weights)).image_embeds[:, None].float()


def shrink(x_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures resized bicubically, corners on corners, after a blur that what is skipped does not alias.

    The blur has a standard deviation of half of what the factor has beyond 1 and reaches two of them to each side, as
    SVD's weights were trained with (kornia's `resize` with `antialias`).
    """
    from torchvision.transforms.functional import gaussian_blur

    factors = [old / new for old, new in zip(x_BCHW.shape[-2:], size, strict=True)]
    sigmas = [max((factor - 1) / 2, 0.001) for factor in factors]
    reach = [int(max(4 * sigma, 3)) // 2 * 2 + 1 for sigma in sigmas]
    blurred = gaussian_blur(x_BCHW, reach[::-1], sigmas[::-1])  # torchvision has the width first
    return F.interpolate(blurred, size, mode="bicubic", align_corners=True)


def load_image_encoder(name_or_path: str, *, subfolder: str = "") -> ImageEncoder:
    """A CLIP image tower from a local folder or a hub in transformers' layout ("image_encoder" in SVD's pipeline).

    Raises WeightsError where there is none.
    """
    from transformers import AutoConfig, CLIPVisionModelWithProjection

    try:
        config = AutoConfig.from_pretrained(name_or_path, subfolder=subfolder)
        if config.model_type not in ("clip_vision_model", "clip"):
            raise WeightsError(f"{name_or_path!r} holds a {config.model_type}: expected clip_vision_model")
        how = {"dtype": torch.float32, "output_loading_info": True}
        loaded = CLIPVisionModelWithProjection.from_pretrained(name_or_path, subfolder=subfolder, **how)
        network = whole(loaded, name_or_path)
    except LOADING_FAILS as error:
        raise WeightsError(
            f"no image encoder at {name_or_path!r}: expected a hub id or a folder with config and weights of "
            f"transformers' CLIPVisionModelWithProjection ({error})"
        ) from error
    return ImageEncoder(network)
