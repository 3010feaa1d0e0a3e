"""What networks that paint are told of frames that are known (that of none: `test_published`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.autoencoder import load_autoencoder
from models.conditioning import Conditioning
from models.given_frames import Given
from models.networks import NETWORKS
from models.video_unet import VideoUNet, VideoUNetConfig
from tests.test_sample import Letters
from tests.test_transformers import randomised
from training.checkpoints import Weights, save_weights
from training.encoders import Encoders
from training.painting import Painting, painting_of
from training.prompts import read_prompt
from training.references import read_frames
from training.sample import sample_videos
from training.sample_settings import Sampling, VideoShape

SMALL = {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (True, False), "num_heads": 2}
PSEUDO3D = replace(NETWORKS["pseudo3d"].config, **SMALL, group_channels=2, text_dim=6)
EMBEDDED = load_autoencoder()


def test_frames_that_stay_are_known_and_all_others_are_grey_and_painted() -> None:
    told = Conditioning(torch.zeros(2, 1, 6), torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 0))
    one, two = torch.full((4, 1, 2, 2), 1.0), torch.full((4, 1, 2, 2), 2.0)
    given = Given.none(torch.zeros(2, 4, 3, 2, 2)).with_frames(0, 2, one)
    given = given.with_frames(1, 0, two, release=5.0)  # edited, so not known
    found = Painting(torch.full((4, 1, 2, 2), -7.0)).told(told, given).frames_BCTHW
    assert found.shape == (2, 5, 3, 2, 2)
    assert found[..., 0, 0].tolist() == [[[1, 1, 0], *[[-7, -7, 1]] * 4], [[1, 1, 1], *[[-7, -7, -7]] * 4]]


def test_other_networks_paint_nothing() -> None:
    assert painting_of(VideoUNetConfig(), EMBEDDED, 64, 64) is None
    assert painting_of(NETWORKS["svd-i2v"].config, EMBEDDED, 64, 64) is None
    assert painting_of(NETWORKS["dit-s-2"].config, EMBEDDED, 64, 64) is None


@pytest.mark.parametrize("strategy", ["0", "0,0,0,-1"])
def test_a_picture_is_told_to_the_network_in_its_place_and_stays(tmp_path: Path, strategy: str) -> None:
    save_weights(
        tmp_path / "w", Weights(PSEUDO3D, randomised(VideoUNet(PSEUDO3D)).state_dict(), torch.zeros(255), {})
    )
    picture = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(picture)
    autoencoder, heard = EMBEDDED, []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: heard.append(inputs[2]) if isinstance(module, VideoUNet) else None
    )
    request = read_prompt("red", str(picture), strategy)
    encoders = Encoders(autoencoder, Letters())
    options = {"video": VideoShape(3, 48, 64), "sampling": Sampling(num_steps=2)}
    frames = sample_videos(tmp_path / "w", [request], encoders, **options)
    hook.remove()
    place = -1 if strategy.endswith("-1") else 0
    pixels_TCHW = read_frames(picture, 48, 64, 8.0)
    known, grey = (autoencoder.encode(x[None])[0, 0] for x in (pixels_TCHW, torch.zeros_like(pixels_TCHW)))
    for told in heard:
        for side in told.frames_BCTHW:  # with text and without
            assert side[0, :, 0, 0].tolist() == ([0, 1, 1] if place == 0 else [1, 1, 0])
            torch.testing.assert_close(side[1:, place], known)
            torch.testing.assert_close(side[1:, 1], grey)
    alone = autoencoder.decode(known[None, None])[0, 0].clamp(-1, 1)
    shown = torch.from_numpy(frames[0, place]).movedim(-1, 0) / 127.5 - 1
    assert (shown - alone).abs().max() < 0.02, "and comes out as the autoencoder has it"
