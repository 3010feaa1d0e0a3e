"""The graph of neighbours against every product written out, and near-duplicates that only embeddings tell."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from curation.annotators.clip_model import load_clip
from curation.annotators.fingerprints import colours
from curation.reel.shots import random_shots, render_moments
from curation.selection.duplicates import Duplicate, DuplicateConfig, Fingerprint, near_duplicates, ranked
from curation.selection.embedding_index import EmbeddingIndex
from curation.selection.perceptual_hash import picture_hash

CONFIG = DuplicateConfig(min_cosine=0.9)


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_the_graph_finds_what_every_product_written_out_finds() -> None:
    rng = np.random.default_rng(0)
    groups = unit(rng.normal(size=(300, 96))).repeat(10, axis=0)
    vectors = unit(groups + rng.normal(size=groups.shape) * 0.01)
    index = EmbeddingIndex(0.95)
    for number, vector in enumerate(vectors):
        assert index.add(vector) == number
    near_NN = vectors @ vectors.T >= 0.95
    assert near_NN.sum() == 10 * len(vectors)
    for number in range(0, len(vectors), 7):
        found = index.near(vectors[number])
        assert {key for key, _ in found} == set(np.flatnonzero(near_NN[number]).tolist())
        assert [c for _, c in found] == pytest.approx([vectors[k] @ vectors[number] for k, _ in found])


def test_a_large_group_is_found_whole_and_an_empty_index_has_no_neighbour() -> None:
    one = unit(np.ones(8))
    index = EmbeddingIndex(0.99)
    assert index.near(one) == []
    for _ in range(100):
        index.add(one)
    index.add(-one)
    assert {key for key, _ in index.near(one)} == set(range(100))


def embedded(place: int, vector: NDArray[np.float32] | None, *, video: str | None = None) -> Fingerprint:
    hashes = np.random.default_rng(place).integers(0, 1 << 63, 4, np.uint64)
    return Fingerprint(f"c{place}", video or f"v{place}", (place,), hashes, bytes(4 * 192), vector)


def test_the_hash_goes_before_the_embedding_and_a_better_clip_before_a_nearer_one() -> None:
    near, nearer, stranger = unit(np.array([[1, 0.2, 0], [1, 0.05, 0], [0, 0, 1]]))
    one = unit(np.array([1.0, 0, 0]))
    best, other, clip = embedded(0, near), embedded(1, stranger), embedded(2, one)
    assert near_duplicates([best, other, clip], CONFIG) == {"c2": Duplicate("c0", "embedding")}
    assert near_duplicates([best, other, clip], replace(CONFIG, min_cosine=None)) == {}
    assert near_duplicates([best, other, clip], replace(CONFIG, min_cosine=0.99)) == {}
    same_print = replace(other, hashes_N=clip.hashes_N)
    assert near_duplicates([best, same_print, clip], CONFIG) == {"c2": Duplicate("c1", "hash")}
    worse = embedded(3, nearer)
    assert near_duplicates([best, clip, worse], CONFIG, kept={"c3"}) == {
        "c0": Duplicate("c3", "embedding"),
        "c2": Duplicate("c3", "embedding"),
    }
    assert near_duplicates([best, clip, worse], CONFIG, kept={"c3", "c0"})["c2"].of == "c0"


def test_clips_of_one_video_and_clips_without_an_embedding_are_not_compared() -> None:
    one = unit(np.ones(3))
    assert near_duplicates([embedded(0, one, video="v"), embedded(1, one, video="v")], CONFIG) == {}
    assert near_duplicates([embedded(0, one), embedded(1, None)], CONFIG) == {}


def test_the_product_of_two_clips_embeddings_is_the_mean_cosine_of_their_frames() -> None:
    frames = unit(np.random.default_rng(0).normal(size=(2, 3, 5)))
    rows = [
        {"clip_id": str(n), "video_id": str(n), "duration_s": 1, "width": 1, "height": 1, "sharpness": None}
        | {"hashes": [1], "colours": bytes(192), **dict(zip(("first", "middle", "last"), three, strict=True))}
        for n, three in enumerate(frames.tolist())
    ]
    a, b = ranked(rows)
    assert a.embedding @ b.embedding == pytest.approx((frames[0] * frames[1]).sum() / 3, abs=1e-6)


def crop(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = rgb_HW3.shape[:2]
    return rgb_HW3[height // 20 : -height // 20, width // 20 : -width // 20]


def mirror(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return rgb_HW3[:, ::-1].copy()


def shown(name: str, pictures: list[NDArray[np.uint8]], rank: int) -> Fingerprint:
    """The pictures as a clip of its own video, with the embeddings of the embedded CLIP."""
    hashes = [picture_hash(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)) for p in pictures]
    embedding = load_clip("embedded", None).embed_images(pictures).reshape(-1) / np.float32(3**0.5)
    prints = np.stack([colours(p) for p in pictures]).tobytes()
    return Fingerprint(name, name, (rank,), np.array(hashes, np.uint64), prints, embedding)


def test_mirrored_and_cropped_copies_of_the_reels_shots_are_found_and_the_verdict_says_by_what() -> None:
    told: dict[str, list] = {}
    for shot in random_shots(60, 5):
        told.setdefault(
            f"{shot.shape} {shot.colour}", list(render_moments(shot, 256, np.array([0, 0.5, 0.9])))
        )
    originals = [shown(f"shot {n}", three, n) for n, three in enumerate(told.values())]
    assert len(originals) > 20
    changes = {"mirrored": mirror, "cropped": crop}
    copies = [
        shown(f"{name} {n}", [np.ascontiguousarray(change(p)) for p in three], 1000 + n)
        for n, three in enumerate(told.values())
        for name, change in changes.items()
    ]
    by_hash = near_duplicates([*originals, *copies], DuplicateConfig())
    both = near_duplicates([*originals, *copies], DuplicateConfig(min_cosine=0.97))
    for found in (by_hash, both):
        wrong = {clip: copy for clip, copy in found.items() if clip.split()[1] != copy.of.split()[1]}
        assert not wrong
    of = {name: [by_hash.get(f"{name} {n}") for n in range(len(originals))] for name in changes}
    assert all(copy is not None and copy.by == "hash" for copy in of["mirrored"])
    cropped = [both.get(f"cropped {n}") for n in range(len(originals))]
    by = {way: [c is not None and c.by == way for c in cropped].count(True) for way in ("hash", "embedding")}
    assert by["embedding"] >= len(originals) // 4 and sum(by.values()) >= len(originals) * 2 // 3
    assert by["hash"] == len(originals) - of["cropped"].count(None)
