"""The autoencoder wrapper against diffusers' own calls, and the embedded weights on shots never trained on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from curation.sample_reel import random_shots, render
from models import autoencoder as module
from models.autoencoder import load_autoencoder
from warehouse.errors import WeightsError

SMALL_KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "scaling_factor": 0.25,
    "shift_factor": 0.5,
}
SMALL_TINY = {
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "num_encoder_blocks": (1, 1, 1),
    "num_decoder_blocks": (1, 1, 1),
    "upsampling_scaling_factor": 2,
}
SMALL_TEMPORAL = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "block_out_channels": (32, 32),
    "scaling_factor": 0.5,
}


def frames(num_videos=2, num_frames=3, side_px=32):
    shots = random_shots(num_videos, seed=21)
    x = np.stack([render(shot, side_px, num_frames) for shot in shots])
    return torch.from_numpy(x).permute(0, 1, 4, 2, 3) / 127.5 - 1


def save_small(kind, config, folder):
    import diffusers

    torch.manual_seed(0)
    network = getattr(diffusers, kind)(**config).eval()
    network.save_pretrained(folder)
    return network


@pytest.fixture(scope="module")
def embedded():
    return load_autoencoder()


@torch.no_grad()
def test_kl_from_a_folder_is_diffusers_own_scaled_and_shifted(tmp_path):
    network = save_small("AutoencoderKL", SMALL_KL, tmp_path)
    loaded = load_autoencoder(str(tmp_path))
    x = frames()
    z = loaded.encode(x)
    assert z.shape == (2, 3, 4, 16, 16)
    assert (loaded.downsampling, loaded.latent_channels, loaded.scale_factor) == (2, 4, 0.25)
    posterior = network.encode(x.flatten(0, 1)).latent_dist
    torch.testing.assert_close(z.flatten(0, 1), (posterior.mode() - 0.5) * 0.25)
    torch.testing.assert_close(loaded.decode(z).flatten(0, 1), network.decode(posterior.mode()).sample)


@torch.no_grad()
def test_samples_follow_the_posterior_and_the_generator(tmp_path, monkeypatch):
    network = save_small("AutoencoderKL", SMALL_KL, tmp_path)
    loaded = load_autoencoder(str(tmp_path))
    x = frames(1, 4)
    once = loaded.encode(x, torch.Generator().manual_seed(3))
    monkeypatch.setattr(module, "_CHUNK_PX", 32 * 32)  # one frame at a time draws the same noise
    again = loaded.encode(x, torch.Generator().manual_seed(3))
    torch.testing.assert_close(once, again)
    assert not torch.allclose(once, loaded.encode(x, torch.Generator().manual_seed(4)))
    std = network.encode(x.flatten(0, 1)).latent_dist.std
    noise = (once - loaded.encode(x)).flatten(0, 1) / 0.25 / std
    assert noise.std() == pytest.approx(1, abs=0.05) and noise.mean() == pytest.approx(0, abs=0.05)


@torch.no_grad()
def test_tiny_and_temporal_decoders_load_through_the_same_call(tmp_path):
    tiny = save_small("AutoencoderTiny", SMALL_TINY, tmp_path / "tiny")
    loaded = load_autoencoder(str(tmp_path / "tiny"))
    x = frames()
    assert loaded.downsampling == 4
    z = loaded.encode(x)
    torch.testing.assert_close(z.flatten(0, 1), tiny.encode(x.flatten(0, 1)).latents)
    torch.testing.assert_close(loaded.decode(z).flatten(0, 1), tiny.decode(z.flatten(0, 1)).sample)

    temporal = save_small("AutoencoderKLTemporalDecoder", SMALL_TEMPORAL, tmp_path / "pipeline" / "vae")
    loaded = load_autoencoder(str(tmp_path / "pipeline"), subfolder="vae")
    z = loaded.encode(x)
    assert z.shape == (2, 3, 4, 16, 16)
    together = temporal.decode((z / 0.5).flatten(0, 1), num_frames=3).sample
    torch.testing.assert_close(loaded.decode(z).flatten(0, 1), together)


@torch.no_grad()
def test_chunks_change_memory_and_not_values(embedded, monkeypatch):
    x = frames(2, 5, 64)
    whole = embedded.decode(embedded.encode(x))
    seen = []
    watch = embedded.network.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr(module, "_CHUNK_PX", 3 * 64 * 64)
    torch.testing.assert_close(embedded.decode(embedded.encode(x)), whole, atol=1e-4, rtol=1e-4)
    watch.remove()
    assert seen == [3, 3, 3, 1]


def test_the_digest_names_weights_and_scaling_but_not_the_dtype(tmp_path):
    save_small("AutoencoderKL", SMALL_KL, tmp_path)
    digest = load_autoencoder(str(tmp_path)).digest
    half = load_autoencoder(str(tmp_path), torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.encode(frames()).dtype == torch.bfloat16
    assert half.digest == digest
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.3}))
    assert load_autoencoder(str(tmp_path)).digest != digest


def test_errors_say_what_was_expected(tmp_path, embedded):
    with pytest.raises(WeightsError, match="expected a hub id or a folder with config"):
        load_autoencoder(str(tmp_path / "nothing"))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(WeightsError, match="holds a UNet2DModel: expected one of AutoencoderKL"):
        load_autoencoder(str(tmp_path))
    with pytest.raises(ValueError, match="multiples of 8"):
        embedded.encode(torch.zeros(1, 1, 3, 60, 64))
    with pytest.raises(ValueError, match="expected B,T,4,H,W"):
        embedded.decode(torch.zeros(1, 4, 8, 8))


def test_embedded_latents_are_eight_times_smaller_with_unit_channels(embedded):
    assert (embedded.downsampling, embedded.latent_channels) == (8, 4)
    z = embedded.encode(frames(48, 1, 64))
    assert z.shape == (48, 1, 4, 8, 8)
    assert np.allclose(z.std((0, 1, 3, 4)), 1, atol=0.2)
    assert np.allclose(z.mean((0, 1, 3, 4)), 0, atol=0.3)


@pytest.mark.parametrize("side_px", [64, 96])
def test_embedded_keeps_25_db_of_unseen_shots(embedded, side_px):
    shots = random_shots(96, seed=987)
    x = (
        torch.from_numpy(np.stack([render(shot, side_px, 1) for shot in shots])).permute(0, 1, 4, 2, 3)
        / 127.5
        - 1
    )
    error = embedded.decode(embedded.encode(x)).clamp(-1, 1) - x
    psnr_db = 10 * torch.log10(4 / error.square().mean((1, 2, 3, 4)))
    assert psnr_db.mean() >= 25
