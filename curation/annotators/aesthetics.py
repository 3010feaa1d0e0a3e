"""How a clip looks, judged from its CLIP embeddings: LAION's aesthetic heads, or the embedded model's own scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from curation.annotators.base import Clip, Failed, Outcome
from curation.annotators.batch import row_of, score_batch
from curation.annotators.clip_model import EMBEDDED
from warehouse.errors import WeightsError

if TYPE_CHECKING:
    import torch

FRAMES = ("first", "middle", "last")

# Layers of LAION's predictor v2, by their index in its checkpoint; what lies between them is dropout alone.
_V2_LAYERS = (0, 2, 4, 6, 7)
_V2_WIDTHS = (1024, 128, 64, 16, 1)


@dataclass(frozen=True)
class AestheticsConfig:
    """Which head judges."""

    model: str = EMBEDDED
    """'embedded', which knows the sample reel's own scale, or the file of a LAION head: version 1 (`sa_0_4_*`) or
    version 2 (`sac+logos+ava1-l14-linearMSE`), for embeddings of the CLIP that it was trained on."""


class AestheticsAnnotator:
    """Scores the three embeddings of each clip and takes their mean."""

    name: ClassVar[str] = "aesthetics"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("embeddings",)
    config_type: ClassVar[type] = AestheticsConfig

    def __init__(self, config: AestheticsConfig) -> None:
        self._config = config
        self._head: torch.nn.Module

    @staticmethod
    def check(config: AestheticsConfig) -> None:
        """See LoadsWeights."""
        load_head(config.model)

    def load(self) -> None:
        """Loads the head; raises WeightsError."""
        self._head = load_head(self._config.model).eval()

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table aesthetics."""
        return score_batch(clips, lambda clip: row_of(clip, "embeddings"), self._columns)

    def _columns(self, rows: list[Mapping[str, Any]]) -> list[dict[str, Any] | Failed]:
        return [self._score(row) for row in rows]

    def _score(self, row: Mapping[str, Any]) -> dict[str, Any] | Failed:
        if (row["model"] == EMBEDDED) != (self._config.model == EMBEDDED):
            return Failed(
                "wrong_space",
                f"embeddings are of {row['model']!r}, the aesthetics head is {self._config.model!r}",
            )
        scores = judge(self._head, np.array([row[frame] for frame in FRAMES], np.float32))
        return {"model": self._config.model, "score": float(scores.mean()), "scores": scores.tolist()}


def judge(head: torch.nn.Module, embeddings_ND: np.ndarray) -> np.ndarray:
    """float32 (N,): the head's scores of embeddings of length 1. Raises WeightsError where their width is another."""
    import torch

    with torch.inference_mode():
        try:
            return head(torch.from_numpy(embeddings_ND)).reshape(len(embeddings_ND)).numpy()
        except RuntimeError as error:
            raise WeightsError(
                f"the aesthetics head does not take embeddings of {embeddings_ND.shape[1]} numbers ({error}); choose the "
                "head that was trained on the CLIP model of table embeddings"
            ) from error


def load_head(model: str) -> torch.nn.Module:
    """A head from embeddings (N, D) to scores (N, 1). Raises WeightsError."""
    if model == EMBEDDED:
        from models.embedded import load_aesthetics

        return load_aesthetics()
    from models.tensor_files import load_tensors

    path = Path(model).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"the aesthetics head {path} is missing; download one of LAION-AI/aesthetic-predictor or "
            f"improved-aesthetic-predictor from GitHub and name its file in annotators.aesthetics.model, or "
            f"set that to '{EMBEDDED}'"
        )
    try:
        return _head(load_tensors(path))
    except Exception as error:
        raise WeightsError(f"{path} is not a LAION aesthetics head of version 1 or 2: {error}") from error


def _head(state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    from torch import nn

    if "weight" in state:
        head: nn.Module = nn.Linear(state["weight"].shape[1], 1)
    else:
        widths = (state["layers.0.weight"].shape[1], *_V2_WIDTHS)
        layers = {index: nn.Linear(*widths[i : i + 2]) for i, index in enumerate(_V2_LAYERS)}
        head = nn.Sequential(*(layers.get(index, nn.Identity()) for index in range(_V2_LAYERS[-1] + 1)))
    head.load_state_dict({name.removeprefix("layers."): value for name, value in state.items()})
    return head
