"""Reads packed datasets (see warehouse.manifest) for a trainer: pyarrow and numpy, no Python object per clip.

Batches come in the order of warehouse.order. What is read is checked: a missing part or one of another
size when the dataset is opened, damaged pages as they are read (checksums), everything by `verify`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from warehouse.errors import DatasetError
from warehouse.manifest import HELD_OUT, MANIFEST, TRAIN, Bucket, Manifest, Part, parse_manifest
from warehouse.order import BatchOrder, BatchPlan


@dataclass(frozen=True)
class Clips:
    """Clips of one bucket as arrays.

    `hash_B`: uint64, of the clip's id. `latents_BTCHW`, `text_BLD`: float16. `mask_BL`: bool. `fps_B`,
    `motion_B`: float32, motion NaN where unknown.
    """

    clip_id_B: np.ndarray
    hash_B: np.ndarray
    latents_BTCHW: np.ndarray
    text_BLD: np.ndarray
    mask_BL: np.ndarray
    fps_B: np.ndarray
    motion_B: np.ndarray

    def __len__(self) -> int:
        return len(self.clip_id_B)

    def take(self, rows: np.ndarray) -> Clips:
        return Clips(*(column[rows] for column in vars(self).values()))


def gather(clips: list[Clips]) -> Clips:
    """Several runs of clips as one."""
    return Clips(
        *(np.concatenate(columns) for columns in zip(*(vars(c).values() for c in clips), strict=True))
    )


@dataclass(frozen=True)
class PackedDataset:
    """An opened dataset. It holds no open file, so it may go to other processes."""

    uri: str
    manifest: Manifest

    @classmethod
    def open(cls, uri: str | Path) -> PackedDataset:
        """Open a local path or a URI that pyarrow.fs knows. Raises DatasetError if anything is missing or
        cut.
        """
        uri = str(uri) if "://" in str(uri) else str(Path(uri).expanduser().resolve())
        filesystem, root = _connect(uri)
        try:
            with filesystem.open_input_stream(f"{root}/{MANIFEST}") as stream:
                text = stream.read().decode()
        except FileNotFoundError:
            raise DatasetError(
                f"no {MANIFEST} in {uri}: expected a packed dataset; one whose packing was cut short has "
                f"none, pack it again"
            ) from None
        dataset = cls(uri, parse_manifest(text, f"{uri}/{MANIFEST}"))
        for part in dataset.parts():
            info = filesystem.get_file_info(f"{root}/{part.path}")
            if info.type != fs.FileType.File:
                raise DatasetError(
                    f"{uri}/{part.path} is missing, expected {part.bytes} bytes: pack the dataset again"
                )
            if info.size != part.bytes:
                raise DatasetError(
                    f"{uri}/{part.path} has {info.size} bytes, expected {part.bytes}: it was cut short "
                    f"or changed, pack the dataset again"
                )
        return dataset

    def parts(self) -> list[Part]:
        return [part for bucket in self.manifest.buckets.values() for part in bucket.parts]

    def verify(self) -> None:
        """Read every byte. Raises DatasetError for the first part whose sha256 is not the manifest's."""
        filesystem, root = _connect(self.uri)
        for part in self.parts():
            with filesystem.open_input_stream(f"{root}/{part.path}") as stream:
                digest = hashlib.sha256()
                while chunk := stream.read(8 << 20):
                    digest.update(chunk)
            if digest.hexdigest() != part.sha256:
                raise DatasetError(
                    f"{self.uri}/{part.path} has sha256 {digest.hexdigest()}, expected {part.sha256}: "
                    "it was changed or damaged, pack the dataset again"
                )

    def order(self, global_batch: int, seed: int, window: int = 8) -> BatchOrder:
        """The training order for one global batch size and seed."""
        sizes = {
            name: [size for _, _, size in _groups(bucket, TRAIN)]
            for name, bucket in self.manifest.buckets.items()
        }
        return BatchOrder(sizes, global_batch, seed, window)

    def read_batches(
        self,
        order: BatchOrder,
        position: int = 0,
        *,
        rank: int = 0,
        num_ranks: int = 1,
        worker: int = 0,
        num_workers: int = 1,
    ) -> Iterator[tuple[BatchPlan, Clips]]:
        """One rank's slices of the batches from `position` on; of these worker w of W reads each W-th.

        Memory is bounded by two windows of row groups for each bucket. Raises DatasetError if the ranks
        do not divide the batch.
        """
        order.check_ranks(num_ranks)
        caches = {bucket: _GroupCache(self, bucket, 2 * order.window) for bucket in order.group_sizes}
        for plan in order.plans(position):
            if (plan.position - position) % num_workers == worker:
                mine = plan.slice(rank, num_ranks)
                yield mine, _pick(caches[mine.bucket], mine)

    def read_split(self, split: str = HELD_OUT) -> Iterator[tuple[str, Clips]]:
        """(bucket, clips) of each row group of a split, in the dataset's order."""
        for name, bucket in self.manifest.buckets.items():
            for index in range(len(_groups(bucket, split))):
                yield name, self.read_group(name, index, split)

    def read_group(self, bucket: str, index: int, split: str = TRAIN) -> Clips:
        """One row group; `index` counts those of the split over all parts of the bucket."""
        shape = self.manifest.buckets[bucket]
        part, row_group, size = _groups(shape, split)[index]
        filesystem, root = _connect(self.uri)
        columns = ["clip_id", "latents", "text", "text_mask", "fps", "motion"]
        try:
            with filesystem.open_input_file(f"{root}/{part.path}") as source:
                file = pq.ParquetFile(source, page_checksum_verification=True)
                table = file.read_row_group(row_group, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"{self.uri}/{part.path}, row group {row_group}, cannot be read ({error}); expected "
                f"{size} clips: pack the dataset again"
            ) from error
        return _to_clips(table.combine_chunks(), shape, self.manifest.text_shape)


class _GroupCache:
    """The row groups of a bucket that are in use, the least recently used forgotten first."""

    def __init__(self, dataset: PackedDataset, bucket: str, capacity: int) -> None:
        self.dataset, self.bucket, self.capacity = dataset, bucket, capacity
        self.held: OrderedDict[int, Clips] = OrderedDict()

    def __getitem__(self, index: int) -> Clips:
        if index not in self.held:
            if len(self.held) >= self.capacity:
                self.held.popitem(last=False)
            self.held[index] = self.dataset.read_group(self.bucket, index)
        self.held.move_to_end(index)
        return self.held[index]


def _pick(cache: _GroupCache, plan: BatchPlan) -> Clips:
    """The clips of a plan, in its order."""
    by_group_B = np.argsort(plan.group_B, kind="stable")
    groups, firsts = np.unique(plan.group_B[by_group_B], return_index=True)
    runs = np.split(plan.row_B[by_group_B], firsts[1:])
    picked = [cache[int(group)].take(rows) for group, rows in zip(groups, runs, strict=True)]
    return gather(picked).take(np.argsort(by_group_B))


def frame_choice(clips: Clips, epoch_B: np.ndarray, seed: int) -> np.ndarray:
    """The frame (B,) that stands for each clip in an epoch on images: a hash of (seed, epoch, clip)."""
    with np.errstate(over="ignore"):
        mixed = clips.hash_B ^ _mix(epoch_B.astype(np.uint64) + _mix(np.full(1, seed, np.uint64)))
    return (_mix(mixed) % np.uint64(clips.latents_BTCHW.shape[1])).astype(np.int64)


def _mix(value: np.ndarray) -> np.ndarray:
    """splitmix64: every bit of the result depends on every bit of the value."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def _connect(uri: str) -> tuple[fs.FileSystem, str]:
    return fs.FileSystem.from_uri(uri) if "://" in uri else (fs.LocalFileSystem(), uri)


def _groups(bucket: Bucket, split: str) -> list[tuple[Part, int, int]]:
    """(part, row group in it, clips) of all row groups of a split."""
    return [
        (part, row_group, size)
        for part in bucket.parts
        if part.split == split
        for row_group, size in enumerate(part.row_groups)
    ]


def _to_clips(table: pa.Table, bucket: Bucket, text_shape: tuple[int, int]) -> Clips:
    clip_ids = table["clip_id"].to_numpy()
    hashes = [int.from_bytes(hashlib.blake2b(i.encode(), digest_size=8).digest()) for i in clip_ids]
    return Clips(
        clip_id_B=clip_ids,
        hash_B=np.array(hashes, np.uint64),
        latents_BTCHW=_array(table["latents"], "<f2", bucket.latent_shape),
        text_BLD=_array(table["text"], "<f2", text_shape),
        mask_BL=_array(table["text_mask"], "?", text_shape[:1]),
        fps_B=table["fps"].to_numpy(),
        motion_B=table["motion"].to_numpy().astype(np.float32),
    )


def _array(column: pa.ChunkedArray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A binary column as one array (B, *shape), without a copy of a column in one chunk."""
    values = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset :][: len(values) + 1]
    data = np.frombuffer(values.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return data.view(dtype).reshape(len(values), *shape)
