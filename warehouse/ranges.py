"""Settings that are numbers within bounds, refused by name before anything is done with them."""

from __future__ import annotations

from typing import Any

from warehouse.errors import SettingsError

RATE_FPS = (0.01, 1000.0)
"""Frames a second at which anything can be looked at: one in 100 s up to high-speed cameras."""
MANY = 1 << 40
"""More than any count or size that is meant."""


def check_ranges(section: str, config: Any, **bounds: tuple[float, float]) -> None:
    """Raises SettingsError for the first field outside of its bounds, both of which are allowed.

    None is allowed where a field has it; of a tuple every number is looked at. What is no number (NaN) is in no bounds.
    """
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and not low <= each <= high:
                most = "any number" if high >= MANY else f"{high:g}"
                raise SettingsError(f"{section}.{name} is {value}: expected {low:g} to {most}")
