"""What a configuration tells of the scale is what the loaded autoencoder does, and undoes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from curation.footage.media import MediaLimits
from flows.plans import settings_of
from models.autoencoder import load_autoencoder
from models.autoencoder_layouts import autoencoder_original
from models.latent_scaling import scaling_of
from models.weight_names import write_weights
from tasks.encoding import EncodeConfig, LatentWork
from tests.test_autoencoder import SMALL_COG, SMALL_KL, SMALL_TEMPORAL, SMALL_TINY, SMALL_WAN, frames
from warehouse.plan import FACTS, Plan, resolve_keys

UNSAID = {name: value for name, value in SMALL_KL.items() if name not in ("scaling_factor", "shift_factor")}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("AutoencoderKL", SMALL_KL),
        ("AutoencoderKL", UNSAID),
        ("AutoencoderTiny", SMALL_TINY),
        ("AutoencoderKLTemporalDecoder", SMALL_TEMPORAL),
        ("AutoencoderKLCogVideoX", SMALL_COG),
        ("AutoencoderKLWan", SMALL_WAN),
    ],
)
def test_the_scale_is_told_without_loading_and_undone_by_it(
    tmp_path: Path, kind: str, config: dict[str, object]
) -> None:
    network = getattr(diffusers, kind)(**config).eval()
    network.save_pretrained(tmp_path / "vae")
    file = tmp_path / "vae" / "config.json"
    if (
        config is UNSAID
    ):  # as in the files of Stable Diffusion 1, which were saved before there was such a setting
        said = json.loads(file.read_text())
        file.write_text(json.dumps({n: v for n, v in said.items() if n != "scaling_factor"}))
    told = scaling_of(str(tmp_path), "vae")
    loaded = load_autoencoder(str(tmp_path), subfolder="vae")
    scale, shift = (torch.as_tensor(value).reshape(-1, 1, 1) for value in told)
    assert torch.equal(scale, torch.as_tensor(loaded.scale_factor).reshape(-1, 1, 1))
    assert torch.equal(shift, torch.as_tensor(loaded.shift).reshape(-1, 1, 1))
    if kind == "AutoencoderKL":
        with torch.no_grad():
            x = frames(1, 2)
            mode = network.encode(x[0]).latent_dist.mode()
            torch.testing.assert_close(loaded.encode(x)[0] / scale + shift, mode)
            assert config is not UNSAID or float(scale) == pytest.approx(0.18215)


def test_the_scale_of_a_file_is_its_own(tmp_path: Path) -> None:
    network = diffusers.AutoencoderKL(block_out_channels=(32,), scaling_factor=0.5)
    file = write_weights(network, autoencoder_original(network))
    save_file(file, tmp_path / "plain.safetensors")
    assert scaling_of(str(tmp_path / "plain.safetensors")) == (0.18215, 0.0)
    said = {"first_stage_model.scale_factor": "0.5"}
    save_file(file, tmp_path / "said.safetensors", metadata=said)
    assert scaling_of(str(tmp_path / "said.safetensors")) == (0.5, 0.0)
    assert load_autoencoder(str(tmp_path / "said.safetensors")).scale_factor == 0.5


def test_what_is_not_here_tells_nothing(tmp_path: Path) -> None:
    assert scaling_of(str(tmp_path / "nothing.safetensors")) is None
    assert scaling_of("nobody/has-this") is None
    (tmp_path / "config.json").write_text("{}")
    assert scaling_of(str(tmp_path)) is None


def test_the_plan_tells_the_scale_and_no_key_depends_on_it(tmp_path: Path) -> None:
    step = LatentWork(EncodeConfig(), MediaLimits()).step
    assert step.config[FACTS] == {"scale": 1.0, "shift": 0.0}
    untold = replace(step, config={name: v for name, v in step.config.items() if name != FACTS}, reads=())
    assert resolve_keys([untold]) == resolve_keys([replace(step, reads=())])
    assert FACTS not in settings_of(Plan.of([replace(step, reads=())]))["encode"]
    diffusers.AutoencoderKLWan(**SMALL_WAN).save_pretrained(tmp_path / "wan")
    wan = LatentWork(EncodeConfig(autoencoder=str(tmp_path / "wan")), MediaLimits()).step
    assert wan.config[FACTS] == {"scale": [0.5, 4.0], "shift": [0.5, -1.0]}
