"""One open_clip model with its tokenizer and preprocessing: the embedded one or any published one, through one class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.weight_files import check_weights
from warehouse.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EMBEDDED = "embedded"


@dataclass(frozen=True)
class ClipModel:
    """An image tower and a text tower that share a space, and for CoCa classes a captioner."""

    name: str
    """'embedded', a hub name, or a name and its weights, as tables give it."""
    network: torch.nn.Module
    tokenizer: Any
    """open_clip's kind: call it with texts for padded ids (B, L); sot_token_id, eot_token_id, decode(ids)."""
    preprocess: Callable[[Any], Tensor]
    """From a PIL image to float (3, H, W)."""
    device: str
    dtype: torch.dtype

    def images(self, pictures_HW3: Sequence[np.ndarray]) -> Tensor:
        """uint8 RGB pictures of any sizes as the image tower's input (B, 3, H, W)."""
        import torch
        from PIL import Image

        prepared = [self.preprocess(Image.fromarray(picture)) for picture in pictures_HW3]
        return torch.stack(prepared).to(self.device, self.dtype)

    def embed_images(self, pictures_HW3: Sequence[np.ndarray], batch_size: int = 64) -> np.ndarray:
        """float32 (B, D) of length 1."""
        return self._embed(
            lambda part: self.network.encode_image(self.images(part)), pictures_HW3, batch_size
        )

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """float32 (B, D) of length 1; texts beyond the model's context are cut by its tokenizer."""
        return self._embed(
            lambda part: self.network.encode_text(self.tokenizer(list(part)).to(self.device)),
            texts,
            batch_size,
        )

    def _embed(self, encode: Callable[[Sequence], Tensor], items: Sequence, batch_size: int) -> np.ndarray:
        import torch

        with torch.inference_mode():
            parts = [encode(part).float() for part in batches(items, batch_size)]
            return torch.nn.functional.normalize(torch.cat(parts), dim=-1).cpu().numpy()


def batches(items: Sequence, size: int) -> Iterator[Sequence]:
    """`items` in order, at most `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def check_clip(model: str, pretrained: str | None) -> None:
    """Looks at local weights that `load_clip` would load. Raises WeightsError."""
    if model.startswith("local-dir:"):  # any other is open_clip's own name, also where a folder has the same
        check_weights(model, needs="open_clip_config.json")
    if pretrained is not None and (Path(pretrained).suffix or "/" in pretrained):  # a tag has neither
        check_weights(pretrained)


@lru_cache(maxsize=2)
def load_clip(model: str, pretrained: str | None) -> ClipModel:
    """The model, kept by the process: several annotators share one.

    Args:
        model: 'embedded', an open_clip architecture ('ViT-L-14'), 'hf-hub:owner/name', or 'local-dir:folder' with an
            `open_clip_config.json` and weights.
        pretrained: for an architecture, open_clip's tag of its weights ('openai') or a file.

    Raises:
        WeightsError: there are no such weights here, or they do not fit.
    """
    return _load_embedded() if model == EMBEDDED else _load_published(model, pretrained)


def _load_embedded() -> ClipModel:
    import torch

    from models.embedded import load_coca

    coca = load_coca()
    device, _ = _device()
    preprocess = _preprocess({"size": coca.image_size, "mean": coca.mean, "std": coca.std})
    return ClipModel(
        EMBEDDED, coca.model.to(device).eval(), coca.tokenizer, preprocess, device, torch.float32
    )


def _load_published(model: str, pretrained: str | None) -> ClipModel:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    device, dtype = _device()
    try:
        network = open_clip.create_model(
            model,
            pretrained,
            precision="fp32" if device == "cpu" else "fp16",
            device=device,
            # OpenAI's weights were trained with another GELU than the architectures of the same name have.
            force_quick_gelu=bool(pretrained and get_pretrained_cfg(model, pretrained).get("quick_gelu")),
            require_pretrained=True,
        )
        tokenizer = open_clip.get_tokenizer(model)
    # A missing file, an unknown name, a hub out of reach: open_clip has no error of its own.
    except Exception as error:
        raise WeightsError(
            f"open_clip model {model!r} with weights {pretrained!r} cannot be loaded ({error}); give `pretrained` as a "
            "file or one of open_clip's tags, or `model` as 'local-dir:FOLDER' with open_clip_config.json and weights, "
            f"or as '{EMBEDDED}', which comes with Cutroom"
        ) from error
    name = model if pretrained is None else f"{model}/{pretrained}"
    preprocess = _preprocess(open_clip.get_model_preprocess_cfg(network))
    return ClipModel(name, network.eval(), tokenizer, preprocess, device, dtype)


def _device() -> tuple[str, torch.dtype]:
    import torch

    from models.devices import best_device

    device = best_device()
    return device, torch.float32 if device == "cpu" else torch.float16


def _preprocess(settings: dict[str, Any]) -> Callable[[Any], Tensor]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(**settings), is_train=False)
