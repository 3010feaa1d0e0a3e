"""Being asked to end."""

from __future__ import annotations

import signal


class StopRequest:
    """Remembers that the process was asked to end (SIGTERM), so that a step is finished and saved first."""

    def __init__(self) -> None:
        self.received = False

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, *_: object) -> None:
        self.received = True
