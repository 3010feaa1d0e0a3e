"""Writes packed datasets (see warehouse.manifest) from rows, with bounded memory."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from warehouse.errors import DatasetError
from warehouse.manifest import BINARY_COLUMNS, HELD_OUT, MANIFEST, SCHEMA, TRAIN, Bucket, Manifest, Part

# Stores where a file becomes visible in one step, when its upload is complete.
OBJECT_STORES = ("s3", "gcs", "abfs")


def split_videos(video_ids: Iterable[str], held_out_share: float) -> dict[str, str]:
    """The split of each video, decided by the hash of its id, so that no video has clips in both.

    A video keeps its split as others are added, but for one case: where the hashes would leave one split
    of two or more videos empty, the video whose hash is nearest moves into it.
    """
    place = {video_id: _unit_hash(video_id) for video_id in video_ids}
    by_place = sorted(place, key=lambda video_id: place[video_id])
    num_held_out = sum(value < held_out_share for value in place.values())
    if len(place) > 1 and held_out_share > 0:
        num_held_out = min(max(num_held_out, 1), len(place) - 1)
    held_out = set(by_place[:num_held_out])
    return {video_id: HELD_OUT if video_id in held_out else TRAIN for video_id in place}


def _unit_hash(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def clip_batch(
    *,
    clip_ids: Sequence[str],
    video_ids: Sequence[str],
    latents_BTCHW: np.ndarray,
    text_BLD: np.ndarray,
    mask_BL: np.ndarray,
    fps: Sequence[float],
    motion: Sequence[float | None],
    captions: Sequence[str],
    caption_methods: Sequence[str],
    splits: Sequence[str],
) -> pa.RecordBatch:
    """Rows of one bucket from arrays (cast to float16 and bool) as a record batch of the dataset's schema."""
    columns = {
        "clip_id": clip_ids,
        "video_id": video_ids,
        "latents": _binary(latents_BTCHW.astype("<f2", order="C")),
        "text": _binary(text_BLD.astype("<f2", order="C")),
        "text_mask": _binary(mask_BL.astype(np.bool_, order="C")),
        "fps": fps,
        "motion": motion,
        "caption": captions,
        "caption_method": caption_methods,
        "split": splits,
    }
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def _binary(array: np.ndarray) -> pa.Array:
    """One binary value for each entry of the first axis, over the array's own memory."""
    offsets = np.arange(len(array) + 1) * (array.nbytes // max(1, len(array)))
    if array.nbytes > np.iinfo(np.int32).max:
        raise DatasetError(
            f"a batch has {array.nbytes} bytes in one column, at most 2 GiB fit: use smaller ones"
        )
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(array)]
    return pa.Array.from_buffers(pa.binary(), len(array), buffers)


def write_dataset(
    filesystem: fs.FileSystem,
    path: str,
    batches: Iterable[tuple[str, pa.RecordBatch]],
    manifest: Manifest,
    *,
    row_group_bytes: int = 8 << 20,
    part_bytes: int = 512 << 20,
) -> Manifest:
    """Write (bucket, record batch) pairs in their order and return the complete manifest.

    `manifest` says where the clips come from; buckets and digest are filled in. Memory is bounded by one row
    group for each bucket and split. Raises DatasetError if the folder already holds a dataset, or if a
    row does not fit its bucket; then there is no manifest and the same call may be made again.
    """
    if filesystem.get_file_info(f"{path}/{MANIFEST}").type != fs.FileType.NotFound:
        raise DatasetError(
            f"{path}/{MANIFEST} is already there and a packed dataset never changes: pack elsewhere"
        )
    writers: dict[tuple[str, str], _SplitWriter] = {}
    with ExitStack() as unfinished:
        for bucket, batch in batches:
            _check_rows(bucket, batch, manifest)
            for split in (TRAIN, HELD_OUT):
                rows = batch.filter(pc.equal(batch["split"], split))
                if rows.num_rows and (bucket, split) not in writers:
                    group_rows = max(1, row_group_bytes // sum(_row_bytes(bucket, manifest).values()))
                    writer = _SplitWriter(
                        filesystem, path, f"parts/{bucket}/{split}", split, group_rows, part_bytes
                    )
                    unfinished.callback(writer.abandon)
                    writers[bucket, split] = writer
                if rows.num_rows:
                    writers[bucket, split].add(rows)
        parts = {key: writer.finish() for key, writer in writers.items()}
    return _write_manifest(filesystem, path, manifest, parts)


def _write_manifest(
    filesystem: fs.FileSystem, path: str, manifest: Manifest, parts: dict[tuple[str, str], list[Part]]
) -> Manifest:
    buckets = {
        name: Bucket(
            manifest.latent_shape(name), (*parts.get((name, TRAIN), ()), *parts.get((name, HELD_OUT), ()))
        )
        for name in sorted({bucket for bucket, _ in parts})
    }
    complete = replace(manifest, buckets=buckets)
    complete = replace(complete, digest=complete.computed_digest())
    file = _NewFile(filesystem, f"{path}/{MANIFEST}")
    file.write(complete.to_json().encode())
    file.place()
    return complete


def _row_bytes(bucket: str, manifest: Manifest) -> dict[str, int]:
    """Bytes of one clip in each binary column."""
    num_tokens, text_dim = manifest.text_shape
    sizes = (2 * math.prod(manifest.latent_shape(bucket)), 2 * num_tokens * text_dim, num_tokens)
    return dict(zip(BINARY_COLUMNS, sizes, strict=True))


def _check_rows(bucket: str, batch: pa.RecordBatch, manifest: Manifest) -> None:
    if not batch.schema.equals(SCHEMA):
        raise DatasetError(f"rows of bucket {bucket} have columns\n{batch.schema}\nexpected\n{SCHEMA}")
    for column, num_bytes in _row_bytes(bucket, manifest).items():
        lengths = pc.unique(pc.binary_length(batch[column])).to_pylist()
        if lengths not in ([], [num_bytes]):
            raise DatasetError(
                f"{column} in bucket {bucket} has rows of {lengths} bytes, expected {num_bytes}"
            )
    unknown = set(pc.unique(batch["split"]).to_pylist()) - {TRAIN, HELD_OUT}
    if unknown:
        raise DatasetError(f"clips of bucket {bucket} are in split {unknown}, expected {TRAIN} or {HELD_OUT}")


class _SplitWriter:
    """Gathers rows into row groups of `group_rows` clips, and these into parts of about `part_bytes`."""

    def __init__(
        self, filesystem: fs.FileSystem, root: str, stem: str, split: str, group_rows: int, part_bytes: int
    ) -> None:
        self.filesystem, self.root, self.stem, self.split = filesystem, root, stem, split
        self.group_rows, self.part_bytes = group_rows, part_bytes
        self.held = SCHEMA.empty_table()
        self.parts: list[Part] = []
        self.open: _OpenPart | None = None

    def add(self, rows: pa.RecordBatch) -> None:
        self.held = pa.concat_tables([self.held, pa.Table.from_batches([rows])])
        while len(self.held) >= self.group_rows:
            self._write(self.held.slice(0, self.group_rows))
            self.held = self.held.slice(self.group_rows)

    def finish(self) -> list[Part]:
        if len(self.held):
            self._write(self.held)
        if self.open is not None:
            self.parts.append(self.open.finish())
            self.open = None
        return self.parts

    def abandon(self) -> None:
        """Remove what is unfinished; nothing, after `finish`."""
        if self.open is not None:
            self.open.abandon()

    def _write(self, group: pa.Table) -> None:
        if self.open is None:
            path = f"{self.stem}-{len(self.parts):05d}.parquet"
            self.open = _OpenPart(_NewFile(self.filesystem, f"{self.root}/{path}"), path, self.split)
        self.open.write(group)
        if self.open.file.num_bytes >= self.part_bytes:
            self.parts.append(self.open.finish())
            self.open = None


class _OpenPart:
    """One Parquet file in the making: media plain, pages with checksums."""

    def __init__(self, file: _NewFile, path: str, split: str) -> None:
        self.file, self.path, self.split = file, path, split
        self.row_groups: list[int] = []
        small = [name for name in SCHEMA.names if name not in BINARY_COLUMNS]
        self.writer = pq.ParquetWriter(
            pa.PythonFile(file, mode="w"),
            SCHEMA,
            compression={name: "zstd" if name in small else "none" for name in SCHEMA.names},
            use_dictionary=small,
            write_statistics=small,
            write_page_checksum=True,
        )

    def write(self, group: pa.Table) -> None:
        self.writer.write_table(group, row_group_size=len(group))
        self.row_groups.append(len(group))

    def finish(self) -> Part:
        self.writer.close()
        self.file.place()
        return Part(
            self.path, self.split, tuple(self.row_groups), self.file.num_bytes, self.file.sha256.hexdigest()
        )

    def abandon(self) -> None:
        self.writer.close()
        self.file.abandon()


class _NewFile:
    """A writable file that appears at `path` whole, when placed, or not at all; it counts and hashes its
    bytes.
    """

    closed = False

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self.filesystem, self.path = filesystem, path
        # An upload to an object store is invisible until complete; elsewhere a rename makes it so.
        self.renames = filesystem.type_name not in OBJECT_STORES
        self.written_path = f"{path}.{uuid.uuid4().hex[:8]}.tmp" if self.renames else path
        if self.renames:
            filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        self.stream = filesystem.open_output_stream(self.written_path)
        self.sha256, self.num_bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.stream.write(data)
        self.sha256.update(data)
        self.num_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self.stream.flush()

    def tell(self) -> int:
        return self.num_bytes

    def close(self) -> None:
        """Asked by Arrow when the Parquet footer is out; the file stays open until it is placed."""

    def place(self) -> None:
        self.stream.close()
        if self.renames:
            self.filesystem.move(self.written_path, self.path)

    def abandon(self) -> None:
        self.stream.close()
        self.filesystem.delete_file(self.written_path)
