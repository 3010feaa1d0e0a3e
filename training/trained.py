"""How weights were trained, as far as sampling must know it, and the noise levels that they are sampled over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from models.edm import karras_sigmas
from models.noise import flow_sigmas
from training.objective import Objective
from training.recipe import with_settings
from warehouse.errors import SettingsError

Spacing = Literal["karras", "leading", "trailing", "linspace", "times"]
LEVELS = "levels"
"""Where a run says those that it kept of the weights that it started from."""
TRAINED = "trained"
"""Where an import says it in `training.checkpoints.Weights.origin`; a run's own recipe says it there too."""


@dataclass(frozen=True)
class Levels:
    """Noise levels to sample over, before the closing 0.

    `spacing`: "karras", between `sigma_max` and `sigma_min` (Karras et al. 2022, eq. 5); of an objective with steps
    "leading" (the first steps of equal parts, `steps_offset` later), "trailing" (their last ones), or "linspace" (from
    the first to the last), as diffusers names them (Lin et al. 2023, table 2); "times", evenly spaced ones of a flow.
    """

    spacing: Spacing = "karras"
    num_steps: int = 25
    sigma_min: float = 0.02
    sigma_max: float = 20.0
    steps_offset: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max or self.num_steps < 2:
            raise SettingsError(
                f"sigma_min {self.sigma_min}, sigma_max {self.sigma_max}, num_steps {self.num_steps}: expected "
                f"0 < sigma_min < sigma_max and at least 2 steps"
            )

    @classmethod
    def of(cls, objective: Objective) -> Levels:
        """What a network trained here is sampled over."""
        if objective.name in ("edm", "flow"):
            return cls("karras" if objective.name == "edm" else "times")
        sigmas = objective.steps.sigmas
        ends = {"sigma_min": float(sigmas[0]), "sigma_max": float(sigmas[sigmas.isfinite()][-1])}
        return cls("linspace" if objective.name == "iddpm" else "trailing", **ends)

    def sigmas(self, objective: Objective, shift: float = 1.0) -> Tensor:
        """Falling, with a closing 0, float64, the first infinite where no data is left; `shift` is for times.

        Raises SettingsError where the objective has no such levels.
        """
        if self.spacing == "karras":
            return karras_sigmas(self.num_steps, self.sigma_min, self.sigma_max)
        if (self.spacing == "times") != (objective.name == "flow") or objective.name == "edm":
            raise SettingsError(
                f"spacing is {self.spacing}, but the weights' objective is {objective.name}: expected karras, or times "
                f"for flow, or leading, trailing or linspace for one with steps"
            )
        if self.spacing == "times":
            return flow_sigmas(self.num_steps, shift)
        sigmas = objective.steps.sigmas
        if self.num_steps > len(sigmas):
            raise SettingsError(
                f"num_steps is {self.num_steps}, expected at most {len(sigmas)} of their steps"
            )
        if self.spacing == "linspace":
            return objective.steps.respaced(self.num_steps)
        part = torch.arange(self.num_steps, dtype=torch.float64).flip(0)
        if self.spacing == "leading":
            steps = part * (len(sigmas) // self.num_steps) + self.steps_offset
        else:
            steps = ((part + 1) * len(sigmas) / self.num_steps).round() - 1  # as diffusers rounds halves
        steps = steps.long().clamp(max=len(sigmas) - 1)
        return torch.cat([sigmas[steps], sigmas.new_zeros(1)])


@dataclass(frozen=True)
class Trained:
    """What is known of weights beside their network.

    `single_frames`: whether they were trained on images alone, so that the frames of a video would have nothing to do
    with each other. `empty_text`: whether the side of guidance that is not told the text was told the empty one,
    encoded, and not zeros. `fps_less`: by how much the frame rate that they were told is less than the true one.
    """

    objective: Objective = field(default_factory=Objective)
    levels: Levels = field(default_factory=Levels)
    single_frames: bool = False
    empty_text: bool = False
    fps_less: float = 0.0

    @classmethod
    def of(cls, origin: Mapping[str, Any]) -> Trained:
        """What an import or a run says of itself. A run from imported weights is sampled over their levels, as SVD's
        from 700 on.
        """
        if TRAINED in origin:
            return with_settings(cls(), origin[TRAINED], TRAINED)
        recipe = origin.get("recipe", {})
        said = {name: recipe[name] for name in ("objective", "single_frames") if name in recipe}
        trained = with_settings(cls(), said, "recipe")
        levels = with_settings(Levels.of(trained.objective), origin.get(LEVELS) or {}, LEVELS)
        return replace(trained, levels=levels)


def levels_of(origin: Mapping[str, Any], objective: Objective) -> dict[str, Any] | None:
    """What a stage with this objective keeps of the levels of the weights that it starts from; None for its own.

    Weights that were imported have levels, and so have runs that began with such.
    """
    had = Trained.of(origin).objective
    if any(getattr(had, name) != getattr(objective, name) for name in ("name", "betas", "zero_terminal_snr")):
        return None
    return asdict(Trained.of(origin).levels) if TRAINED in origin else origin.get(LEVELS)
