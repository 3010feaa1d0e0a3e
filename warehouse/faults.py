"""Named points at which a test can have the process die, so that recovery is proven against a real SIGKILL.

``CUTROOM_FAULT=<point>[:<n>]`` kills the process when `<point>` is reached for the n-th time (default: the first).
Points are named ``<place>.<moment>/<table>``; the part from the slash on may be left out of the setting.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "CUTROOM_FAULT"
_reached: Counter[str] = Counter()


def point(place: str, table: str = "") -> None:
    """Dies here by SIGKILL if the environment asks for it; otherwise does nothing."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    if name not in (place, f"{place}/{table}"):
        return
    _reached[name] += 1
    if _reached[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
