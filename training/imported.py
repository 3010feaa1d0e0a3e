"""Weights of others as the start of a stage, and to sample from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models import layouts
from models.conditioning import NUM_MOTION_BUCKETS
from models.counting import network_of
from models.layouts import unet_diffusers, unet_original
from models.networks import NETWORKS, NetworkConfig
from models.tensor_files import load_tensors
from models.transformer_folders import CLASSES, transformer_from_diffusers
from models.unet_config import from_diffusers
from models.video_unet import VideoUNetConfig
from models.weight_names import Layout, Report, known_names, read_weights
from training.checkpoints import Weights, save_weights
from training.publish import UNET_PREFIX
from training.published import trained_as
from training.trained import TRAINED
from warehouse.errors import WeightsError
from warehouse.run_folder import WEIGHTS

_PARTS = ("unet", "transformer")
"""Folders of networks in a pipeline of diffusers."""
_HELD = ("ema", "state_dict")
"""Names under which the authors' checkpoints hold a network's weights beside other things; averaged ones first."""
_NULL_CAPTIONS = ("y_embedder.y_embedding", "caption_projection.y_embedding")
_CLASSES_TABLE = "y_embedder.embedding_table.weight"


@dataclass(frozen=True)
class Imported:
    """What was made a run of.

    `layout`: whose names the source has (`models.layouts`). `report`: what did not go one to one. `left`: names of other
    networks in the same file, which were left there.
    """

    config: NetworkConfig
    layout: str
    report: Report
    left: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """Tensors by name, what `config.json` says of their network where there is one, and their layouts to choose from."""

    tensors: Mapping[str, Tensor]
    told: NetworkConfig | None
    layouts: tuple[str, ...]
    left: tuple[str, ...] = ()


def import_weights(
    source: Path, out: Path, network: str | None = None, objective: str | None = None
) -> Imported:
    """Weights of others as those of a run, which a stage can start from and samples can be drawn with.

    Args:
        source: a folder of diffusers (a pipeline's, or its `unet` or `transformer`), or a file in its authors' layout or
            diffusers' (.safetensors, or .ckpt, .pth and .pt that hold nothing but tensors).
        out: the run's folder; its weights are written once.
        network: which of `models.networks` a file is of; a folder says it itself, and must not say another one.
        objective: what it was trained to say (`training.objective`), where that is not what
            `training.published.trained_as` finds.

    Raises:
        WeightsError: they are of another network, a name is missing or not known, or `out` has weights.
    """
    if (out / WEIGHTS).exists():
        raise WeightsError(f"{out} has weights already; name a new folder")
    if not source.exists():
        raise WeightsError(
            f"{source} is not there; name a folder of diffusers or a file in its authors' layout"
        )
    if network is not None and network not in NETWORKS:
        raise WeightsError(f"there is no network {network!r}; there are {', '.join(NETWORKS)}")
    held = _read_folder(source) if source.is_dir() else _read_file(source, network)
    config = _adapted(_config(held, network, source), held.tensors)
    trained = trained_as(source, config, network, objective)
    made = network_of(config)
    name, layout = _fitting(held, config)
    report = read_weights(made, held.tensors, layout)
    edges = torch.zeros(NUM_MOTION_BUCKETS - 1)  # theirs are not published
    origin = {"imported": source.name, TRAINED: asdict(trained)}
    save_weights(out / WEIGHTS, Weights(config, dict(made.state_dict()), edges, origin))
    return Imported(config, name, report, held.left)


def _config(held: _Source, network: str | None, source: Path) -> NetworkConfig:
    if network is None:
        return held.told
    named = NETWORKS[network].config
    if held.told is not None:
        _check_named(held.told, named, network, source)
    return held.told or named


def _check_named(told: NetworkConfig, named: NetworkConfig, network: str, source: Path) -> None:
    """Raises WeightsError where a folder is of another network than the one that was named."""
    if type(told) is not type(named):
        raise WeightsError(
            f"{source} holds a {type(told).__name__}, but {network} is a {type(named).__name__}"
        )
    free = {"null_tokens", "temporal_init"}  # the file's own; how it would have begun
    free |= {"position_base"} if getattr(named, "position_base", 0) is None else set()
    pairs = {f.name: (getattr(told, f.name), getattr(named, f.name)) for f in fields(named)}
    wrong = [f"{n} {a!r}, expected {b!r}" for n, (a, b) in pairs.items() if a != b and n not in free]
    if wrong:
        raise WeightsError(
            f"{source} is not of {network}: {'; '.join(wrong)}; leave the name out, or name another network"
        )


def _adapted(config: NetworkConfig, tensors: Mapping[str, Tensor]) -> NetworkConfig:
    """The shape with what files of one network differ in: the null caption's length, and the number of classes."""
    if isinstance(config, VideoUNetConfig):
        return config
    null = next((tensors[name] for name in _NULL_CAPTIONS if name in tensors), None)
    if config.text_dim is not None:
        config = replace(config, null_tokens=0 if null is None else len(null))
    table = tensors.get(_CLASSES_TABLE)
    return config if table is None else replace(config, num_classes=len(table) - 1)


def _fitting(held: _Source, config: NetworkConfig) -> tuple[str, Layout]:
    """The layout that knows the most of the names."""
    candidates = {name: getattr(layouts, name)(config) for name in held.layouts}
    return max(candidates.items(), key=lambda pair: known_names(held.tensors, pair[1]))


def _read_folder(folder: Path) -> _Source:
    parts = [folder / part for part in _PARTS if (folder / part / "config.json").exists()]
    folder = parts[0] if parts else folder
    try:
        settings = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} has no config.json of diffusers: {error}") from error
    if not isinstance(settings, dict):
        raise WeightsError(
            f"{folder} has a config.json of {type(settings).__name__}: expected settings by name"
        )
    files = sorted(folder.glob("*.safetensors"))
    full = [path for path in files if ".fp16." not in path.name] or files
    if not full:
        raise WeightsError(f"{folder} has no .safetensors file")
    tensors = {name: value for path in full for name, value in _load(path).items()}
    told, layout = _told(settings)
    return _Source(tensors, told, (layout,))


def _told(settings: Mapping[str, Any]) -> tuple[NetworkConfig, str]:
    """The network of a config.json, and the layout of diffusers' class."""
    if settings.get("_class_name") not in CLASSES:
        return from_diffusers(settings), unet_diffusers.__name__
    config = transformer_from_diffusers(settings)
    if config.text_dim is None:
        return config, layouts.dit_diffusers.__name__
    video = "time" in config.attention
    return config, (layouts.latte_t2v_diffusers if video else layouts.pixart_diffusers).__name__


def _read_file(path: Path, network: str | None) -> _Source:
    known = [name for name, named in NETWORKS.items() if named.loads]
    if network not in known:
        raise WeightsError(f"a file does not tell its network: got {network!r}, expected {', '.join(known)}")
    tensors, named = _load(path), NETWORKS[network]
    own = {n.removeprefix(UNET_PREFIX): v for n, v in tensors.items() if n.startswith(UNET_PREFIX)}
    if isinstance(named.config, VideoUNetConfig) and own:
        left = tuple(name for name in tensors if not name.startswith(UNET_PREFIX))
        return _Source(own, None, (unet_original.__name__,), left)
    return _Source(tensors, None, named.loads)


def _load(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    held = load_tensors(path)
    if isinstance(held, dict):
        held = next((held[name] for name in _HELD if isinstance(held.get(name), dict)), held)
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise WeightsError(f"{path} holds {type(held).__name__}: expected names and their tensors")
    return held
