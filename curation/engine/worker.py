"""The worker process: takes units from its standard input, one at a time, and answers on its standard output.

An isolated unit runs in a fork of its own, so that whatever a decoder does to its process is gone with it. The worker
ends when its parent does, whichever way that ends.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import struct
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.dataset

from curation.engine.work import Outputs, Unit, Work
from warehouse.errors import CutroomError
from warehouse.ledger import Ledger

READY = "ready"
"""The first message of a worker: its imports are done, and its first unit's time begins."""
_PR_SET_PDEATHSIG = 1


def send(stream: BinaryIO, message: Any) -> None:
    """Writes one length-prefixed message."""
    data = pickle.dumps(message)
    stream.write(struct.pack("<Q", len(data)) + data)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Reads one message.

    Raises:
        EOFError: the other side is gone.
    """
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError
    return pickle.loads(stream.read(struct.unpack("<Q", header)[0]))


def main() -> None:
    """Serves until standard input closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    ledgers: dict[str, Ledger] = {}
    pa.array([0])  # imports pandas, where there is one: a second that every fork would spend
    send(answers, READY)
    while True:
        try:
            work, store, plan, unit, folder = receive(sys.stdin.buffer)
        except EOFError:
            return
        ledger = ledgers.setdefault(f"{store.uri} {plan.plan_id}", Ledger(store, plan))
        run = _run_in_fork if work.isolated else _run
        send(answers, (run(work, ledger, unit, folder),))


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _run(work: Work, ledger: Ledger, unit: Unit, folder: Path) -> tuple[str, str] | None:
    """Runs one unit; None if it settled, else the cause and the detail of its failure."""
    outputs = Outputs(folder)
    try:
        work.run(ledger, unit, outputs)
        outputs.close()
    except MemoryError:
        return "out_of_memory", "the process ran out of memory"
    except CutroomError as error:
        return getattr(error, "cause", "error"), str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "error", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return None


def _run_in_fork(work: Work, ledger: Ledger, unit: Unit, folder: Path) -> tuple[str, str] | None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.write(writer, pickle.dumps(_run(work, ledger, unit, folder))[:60_000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return "crashed", f"the process was ended by {name}"
    return pickle.loads(answer)


if __name__ == "__main__":
    for module in filter(None, os.environ.get("CUTROOM_WORKER_PRELOAD", "").split(",")):
        importlib.import_module(module)
    main()
