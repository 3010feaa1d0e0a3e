"""What a training run leaves in its folder, and reading it back.

    run.json                          what is trained on what; its digest
    metrics.jsonl                     one line an event
    checkpoints/step-00000500.ckpt    everything needed to go on exactly; beside it its .json (size and sha256)
    weights.safetensors               the averaged weights at the end
    done.json                         written last: the run is complete

Every file appears whole or not at all. A checkpoint counts once its .json stands and agrees with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.counting import network_of
from models.networks import NetworkConfig
from models.video_unet import VideoUNetConfig, is_temporal, widened
from training.recipe import network_with
from warehouse.errors import SettingsError, WeightsError
from warehouse.run_folder import WEIGHTS

FORMAT = "1"

log = logging.getLogger(__name__)


def place(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, and give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def place_folder(path: Path, write: Callable[[Path], None]) -> None:
    """The same for a new folder, or an empty one: `write` makes files at any depth of a temporary one beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process with our id that was killed
    temporary.mkdir()
    try:
        write(temporary)
        for written in filter(Path.is_file, temporary.rglob("*")):
            with written.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def place_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON file that appears whole (`place`)."""
    text = json.dumps(content, indent=1)
    place(path, lambda temporary: temporary.write_text(text))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_path(out: Path, step: int) -> Path:
    """Where the checkpoint of a run is after so many optimiser steps; names sort as steps do."""
    return out / "checkpoints" / f"step-{step:08d}.ckpt"


def seal_checkpoint(path: Path, step: int) -> None:
    """Say that a placed checkpoint is whole."""
    content = {"step": step, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
    place_json(path.with_suffix(".json"), content)


def forget_old_checkpoints(out: Path, keep: int) -> None:
    """Remove all but the `keep` newest."""
    for path in sorted((out / "checkpoints").glob("step-*.ckpt"))[:-keep]:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink()


def newest_checkpoint(out: Path) -> Path | None:
    """The newest whole checkpoint of a run, with a warning for every newer one that is not; None if there
    is none.
    """
    for path in sorted((out / "checkpoints").glob("step-*.ckpt"), reverse=True):
        flaw = _flaw(path)
        if flaw is None:
            return path
        log.warning("checkpoint %s is passed over: %s; taking the one before it", path, flaw)
    return None


def _flaw(path: Path) -> str | None:
    try:
        seal = json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError) as error:
        return f"it was never finished ({error})"
    if path.stat().st_size != seal["bytes"]:
        return f"it has {path.stat().st_size} bytes, expected {seal['bytes']}"
    if (found := file_sha256(path)) != seal["sha256"]:
        return f"it has sha256 {found[:16]}, expected {seal['sha256'][:16]}"
    return None


@dataclass(frozen=True)
class Weights:
    """A trained network: its shape, its tensors, the edges of its motion buckets, and where it came from."""

    config: NetworkConfig
    tensors: dict[str, Tensor]
    motion_edges: Tensor
    origin: dict[str, Any]

    def network(self) -> nn.Module:
        """The network with these weights, on the CPU, for evaluation."""
        network = network_of(self.config)
        network.load_state_dict(self.tensors)
        return network.eval().requires_grad_(False)


def save_weights(path: Path, weights: Weights) -> None:
    """Writes weights so that `load_weights` gives them back bit for bit: a safetensors file that appears whole.

    Tensors are named "network.<name>" and "motion_edges"; the metadata hold format, shape and origin as JSON.
    """
    tensors = {f"network.{name}": value.cpu().contiguous() for name, value in weights.tensors.items()}
    tensors["motion_edges"] = weights.motion_edges.cpu()
    described = {
        "format": FORMAT,
        "network": json.dumps(asdict(weights.config)),
        "origin": json.dumps(weights.origin),
    }
    place(path, lambda temporary: save_file(tensors, temporary, metadata=described))


def load_weights(path: Path) -> Weights:
    """Weights from a file, or from the folder of a finished run. Raises WeightsError."""
    path = path / WEIGHTS if path.is_dir() else path
    with _open(path) as file:
        described = _described(file, path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        config = network_with(VideoUNetConfig(), json.loads(described["network"]), "network")
    except SettingsError as error:
        raise WeightsError(f"{path} is of another version: {error}") from error
    edges = tensors.pop("motion_edges")
    named = {name.removeprefix("network."): value for name, value in tensors.items()}
    return Weights(config, named, edges, json.loads(described["origin"]))


def read_origin(path: Path) -> dict[str, Any]:
    """`Weights.origin` of a file, or of the folder of a finished run, without its tensors. Raises WeightsError."""
    path = path / WEIGHTS if path.is_dir() else path
    with _open(path) as file:
        return dict(json.loads(_described(file, path)["origin"]))


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be read ({error}); expected the {WEIGHTS} of a finished run"
        ) from error


def _described(file: Any, path: Path) -> dict[str, str]:
    described = file.metadata() or {}
    if described.get("format") != FORMAT:
        raise WeightsError(
            f"{path} has format {described.get('format')}, expected {FORMAT}, written by training"
        )
    return dict(described)


def start_from(network: nn.Module, weights: Weights) -> None:
    """Put earlier weights into a network. New may be temporal layers, frames that join the input and what stands for
    missing ones, numbers that follow the earlier ones, and the whole embedding of numbers or the null caption where there
    were none.
    Raises WeightsError.
    """
    try:
        missing, unexpected = network.load_state_dict(widened(weights.tensors, network), strict=False)
    except RuntimeError as error:
        raise WeightsError(f"the earlier stage's network {weights.config} does not fit: {error}") from error
    new = _may_be_new(weights.config)
    unfilled = [name for name in missing if not is_temporal(name) and not name.startswith(new)]
    if unfilled or unexpected:
        raise WeightsError(
            f"the earlier stage's network {weights.config} does not fit {network.config}: "
            f"it lacks {unfilled}, has besides {unexpected}; give both stages one network setting"
        )


def _may_be_new(earlier: NetworkConfig) -> tuple[str, ...]:
    """How parameters begin that a network may have more than the earlier one, besides temporal ones."""
    if not isinstance(earlier, VideoUNetConfig):
        return () if earlier.null_tokens else ("null_text",)
    new = ("embedding.numbers.",) if earlier.num_numbers == 0 else ()
    return new + (("missing_frame",) if not earlier.missing_size else ())


def load_for_resume(path: Path) -> dict[str, Any]:
    """A whole checkpoint's content."""
    return torch.load(path, map_location="cpu", weights_only=True)
