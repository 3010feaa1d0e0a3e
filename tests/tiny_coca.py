"""A small random CoCa of open_clip's own classes, saved to a folder as published models are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "layers": 2,
        "head_width": 16,
        "attentional_pool": True,
        "attn_pooler_queries": 16,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 20,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def save_tiny_coca(folder: Path, seed: int = 0) -> str:
    """Writes config and weights; returns the name by which open_clip loads them."""
    from open_clip import CoCa

    torch.manual_seed(seed)
    network = CoCa(**{key: value for key, value in CONFIG.items() if key != "custom_text"})
    for name, parameter in network.named_parameters():
        if name.endswith("text_projection") or "token_embedding" in name:
            torch.nn.init.normal_(
                parameter, std=0.5
            )  # sharp distributions; one projection is left unset otherwise
    return _save(network, CONFIG, folder)


def save_tiny_clip(folder: Path) -> str:
    """As `save_tiny_coca`, without the text decoder."""
    from open_clip import CustomTextCLIP

    towers = {key: dict(CONFIG[key], output_tokens=False) for key in ("vision_cfg", "text_cfg")}
    shape = {"embed_dim": CONFIG["embed_dim"], **towers}
    return _save(CustomTextCLIP(**shape), {**shape, "custom_text": True}, folder)


def _save(network: torch.nn.Module, config: dict[str, Any], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return f"local-dir:{folder}"
