"""Worker processes that can be killed one by one: a unit that hangs or crashes costs that unit alone."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from curation.engine import worker
from curation.engine.places import Places
from curation.engine.work import Unit, Work
from warehouse import owner
from warehouse.ledger import Ledger

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"
)

_START_S = 300.0
"""Time that a worker may take to import what it needs."""
_Failure = tuple[str, str]
"""Cause and detail."""


@dataclass(frozen=True)
class Finished:
    """A unit's end: where its rows lie, or why it has none."""

    unit: Unit
    folder: Path
    failure: _Failure | None


@dataclass
class _Slot:
    process: subprocess.Popen[bytes]
    number: int
    """Its place among the pool's workers, from 0."""
    unit: Unit | None = None
    folder: Path | None = None
    deadline: float = field(default=float("inf"))
    is_ready: bool = False
    """It has started and taken its first unit."""


class Pool:
    """Worker processes, each with one thread, so that the same clip gives the same numbers on any machine."""

    def __init__(self, places: Places | int, scratch: Path, preload: tuple[str, ...] = ()) -> None:
        self._places = Places(places) if isinstance(places, int) else places
        self._scratch = scratch / owner.new_name()
        self._preload = preload
        self._slots: list[_Slot] = []
        self._count = 0

    def __enter__(self) -> Pool:
        self._scratch.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slot in self._slots:
            _kill(slot.process)
        self._slots.clear()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def run(self, work: Work, ledger: Ledger, units: Iterable[Unit]) -> Iterator[Finished]:
        """Runs units, yielding each as it ends, in no particular order; the caller deletes each folder when it is read."""
        waiting = iter(units)
        with selectors.DefaultSelector() as ready:
            while True:
                self._fill(work, ledger, waiting, ready)
                busy = [s for s in self._slots if s.unit is not None]
                if not busy:
                    return
                timeout = max(0.0, min(s.deadline for s in busy) - time.monotonic())
                answered = [key.data for key, _ in ready.select(timeout)]
                late = [s for s in busy if s not in answered and time.monotonic() >= s.deadline]
                for slot in [*answered, *late]:
                    message = None if slot in late else _read(slot.process)
                    if message == worker.READY:
                        slot.is_ready, slot.deadline = True, time.monotonic() + work.timeout_s
                        continue
                    ready.unregister(slot.process.stdout)
                    yield self._collect(slot, work, message)

    def _fill(
        self, work: Work, ledger: Ledger, waiting: Iterator[Unit], ready: selectors.BaseSelector
    ) -> None:
        slots = {slot.number: slot for slot in self._slots}
        for number in range(self._places.most(work.runs_on, work.model_bytes)):
            slot = slots.get(number)
            if slot is not None and slot.unit is not None:
                continue
            unit = next(waiting, None)
            if unit is None:
                return
            if slot is None:
                slot = _Slot(self._start(number), number)
                self._slots.append(slot)
            self._give(slot, work, ledger, unit)
            ready.register(slot.process.stdout, selectors.EVENT_READ, slot)

    def _give(self, slot: _Slot, work: Work, ledger: Ledger, unit: Unit) -> None:
        self._count += 1
        slot.unit, slot.folder = unit, self._scratch / str(self._count)
        slot.folder.mkdir()
        slot.deadline = time.monotonic() + (work.timeout_s if slot.is_ready else _START_S + work.timeout_s)
        with contextlib.suppress(BrokenPipeError):  # a worker that died idle is seen when its answer is read
            worker.send(slot.process.stdin, (work, ledger.store, ledger.plan, unit, slot.folder))

    def _collect(self, slot: _Slot, work: Work, message: tuple[_Failure | None] | None) -> Finished:
        """The end of a slot's unit; without a message from the worker, the end of the worker too."""
        unit, folder = slot.unit, slot.folder
        slot.unit, slot.folder = None, None
        if message:
            return Finished(unit, folder, message[0])
        self._slots.remove(slot)
        if slot.process.poll() is None and time.monotonic() >= slot.deadline:
            failure = ("timeout", f"took longer than {work.timeout_s:g} s and was killed")
        else:
            failure = ("crashed", _how_it_ended(slot.process))
        _kill(slot.process)
        return Finished(unit, folder, failure)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "curation.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ
            | _ONE_THREAD
            | {"CUTROOM_WORKER_PRELOAD": ",".join(self._preload)}
            | self._places.environment(number),
            start_new_session=True,
        )


def _read(process: subprocess.Popen[bytes]) -> Any:
    """The worker's next message; None if it is gone."""
    try:
        return worker.receive(process.stdout)
    except EOFError:
        return None


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.wait()
    return (
        f"the process was ended by {signal.Signals(-code).name}"
        if code < 0
        else f"the process exited with {code}"
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
