"""Settings of sampling: what they become for a number of frames, and what is refused."""

from __future__ import annotations

import pytest

from training.sample_settings import Sampling
from warehouse.errors import SettingsError


def test_more_frames_than_were_trained_are_made_in_windows() -> None:
    assert Sampling().over(8, 8) == Sampling()
    assert Sampling().over(9, 8) == Sampling(window=8, overlap=4)
    assert Sampling(seamless=True, overlap=1).over(6, 8) == Sampling(seamless=True, window=6, overlap=1)


def test_wrong_sampling_is_refused() -> None:
    with pytest.raises(SettingsError, match="sampler is 'plms', expected one of euler, heun"):
        Sampling(sampler="plms")
    with pytest.raises(SettingsError, match="sigma_min 3"):
        assert Sampling(sigma_min=3, sigma_max=2).sigmas is None
    with pytest.raises(SettingsError, match="guidance_shape is 'round', expected one of linear, triangle"):
        Sampling(guidance_shape="round")
    with pytest.raises(SettingsError, match="steps of pndm cannot be repeated"):
        Sampling(sampler="pndm", repeats=2)
    with pytest.raises(SettingsError, match="one loop where the video is seamless"):
        Sampling(seamless=True, loops=2)
    with pytest.raises(SettingsError, match="a seamless video needs windows"):
        Sampling(seamless=True).check_frames(8)
