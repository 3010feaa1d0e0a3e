"""The order in which a trainer meets clips, and reading them."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import packed
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse.errors import DatasetError
from warehouse.order import BatchOrder
from warehouse.reader import PackedDataset, frame_choice

GROUPS = st.lists(st.integers(0, 7), min_size=1, max_size=9)
SIZES = st.dictionaries(st.sampled_from("abc"), GROUPS, min_size=1).filter(
    lambda s: any(map(sum, s.values()))
)


def samples(plan):
    return [
        (plan.bucket, int(e), int(g), int(r))
        for e, g, r in zip(plan.epoch_B, plan.group_B, plan.row_B, strict=True)
    ]


@given(SIZES, st.integers(1, 12), st.integers(0, 9), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_no_clip_is_lost_or_doubled_in_an_epoch(sizes, batch, seed, window):
    order = BatchOrder(sizes, batch, seed, window)
    total = sum(map(sum, sizes.values()))
    taken = [sample for plan in islice(order.plans(), 3 * total // batch + 3) for sample in samples(plan)]
    assert len(set(taken)) == len(taken), "a clip came twice in an epoch"
    for bucket, groups in sizes.items():
        rows = {(group, row) for group, size in enumerate(groups) for row in range(size)}
        epochs = Counter(epoch for name, epoch, _, _ in taken if name == bucket)
        for epoch in sorted(epochs)[:-1]:
            assert {(g, r) for name, e, g, r in taken if (name, e) == (bucket, epoch)} == rows
    assert all(len({name for name, *_ in samples(plan)}) == 1 for plan in islice(order.plans(), 5))


@given(SIZES, st.integers(0, 9), st.integers(0, 30), st.sampled_from([1, 2, 4]))
@settings(max_examples=60, deadline=None)
def test_any_number_of_ranks_and_any_start_give_the_same_stream(sizes, seed, position, num_ranks):
    order = BatchOrder(sizes, 8, seed, 2)
    whole = [samples(plan) for plan in islice(order.plans(), position + 6)]
    resumed = list(islice(order.plans(position), 6))
    slices = [
        [sample for rank in range(num_ranks) for sample in samples(plan.slice(rank, num_ranks))]
        for plan in resumed
    ]
    assert slices == whole[position:]
    assert [plan.position for plan in resumed] == list(range(position, position + 6))


def test_buckets_take_turns_in_proportion_to_their_clips():
    plans = list(islice(BatchOrder({"small": [50], "large": [100, 50]}, 5, 0).plans(), 400))
    large = sum(plan.bucket == "large" for plan in plans)
    assert large == pytest.approx(300, abs=2)
    assert len({tuple(plan.bucket for plan in plans[i : i + 4]) for i in range(0, 400, 4)}) > 3


def test_epochs_and_seeds_shuffle_anew_and_rows_travel_across_groups():
    def epoch(seed, number):
        order = BatchOrder({"a": [10] * 12}, 10, seed, window=3)
        return [sample[2:] for plan in islice(order.plans(12 * number), 12) for sample in samples(plan)]

    first, second, other = epoch(0, 0), epoch(0, 1), epoch(1, 0)
    assert sorted(first) == sorted(second) == sorted(other)
    assert first != second
    assert first != other
    assert all(len({group for group, _ in first[start : start + 30]}) == 3 for start in range(0, 120, 30))
    assert len({group for group, _ in first[:10]}) > 1


def test_rows_are_shuffled_anew_in_every_epoch_and_bucket():
    orders: dict[tuple, list] = {}
    for plan in islice(BatchOrder({"a": [40], "b": [40]}, 10, 0).plans(), 16):
        for bucket, epoch, _, row in samples(plan):
            orders.setdefault((bucket, epoch), []).append(row)
    whole = [rows for rows in orders.values() if len(rows) == 40]
    assert len(whole) >= 3
    assert len(set(map(tuple, whole))) == len(whole)


def test_a_batch_that_ranks_do_not_divide_is_an_error(tmp_path):
    packed.write(tmp_path / "set", packed.rows(20))
    dataset = PackedDataset.open(tmp_path / "set")
    with pytest.raises(DatasetError, match="4 ranks do not divide the global batch of 6"):
        next(dataset.read_batches(dataset.order(6, 0), num_ranks=4))
    with pytest.raises(DatasetError, match="no clips to train on"):
        BatchOrder({"a": [0]}, 4, 0)


@pytest.fixture
def dataset(tmp_path):
    packed.write(tmp_path / "set", packed.rows(60), packed.rows(20, num_frames=2), part_bytes=4000)
    return PackedDataset.open(tmp_path / "set")


@pytest.mark.parametrize(("num_ranks", "num_workers"), [(1, 1), (2, 1), (4, 3)])
def test_every_clip_comes_with_its_own_arrays_whoever_reads(dataset, num_ranks, num_workers):
    order = dataset.order(8, seed=3, window=2)
    plans = {plan.position: plan for plan in islice(order.plans(5), 12)}
    expected = {position: [] for position in plans}
    for rank in range(num_ranks):
        for worker in range(num_workers):
            options = {"rank": rank, "num_ranks": num_ranks, "worker": worker, "num_workers": num_workers}
            for plan, clips in islice(dataset.read_batches(order, 5, **options), 12 // num_workers):
                for i, clip_id in enumerate(clips.clip_id_B):
                    latents, text, mask = packed.arrays_of(clip_id, int(plan.bucket.split("x")[0]))
                    np.testing.assert_array_equal(clips.latents_BTCHW[i], latents)
                    np.testing.assert_array_equal(clips.text_BLD[i], text)
                    np.testing.assert_array_equal(clips.mask_BL[i], mask)
                    number = int(clip_id[-4:])
                    motion = clips.motion_B[i]
                    assert np.isnan(motion) if number % 3 == 0 else motion == np.float32(number / 10)
                expected[plan.position].append((rank, list(clips.clip_id_B)))
    alone = {plan.position: list(c.clip_id_B) for plan, c in islice(dataset.read_batches(order, 5), 12)}
    assert {p: [i for _, ids in sorted(found) for i in ids] for p, found in expected.items()} == alone


def test_an_epoch_has_every_training_clip_once_and_no_held_out_one(tmp_path):
    packed.write(tmp_path / "set", packed.rows(60))
    dataset = PackedDataset.open(tmp_path / "set")
    num = dataset.manifest.num_clips("train")
    held_out = {i for _, clips in dataset.read_split() for i in clips.clip_id_B}
    order = dataset.order(num, seed=0)
    first, second = ([*clips.clip_id_B] for _, clips in islice(dataset.read_batches(order), 2))
    assert len(set(first)) == num
    assert set(first) == set(second)
    assert held_out | set(first) == {f"c4-{i:04d}" for i in range(60)}
    assert not held_out & set(first)


def test_row_groups_in_memory_stay_within_two_windows(dataset, monkeypatch):
    reads = []
    real = PackedDataset.read_group
    monkeypatch.setattr(PackedDataset, "read_group", lambda *args: reads.append(args[1:]) or real(*args))
    order = dataset.order(4, seed=0, window=2)
    list(islice(dataset.read_batches(order), sum(map(sum, order.group_sizes.values())) // 4))
    assert len(reads) <= 1.3 * sum(map(len, order.group_sizes.values()))


def test_missing_cut_and_damaged_parts_are_named(dataset):
    part = dataset.parts()[0]
    path = Path(dataset.uri) / part.path
    content = path.read_bytes()
    dataset.verify()

    damaged = bytearray(content)
    damaged[pq.read_metadata(path).row_group(0).column(2).data_page_offset + 99] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DatasetError, match=rf"{part.path} has sha256 \w+, expected {part.sha256}"):
        dataset.verify()
    with pytest.raises(DatasetError, match=f"{part.path}, row group 0, cannot be read"):
        PackedDataset.open(dataset.uri).read_group("2x16x16", 0)

    path.write_bytes(content[:-10])
    with pytest.raises(DatasetError, match=f"{part.path} has {part.bytes - 10} bytes, expected {part.bytes}"):
        PackedDataset.open(dataset.uri)

    path.unlink()
    with pytest.raises(DatasetError, match=f"{part.path} is missing"):
        PackedDataset.open(dataset.uri)


def test_a_folder_without_manifest_is_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset\.json"):
        PackedDataset.open(tmp_path)


def test_the_frame_of_a_clip_follows_from_seed_epoch_and_clip(dataset):
    clips = dataset.read_group("4x16x16", 0)
    epochs = np.arange(4000)
    for row in range(len(clips)):
        many = clips.take(np.full(4000, row))
        frames = frame_choice(many, epochs, seed=1)
        assert np.bincount(frames, minlength=4).min() > 900, "all frames of a clip alike often"
    one, other = frame_choice(many, epochs, 1), frame_choice(many, epochs, 2)
    assert abs((one == other).mean() - 0.25) < 0.05
    neighbours = (one[1:] == one[:-1]).mean()
    assert abs(neighbours - 0.25) < 0.05
    np.testing.assert_array_equal(
        frame_choice(clips, np.zeros(len(clips), int), 1)[0],
        frame_choice(clips.take([0]), np.zeros(1, int), 1)[0],
    )
