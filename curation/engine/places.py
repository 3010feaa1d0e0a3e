"""Where a step's units run: how many of the workers take them at once, and which accelerator each worker sees."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RunsOn = Literal["cores", "devices", "elsewhere"]
"""`cores`: every worker takes units. `devices`: models lie on an accelerator, if there is one, and few workers share it.
`elsewhere`: a server does the work; one worker asks it, so that the limits of asking are those of the run."""

_DRIVERS = ("nvidia[0-9]*", "kfd", "dxg")
"""Files of /dev without which torch cannot have an accelerator (NVIDIA's, AMD's, that of Windows' Linux)."""


@dataclass(frozen=True)
class Places:
    """Numbered workers of one pool, and what they share."""

    size: int
    """Workers in all."""
    devices: tuple[str, ...] = ()
    """Accelerators, as CUDA_VISIBLE_DEVICES names them."""
    per_device: int = 1
    """Workers that may have models on one accelerator."""
    memory_bytes: int | None = None
    """What workers without an accelerator may fill with models, all together; None sets no bound."""

    def most(self, runs_on: RunsOn, model_bytes: int = 0) -> int:
        """How many workers, those of the lowest numbers, take units of a step at once; at least one.

        Args:
            model_bytes: memory that the step's models take in each worker; 0 where that is little, or not known.
        """
        if runs_on == "elsewhere":
            return 1
        if runs_on == "devices" and self.devices:
            return min(self.size, self.per_device * len(self.devices))
        if model_bytes and self.memory_bytes is not None:
            return max(1, min(self.size, self.memory_bytes // model_bytes))
        return self.size

    def environment(self, number: int) -> dict[str, str]:
        """What tells a worker its accelerator; neighbours have different ones, so that the lowest numbers fill all."""
        return {"CUDA_VISIBLE_DEVICES": self.devices[number % len(self.devices)]} if self.devices else {}


def visible_devices(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The accelerators that torch would use here. Without a driver torch, which takes seconds, is not asked."""
    if not any(next(Path("/dev").glob(pattern), None) for pattern in _DRIVERS):
        return ()
    import torch

    return named_devices(torch.cuda.device_count(), environ.get("CUDA_VISIBLE_DEVICES"))


def named_devices(count: int, visible: str | None) -> tuple[str, ...]:
    """Names of the `count` devices that torch sees under this value of CUDA_VISIBLE_DEVICES: its entries, or numbers."""
    if visible is None:
        return tuple(map(str, range(count)))
    return tuple(name.strip() for name in visible.split(","))[:count]


def free_memory_bytes() -> int | None:
    """Memory that this process and its children may still take, less a tenth; None where the system does not say."""
    found = [_available(Path("/proc/meminfo")), _left_of_group(Path("/sys/fs/cgroup"))]
    known = [number for number in found if number is not None]
    return min(known) * 9 // 10 if known else None


def _available(meminfo: Path) -> int | None:
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def _left_of_group(group: Path) -> int | None:
    """What is left to a container of its bound (cgroup v2); files that were read count as free."""
    most, current, stat = (group / f"memory.{name}" for name in ("max", "current", "stat"))
    if not most.is_file() or (bound := most.read_text().strip()) == "max":
        return None
    cached = dict(line.split() for line in stat.read_text().splitlines()).get("inactive_file", "0")
    return max(0, int(bound) - int(current.read_text()) + int(cached))
