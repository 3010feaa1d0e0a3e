"""Whether weights that lie on this machine can be read, told without building their network.

Loading is the proof, but comes late, in every worker at once, and may take minutes; a path that was mistyped, a download
that was cut short or a file of something else is told by a look.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import files as files_of
from pathlib import Path

from models.digest import local_weights
from warehouse.errors import WeightsError

_SAFETENSORS = ".safetensors"
_ONNX = ".onnx"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def check_weights(name: str, needs: str | None = None) -> None:
    """Looks at weights by name: a file, or a folder with at least one file of weights.

    A name that is no path passes, since it may be a hub's or a package's, and so does 'embedded'.

    Args:
        needs: a file without which a folder cannot be loaded, as `config.json`.

    Raises:
        WeightsError: the path leads nowhere, or to what holds no weights, or to a file that is damaged.
    """
    if name == "embedded":
        return
    path = local_weights(name)
    if path.is_dir():
        _check_folder(path, needs)
    elif path.exists():
        _check_file(path)
    elif _is_path(name):
        raise WeightsError(
            f"the weights {path} are missing; put them there, or name the file or folder that has them"
        )


def _is_path(name: str) -> bool:
    path = local_weights(name)
    return (
        "local-dir:" in name
        or path.is_absolute()
        or path.suffix in (_SAFETENSORS, *_PICKLES)
        or name.startswith(("./", "../", "~"))
    )


def _check_folder(folder: Path, needs: str | None) -> None:
    if needs is not None and not (folder / needs).is_file():
        raise WeightsError(f"{folder} holds no {needs}, so it is no model; name the folder that has it")
    found = sorted(folder.rglob("*"))
    # Where both are there, libraries read safetensors.
    files = [p for p in found if p.suffix == _SAFETENSORS] or [p for p in found if p.suffix in _PICKLES]
    if not files:
        raise WeightsError(
            f"{folder} holds no weights: expected files in {', '.join((_SAFETENSORS, *_PICKLES))}"
        )
    for file in files:
        _check_file(file)


def _check_file(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == _SAFETENSORS:
            with safe_open(path, framework="numpy"):
                return
        if zipfile.is_zipfile(path):  # as PyTorch writes; its directory stands at the end
            return
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be read as weights: {error}; it may be cut short: fetch it again"
        ) from error
    from models.tensor_files import load_tensors

    load_tensors(path)


def check_packaged(distribution: str) -> None:
    """Looks at weights that come inside an installed package, against the package's own list of its files.

    Raises:
        WeightsError: the package is not installed, or one of its files of weights is missing or of another size.
    """
    try:
        listed = files_of(distribution) or []
    except PackageNotFoundError as error:
        raise WeightsError(
            f"the package {distribution}, which holds the weights, is not installed; install it"
        ) from error
    for file in listed:
        if file.suffix in (_ONNX, *_PICKLES):
            path = Path(str(file.locate()))
            size = path.stat().st_size if path.is_file() else None
            if size is None or file.size not in (None, size):
                raise WeightsError(
                    f"{path} is {'missing' if size is None else f'{size} bytes, not {file.size}'}: the package "
                    f"{distribution} is damaged; install it again"
                )


def memory_of_weights(names: Iterable[str]) -> int:
    """Bytes that a process needs for models of local files and folders; the embedded and those of a hub count nothing.

    Published files mostly hold numbers of two bytes, and without an accelerator they take four.
    """
    places = {local_weights(name) for name in names if name and name != "embedded"}
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    return 2 * sum(file.stat().st_size for file in files if file.is_file())
