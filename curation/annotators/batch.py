"""What annotators share: one outcome per clip out of a batch, whatever happens to one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from curation.annotators.base import Clip, Done, Failed, GridFrame, Outcome, Skipped

Ready = TypeVar("Ready")
Columns = Mapping[str, Any]


class Unscorable(Exception):
    """One clip of a batch cannot be scored; `outcome` says why. Never leaves `score_batch`."""

    def __init__(self, outcome: Failed | Skipped) -> None:
        super().__init__(repr(outcome))
        self.outcome = outcome


def score_batch(
    clips: Sequence[Clip],
    prepare: Callable[[Clip], Ready],
    score: Callable[[list[Ready]], Sequence[Columns | Failed | Skipped]],
) -> list[Outcome]:
    """Prepares each clip by itself, scores all that could be prepared together, and puts the outcomes in order.

    `prepare` may raise Unscorable, which settles that clip alone. `score` answers each prepared item in order with
    the clip's columns, or with why it has none.
    """
    prepared = [_settled(prepare, clip) for clip in clips]
    ready = [item for item, outcome in prepared if outcome is None]
    scored: Iterator[Columns | Failed | Skipped] = iter(score(ready) if ready else ())
    return [outcome or _outcome(next(scored)) for _, outcome in prepared]


def _settled(prepare: Callable[[Clip], Ready], clip: Clip) -> tuple[Any, Failed | Skipped | None]:
    try:
        return prepare(clip), None
    except Unscorable as unscorable:
        return None, unscorable.outcome


def _outcome(answer: Columns | Failed | Skipped) -> Outcome:
    return answer if isinstance(answer, (Failed, Skipped)) else Done(answer)


def row_of(clip: Clip, table: str) -> Columns:
    """The clip's row in a table that its annotator reads; raises Unscorable where that table has none for it."""
    row = clip.rows.get(table)
    if not row:
        raise Unscorable(
            Failed("missing_input", f"no finished row in table {table}, which this one is computed from")
        )
    return row


def frames_of(clip: Clip, count: int) -> list[GridFrame]:
    """`clip.frames(count)`, at least one; raises Unscorable where no grid frame lies inside the clip."""
    frames = clip.frames(count)
    if not frames:
        raise Unscorable(Skipped("no_grid_frame"))
    return frames


def first_middle_last(clip: Clip) -> list[GridFrame]:
    """Three grid frames of the clip; those of a clip with fewer stand for their neighbours. Raises Unscorable."""
    frames = frames_of(clip, 3)
    return [frames[0], frames[len(frames) // 2], frames[-1]]


def pixels(frame: GridFrame) -> np.ndarray:
    """uint8 RGB (H, W, 3) of a grid frame; raises Unscorable where its bytes are no picture."""
    try:
        return frame.rgb
    except ValueError as error:
        raise Unscorable(Failed("broken_frame", f"grid frame at pts {frame.pts}: {error}")) from error
