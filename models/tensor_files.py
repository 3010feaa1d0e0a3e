"""Files of PyTorch opened as tensors alone: nothing in them is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from warehouse.errors import WeightsError


def load_tensors(path: Path) -> Any:
    """What `torch.save` put into a file, on the CPU.

    PyTorch's own advice, to run whatever such a file holds, is not passed on.

    Raises:
        WeightsError: it is missing or damaged, holds anything but tensors and plain values, or PyTorch has not written it.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} cannot be read as weights: it holds more than tensors, or is no checkpoint of PyTorch"
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its instructions run into
        found = f"{type(error).__name__}: {error}".partition("\n")[0].partition(". ")[0]
        raise WeightsError(
            f"{path} cannot be read as weights: it is damaged, or no checkpoint of PyTorch ({found}); fetch it again, or "
            f"name another file"
        ) from error
