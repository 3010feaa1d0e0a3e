"""Frozen text encoders, published or embedded, that give a diffusion model one vector per token.

Shapes: B texts, L tokens (always `max_length`), D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.digest import OPEN_CLIP, weights_digest
from warehouse.errors import WeightsError

_CLIP = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel"}
_T5 = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
_CLASSES = _CLIP | _T5
_CHUNK = 64  # texts encoded at once


class TextEncoder:
    """Turns texts into vectors per token and a mask of which tokens count.

    `tokenize` gives ids (B, L) and mask (B, L); `features` gives vectors (B, L, D) for both. `digest` names weights,
    vocabulary and length together.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenize: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
        features: Callable[[Tensor, Tensor], Tensor],
        vocabulary: Sequence[str],
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self._tokenize, self._features = tokenize, features
        tokens_1LD, _ = self.encode([""])
        self.max_length, self.width = tokens_1LD.shape[1:]
        words = hashlib.sha256("\n".join(vocabulary).encode()).hexdigest()
        self.digest = weights_digest(network, words=words, max_length=self.max_length)

    def to(self, device: torch.device | str) -> TextEncoder:
        """Move the weights; returns itself."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors (B, L, D) float32, zero where the mask (B, L) bool is False; texts longer than L tokens are cut."""
        device = next(self.network.parameters()).device
        ids_BL, mask_BL = (part.to(device) for part in self._tokenize(list(texts)))
        chunks = zip(ids_BL.split(_CHUNK), mask_BL.split(_CHUNK), strict=True)
        tokens_BLD = torch.cat([self._features(ids, mask).float() for ids, mask in chunks])
        return tokens_BLD * mask_BL[..., None], mask_BL


def load_text_encoder(
    name_or_path: str = "embedded",
    *,
    subfolder: str = "",
    tokenizer_subfolder: str = "",
    max_length: int = 77,
) -> TextEncoder:
    """The text tower of the embedded CoCa, or a published encoder from local files or a hub.

    Args:
        name_or_path: "embedded"; a CLIP, T5, mT5 or UMT5 encoder in transformers' layout, by folder or hub id (in a
            diffusers pipeline the subfolders are "text_encoder" and "tokenizer"); or open_clip's
            "open_clip:ViT-H-14:laion2b_s32b_b79k", "open_clip:local-dir:FOLDER" or "open_clip:hf-hub:OWNER/NAME",
            of which the last layer but one is taken, normalised, as Stable Diffusion 2 and SVD were trained.
        max_length: tokens of a published T5; CLIP has its number of positions at most.

    CLIP's mask is true everywhere: models were trained to attend to its padding too. T5's is true for tokens.

    Raises:
        WeightsError: nothing can be read, or the encoder is of another kind.
    """
    if name_or_path == "embedded":
        return _embedded()
    if name_or_path.startswith(OPEN_CLIP):
        return _open_clip(name_or_path.removeprefix(OPEN_CLIP))
    return _published(name_or_path, subfolder, tokenizer_subfolder, max_length)


def _embedded() -> TextEncoder:
    from models.embedded import load_coca

    coca = load_coca()
    tower, tokenizer = coca.model.text, coca.tokenizer

    def tokenize(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids_BL = tokenizer(texts)
        return ids_BL, ids_BL != tokenizer.pad_token_id

    def features(ids_BL: Tensor, _: Tensor) -> Tensor:
        _, tokens_BLD = tower(ids_BL)  # the residual stream, whose scale is arbitrary
        return F.layer_norm(tokens_BLD, tokens_BLD.shape[-1:])

    return TextEncoder(tower, tokenize, features, tokenizer.words)


def _published(name_or_path: str, subfolder: str, tokenizer_subfolder: str, max_length: int) -> TextEncoder:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(name_or_path, subfolder=subfolder)
        if config.model_type not in _CLASSES:
            known = ", ".join(sorted(_CLASSES))
            raise WeightsError(f"{name_or_path!r} holds a {config.model_type}: expected one of {known}")
        cls = getattr(transformers, _CLASSES[config.model_type])
        network = cls.from_pretrained(name_or_path, subfolder=subfolder, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name_or_path, subfolder=tokenizer_subfolder)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"no text encoder at {name_or_path!r}: expected a hub id or a folder with config, weights and tokenizer in "
            f"transformers' layout, or 'embedded' ({error})"
        ) from error
    length = min(max_length, getattr(network.config, "max_position_embeddings", max_length))
    sees_padding = config.model_type in _CLIP

    def tokenize(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        out = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        mask_BL = out.attention_mask.bool()
        return out.input_ids, torch.ones_like(mask_BL) if sees_padding else mask_BL

    def features(ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        attended = None if sees_padding else mask_BL.long()
        return network(input_ids=ids_BL, attention_mask=attended).last_hidden_state

    return TextEncoder(network, tokenize, features, sorted(tokenizer.get_vocab()))


def _open_clip(name: str) -> TextEncoder:
    import open_clip

    scheme, _, rest = name.partition(":")
    model, pretrained = (name, None) if scheme in ("local-dir", "hf-hub") else (scheme, rest or None)
    try:
        network = open_clip.create_model(model, pretrained, precision="fp32", require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(model)
    except (
        Exception
    ) as error:  # a missing file, an unknown name, a hub out of reach: open_clip has no error of its own
        raise WeightsError(
            f"open_clip model {name!r} cannot be loaded ({error}); expected ARCHITECTURE:WEIGHTS, local-dir:FOLDER or "
            "hf-hub:OWNER/NAME"
        ) from error

    def tokenize(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids_BL = tokenizer(texts)
        return ids_BL, torch.ones_like(ids_BL, dtype=torch.bool)

    def features(ids_BL: Tensor, _: Tensor) -> Tensor:
        layers = network.forward_intermediates(
            text=ids_BL, text_indices=2, normalize_intermediates=True, intermediates_only=True
        )
        return layers["text_intermediates"][0]

    return TextEncoder(network, tokenize, features, [type(tokenizer).__name__, model])
