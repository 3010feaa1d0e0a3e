"""Where files live: a local folder or an object-store prefix, through pyarrow's filesystems.

A file appears whole or not at all. Locally it is written under ``tmp/``, synced and renamed; on an object store it is
assembled locally and sent as one upload, which becomes visible when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from warehouse import faults, owner
from warehouse.errors import SettingsError, WarehouseError

ROW_GROUP_BYTES = 16 << 20


@dataclass(frozen=True)
class Entry:
    """A file: its path from the root, its size, and the store's own time of its last change (0 if it keeps none)."""

    path: str
    bytes: int
    modified_s: float

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


def check_folder(path: Path) -> None:
    """Raises SettingsError unless a path is a folder or can become one: neither it nor anything above it is a file."""
    for part in (path, *path.parents):
        if part.is_dir():
            return
        if part.exists():
            raise SettingsError(f"{path} is no folder: {part} is a file; name a folder, new or old")


class Store:
    """Files below one root, by paths with forward slashes.

    Raises:
        SettingsError: the root is a file.
    """

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri)
        if "://" in self.uri:
            self.filesystem, self.root = fs.FileSystem.from_uri(self.uri)
        else:
            self.uri = str(Path(uri).expanduser().resolve())
            self.filesystem, self.root = fs.LocalFileSystem(), self.uri
        self.is_local = isinstance(self.filesystem, fs.LocalFileSystem)
        if self.is_local:
            check_folder(Path(self.root))

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.uri,)

    def path(self, path: str) -> str:
        """The path as the filesystem knows it."""
        return f"{self.root}/{path}" if path else self.root

    def list(self, folder: str) -> list[Entry]:
        """Files directly in a folder, by name; none if there is no such folder."""
        return sorted(self._entries(folder), key=lambda e: e.path)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder."""
        selector = fs.FileSelector(self.path(folder), recursive=False, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(i.base_name for i in found if i.type == fs.FileType.Directory)

    def _entries(self, folder: str) -> Iterator[Entry]:
        selector = fs.FileSelector(self.path(folder), recursive=False, allow_not_found=True)
        for info in self.filesystem.get_file_info(selector):
            if info.type == fs.FileType.File:
                path = info.path.removeprefix("/") if not self.root.startswith("/") else info.path
                yield Entry(path[len(self.root) + 1 :], info.size, (info.mtime_ns or 0) / 1e9)

    def exists(self, path: str) -> bool:
        return self.filesystem.get_file_info(self.path(path)).type == fs.FileType.File

    def read_bytes(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(self.path(path)) as stream:
            return stream.read()

    def write_bytes(self, path: str, data: bytes) -> None:
        """Puts a small file in place, whole or not at all."""
        with self.placing(path) as temporary:
            temporary.write_bytes(data)

    def delete(self, path: str) -> None:
        """Removes a file; it is no error if it is gone."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(path))

    def read_table(self, path: str, columns: list[str] | None = None, filters: object = None) -> pa.Table:
        """Reads one Parquet file; its metadata comes along in the schema's.

        Raises:
            WarehouseError: the file is missing, cut short or no Parquet.
        """
        try:
            return pq.read_table(
                self.path(path),
                columns=columns,
                filters=filters,
                filesystem=self.filesystem,
                partitioning=None,
                page_checksum_verification=True,
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise WarehouseError(
                f"{path} cannot be read ({error}); run `cutroom audit` to see what it held"
            ) from error

    def is_sound(self, path: str) -> bool:
        """Whether every page of a Parquet file can be read and matches its checksum."""
        try:
            with pq.ParquetFile(
                self.path(path), filesystem=self.filesystem, page_checksum_verification=True
            ) as file:
                for _ in file.iter_batches(batch_size=1024):
                    pass
        except (pa.ArrowInvalid, OSError):
            return False
        return True

    def read_metadata(self, path: str) -> dict[str, str]:
        """The key-value metadata of a Parquet file."""
        schema = pq.read_schema(self.path(path), filesystem=self.filesystem)
        return {k.decode(): v.decode() for k, v in (schema.metadata or {}).items() if k != b"ARROW:schema"}

    def write_table(
        self, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], metadata: Mapping[str, str]
    ) -> int:
        """Writes one Parquet file from batches, in row groups of about `ROW_GROUP_BYTES`; returns the rows written."""
        described = schema.with_metadata({**(schema.metadata or {}), **metadata})
        rows = 0
        with (
            self.placing(path) as temporary,
            pq.ParquetWriter(temporary, described, compression="zstd", write_page_checksum=True) as writer,
        ):
            for group in _row_groups(schema, batches):
                writer.write_table(group)
                rows += group.num_rows
        return rows

    def scratch(self) -> Path:
        """A local folder for unfinished things: on the store's own disk if it is local.

        Raises:
            WarehouseError: it cannot be made.
        """
        folder = Path(self.root) / "tmp" if self.is_local else Path(tempfile.gettempdir()) / "cutroom"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WarehouseError(f"{folder} cannot be made ({error}); name a folder to write to") from error
        return folder

    def sweep(self) -> None:
        """Removes from the scratch folder what dead processes of this machine left there."""
        for left in self.scratch().iterdir():
            if owner.is_alive(left.name.removesuffix(".part")) is False:
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

    @contextlib.contextmanager
    def placing(self, path: str) -> Iterator[Path]:
        """Yields a temporary local file; when the block ends well, it appears at `path`."""
        temporary = self.scratch() / f"{owner.new_name()}.part"
        faults.point("temporary.before", path.split("/", 1)[0])
        try:
            yield temporary
            faults.point("temporary.after", path.split("/", 1)[0])
            self._put(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        faults.point("rename.after", path.split("/", 1)[0])

    def _put(self, temporary: Path, path: str) -> None:
        if not self.is_local:
            with (
                temporary.open("rb") as source,
                self.filesystem.open_output_stream(self.path(path)) as target,
            ):
                shutil.copyfileobj(source, target, 8 << 20)
            return
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        target = Path(self.path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(target)


def _row_groups(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Gathers batches until they weigh enough for a row group of their own; yields at least one, perhaps empty."""
    held: list[pa.RecordBatch] = []
    weight, yielded = 0, False
    for batch in batches:
        held.append(batch)
        weight += batch.nbytes
        if weight >= ROW_GROUP_BYTES:
            yield pa.Table.from_batches(held, schema)
            held, weight, yielded = [], 0, True
    if held or not yielded:
        yield pa.Table.from_batches(held, schema)
