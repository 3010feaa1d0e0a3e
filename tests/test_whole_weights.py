"""Encoders of others whose files lack something, or hold something else: diffusers and transformers would go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_autoencoder import SMALL_KL
from test_text_encoder import save_tokenizer
from torch import Tensor

from models.autoencoder import load_autoencoder
from models.image_encoder import load_image_encoder
from models.text_encoder import load_text_encoder
from warehouse.errors import WeightsError

CLIP = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
PATCHES = {"image_size": 56, "patch_size": 14, "projection_dim": 24}


def save_t5(folder: Path) -> None:
    sizes = {"vocab_size": 32, "d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    transformers.T5EncoderModel(transformers.T5Config(**sizes)).save_pretrained(folder)
    save_tokenizer(folder)


def save_clip(folder: Path) -> None:
    config = transformers.CLIPVisionConfig(**CLIP, **PATCHES)
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)


def save_autoencoder(folder: Path) -> None:
    diffusers.AutoencoderKL(**SMALL_KL).save_pretrained(folder)


LOADED: dict[str, tuple[Callable[[Path], None], Callable[[str], Any], str]] = {
    "text": (save_t5, load_text_encoder, "shared.weight"),
    "image": (save_clip, load_image_encoder, "visual_projection.weight"),
    "autoencoder": (save_autoencoder, load_autoencoder, "quant_conv.weight"),
}


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", LOADED)
def test_a_weight_that_is_missing_is_not_made_up(tmp_path: Path, kind: str) -> None:
    save, load, name = LOADED[kind]
    save(tmp_path)
    load(str(tmp_path))
    rewrite(tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(
        WeightsError, match=rf"holds no whole \w+: it lacks \d \(.*{name}.*\); fetch it again"
    ):
        load(str(tmp_path))


@pytest.mark.parametrize("kind", LOADED)
def test_files_of_other_shapes_or_cut_short_are_named(tmp_path: Path, kind: str) -> None:
    save, load, name = LOADED[kind]
    save(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({name: torch.zeros(3, 3)}))
    with pytest.raises(WeightsError, match=f"{tmp_path}"):
        load(str(tmp_path))
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=f"{tmp_path}"):
        load(str(tmp_path))


def test_an_autoencoder_with_more_layers_than_its_class_is_refused(tmp_path: Path) -> None:
    save_autoencoder(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"encoder.pool.weight": torch.ones(2)}))
    with pytest.raises(WeightsError, match=r"it has besides 1 \(encoder.pool.weight\)"):
        load_autoencoder(str(tmp_path))


def test_autoencoders_of_earlier_versions_of_diffusers_are_whole(tmp_path: Path) -> None:
    """Their attention has other names, which diffusers knows."""
    save_autoencoder(tmp_path)
    now = load_autoencoder(str(tmp_path))
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            for new, old in earlier.items():
                if f"attentions.0.{new}." in name:
                    tensors[name.replace(f".{new}.", f".{old}.")] = tensors.pop(name)

    rewrite(tmp_path, rename)
    assert load_autoencoder(str(tmp_path)).digest == now.digest


def test_a_text_encoder_is_read_from_a_file_that_holds_more(tmp_path: Path) -> None:
    config = transformers.CLIPConfig(
        text_config={
            **CLIP,
            "vocab_size": 32,
            "max_position_embeddings": 10,
            "eos_token_id": 1,
            "bos_token_id": 2,
        },
        vision_config=CLIP | PATCHES,
        projection_dim=24,
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert load_text_encoder(str(tmp_path), max_length=8).width == 16


def test_an_encoder_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    """transformers makes one that knows no word, and every text becomes the same."""
    save_t5(tmp_path / "text_encoder")
    for path in (tmp_path / "text_encoder").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(
        WeightsError, match=r"text_encoder holds no tokenizer: expected spiece.model or tokenizer.json"
    ):
        load_text_encoder(str(tmp_path / "text_encoder"))
    save_tokenizer(tmp_path / "tokenizer")
    found = load_text_encoder(str(tmp_path), subfolder="text_encoder", tokenizer_subfolder="tokenizer")
    assert found.num_tokens(["a red circle"]) == [4]
