"""Files of taesd that are several, damaged, or of something else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from models import taesd
from models.autoencoder import load_autoencoder
from warehouse.errors import WeightsError


def save_pair(folder: Path, name: str) -> AutoencoderTiny:
    """The files as their author has them: layers by number, the decoder's after a clamp."""
    torch.manual_seed(len(name))
    network = AutoencoderTiny().eval()
    encoder = {n.removeprefix("layers."): v for n, v in network.encoder.state_dict().items()}
    decoder = {}
    for key, value in network.decoder.state_dict().items():
        number, _, rest = key.removeprefix("layers.").partition(".")
        decoder[f"{int(number) + 1}.{rest}"] = value
    torch.save(encoder, folder / f"{name}_encoder.pth")
    torch.save(decoder, folder / f"{name}_decoder.pth")
    return network


def test_one_pair_is_read_and_of_several_none(tmp_path: Path) -> None:
    own = save_pair(tmp_path, "taesd").state_dict()
    (tmp_path / "lonely_encoder.pth").write_bytes(b"")  # has no decoder
    loaded = load_autoencoder(str(tmp_path)).network.state_dict()
    assert own.keys() == loaded.keys() and all(torch.equal(own[name], loaded[name]) for name in own)
    save_pair(tmp_path, "taef1")
    save_pair(tmp_path, "taesdxl")
    with pytest.raises(
        WeightsError, match=r"3 autoencoders of taesd \(taef1, taesd, taesdxl\): expected one"
    ):
        load_autoencoder(str(tmp_path))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    save_pair(tmp_path, "taesd")
    file = tmp_path / "taesd_decoder.pth"
    whole = file.read_bytes()
    for damaged in (b"", b"no weights", whole[:200], whole[: len(whole) // 2], whole[:-30], bytes(1000)):
        file.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"taesd_decoder\.pth cannot be read as weights"):
            load_autoencoder(str(tmp_path))


def test_other_weights_are_not_taken_for_taesd(tmp_path: Path) -> None:
    save_pair(tmp_path, "taesd")
    encoder, decoder = tmp_path / "taesd_encoder.pth", tmp_path / "taesd_decoder.pth"
    shutil.copy(encoder, decoder)
    with pytest.raises(WeightsError, match="decoder"):
        taesd.load(encoder, decoder)
    torch.save({"conv.weight": torch.zeros(1)}, decoder)
    with pytest.raises(WeightsError, match=r"names a weight 'conv\.weight'"):
        taesd.load(encoder, decoder)
