"""Numbers and names as people read them."""

from __future__ import annotations

from pathlib import PurePosixPath


def seconds(value: float | None) -> str:
    """3.2 s, 4 min 10 s, 2 h 5 min; a dash for unknown."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def count(number: int, one: str, many: str | None = None) -> str:
    """1 clip, 1,200 clips."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def share(part: float, whole: float) -> str:
    """A percentage that never says 0% of something or 100% of less than all."""
    if not whole or part in (0, whole):
        return "100%" if whole and part == whole else "0%"
    percent = 100 * part / whole
    return "<1%" if percent < 1 else ">99%" if percent > 99 else f"{percent:.0f}%"


def name_of(uri: str) -> str:
    """The last part of a path or address."""
    return PurePosixPath(uri).name or uri


def shown(number: int, whole: int, things: str) -> str:
    """How much of something a section shows."""
    return (
        f"all {whole:,} {things}" if number >= whole else f"{number:,} of {whole:,} {things}, drawn by hash"
    )
