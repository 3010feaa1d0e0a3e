"""Numpy files from elsewhere: their shapes and small facts, without unpickling and without loading what is large."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

MOST_BYTES = 1 << 20
"""A fact (a name, a caption, a class) may not be larger."""


class ArrayError(ValueError):
    """A numpy file is not what it should be."""


def shape_of(path: Path) -> tuple[int, ...]:
    """Shape of the array in an ``.npy`` file, from its header; the file must hold all of it.

    Raises:
        ArrayError: it is no such file, or holds objects.
    """
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(file)
            num_bytes = path.stat().st_size - file.tell()
    except (ValueError, EOFError) as error:
        raise ArrayError(f"{path.name} is no .npy file: {error}") from error
    if dtype.hasobject:
        raise ArrayError(f"{path.name} holds Python objects, expected numbers")
    if num_bytes != dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise ArrayError(
            f"{path.name} has {num_bytes} bytes of data, shape {shape} of {dtype} needs another number"
        )
    return shape


def read_facts(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Single texts and numbers of an ``.npz`` file, by name; those that it lacks are left out.

    Raises:
        ArrayError: it is no such file, or one of them is no single text or number.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            return {n: _fact(archive, f"{n}.npy") for n in names if f"{n}.npy" in there}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ArrayError(f"{path.name} is no .npz file: {error}") from error


def _fact(archive: zipfile.ZipFile, member: str) -> Any:
    with archive.open(member) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ArrayError(f"{member} is larger than {MOST_BYTES} bytes, expected a single text or number")
    try:
        array = npy.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise ArrayError(f"{member} cannot be read: {error}") from error
    if array.size != 1:
        raise ArrayError(f"{member} holds {array.size} values, expected one")
    value = array.reshape(-1)[0].item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
