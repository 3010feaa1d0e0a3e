"""Where a step's units run: how many of the workers take them at once, and which accelerator each worker sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RunsOn = Literal["cores", "devices", "elsewhere"]
"""`cores`: every worker takes units. `devices`: models lie on an accelerator, if there is one, and workers share it.
`elsewhere`: a server does the work; one worker asks it, so that the limits of asking are those of the run."""


@dataclass(frozen=True)
class Places:
    """Numbered workers of one pool."""

    size: int
    """Workers in all."""

    def most(self, runs_on: RunsOn) -> int:
        """How many workers, those of the lowest numbers, take units of a step at once."""
        return 1 if runs_on == "elsewhere" else self.size
