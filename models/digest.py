"""Names for weights that follow from their values, or from their files without loading them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


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
    their names, or a hub's name.

    Args:
        embedded: which of the embedded models `name` = 'embedded' stands for.
    """
    folder = Path(__file__).parent / "embedded"
    files = [folder / f"{embedded}.json", folder / f"{embedded}.safetensors"] if name == "embedded" else []
    path = local_weights(name)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if path.exists():
        files = sorted(p for p in [path, *path.rglob("*")] if p.is_file())
    if not files:
        return name
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def local_weights(name: str) -> Path:
    """The file or folder that a name of weights would be, with or without ``open_clip:`` and ``local-dir:`` before it."""
    return Path(name.removeprefix("open_clip:").removeprefix("local-dir:")).expanduser()
