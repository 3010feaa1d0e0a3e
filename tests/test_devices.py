"""That nothing is left behind on the CPU where a network computes on an accelerator, which need not be there.

torch's fake tensors compute nothing, but know where they lie, and refuse to be mixed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from curation.footage.media import MediaLimits
from models.autoencoder import load_autoencoder
from models.conditioning import Conditioning
from models.counting import network_of
from models.networks import NETWORKS, NetworkConfig
from models.positions import frame_positions
from models.video_unet import VideoUNetConfig
from tasks.encoding import EncodeConfig, LatentWork, TextWork
from training.guiding import LEARNED, sides_of, weights_of
from training.objective import Name, Objective, prediction_of, training_losses
from training.sample import TrainedNetwork, _denoiser
from training.sample_settings import Sampling
from training.trained import Levels, Trained

SMALL_UNET = {"width": 32, "multipliers": (1, 2), "attention": (True, False), "head_dim": 8, "text_dim": 24}
SMALL = {"width": 48, "depth": 2, "num_heads": 4}
FRAMES, SIDE = 4, 8


def fake_tensors() -> FakeTensorMode:
    """What is a real tensor already, as tables of noise levels are, is taken as it is."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def config_of(name: str) -> NetworkConfig:
    config = NETWORKS[name].config
    return replace(config, **(SMALL_UNET if isinstance(config, VideoUNetConfig) else SMALL))


def on_accelerator(config: NetworkConfig) -> tuple[nn.Module, Tensor, Conditioning]:
    """A network, latents, and all that the network is told, there."""
    with torch.device("cuda"):
        unet = isinstance(config, VideoUNetConfig)
        joining = config.condition_channels if unet else 0
        conditioning = Conditioning(
            torch.zeros(2, 5, config.text_dim or 1),
            torch.ones(2, 5, dtype=torch.bool),
            torch.zeros(2, max(2, config.num_numbers) if unet else 2),
            torch.zeros(2),
            torch.zeros(2, 3),
            frames_BCTHW=torch.zeros(2, joining, FRAMES, SIDE, SIDE) if joining else None,
        )
        return network_of(config), torch.zeros(2, config.latent_channels, FRAMES, SIDE, SIDE), conditioning


CASES: list[tuple[Name, str, str]] = [
    ("edm", "svd-t2v", "euler"),
    ("edm", "svd-i2v", "euler"),
    ("edm", "pseudo3d", "euler"),
    ("v", "sd21", "euler"),
    ("epsilon", "latte-s-2", "euler"),
    ("iddpm", "dit-s-2", "iddpm"),
    ("iddpm", "stdit-xl-2", "iddpm"),
    ("flow", "stdit3-xl-2", "rectified_flow"),
    ("flow", "open-sora-plan-1.3", "euler"),
    ("sample", "pixart-xl-2-1024", "euler"),
]


@pytest.mark.parametrize(("objective", "name", "sampler"), CASES)
def test_a_guided_step_stays_where_the_network_is(objective: Name, name: str, sampler: str) -> None:
    config, trained_for = config_of(name), Objective(objective)
    levels, preconditioning = Trained(trained_for, Levels.of(trained_for)), trained_for.preconditioning
    whole = Sampling(num_steps=4, sampler=sampler, guidance=(1.0, 3.0)).following(levels, (64, 64, FRAMES))
    weights = weights_of(whole.weight(FRAMES), None, None, config.latent_channels)
    for sampling in [whole] if sampler == LEARNED else [whole, replace(whole, window=2, overlap=1)]:
        with fake_tensors():
            network, x, conditioning = on_accelerator(config)
            sides = sides_of(conditioning, config.latent_channels, False, None)
            heard = network if sampler == LEARNED else prediction_of(network, config)
            model = TrainedNetwork(heard, preconditioning)
            said = _denoiser(model, sides, weights, FRAMES, sampling)(x, 1.5)
            parts = said if sampler == LEARNED else (said,)
            assert {part.device.type for part in parts} == {"cuda"}


@pytest.mark.parametrize(("objective", "name", "sampler"), CASES)
def test_losses_stay_where_the_network_is(objective: Name, name: str, sampler: str) -> None:
    config, trained_for = config_of(name), Objective(objective)
    trained_for.preconditioning  # noqa: B018 (its table is made once, and must be real)
    with fake_tensors():
        network, x0, conditioning = on_accelerator(config)
        noise, sigma_B = torch.randn_like(x0), torch.full((2,), 1.5, device="cuda")
        losses_B = training_losses(trained_for, network, config, x0, noise, sigma_B, conditioning)
        assert losses_B.device.type == "cuda"


def test_positions_that_were_left_on_the_cpu_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def left_behind(num_frames: int, dim: int, scale: float, like: Tensor) -> Tensor:
        return frame_positions(num_frames, dim, scale, torch.zeros_like(like, device="cpu"))

    monkeypatch.setattr("models.transformers.frame_positions", left_behind)
    with fake_tensors():
        network, x, conditioning = on_accelerator(config_of("latte-s-2"))
        with pytest.raises(RuntimeError, match="same device, but found at least two"):
            network(x, torch.zeros(2, device="cuda"), conditioning)


def test_embedded_encoders_take_every_core_and_published_ones_an_accelerator(tmp_path) -> None:
    autoencoder = load_autoencoder("embedded")
    autoencoder.network.save_pretrained(tmp_path)
    for name, place in (("embedded", "cores"), (str(tmp_path), "devices")):
        assert LatentWork(EncodeConfig(autoencoder=name), MediaLimits()).runs_on == place
    assert TextWork(EncodeConfig()).runs_on == "cores"
