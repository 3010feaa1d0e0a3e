"""Frozen text encoders, published or embedded, that give a diffusion model one vector per token.

Shapes: B texts, L tokens (always `max_length`), D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.digest import OPEN_CLIP, weights_digest
from models.whole_weights import LOADING_FAILS, whole
from warehouse.errors import InputError, WeightsError

_CLIP = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel"}
_T5 = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
_CLASSES = _CLIP | _T5
_T5_LENGTHS = {"t5": 120, "mt5": 512, "umt5": 512}
"""Tokens where nothing else is asked for: PixArt-alpha and Open-Sora 1.0; Open-Sora-Plan 1.3; Wan."""
_CHUNK = 64  # texts encoded at once


class TextEncoder:
    """Turns texts into vectors per token and a mask of which tokens count.

    `tokenize` gives ids (B, L) and mask (B, L); `features` gives vectors (B, L, D) for both; `lengths` the tokens of whole
    texts. `digest` names weights, vocabulary and length together.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenize: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
        features: Callable[[Tensor, Tensor], Tensor],
        vocabulary: Sequence[str],
        lengths: Callable[[Sequence[str]], list[int]],
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self._tokenize, self._features, self._lengths = tokenize, features, lengths
        tokens_1LD, _ = self.encode([""])
        self.max_length, self.width = tokens_1LD.shape[1:]
        words = hashlib.sha256("\n".join(vocabulary).encode()).hexdigest()
        self.digest = weights_digest(network, words=words, max_length=self.max_length)

    def to(self, device: torch.device | str) -> TextEncoder:
        """Move the weights; returns itself."""
        self.network.to(device)
        return self

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each whole text, marks of its begin and end among them; of more than `max_length` the rest is cut."""
        return self._lengths(list(texts))

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
    max_length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> TextEncoder:
    """The text tower of the embedded CoCa, or a published encoder from local files or a hub.

    Args:
        name_or_path: "embedded"; a CLIP, T5, mT5 or UMT5 encoder in transformers' layout, by folder or hub id (in a
            diffusers pipeline the subfolders are "text_encoder" and "tokenizer"); or open_clip's
            "open_clip:ViT-H-14:laion2b_s32b_b79k", "open_clip:local-dir:FOLDER" or "open_clip:hf-hub:OWNER/NAME",
            of which the last layer but one is taken, normalised, as Stable Diffusion 2 and SVD were trained.
        max_length: tokens; by default those of the encoder's positions (CLIP), or for T5 120, for mT5 and UMT5 512. The
            systems that use T5 have 120 (PixArt-alpha, Open-Sora 1.0), 200 (1.1), 300 (1.2, PixArt-Sigma) and 512.
        dtype: of the weights of a published encoder in transformers' layout, and what it computes in.

    CLIP's mask is true everywhere: models were trained to attend to its padding too. T5's is true for tokens.

    Raises:
        WeightsError: nothing can be read, or the encoder is of another kind.
        InputError: the encoder has no such length, or no such type.
    """
    if name_or_path != "embedded" and not name_or_path.startswith(OPEN_CLIP):
        return _published(name_or_path, subfolder, tokenizer_subfolder, max_length, dtype)
    if dtype != torch.float32:
        raise InputError(
            f"text encoder {name_or_path!r} computes in float32, got {dtype}; leave the type out"
        )
    embedded = name_or_path == "embedded"
    encoder = _embedded() if embedded else _open_clip(name_or_path.removeprefix(OPEN_CLIP))
    if max_length not in (None, encoder.max_length):
        raise InputError(
            f"max_length is {max_length}, but text encoder {name_or_path!r} has {encoder.max_length} tokens always; "
            "leave it out"
        )
    return encoder


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

    def lengths(texts: Sequence[str]) -> list[int]:
        return [2 + len(tokenizer.encode(text)) for text in texts]

    return TextEncoder(tower, tokenize, features, tokenizer.words, lengths)


def _published(
    name_or_path: str,
    subfolder: str,
    tokenizer_subfolder: str,
    max_length: int | None,
    dtype: torch.dtype,
) -> TextEncoder:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(name_or_path, subfolder=subfolder)
        if config.model_type not in _CLASSES:
            known = ", ".join(sorted(_CLASSES))
            raise WeightsError(f"{name_or_path!r} holds a {config.model_type}: expected one of {known}")
        cls = getattr(transformers, _CLASSES[config.model_type])
        how = {"dtype": dtype, "output_loading_info": True}
        network = whole(cls.from_pretrained(name_or_path, subfolder=subfolder, **how), name_or_path)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name_or_path, subfolder=tokenizer_subfolder)
        _check_tokenizer(Path(name_or_path) / tokenizer_subfolder, tokenizer)
    except LOADING_FAILS as error:
        raise WeightsError(
            f"no text encoder at {name_or_path!r}: expected a hub id or a folder with config, weights and tokenizer in "
            f"transformers' layout, or 'embedded' ({error})"
        ) from error
    length = _length(name_or_path, network.config, max_length)
    sees_padding = config.model_type in _CLIP

    def tokenize(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        out = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        mask_BL = out.attention_mask.bool()
        return out.input_ids, torch.ones_like(mask_BL) if sees_padding else mask_BL

    def features(ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        attended = None if sees_padding else mask_BL.long()
        return network(input_ids=ids_BL, attention_mask=attended).last_hidden_state

    def lengths(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, verbose=False).input_ids]

    return TextEncoder(network, tokenize, features, sorted(tokenizer.get_vocab()), lengths)


def _check_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Without its files transformers makes a tokenizer that knows no word. Raises WeightsError."""
    files = list(tokenizer.vocab_files_names.values())
    if folder.is_dir() and not any((folder / file).exists() for file in files):
        raise WeightsError(
            f"{folder} holds no tokenizer: expected {' or '.join(files)}; name its folder in the pipeline "
            f"(encode.tokenizer_subfolder), or put them there"
        )


def _length(name: str, config: Any, max_length: int | None) -> int:
    most = getattr(config, "max_position_embeddings", None)
    length = max_length if max_length is not None else most or _T5_LENGTHS[config.model_type]
    if not 2 <= length <= (most or length):
        expected = f"from 2 to the {most} positions of {name!r}" if most else "at least 2"
        raise InputError(f"max_length is {length}, expected {expected}")
    return length


def _open_clip(name: str) -> TextEncoder:
    import open_clip

    scheme, _, rest = name.partition(":")
    model, pretrained = (name, None) if scheme in ("local-dir", "hf-hub") else (scheme, rest or None)
    try:
        network = open_clip.create_model(model, pretrained, precision="fp32", require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(model)
    # A missing file, an unknown name, a hub out of reach: open_clip has no error of its own.
    except Exception as error:
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

    def lengths(texts: Sequence[str]) -> list[int]:
        if hasattr(tokenizer, "encode"):  # open_clip's own; the others wrap one of transformers
            return [2 + len(tokenizer.encode(text)) for text in texts]
        return [len(ids) for ids in tokenizer.tokenizer(texts, verbose=False).input_ids]

    return TextEncoder(network, tokenize, features, [type(tokenizer).__name__, model], lengths)
