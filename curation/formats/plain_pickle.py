"""Pickles of plain data, and of nothing else.

A pickle is a program: it may name any function of any module and call it. This reader refuses to look up a name, so that
nothing but None, truth values, numbers, texts, bytes, lists, tuples, dicts and sets can come out.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from warehouse.errors import FormatError


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside of itself")


def load_plain(path: Path) -> Any:
    """What a pickle of plain data holds.

    Raises:
        FormatError: it holds anything else, or is no whole pickle.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # a broken pickle may raise anything
        raise FormatError(
            f"{path} is no pickle of plain data: {error}; nothing of it was run. Write the list as JSON instead"
        ) from error
