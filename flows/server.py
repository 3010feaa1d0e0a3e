"""A Prefect server of our own on this machine's loopback: for the demo while it runs, and for `make serve`.

It ends with the process that started it, however that ends, and a Ctrl-C in the terminal does not reach it, so that a
flow that is stopped can still say so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from warehouse.errors import CutroomError

ROOT = Path(__file__).resolve().parents[1]
START_S = 180.0
STOP_S = 15.0


class ServerError(CutroomError):
    """A Prefect server or worker did not start."""


def free_port() -> int:
    """A port of the loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Starts a Python module with arguments as a child that dies with this process; what it prints goes to `log`."""
    tether = [sys.executable, "-m", "training.tether", str(os.getpid())]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*tether, sys.executable, "-m", *command],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(child: subprocess.Popen[bytes]) -> None:
    """Asks a child and what it started to end, and kills what is left after a while."""
    for number, wait_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(wait_s)
            if number is signal.SIGKILL:
                return


def start_server(port: int, log: Path) -> subprocess.Popen[bytes]:
    """Starts a Prefect server and waits until it answers.

    Raises:
        ServerError: it ended, or did not answer in time.
    """
    url = f"http://127.0.0.1:{port}/api"
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    child = start(command, log, PREFECT_API_URL=url)
    deadline = time.monotonic() + START_S
    while not _is_healthy(url):
        if child.poll() is not None or time.monotonic() > deadline:
            stop(child)
            raise ServerError(f"Prefect's server did not start on port {port}; {log} says why")
        time.sleep(0.1)
    return child


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def serving(log: Path) -> Iterator[str]:
    """A server while the block runs, which flows of this process then report to; yields the address of its pages.

    Where a server is configured already, that one is used and left alone.
    """
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    from tasks.tracking import flush

    if url := get_current_settings().api.url:
        yield url.removesuffix("/api")
        return
    port = free_port()
    child = start_server(port, log)
    try:
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            yield f"http://127.0.0.1:{port}"
    finally:
        flush(timeout_s=5)
        time.sleep(1.5)  # the server writes the last states down in batches
        stop(child)
