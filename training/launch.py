"""Starts training as a process of its own, watches it, and never leaves it behind.

The folder of a run is named by its stage and the digest of its job, so the same call again finds a
finished run at once, or resumes an unfinished one from its newest whole checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from training.checkpoints import place
from training.job import EXIT_STOPPED, EXIT_WRONG_SETTING, Job, TrainingError, finished
from warehouse.errors import SettingsError

OnLine = Callable[[str], None]


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_here(batch_size: int) -> int:
    """Processes that share a batch on this machine: one for each GPU, or else for each core.

    The networks that a processor can train are so small that threads spend their time waiting for one
    another; one process a core, of one thread each, is about twice as fast, and several times beside
    other work.
    """
    available = torch.cuda.device_count() or num_cores()
    return max(number for number in range(1, available + 1) if batch_size % number == 0)


def run_folder(root: Path, stage: str, digest: str) -> Path:
    """Where the run of a job lives."""
    return root / f"{stage}-{digest[:12]}"


def launch(
    job: Job,
    root: Path,
    on_line: OnLine,
    *,
    num_processes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train `job` in a child process (torchrun where there are several) and return the report of done.json.

    `num_processes` is by default what suits this machine (`processes_here`).
    `on_line` gets each line of the child's output, both streams merged, as it comes. However this call
    ends, the child has ended too: it is asked (SIGTERM: it saves a checkpoint), given some seconds, then
    killed with its whole process group; and the kernel kills it if this process dies. Raises
    SettingsError where the child calls a setting wrong, TrainingError where it fails or is stopped.
    """
    digest = job.describe()["digest"]
    out = run_folder(root, job.recipe.stage, digest)
    if (report := finished(out, digest)) is not None:
        on_line(f"{out} is complete already")
        return report
    config = out / "recipe.json"
    place(config, lambda temporary: temporary.write_text(job.recipe.to_json()))
    lines: list[str] = []

    def keep_and_pass_on(line: str) -> None:
        lines[:] = [*lines[-19:], line]
        on_line(line)

    num_processes = processes_here(job.recipe.batch_size) if num_processes is None else num_processes
    threads = {"OMP_NUM_THREADS": str(max(1, num_cores() // num_processes))}
    environment = {**threads, **(environment or {})}
    code = run_child(command(job, config, out, num_processes), keep_and_pass_on, environment)
    if code == 0 and (report := finished(out, digest)) is not None:
        return report
    raise _error(code, out, lines)


def _error(code: int, out: Path, lines: Sequence[str]) -> Exception:
    said = "\n".join(line for line in lines if not line.startswith("{")) or "nothing"
    if code == EXIT_WRONG_SETTING:
        return SettingsError(f"training refused its settings: {said}")
    if code == EXIT_STOPPED:
        return TrainingError(f"training was stopped and saved; the same call resumes it from {out}")
    return TrainingError(
        f"training in {out} ended with exit code {code} and without its report; it said last:\n{said}"
    )


def command(job: Job, config: Path, out: Path, num_processes: int = 1) -> list[str]:
    """The command line of a job's training."""
    python = [sys.executable]
    if num_processes > 1:
        python += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    words = ["--recipe", str(config), "--dataset", job.dataset, "--out", str(out)]
    init = [] if job.init_from is None else ["--init-from", job.init_from]
    return [*python, "-m", "training", *words, *init]


def run_child(
    command: Sequence[str],
    on_line: OnLine,
    environment: Mapping[str, str] | None = None,
    grace_s: float = 10.0,
) -> int:
    """Run a command in a session of its own, pass its lines on, return its exit code; it never outlives
    this call.
    """
    tethered = [sys.executable, "-m", "training.tether", str(os.getpid()), *command]
    child = subprocess.Popen(
        tethered,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        for line in child.stdout:
            on_line(line.rstrip("\n"))
        return child.wait()
    finally:
        end_group(child, grace_s)
        child.stdout.close()


def end_group(child: subprocess.Popen[str], grace_s: float) -> None:
    """Ask the child to end, wait, then kill whatever is left of its process group.

    The leader alone is asked: it passes the word on, and its data workers must live until it has saved.
    """
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
