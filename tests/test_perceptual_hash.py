"""The hash against pictures that were really turned, scaled, stretched and compressed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from annotator_clips import video_frames
from footage import texture
from hypothesis import given
from hypothesis import strategies as st

from curation.footage.grid_frames import decode_jpeg, encode_jpeg
from curation.selection.perceptual_hash import BAND_BITS, BITS, bands, distances, picture_hash, turned

hashes = st.integers(0, (1 << BITS) - 1)


def grey(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def hash_of(luma: np.ndarray) -> np.ndarray:
    found = picture_hash(luma)
    assert found is not None
    return np.array([found], np.uint64)


def bits_between(a: np.ndarray, b: np.ndarray) -> int:
    return int(distances(hash_of(a), hash_of(b))[0, 0])


def test_bits_are_the_signs_of_a_cosine_transform_by_its_definition() -> None:
    luma = grey(texture(3, 32, 32)).astype(np.float64)
    at = (2 * np.arange(32) + 1) * np.pi / 64
    waves = np.cos(np.outer(np.arange(8), at))
    positive = (waves @ luma @ waves.T > 0).sum() - 1  # the mean is always positive, and no bit
    assert bin(int(hash_of(luma.astype(np.uint8))[0])).count("1") == positive


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_the_hash_of_a_turned_picture_follows_from_the_hash(quarters: int) -> None:
    for seed in range(20):
        luma = grey(texture(seed, 128, 128, grain=24))
        assert turned(hash_of(luma))[quarters] == hash_of(np.rot90(luma, quarters).copy())


@given(hashes, hashes)
def test_turning_is_a_group_that_keeps_distances_and_bands(a: int, b: int) -> None:
    pair = np.array([a, b], np.uint64)
    turns = turned(pair)
    assert (turned(turns[1])[3] == pair).all() and (turned(turns[1])[1] == turns[2]).all()
    assert {int(np.bitwise_count(t[0] ^ t[1])) for t in turns} == {(a ^ b).bit_count()}
    apart = [np.bitwise_count(bands(t)[:, 0] ^ bands(t)[:, 1]).tolist() for t in turns]
    assert apart == [apart[0]] * 4


@given(hashes, st.sets(st.integers(0, BITS - 1), max_size=2))
def test_two_wrong_bits_leave_a_band_whole(a: int, wrong: set[int]) -> None:
    b = a ^ sum(1 << bit for bit in wrong)
    of_a, of_b = bands(np.array([a, b], np.uint64)).T
    assert (of_a == of_b).any()
    assert int(sum(int(v) << (BAND_BITS * i) for i, v in enumerate(of_a))) == a, "bands are all the bits"


@pytest.mark.parametrize("video", ["bear.mp4", "cups.mp4", "bikes.mp4"])
def test_size_shape_brightness_and_compression_change_few_bits_and_another_moment_many(
    test_data: Path, video: str
) -> None:
    (rgb,) = video_frames(test_data / "videos" / video, [20])
    luma = grey(rgb)
    half = cv2.resize(luma, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    square = cv2.resize(luma, (400, 400), interpolation=cv2.INTER_AREA)
    coarse = grey(decode_jpeg(encode_jpeg(rgb[..., ::-1], quality=12)))
    dim = (luma * 0.8 + 10).astype(np.uint8)
    assert max(bits_between(luma, copy) for copy in (half, square, coarse, dim)) <= 3
    assert bits_between(luma, luma[:, ::-1].copy()) > 15, "a mirror image is another picture"


def test_a_plain_picture_has_no_hash() -> None:
    assert picture_hash(np.full((90, 160), 77, np.uint8)) is None
    noise = np.random.default_rng(0).integers(118, 138, (480, 640)).astype(np.uint8)
    assert picture_hash(noise) is None, "noise averages out"
