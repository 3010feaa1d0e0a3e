"""Names for weights that follow from their values, or from their files without loading them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

OPEN_CLIP = "open_clip:"
"""Before open_clip's name of a model."""
_WHOLE = ("local-dir", "hf-hub")
"""What stands in place of an architecture before a folder or a repository that holds a whole model."""


def weights_digest(network: nn.Module, **facts: object) -> str:
    """sha256 (hex) over the network's parameters and buffers as float32, and over `facts` that change its output."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    state: Mapping = network.state_dict()
    for name in sorted(state):
        tensor = state[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def weights_id(name: str, embedded: str) -> str:
    """What tells weights apart in a table's key, found without loading them: a digest of a file, of a folder's files and
    their names, or a hub's name. What is read as open_clip's says so, since one folder may hold several layouts.

    Args:
        embedded: which of the embedded models `name` = 'embedded' stands for.
    """
    if name == "embedded":
        folder = Path(__file__).parent / "embedded"
        return _of_files([folder / f"{embedded}.json", folder / f"{embedded}.safetensors"])
    read_as, path = _architecture(name), local_weights(name)
    if path.is_file():
        return f"{read_as}{_sha256(path).hex()[:16]}"
    if not path.exists():
        return name
    files = sorted(found for found in path.rglob("*") if found.is_file())
    return f"{read_as}{_of_files(files)}" if files else name


def local_weights(name: str) -> Path:
    """The file or folder that a name of weights would be, without what may stand before it: ``open_clip:``, and then
    ``local-dir:`` or an architecture and a colon.
    """
    return Path(name.removeprefix(_architecture(name)).removeprefix("local-dir:")).expanduser()


def _architecture(name: str) -> str:
    """``open_clip:ViT-H-14:`` of ``open_clip:ViT-H-14:FILE``, ``open_clip:`` of a folder, nothing of any other name."""
    if not name.startswith(OPEN_CLIP):
        return ""
    architecture, colon, _ = name.removeprefix(OPEN_CLIP).partition(":")
    return OPEN_CLIP if not colon or architecture in _WHOLE else f"{OPEN_CLIP}{architecture}:"


def _of_files(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        digest.update(_sha256(path))
    return digest.hexdigest()[:16]


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
