"""A stage and its inputs by content, and how its run ends. Imports no trainer: whoever launches one needs
it too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.checkpoints import file_sha256, read_origin
from training.recipe import Recipe
from training.trained import levels_of
from warehouse.errors import CutroomError, SettingsError
from warehouse.reader import PackedDataset
from warehouse.run_folder import DONE, WEIGHTS

# Exit codes of the training program.
EXIT_DONE, EXIT_FAILED, EXIT_WRONG_SETTING, EXIT_STOPPED = 0, 1, 2, 75


class TrainingError(CutroomError):
    """A training run failed or was stopped."""


@dataclass(frozen=True)
class Job:
    """A recipe, a packed dataset (path or URI), and the weights to start from (a file, a run's folder, or
    None).
    """

    recipe: Recipe
    dataset: str
    init_from: str | None = None

    def describe(self) -> dict[str, Any]:
        """The job by content: recipe, digest of the dataset, of the earlier weights, and of all three; and beside it what
        the dataset says of how its clips were encoded, and earlier weights of how they are sampled, for those who have the
        run alone.
        """
        manifest = PackedDataset.open(self.dataset).manifest
        init = None if self.init_from is None else weights_file(self.init_from)
        content = {
            "recipe": asdict(self.recipe),
            "dataset": manifest.digest,
            "init_from": None if init is None else file_sha256(init),
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        paths = {"dataset": self.dataset, "init_from": self.init_from}
        levels = None if init is None else levels_of(read_origin(init), self.recipe.objective)
        return content | {"digest": digest, "encoding": manifest.encoding, "levels": levels, "paths": paths}


def weights_file(path: str) -> Path:
    """The weights at a path: itself, or those in a finished run's folder. Raises SettingsError."""
    file = Path(path) / WEIGHTS if Path(path).is_dir() else Path(path)
    if not file.exists():
        raise SettingsError(
            f"init_from is {path}, but there is no {file}; expected the {WEIGHTS} of a finished run"
        )
    return file


def finished(out: Path, digest: str) -> dict[str, Any] | None:
    """What a complete run of this digest reported, or None."""
    if not (out / DONE).exists():
        return None
    report = json.loads((out / DONE).read_text())
    return report if report["digest"] == digest else None
