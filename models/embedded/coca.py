"""The embedded CoCa (Yu et al. 2022) in open_clip's class: it captions and compares generated footage, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models.embedded.store import load_weights, read_config
from models.embedded.tokenizer import WordTokenizer

if TYPE_CHECKING:
    from open_clip.coca_model import CoCa


@dataclass(frozen=True)
class EmbeddedCoCa:
    """A CoCa with what its inputs must look like: RGB of `image_size` squared pixels, normalised by `mean` and `std`."""

    model: CoCa
    tokenizer: WordTokenizer
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def build_coca(config: dict[str, Any]) -> EmbeddedCoCa:
    """The network of `config` with fresh weights, and its tokenizer."""
    from open_clip.coca_model import CoCa

    network = CoCa(**config["network"])
    tokenizer = WordTokenizer(config["words"], config["network"]["text_cfg"]["context_length"])
    size = config["network"]["vision_cfg"]["image_size"]
    return EmbeddedCoCa(network, tokenizer, size, tuple(config["mean"]), tuple(config["std"]))


def load_coca() -> EmbeddedCoCa:
    """The trained network in float32, in evaluation mode."""
    coca = build_coca(read_config("coca"))
    load_weights("coca", coca.model)
    coca.model.eval()
    return coca


@torch.no_grad()
def greedy_caption(model: CoCa, images_BCHW: Tensor, tokenizer: WordTokenizer) -> list[str]:
    """The likeliest next word, until the end or the context is full, for normalised images."""
    latent_BD, tokens_BLD = model._encode_image(images_BCHW)
    ids_BL = torch.full(
        (len(images_BCHW), 1), tokenizer.sot_token_id, dtype=torch.long, device=images_BCHW.device
    )
    ended_B = torch.zeros(len(images_BCHW), dtype=torch.bool, device=images_BCHW.device)
    while ids_BL.shape[1] < tokenizer.context_length and not ended_B.all():
        out = model(None, ids_BL, image_latent=latent_BD, image_embs=tokens_BLD, output_labels=False)
        next_B = out["logits"][:, -1].argmax(dim=-1)
        ids_BL = torch.cat([ids_BL, next_B[:, None]], dim=1)
        ended_B |= next_B == tokenizer.eot_token_id
    return [tokenizer.decode(ids_L) for ids_L in ids_BL.tolist()]
