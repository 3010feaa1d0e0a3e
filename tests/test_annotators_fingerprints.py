from __future__ import annotations

import numpy as np
import pyarrow as pa
from annotator_clips import check_columns, clip_of
from footage import texture

from curation.annotators.base import Done, Failed, Skipped
from curation.annotators.fingerprints import FingerprintsAnnotator, FingerprintsConfig, colours
from curation.selection.perceptual_hash import picture_hash
from warehouse.schema import TABLES

ANNOTATOR = FingerprintsAnnotator(FingerprintsConfig())
PLAIN = np.full((90, 160, 3), 128, np.uint8)


def test_every_frame_with_structure_is_hashed_in_order_and_plain_ones_are_left_out() -> None:
    scenes = [texture(seed, 90, 160) for seed in range(3)]
    (outcome,) = ANNOTATOR.annotate([clip_of([scenes[0], PLAIN, *scenes[1:]])])
    assert isinstance(outcome, Done)
    check_columns("fingerprints", outcome)
    grey = [np.rint(s @ [0.299, 0.587, 0.114]).astype(np.uint8) for s in scenes]
    apart = [a ^ picture_hash(b) for a, b in zip(outcome.columns["hashes"], grey, strict=True)]
    assert max(a.bit_count() for a in apart) <= 2
    kept = np.frombuffer(outcome.columns["colours"], np.uint8).reshape(3, 8, 8, 3).astype(int)
    assert np.abs(kept - [colours(s).astype(int) for s in scenes]).max() <= 4


def test_colours_are_the_means_of_the_parts_of_the_picture() -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert (colours(blocks.repeat(10, axis=0).repeat(20, axis=1)) == blocks).all()


def test_a_clip_of_plain_pictures_is_skipped_and_a_broken_one_fails_alone() -> None:
    good, plain, broken = ANNOTATOR.annotate(
        [clip_of([texture(0, 90, 160)]), clip_of([PLAIN] * 3), clip_of([b"no"])]
    )
    assert isinstance(good, Done) and plain == Skipped("no_structure")
    assert isinstance(broken, Failed) and broken.cause == "broken_frame"


def test_a_hash_of_all_bits_fits_its_column() -> None:
    field = TABLES["fingerprints"].schema.field("hashes")
    assert pa.array([[(1 << 63) - 1]], field.type).to_pylist() == [[(1 << 63) - 1]]


def test_no_more_frames_than_asked_for() -> None:
    few = FingerprintsAnnotator(FingerprintsConfig(max_frames=2))
    (outcome,) = few.annotate([clip_of([texture(seed, 90, 160) for seed in range(5)])])
    assert isinstance(outcome, Done) and len(outcome.columns["hashes"]) == 2
