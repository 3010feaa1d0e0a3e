"""Captions of single pictures by a CoCa of open_clip's classes, embedded or published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from curation.annotators.caption_decoding import Decoded, DecodingConfig, decode
from curation.annotators.clip_model import ClipModel, batches
from warehouse.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Caption:
    """What a model says of a picture or a clip."""

    text: str
    status: str
    """'ok', or 'truncated' where it did not come to an end."""
    mean_log_prob: float | None = None
    """Mean log-probability of its tokens; None where the model does not tell."""


class CocaCaptioner:
    """Writes one caption per picture."""

    def __init__(self, clip: ClipModel, decoding: DecodingConfig, batch_size: int) -> None:
        if not hasattr(clip.network, "text_decoder"):
            raise WeightsError(
                f"{clip.name!r} cannot write captions: it has no text decoder; choose a model of the CoCa family "
                "('coca_ViT-L-14', 'embedded')"
            )
        self.name = clip.name
        self._clip = clip
        self._batch_size = batch_size
        # A CoCa has positions for as many tokens as its context: the start token and all but the last.
        self._decoding = replace(decoding, max_tokens=min(decoding.max_tokens, clip.network.context_length))

    def caption(self, pictures_HW3: Sequence[np.ndarray]) -> list[Caption]:
        """Captions of uint8 RGB pictures of any sizes, in order."""
        return [caption for part in batches(pictures_HW3, self._batch_size) for caption in self._part(part)]

    def _part(self, pictures_HW3: Sequence[np.ndarray]) -> list[Caption]:
        import torch

        network, tokenizer = self._clip.network, self._clip.tokenizer
        with torch.inference_mode():
            seen = network(self._clip.images(pictures_HW3))
            latent_ND, tokens_NTD = seen["image_features"], seen["image_embs"]

            def next_logits(images_B: Tensor, tokens_BL: Tensor) -> Tensor:
                told = network(
                    None,
                    tokens_BL,
                    image_latent=latent_ND[images_B],
                    image_embs=tokens_NTD[images_B],
                    output_labels=False,
                )
                return told["logits"][:, -1]

            decoded = decode(
                next_logits,
                len(pictures_HW3),
                tokenizer.sot_token_id,
                tokenizer.eot_token_id,
                self._decoding,
                banned_ids=(tokenizer.sot_token_id, network.pad_id),
                device=self._clip.device,
            )
        return [self._caption(caption) for caption in decoded]

    def _caption(self, decoded: Decoded) -> Caption:
        text = " ".join(self._clip.tokenizer.decode(list(decoded.tokens)).split()).removesuffix(" .")
        return Caption(text, "truncated" if decoded.truncated else "ok", decoded.mean_log_prob)
