"""Packed datasets as they lie on disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import packed
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from warehouse.errors import DatasetError
from warehouse.manifest import HELD_OUT, SCHEMA, TRAIN, parse_manifest
from warehouse.pack import split_videos, write_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    packed.write(tmp_path / "set", packed.rows(50), packed.rows(11, num_frames=2), part_bytes=4000)
    return tmp_path / "set"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_manifest_tells_what_lies_there(dataset):
    manifest = parse_manifest((dataset / "dataset.json").read_text(), "here")
    parts = [part for bucket in manifest.buckets.values() for part in bucket.parts]
    assert files(dataset) == {"dataset.json"} | {part.path for part in parts}
    assert set(manifest.buckets) == {"2x16x16", "4x16x16"}
    assert manifest.buckets["4x16x16"].latent_shape == (4, 4, 2, 2)
    assert manifest.num_clips(TRAIN) + manifest.num_clips(HELD_OUT) == 61
    assert len(parts) > 4, "parts must roll over at part_bytes"
    for part in parts:
        content = (dataset / part.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (part.bytes, part.sha256)
        described = pq.read_metadata(dataset / part.path)
        sizes = tuple(described.row_group(i).num_rows for i in range(described.num_row_groups))
        assert sizes == part.row_groups


def test_plain_parquet_tools_read_back_every_clip(dataset):
    seen = {}
    for path in sorted(dataset.glob("parts/*/*.parquet")):
        table = pq.read_table(path)
        assert table.schema.equals(SCHEMA)
        split = "heldout" if path.name.startswith("heldout") else "train"
        assert set(table["split"].to_pylist()) == {split}
        num_frames = int(path.parent.name.split("x")[0])
        for row in table.to_pylist():
            latents, text, mask = packed.arrays_of(row["clip_id"], num_frames)
            assert row["latents"] == latents.astype("<f2").tobytes()
            assert row["text"] == text.astype("<f2").tobytes()
            assert row["text_mask"] == mask.tobytes()
            number = int(row["clip_id"][-4:])
            assert row["motion"] == (None if number % 3 == 0 else np.float32(number / 10))
            assert row["caption"] == f"caption of {row['clip_id']}"
            seen[row["clip_id"]] = row["split"], row["video_id"]
    assert len(seen) == 61
    splits = {
        video: {split for split, other in seen.values() if other == video} for _, video in seen.values()
    }
    assert all(len(found) == 1 for found in splits.values()), "no video may be in both splits"


def test_media_are_stored_plain_in_row_groups_of_the_asked_size(tmp_path):
    manifest = packed.write(tmp_path / "set", packed.rows(40, held_out=0.0), group_clips=6)
    (part,) = manifest.buckets["4x16x16"].parts
    assert part.row_groups == (6, 6, 6, 6, 6, 6, 4)
    described = pq.read_metadata(tmp_path / "set" / part.path).row_group(0)
    for index in range(described.num_columns):
        column = described.column(index)
        if column.path_in_schema in ("latents", "text", "text_mask"):
            assert column.compression == "UNCOMPRESSED"
            assert not any("DICTIONARY" in encoding for encoding in column.encodings)


def test_a_dataset_never_changes(dataset):
    before = {path: (dataset / path).read_bytes() for path in files(dataset)}
    with pytest.raises(DatasetError, match="already there"):
        packed.write(dataset, packed.rows(3))
    assert {path: (dataset / path).read_bytes() for path in files(dataset)} == before


def test_a_failing_source_leaves_no_dataset_and_can_be_repeated(tmp_path):
    def broken():
        yield from packed.rows(20)
        raise OSError("the source broke")

    with pytest.raises(OSError, match="broke"):
        packed.write(tmp_path / "set", broken())
    assert not [path for path in files(tmp_path) if path.endswith((".tmp", "dataset.json"))]
    assert packed.write(tmp_path / "set", packed.rows(20)).num_clips(TRAIN) > 0


def test_equal_rows_give_equal_digests_and_others_do_not(tmp_path):
    first, same = (packed.write(tmp_path / name, packed.rows(20)) for name in ("a", "b"))
    assert first == same
    assert packed.write(tmp_path / "c", packed.rows(21)).digest != first.digest


def test_rows_that_do_not_fit_are_refused(tmp_path):
    where = fs.LocalFileSystem(), str(tmp_path / "set")
    ((_, batch),) = packed.rows(3)
    with pytest.raises(
        DatasetError, match=r"latents in bucket 8x16x16 has rows of \[128\] bytes, expected 256"
    ):
        write_dataset(*where, [("8x16x16", batch)], packed.MANIFEST)
    with pytest.raises(DatasetError, match="not divisible by the downsampling of 8"):
        write_dataset(*where, [("4x20x16", batch)], packed.MANIFEST)
    with pytest.raises(DatasetError, match="have columns"):
        write_dataset(*where, [("4x16x16", batch.drop_columns(["fps"]))], packed.MANIFEST)
    assert not files(tmp_path)


def test_latents_of_a_quarter_of_the_frames_have_their_shape():
    manifest = replace(packed.MANIFEST, time_downsampling=4)
    assert [manifest.latent_shape(f"{frames}x16x24")[0] for frames in (1, 5, 9)] == [1, 2, 3]
    with pytest.raises(DatasetError, match="one and a multiple of the downsampling in time, 4"):
        manifest.latent_shape("8x16x24")


def test_an_edited_or_cut_manifest_is_refused(dataset):
    text = (dataset / "dataset.json").read_text()
    with pytest.raises(DatasetError, match="no whole manifest"):
        parse_manifest(text[: len(text) // 2], "here")
    edited = json.loads(text) | {"selection": "another"}
    with pytest.raises(DatasetError, match="changed after packing"):
        parse_manifest(json.dumps(edited), "here")
    with pytest.raises(DatasetError, match="format 99, expected 2"):
        parse_manifest(json.dumps(edited | {"format": 99}), "here")


@given(st.sets(st.text(min_size=1), max_size=40), st.text(min_size=1), st.floats(0, 1))
def test_splits_are_kept_as_videos_come_and_never_empty(videos, newcomer, share):
    splits = split_videos(videos, share)
    assert set(splits) == videos
    if len(videos) > 1 and share > 0:
        assert set(splits.values()) == {TRAIN, HELD_OUT}
    if share == 0 or len(videos) == 1:
        assert set(splits.values()) <= {TRAIN} or (len(videos) == 1 and share > 0)
    if len(videos) > 10 and 0.4 < share < 0.6:
        later = split_videos(videos | {newcomer}, share)
        assert all(later[video] == split for video, split in splits.items())


def test_share_of_held_out_videos():
    splits = split_videos((f"video {i}" for i in range(4000)), 0.1)
    assert 350 < sum(split == HELD_OUT for split in splits.values()) < 450


def test_a_dataset_packed_before_manifests_told_of_encoding_is_read(tmp_path: Path) -> None:
    told = json.loads(packed.write(tmp_path / "set", packed.rows(12)).to_json())
    del told["encoding"], told["latent_scaling"], told["digest"]
    told["digest"] = hashlib.sha256(json.dumps(told | {"digest": ""}, sort_keys=True).encode()).hexdigest()
    manifest = parse_manifest(json.dumps(told), "here")
    assert manifest.encoding == {} and manifest.num_clips(TRAIN) + manifest.num_clips(HELD_OUT) == 12
