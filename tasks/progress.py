"""How far a step is: told to whoever listens in this process, and to Prefect's UI as a progress artifact."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks.tracking import in_flow_run

INTERVAL_S = 2.0
"""Least time between two updates of an artifact: each is a request to the server."""


class Listener(Protocol):
    """Shows progress; the command line's draws bars."""

    def update(self, label: str, done: float, total: float) -> None:
        """A step is at `done` of `total`; called often."""

    def note(self, text: str) -> None:
        """A sentence for people."""


class _Nobody:
    def update(self, label: str, done: float, total: float) -> None:
        pass

    def note(self, text: str) -> None:
        pass


_listener: ContextVar[Listener] = ContextVar("listener", default=_Nobody())  # noqa: B039 (it has no state)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Sends progress to `listener` while the block runs."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def note(text: str) -> None:
    """Says a sentence to whoever listens."""
    _listener.get().note(text)


class Progress:
    """Progress of one step under one label."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._artifact: UUID | None = None
        self._told_s = time.monotonic()

    def __call__(self, done: float, total: float) -> None:
        """The step is at `done` of `total`."""
        _listener.get().update(self.label, done, total)
        now = time.monotonic()
        if in_flow_run() and now - self._told_s >= INTERVAL_S:
            self._told_s = now
            self._tell(100 * done / max(total, 1e-9))

    def finish(self) -> None:
        """The step is done."""
        _listener.get().update(self.label, 1, 1)
        if self._artifact:
            self._tell(100.0)

    def _tell(self, percent: float) -> None:
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, description=self.label)
        else:
            update_progress_artifact(self._artifact, percent)
