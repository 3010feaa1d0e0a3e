"""Names for what a process leaves behind while it works, by which anyone can tell whether it still lives."""

from __future__ import annotations

import os
import socket
import uuid

HOST = socket.gethostname()


def new_name() -> str:
    """A name for something that this process owns: host, process, its start time, and a random part."""
    return f"{HOST}-{os.getpid()}-{_start_ticks(os.getpid())}-{uuid.uuid4().hex[:8]}"


def is_alive(name: str) -> bool | None:
    """Whether the process that `new_name` named still runs; None when it ran on another machine."""
    host, pid, started, _ = name.rsplit("-", 3)
    if host != HOST or started == "None":
        return None
    return _start_ticks(int(pid)) == started


def _start_ticks(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, which tells it from a later one of the same number."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 (asked often while waiting)
            state, *rest = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if state == "Z" else rest[18]
