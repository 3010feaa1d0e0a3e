"""The autoencoder wrapper against diffusers' own calls, and the embedded weights on shots never trained on."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from curation.reel.sample_reel import random_shots, render
from models import autoencoder as module
from models.autoencoder import load_autoencoder
from models.autoencoder_layouts import autoencoder_original
from models.weight_names import write_weights
from warehouse.errors import InputError, WeightsError

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


@pytest.fixture
def temporal(tmp_path):
    network = save_small("AutoencoderKLTemporalDecoder", SMALL_TEMPORAL, tmp_path)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape) / max(1, parameter[0].numel()) ** 0.5)
    network.save_pretrained(tmp_path)
    return network, tmp_path


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 5, 14])
def test_a_temporal_decoder_sees_up_to_fourteen_frames_of_svds_size_together(
    temporal, monkeypatch, num_frames
):
    assert 14 * 576 * 1024 <= module._TOGETHER_PX < 15 * 576 * 1024
    monkeypatch.setattr(module, "_TOGETHER_PX", 14 * 16 * 16)
    network, folder = temporal
    loaded = load_autoencoder(str(folder))
    z = torch.randn(2, num_frames, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    whole = [network.decode(clip / 0.5, num_frames=num_frames).sample for clip in z]
    torch.testing.assert_close(loaded.decode(z), torch.stack(whole))
    if num_frames > 1:
        alone = load_autoencoder(str(folder), decode_frames=1).decode(z)
        assert (alone - torch.stack(whole)).abs().mean() > 0.01, "frames hear each other"


@torch.no_grad()
def test_longer_clips_are_decoded_in_pieces_of_full_length(temporal):
    network, folder = temporal
    loaded = load_autoencoder(str(folder), decode_frames=14)
    z = torch.randn(1, 25, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    head = network.decode(z[0, :14] / 0.5, num_frames=14).sample
    tail = network.decode(z[0, 11:] / 0.5, num_frames=14).sample
    torch.testing.assert_close(loaded.decode(z)[0], torch.cat([head[:12], tail[1:]]))
    with pytest.raises(InputError, match="decode_frames is 0, expected at least 1"):
        load_autoencoder(str(folder), decode_frames=0)


@given(num_frames=st.integers(1, 60), together=st.integers(1, 20))
def test_pieces_keep_every_frame_once_and_none_is_short(num_frames, together):
    pieces = module._pieces(num_frames, together)
    frames = range(num_frames)
    assert [frame for seen, kept in pieces for frame in frames[seen][kept]] == list(frames)
    assert {len(frames[seen]) for seen, _ in pieces} == {min(together, num_frames)}
    assert len(pieces) == -(-num_frames // together)


SMALL_COG = {
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    "block_out_channels": (8, 8, 8, 8),
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "scaling_factor": 0.7,
}
SMALL_WAN = {
    "base_dim": 8,
    "z_dim": 2,
    "dim_mult": [1, 1, 2, 2],
    "num_res_blocks": 1,
    "latents_mean": [0.5, -1.0],
    "latents_std": [2.0, 0.25],
}


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "config", "scale", "shift"),
    [
        ("AutoencoderKLCogVideoX", SMALL_COG, torch.tensor(0.7), torch.tensor(0.0)),
        ("AutoencoderKLWan", SMALL_WAN, torch.tensor([0.5, 4.0]), torch.tensor([0.5, -1.0])),
    ],
)
def test_networks_of_whole_videos_keep_a_quarter_of_the_frames(tmp_path, kind, config, scale, shift):
    network = save_small(kind, config, tmp_path)
    loaded = load_autoencoder(str(tmp_path))
    x_BTCHW = frames(2, 9, 32)
    assert (loaded.downsampling, loaded.time_downsampling, loaded.latent_frames(9)) == (8, 4, 3)
    z_BTCHW = loaded.encode(x_BTCHW)
    modes = [network.encode(x.movedim(1, 0)[None]).latent_dist.mode()[0] for x in x_BTCHW]
    scale, shift = (value.reshape(-1, 1, 1, 1) for value in (scale, shift))
    theirs = torch.stack([(mode - shift) * scale for mode in modes])
    torch.testing.assert_close(z_BTCHW, theirs.movedim(1, 2), atol=1e-5, rtol=1e-5)
    again = loaded.decode(z_BTCHW)
    assert again.shape == x_BTCHW.shape
    for mode, frames_TCHW in zip(modes, again, strict=True):
        torch.testing.assert_close(
            frames_TCHW.movedim(1, 0), network.decode(mode[None]).sample[0], atol=1e-4, rtol=1e-4
        )
    fewer = loaded.decode(z_BTCHW[:, :2])
    assert fewer.shape[1] == 5, "as many as `latent_frames` counts two latents for"
    theirs = network.decode(modes[0][None, :, :2]).sample[0, :, -5:]
    torch.testing.assert_close(fewer[0].movedim(1, 0), theirs, atol=1e-4, rtol=1e-4)
    if kind == "AutoencoderKLWan":  # later frames change no earlier latents; CogVideoX's norms see all frames
        first = loaded.encode(x_BTCHW[:, :5])
        torch.testing.assert_close(first, z_BTCHW[:, :2], atol=1e-4, rtol=1e-4)
    noisy = loaded.encode(x_BTCHW, torch.Generator().manual_seed(1)) - z_BTCHW
    assert noisy.shape == z_BTCHW.shape and noisy.abs().min() > 0
    with pytest.raises(
        InputError, match=r"is 8, but a .* takes one and a multiple of 4 besides; take 5 or 9"
    ):
        loaded.encode(x_BTCHW[:, :8])
    with pytest.raises(InputError, match=r"is 0, .*; take 1$"):
        loaded.latent_frames(0)
    with pytest.raises(ValueError, match="no moments of single frames"):
        loaded.moments(x_BTCHW[0])


def test_patches_of_pixels_make_latents_smaller_still(tmp_path):
    """Wan 2.2's takes patches of 2x2 pixels as channels, and its sides are divided by 16."""
    patches = {"patch_size": 2, "in_channels": 12, "out_channels": 12, "is_residual": True}
    network = save_small("AutoencoderKLWan", SMALL_WAN | patches, tmp_path)
    loaded = load_autoencoder(str(tmp_path))
    x_BTCHW = frames(1, 5, 64)
    z_BTCHW = loaded.encode(x_BTCHW)
    assert loaded.downsampling == 16 and z_BTCHW.shape == (1, 2, 2, 4, 4)
    assert loaded.decode(z_BTCHW).shape == x_BTCHW.shape
    mode = network.encode(x_BTCHW[0].movedim(1, 0)[None]).latent_dist.mode()[0, :, 0]
    shift, scale = torch.tensor([0.5, -1.0]), torch.tensor([0.5, 4.0])
    torch.testing.assert_close(z_BTCHW[0, 0], (mode - shift[:, None, None]) * scale[:, None, None])
    with pytest.raises(ValueError, match="multiples of 16"):
        loaded.encode(x_BTCHW[..., :56])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderKLTemporalDecoder"])
def test_original_files_are_read_and_written(tmp_path, kind):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    levels = 3
    config = {
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "layers_per_block": 2,
    }
    config |= {"up_block_types": ("UpDecoderBlock2D",) * levels} if kind == "AutoencoderKL" else {}
    network = save_small(kind, config, tmp_path / "folder")
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape) / max(1, parameter[0].numel()) ** 0.5)
    written = write_weights(network, autoencoder_original(network))
    if kind == "AutoencoderKL":  # diffusers' own conversion knows this one
        theirs = convert_ldm_vae_checkpoint(dict(written), network.config)
        own = network.state_dict()
        assert set(theirs) == set(own)
        assert all(torch.equal(theirs[name].reshape(own[name].shape), own[name]) for name in own)
    else:  # Stability's has no convolution before the latents
        network.quant_conv.weight.copy_(torch.eye(8)[..., None, None])
        network.quant_conv.bias.zero_()
        written = {n: v for n, v in written.items() if not n.startswith("quant_conv")}
    whole = {f"first_stage_model.{n}": v for n, v in written.items()} | {"model.other": torch.zeros(1)}
    save_file(whole, tmp_path / "whole.safetensors")
    loaded = load_autoencoder(str(tmp_path / "whole.safetensors"))
    assert (loaded.kind, loaded.scale_factor) == (kind, 0.18215)
    assert all(torch.equal(v, loaded.network.state_dict()[n]) for n, v in network.state_dict().items())
    with pytest.raises(WeightsError, match="missing"):
        del whole["first_stage_model.decoder.conv_in.bias"]
        save_file(whole, tmp_path / "cut.safetensors")
        load_autoencoder(str(tmp_path / "cut.safetensors"))


@torch.no_grad()
def test_taef2_keeps_34_db_of_real_frames(test_data):
    loaded = load_autoencoder(str(test_data / "weights"))
    assert (loaded.latent_channels, loaded.downsampling) == (32, 8)
    for name in ("apple.mp4", "audrey.mp4", "bikes.mp4"):
        with av.open(str(test_data / "videos" / name)) as container:
            picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
        x = torch.from_numpy(picture[:256, :256]).movedim(-1, 0)[None, None] / 127.5 - 1
        z = loaded.encode(x)
        assert z.mean().abs() < 0.1 and 0.5 < z.std() < 1  # the manifest says mean 0 and deviation 0.8
        error = (loaded.decode(z).clamp(-1, 1) - x).square().mean() / 4
        assert -10 * error.log10() > 34


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
