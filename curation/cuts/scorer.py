"""How well found cuts agree with true ones, by the convention of TRECVID's shot boundary task.

A boundary is a half-open range of frames [start, end) that belong to neither scene; a hard cut's range is empty. A
found boundary and a true one match if their ranges lie no more frames apart than the convention allows for the true
one's type, and each takes part in one match at most: of all ways to match, one with as many hard cuts as can be, then
as many gradual transitions, is taken. Counts are kept per video, so that intervals come from a bootstrap over videos:
cuts of one video are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TYPES = ("hard", "gradual")


class Boundary(NamedTuple):
    """A change of scene; `end` is the first frame of the new one."""

    start: int
    end: int

    @property
    def is_hard(self) -> bool:
        return self.start == self.end


@dataclass(frozen=True)
class Convention:
    """What counts as the same boundary."""

    hard_frames: int = 1
    """Most frames between a true hard cut and what is found for it."""
    gradual_frames: int = 5
    """Most frames between the range of a true gradual transition and what is found for it."""
    forgives_repeats: bool = True
    """Whether further boundaries found for one gradual transition are not false: a fade out and in is two or one."""


TRANSNET = Convention(2, 2, forgives_repeats=False)
"""The scorer of TransNet V2 and AutoShot (Soucek and Lokoc 2020): one tolerance, no types."""


class Counts(NamedTuple):
    """Of one type: true boundaries, those found, and found ones that are false."""

    num_true: int
    num_found: int
    num_false: int


@dataclass(frozen=True)
class Score:
    """Shares of boundaries; 1 where there is nothing to find, or nothing was found."""

    precision: float
    recall: float
    f1: float
    num_true: int
    num_found: int
    num_false: int


def boundaries_of_scenes(scenes: Sequence[tuple[int, int]]) -> list[Boundary]:
    """Boundaries between scenes that are given by their first and last frames, both inclusive."""
    return [Boundary(last + 1, first) for (_, last), (first, _) in pairwise(scenes)]


def boundaries_of_scores(is_transition: NDArray[np.bool_]) -> list[Boundary]:
    """Boundaries where a detector marks frames, as TransNet V2 does: the old scene's last frame, and all of a transition.

    A single mark is a hard cut after it. Runs that touch an end of the video lie between no two scenes.
    """
    padded = np.concatenate([[False], is_transition, [False]]).astype(np.int8)
    firsts, stops = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    runs = zip(firsts.tolist(), stops.tolist(), strict=True)
    return [Boundary(first + 1, stop) for first, stop in runs if first > 0 and stop < len(is_transition)]


def count(
    truth: Sequence[Boundary], found: Sequence[Boundary], convention: Convention | None = None
) -> NDArray[np.int64]:
    """[type, (true, found, false)] of one video, types in the order of `TYPES`.

    A match counts for the type of the true boundary, a false boundary for its own.
    """
    convention = convention or Convention()
    near = [
        [column for column, other in enumerate(found) if _gap(true, other) <= _reach(true, convention)]
        for true in truth
    ]
    partner = _match(near, sorted(range(len(truth)), key=lambda row: not truth[row].is_hard))
    explained = set(partner)
    if convention.forgives_repeats:
        explained.update(
            c for true, columns in zip(truth, near, strict=True) if not true.is_hard for c in columns
        )
    counts = np.zeros((len(TYPES), 3), np.int64)
    for true in truth:
        counts[_type(true), 0] += 1
    for row in partner.values():
        counts[_type(truth[row]), 1] += 1
    for column, other in enumerate(found):
        counts[_type(other), 2] += column not in explained
    return counts


def score(counts_VTC: NDArray[np.int64]) -> dict[str, Score]:
    """Scores over videos by type, and of `all` types together, from what `count` gave for each video."""
    totals_TC = np.asarray(counts_VTC, np.int64).reshape(-1, len(TYPES), 3).sum(0)
    rows = {**dict(zip(TYPES, totals_TC, strict=True)), "all": totals_TC.sum(0)}
    return {name: _score(*row.tolist()) for name, row in rows.items()}


def intervals(
    counts_VTC: NDArray[np.int64], seed: int, num_draws: int = 1000
) -> dict[str, dict[str, tuple[float, float]]]:
    """Percentile bootstrap over videos: for each type (and `all`) the 95 % interval of precision, recall and f1."""
    counts_VTC = np.asarray(counts_VTC, np.int64)
    generator = np.random.default_rng(seed)
    draws = [
        score(counts_VTC[generator.integers(0, len(counts_VTC), len(counts_VTC))]) for _ in range(num_draws)
    ]
    return {
        name: {
            measure: tuple(
                np.percentile([getattr(draw[name], measure) for draw in draws], (2.5, 97.5)).tolist()
            )
            for measure in ("precision", "recall", "f1")
        }
        for name in (*TYPES, "all")
    }


def _score(num_true: int, num_found: int, num_false: int) -> Score:
    precision = num_found / (num_found + num_false) if num_found + num_false else 1.0
    recall = num_found / num_true if num_true else 1.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return Score(precision, recall, f1, num_true, num_found, num_false)


def _type(boundary: Boundary) -> int:
    return 0 if boundary.is_hard else 1


def _reach(true: Boundary, convention: Convention) -> int:
    return convention.hard_frames if true.is_hard else convention.gradual_frames


def _gap(a: Boundary, b: Boundary) -> int:
    """Frames between two ranges, 0 where they overlap or touch."""
    return max(0, a.start - b.end, b.start - a.end)


def _match(near: Sequence[Sequence[int]], order: Sequence[int]) -> dict[int, int]:
    """Largest one-to-one matching of rows to the columns near them, as {column: row}; earlier rows come first.

    Kuhn's augmenting paths: a row that has found a column never loses its match to a later one.
    """
    partner: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column in near[row]:
            if column not in tried:
                tried.add(column)
                if column not in partner or place(partner[column], tried):
                    partner[column] = row
                    return True
        return False

    for row in order:
        place(row, set())
    return partner
