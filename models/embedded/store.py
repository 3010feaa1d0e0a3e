"""Where the embedded models' configs and weights lie: `<name>.json` and `<name>.safetensors` in this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from warehouse.errors import WeightsError

_FOLDER = Path(__file__).parent
_MEND = "install the project again, or make them with `python -m flows.build_embedded`"


def read_config(name: str) -> dict[str, Any]:
    """Config of the embedded model `name`; WeightsError where it is missing."""
    path = _FOLDER / f"{name}.json"
    if not path.exists():
        raise WeightsError(f"config {path} of an embedded model is missing: {_MEND}")
    return json.loads(path.read_text(encoding="utf-8"))


def load_weights(name: str, network: torch.nn.Module) -> None:
    """Fill `network` with the stored half-precision weights; WeightsError where they are missing or do not fit."""
    path = _FOLDER / f"{name}.safetensors"
    if not path.exists():
        raise WeightsError(f"weights {path} of an embedded model are missing: {_MEND}")
    try:
        network.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise WeightsError(f"weights {path} do not fit the config beside them: {_MEND} ({error})") from error


def store(name: str, network: torch.nn.Module, config: dict[str, Any]) -> None:
    """Write the weights of `network` in half precision and its config under `name`."""
    halves = {key: value.detach().half().contiguous().clone() for key, value in network.state_dict().items()}
    save_file(halves, _FOLDER / f"{name}.safetensors")
    text = json.dumps(config, indent=1, sort_keys=True)
    (_FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
