"""How much of a clip's picture is covered by text: first, middle and last frame, as SVD's appendix C has it.

Boxes that overlap count once (their union), and the largest of the three areas is the score: a title that is seen in
one frame spoils the clip. Areas are shares of the whole frame, black bars included; table quality has the bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import shapely

from curation.annotators.base import Clip, Outcome
from curation.annotators.batch import first_middle_last, pixels, score_batch
from curation.annotators.text_engines import (
    CraftConfig,
    CraftEngine,
    RapidConfig,
    RapidEngine,
    TextBox,
    TextEngine,
)
from curation.engine.places import RunsOn
from models.weight_files import check_packaged
from warehouse.errors import SettingsError
from warehouse.ranges import MANY, check_ranges


@dataclass(frozen=True)
class TextAreaConfig:
    """Which detector looks, and whether it reads."""

    engine: Literal["rapidocr", "easyocr"] = "rapidocr"
    """rapidocr needs no download; easyocr is CRAFT, the paper's choice."""
    read_text: bool = True
    """Read what the boxes say; without it areas alone are measured."""
    min_letters: int = 2
    """A box that reads as fewer letters and digits is no text: a ring reads as O, a cross as +, a wheel as 8."""
    rapidocr: RapidConfig = field(default_factory=RapidConfig)
    """Settings of the engine rapidocr."""
    craft: CraftConfig = field(default_factory=CraftConfig)
    """Settings of the engine easyocr."""

    def __post_init__(self) -> None:
        check_ranges("annotators.text_area", self, min_letters=(0, MANY))


class TextAreaAnnotator:
    """Finds text in three frames of a clip, measures its area and keeps what it says."""

    name: ClassVar[str] = "text_area"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("grid_frames",)
    config_type: ClassVar[type] = TextAreaConfig

    def __init__(self, config: TextAreaConfig) -> None:
        self._config = config
        self._engine: TextEngine

    @staticmethod
    def check(config: TextAreaConfig) -> None:
        """See LoadsWeights."""
        check_engine(config)

    @staticmethod
    def runs_on(config: TextAreaConfig) -> RunsOn:
        """See ChoosesPlace."""
        return "devices" if config.engine == "easyocr" else "cores"

    def load(self) -> None:
        """Loads the detector; raises WeightsError or SettingsError."""
        self._engine = make_engine(self._config)

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table text_area."""
        return score_batch(clips, self._columns, list)

    def _columns(self, clip: Clip) -> dict[str, Any]:
        frames = first_middle_last(clip)
        found = {frame.pts: self._look(pixels(frame)) for frame in frames}
        areas = [found[frame.pts][0] for frame in frames]
        texts = dict.fromkeys(text for frame in frames for text in found[frame.pts][1])
        return {"score": max(areas), "areas": areas, "text": list(texts), "engine": self._engine.name}

    def _look(self, rgb_HW3: np.ndarray) -> tuple[float, list[str]]:
        """Share of the picture that text covers, and what it says."""
        boxes = [box for box in self._engine.find(rgb_HW3) if self._is_text(box)]
        height, width = rgb_HW3.shape[:2]
        return union_area(boxes, height, width) / (height * width), [box.text for box in boxes if box.text]

    def _is_text(self, box: TextBox) -> bool:
        return box.text is None or sum(map(str.isalnum, box.text)) >= self._config.min_letters


def make_engine(config: TextAreaConfig) -> TextEngine:
    """The engine that the settings name."""
    if config.engine == "rapidocr":
        return RapidEngine(config.rapidocr, read_text=config.read_text)
    if config.engine == "easyocr":
        return CraftEngine(config.craft, read_text=config.read_text)
    raise SettingsError(f"annotators.text_area.engine is {config.engine!r}; expected 'rapidocr' or 'easyocr'")


def check_engine(config: TextAreaConfig) -> None:
    """Looks at the weights of the engine that the settings name. Raises WeightsError or SettingsError."""
    if config.engine == "rapidocr":
        check_packaged("rapidocr")
    else:  # reading needs further files by language, which only easyocr knows
        make_engine(config)


def union_area(boxes: Sequence[TextBox], height: int, width: int) -> float:
    """Pixels of a picture that lie in at least one box."""
    hulls = [shapely.convex_hull(shapely.multipoints(box.corners)) for box in boxes]
    return float(shapely.intersection(shapely.union_all(hulls), shapely.box(0, 0, width, height)).area)
