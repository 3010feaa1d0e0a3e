"""One Prefect server for all tests of a process, with a home of its own."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

from flows.server import free_port, start_server, stop

ROOT = Path(__file__).resolve().parents[1]


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment without anybody's settings of Prefect or Cutroom, and with Prefect's home in `home`."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "CUTROOM_")) and k != "PROFILE"
    }
    return kept | {"PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"} | more


@cache
def server() -> tuple[str, Path]:
    """The API's address and the home of a server that ends with the tests."""
    home = Path(tempfile.mkdtemp(prefix="prefect-home-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    port = free_port()
    os.environ["PREFECT_HOME"] = str(home)
    try:
        child = start_server(port, home / "server.log")
    finally:
        del os.environ["PREFECT_HOME"]
    atexit.register(stop, child)
    return f"http://127.0.0.1:{port}/api", home


def ask(api: str, path: str, **query: Any) -> Any:
    """What the server answers to a POST."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{api}/{path}", json.dumps(query).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def cutroom(
    *arguments: object, env: dict[str, str], cwd: Path = ROOT, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a user does."""
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout_s)


def processes_with(text: str) -> list[int]:
    """Processes whose command line holds a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(int(path.parent.name))
    return found
