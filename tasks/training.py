"""A training stage as a step of a flow: launched as a process of its own, watched, and ended with the step."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from tasks import artifacts
from tasks.progress import Progress, note
from tasks.tracking import in_flow_run, step
from training.job import Job, TrainingError
from training.launch import launch, run_folder
from warehouse.run_folder import METRICS

LOG_INTERVAL_S = 10.0
"""Least time between two lines about steps in Prefect's log, each of which is a row in its database."""
MAX_CURVE_ROWS = 50


@step(name="train", run_name="train {stage}", retries=2, retry_on=(OSError, TrainingError))
def train_stage(stage: str, job: Job, root: Path, processes: int | None) -> Path:
    """Trains one stage, or finds it trained, and returns its folder.

    Raises:
        SettingsError: the training program refused its settings; not tried again.
        TrainingError: it failed or was stopped; tried again from its newest checkpoint.
    """
    watch = _Watch(stage)
    launch(job, root, watch, num_processes=processes, environment=_threads())
    watch.progress.finish()
    folder = run_folder(root, job.recipe.stage, job.describe()["digest"])
    artifacts.show_losses(stage, loss_curve(folder))
    return folder


def _threads() -> dict[str, str]:
    """Threads that wait without spinning: beside any other load, spinning ones made a step 20 times as slow."""
    return {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}


def loss_curve(folder: Path) -> list[dict[str, Any]]:
    """Samples seen, loss and learning rate over a run, thinned evenly to at most `MAX_CURVE_ROWS` rows."""
    lines = (folder / METRICS).read_text().splitlines()
    steps = [e for e in map(json.loads, lines) if e["event"] == "step"]
    chosen = steps[:: -(-len(steps) // MAX_CURVE_ROWS) or 1]
    return [{name: e[name] for name in ("samples", "loss", "lr", "step_s")} for e in chosen]


class _Watch:
    """Takes the training program's lines: events become progress, everything else is passed on."""

    def __init__(self, stage: str) -> None:
        self.progress = Progress(f"train {stage}")
        self.progress(0, 1)
        self._logger = get_run_logger() if in_flow_run() else logging.getLogger(__name__)
        self._logged_s = 0.0

    def __call__(self, line: str) -> None:
        if not line.startswith("{"):
            self._logger.info(line)
            return
        event = json.loads(line)
        if event["event"] == "step":
            self.progress(event["samples"], event["total_samples"])
            if time.monotonic() - self._logged_s >= LOG_INTERVAL_S:
                self._logged_s = time.monotonic()
                self._logger.info("%(samples)d of %(total_samples)d samples, loss %(loss).4f", event)
        elif event["event"] == "held_out" and event["buckets"]:
            ratios = ", ".join(f"{b['low']:g}-{b['high']:g}: {b['ratio']:.2f}" for b in event["buckets"])
            note(f"held-out loss over the zero predictor's, by noise level: {ratios}")
            if min(b["ratio"] for b in event["buckets"]) > 1:
                note(
                    "on held-out clips the network does worse than one that predicts nothing: it has learned its "
                    "training clips by heart; train on more clips, or for fewer samples (`num_samples`)"
                )
