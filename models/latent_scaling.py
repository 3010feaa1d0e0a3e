"""How an autoencoder's latents are scaled, told by its configuration alone.

Ours are (z - shift) * scale of the network's own latents z; so z is ours / scale + shift.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from models import taesd
from warehouse.errors import WeightsError

PerChannel = float | list[float]
"""One number for all channels, or one of each."""
SCALE = "first_stage_model.scale_factor"
"""Of the metadata of a file in Stability's layout; Stability's code has it in the model's settings, as `scale_factor`."""
STABLE_DIFFUSION = 0.18215


def scaling(config: Mapping[str, Any]) -> tuple[PerChannel, PerChannel]:
    """Scale and shift that a configuration of diffusers tells."""
    if config.get("latents_std"):
        return [1 / std for std in config["latents_std"]], list(config["latents_mean"])
    return float(config.get("scaling_factor") or 1.0), float(config.get("shift_factor") or 0.0)


def scale_in_file(path: str) -> float:
    """Of a file in Stability's layout: what its metadata says, as ours does, or Stable Diffusion's.

    Raises WeightsError where there is no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return float((file.metadata() or {}).get(SCALE, STABLE_DIFFUSION))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is no file of safetensors: {error}") from error


def scaling_of(name: str, subfolder: str = "") -> tuple[PerChannel, PerChannel] | None:
    """Scale and shift of the autoencoder of this name (`models.autoencoder.load_autoencoder`), without loading it; None
    where its configuration is not on this machine, or is of no autoencoder of diffusers.
    """
    if name == "embedded":
        return scaling(json.loads((Path(__file__).parent / "embedded" / "autoencoder.json").read_text()))
    try:
        if taesd.find(name):
            return 1.0, 0.0
        if name.endswith(".safetensors"):
            return scale_in_file(name), 0.0
        config = json.loads(_config_file(name, subfolder).read_text())
    except (OSError, ValueError, WeightsError):
        return None
    import diffusers

    kind = getattr(diffusers, config.get("_class_name", ""), None)
    if kind is None:
        return None
    own = inspect.signature(kind.__init__).parameters
    return scaling({n: p.default for n, p in own.items() if p.default is not p.empty} | config)


def _config_file(name: str, subfolder: str) -> Path:
    folder = Path(name).expanduser() / subfolder
    if folder.is_dir():
        return folder / "config.json"
    from huggingface_hub import try_to_load_from_cache

    inside = f"{subfolder}/config.json" if subfolder else "config.json"
    found = try_to_load_from_cache(name, inside)
    if not isinstance(found, str):
        raise FileNotFoundError(f"{name} is neither a folder here nor a repository in the hub's cache")
    return Path(found)
