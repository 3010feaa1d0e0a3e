"""The launched process: what is passed on, and that it never outlives who launched it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_stage
import torch

import training.launch
from training.job import TrainingError
from training.launch import launch, processes_here, run_child, run_folder
from warehouse.errors import SettingsError


def python(*lines: str) -> list[str]:
    return [sys.executable, "-u", "-c", "\n".join(lines)]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in pids if is_alive(pid)]}"
        time.sleep(0.02)


def test_lines_of_both_streams_come_one_by_one_and_the_exit_code_at_the_end():
    came = []

    def note(line):
        came.append((line, time.monotonic()))

    script = python(
        "import sys, time",
        "print('first')",
        "time.sleep(0.4)",
        "print('second', file=sys.stderr)",
        "sys.exit(7)",
    )
    assert run_child(script, note) == 7
    assert [line for line, _ in came] == ["first", "second"]
    assert came[1][1] - came[0][1] > 0.3, "a line must not wait for those after it"


def test_an_interrupted_launch_asks_first_and_then_kills_the_whole_group():
    script = python(
        "import os, signal, subprocess, sys, time",
        "signal.signal(signal.SIGTERM, lambda *_: print('asked'))",
        "deaf = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'",
        "print(os.getpid(), subprocess.Popen([sys.executable, '-c', deaf]).pid)",
        "time.sleep(60); time.sleep(60)",
    )
    pids: list[int] = []

    def interrupt(line):
        pids.extend(map(int, line.split()))
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_child(script, interrupt, grace_s=0.5)
    assert 0.4 < time.monotonic() - start < 8
    wait_until_gone(*pids)


def test_a_child_that_obeys_is_not_waited_for():
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_child(python("import time", "print('up')", "time.sleep(60)"), interrupting, grace_s=30)
    assert time.monotonic() - start < 8


def interrupting(_: str) -> None:
    raise KeyboardInterrupt


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death"
)
def test_the_child_dies_with_a_launcher_that_is_killed():
    launcher = python(
        "import sys",
        "from training.launch import run_child",
        "child = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'",
        "run_child([sys.executable, '-c', child], lambda line: print(line, flush=True))",
    )
    with subprocess.Popen(launcher, stdout=subprocess.PIPE, text=True) as parent:
        child_pid = int(parent.stdout.readline())
        assert is_alive(child_pid)
        parent.kill()
    wait_until_gone(child_pid)


def test_processes_divide_the_batch_and_do_not_outnumber_the_cores(monkeypatch):
    monkeypatch.setattr(training.launch, "num_cores", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert [processes_here(batch_size) for batch_size in (32, 6, 1, 7)] == [4, 3, 1, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes_here(32) == 2


@pytest.mark.long
def test_a_stage_is_launched_once_and_found_again(tmp_path):
    job = tiny_stage.job(tmp_path, num_samples=32, stage="mine")
    lines: list[str] = []
    report = launch(job, tmp_path / "runs", lines.append, num_processes=1)
    out = run_folder(tmp_path / "runs", "mine", job.describe()["digest"])
    assert report == json.loads((out / "done.json").read_text())
    assert [json.loads(line)["event"] for line in lines if line.startswith("{")][-1] == "done"
    lines.clear()
    assert launch(job, tmp_path / "runs", lines.append) == report
    assert lines == [f"{out} is complete already"]


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("print('lr is bad'); sys.exit(2)", SettingsError, "refused its settings: lr is bad"),
        ("sys.exit(75)", TrainingError, r"stopped and saved; the same call resumes it from .*video-\w{12}"),
        (
            "print('{}'); print('out of luck'); os.kill(os.getpid(), 9)",
            TrainingError,
            r"code -9 .*last:\nout of luck",
        ),
        ("pass", TrainingError, "exit code 0"),
    ],
    ids=["wrong setting", "stopped", "killed", "left no report"],
)
def test_every_other_end_is_an_error_of_its_own(tmp_path, monkeypatch, script, error, message):
    monkeypatch.setattr(training.launch, "command", lambda *_: python("import os, sys", script))
    with pytest.raises(error, match=message):
        launch(tiny_stage.job(tmp_path), tmp_path / "runs", lambda line: None)
