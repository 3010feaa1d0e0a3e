"""The oracle against the truth of shots it has never seen."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from curation.reel.oracle import read_shape_and_colour
from curation.reel.sample_reel import COLOURS, SHAPES, Shot, random_shots, render
from models.autoencoder import load_autoencoder


def agreement(shots, frames):
    """Share of frames of which both shape and colour are read right."""
    return np.mean(
        [read_shape_and_colour(f) == (s.shape, s.colour) for s, f in zip(shots, frames, strict=True)]
    )


def clean_shots(n, seed):
    return [replace(shot, text=None, blur=0.0) for shot in random_shots(n, seed)]


@pytest.mark.parametrize("side_px", [64, 128])
def test_clean_shots_are_read_right_at_any_moment(side_px):
    shots = clean_shots(120, seed=31)
    for moment in (0, 2, 4):
        assert agreement(shots, [render(shot, side_px, 5)[moment] for shot in shots]) >= 0.97


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_told_whatever_its_turn(shape):
    frame = render(Shot(shape, "green", "still", "textured", size=0.5), 96, 1)[0]
    for turn_deg in range(0, 360, 24):
        turn = cv2.getRotationMatrix2D((47.5, 47.5), turn_deg, 1)
        turned = cv2.warpAffine(frame, turn, (96, 96), borderMode=cv2.BORDER_REPLICATE)
        assert read_shape_and_colour(turned) == (shape, "green")


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_is_told_muted_dark_and_bright(colour):
    for level, saturation in ((28, 0.75), (128, 0.85), (224, 1.0)):
        shot = Shot("star", colour, "still", "plain", level=level, saturation=saturation, tint_deg=200)
        assert read_shape_and_colour(render(shot, 64, 1)[0])[1] == colour


def test_what_a_video_codec_and_small_letters_leave_is_enough():
    shots = [replace(shot, text="AB12CD34EF") for shot in clean_shots(100, seed=32)]
    frames = []
    for shot in shots:
        _, jpeg = cv2.imencode(".jpg", render(shot, 64, 1)[0], [cv2.IMWRITE_JPEG_QUALITY, 60])
        frames.append(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    assert agreement(shots, frames) >= 0.95


def test_reconstructions_of_the_embedded_autoencoder_are_read_right():
    import torch

    shots = clean_shots(128, seed=33)
    autoencoder = load_autoencoder()
    x = (
        torch.from_numpy(np.stack([render(shot, 64, 3)[:1] for shot in shots])).permute(0, 1, 4, 2, 3) / 127.5
        - 1
    )
    decoded = autoencoder.decode(autoencoder.encode(x)).clamp(-1, 1)[:, 0].permute(0, 2, 3, 1)
    frames = ((decoded + 1) * 127.5).round().to(torch.uint8).numpy()
    assert agreement(shots, frames) >= 0.90


def test_nothing_is_named_where_nothing_is():
    grey = np.full((64, 64, 3), 120, np.uint8)
    noise = (
        np.random.default_rng(0).normal(120, 30, (64, 64, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    )
    red = np.full((64, 64, 3), (220, 20, 30), np.uint8)
    assert (
        read_shape_and_colour(grey)
        == read_shape_and_colour(noise)
        == read_shape_and_colour(red)
        == (None, None)
    )
    bar = grey.copy()
    bar[28:36, 4:60] = (36, 70, 232)
    assert read_shape_and_colour(bar) == (None, "blue")
    with pytest.raises(ValueError, match="expected a uint8 frame"):
        read_shape_and_colour(grey.astype(float))
