"""What happens around the steps of a run: checkpoints, the order to stop, the record of what was measured."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.func import functional_call

from training.checkpoints import checkpoint_path, forget_old_checkpoints, place, seal_checkpoint
from training.data import Batch
from training.evaluate import BucketLoss, held_out_losses
from training.job import TrainingError
from training.module import LatentDiffusion
from training.objective import prediction_of
from training.recipe import Recipe
from training.stop import StopRequest
from warehouse.run_folder import METRICS

Emit = Callable[[dict[str, Any]], None]


class Recorder:
    """Writes events as JSON lines to the run's metrics file and passes them on.

    A resumed run forgets the lines of steps that it is about to repeat.
    """

    def __init__(self, out: Path, resumed_step: int, pass_on: Emit) -> None:
        self.path, self.pass_on = out / METRICS, pass_on
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        whole = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= resumed_step]
        place(self.path, lambda temporary: temporary.write_text("".join(line + "\n" for line in whole)))

    def __call__(self, event: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(event) + "\n")
        self.pass_on(event)


class Progress(Callback):
    """Every `log_every_steps`: loss, learning rate, samples seen, time a step, share of it spent on data."""

    def __init__(self, recipe: Recipe, emit: Emit) -> None:
        self.recipe, self.emit = recipe, emit
        self._start_window()
        self.ended = time.perf_counter()

    def _start_window(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.waited_s, self.began = 0.0, time.perf_counter()

    def on_train_start(self, *_: Any) -> None:
        self._start_window()
        self.ended = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waited_s += time.perf_counter() - self.ended

    def on_train_batch_end(
        self, trainer: Trainer, module: LatentDiffusion, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.losses.append(outputs["loss"].detach())
        if trainer.global_step % self.recipe.log_every_steps == 0:
            self._log(trainer, batch)
            self._start_window()
        self.ended = time.perf_counter()

    def _log(self, trainer: Trainer, batch: Batch) -> None:
        loss = float(torch.stack(self.losses).mean())
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} within the {len(self.losses)} steps before step {trainer.global_step} (last clips "
                f"{', '.join(batch.clip_ids[:4])}): lower lr ({self.recipe.lr}) or grad_clip ({self.recipe.grad_clip})"
            )
        spent_s = time.perf_counter() - self.began
        self.emit(
            {
                "event": "step",
                "step": trainer.global_step,
                "samples": trainer.global_step * self.recipe.batch_size,
                "total_samples": self.recipe.num_steps * self.recipe.batch_size,
                "loss": loss,
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
                "step_s": spent_s / len(self.losses),
                "data_wait_share": self.waited_s / spent_s,
            }
        )


class Evaluation(Callback):
    """Held-out loss of the averaged weights, on schedule and at the end; `losses` are the newest."""

    def __init__(self, recipe: Recipe, batches: Sequence[Batch], emit: Emit) -> None:
        self.recipe, self.batches, self.emit = recipe, batches, emit
        self.losses: list[BucketLoss] = []

    def on_train_batch_end(self, trainer: Trainer, module: LatentDiffusion, *_: Any) -> None:
        every, step = self.recipe.evaluate_every_steps, trainer.global_step
        if every and step % every == 0 and step < self.recipe.num_steps:
            self._measure(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LatentDiffusion) -> None:
        if trainer.global_step >= self.recipe.num_steps:
            self._measure(trainer, module)

    def _measure(self, trainer: Trainer, module: LatentDiffusion) -> None:
        averaged = module.ema.weights(module.network)

        def network(*inputs: Any) -> torch.Tensor:
            return functional_call(module.network, averaged, inputs)

        self.losses = held_out_losses(
            prediction_of(network, self.recipe.network),
            self.batches,
            module.motion_edges,
            preconditioning=self.recipe.objective.preconditioning,
            seed=self.recipe.seed,
            rank=trainer.global_rank,
            num_ranks=trainer.world_size,
            add_up=lambda sums: trainer.strategy.reduce(sums, reduce_op="sum"),
        )
        step = trainer.global_step
        self.emit(
            {
                "event": "held_out",
                "step": step,
                "samples": step * self.recipe.batch_size,
                "buckets": [loss.as_json() for loss in self.losses],
            }
        )


class Checkpoints(Callback):
    """Saves on schedule; when asked to stop saves once more and ends the run. Listed last: it saves what
    others did.
    """

    def __init__(self, recipe: Recipe, out: Path, stop: StopRequest, emit: Emit) -> None:
        self.recipe, self.out, self.stop, self.emit = recipe, out, stop, emit
        self.stopped = False

    def on_train_start(self, *_: Any) -> None:
        self.stop.listen()  # Lightning has put its own handler in place by now, which would not save

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step == self.recipe.num_steps:
            return  # nothing is left to resume
        self.stopped = trainer.strategy.reduce_boolean_decision(self.stop.received, all=False)
        if self.stopped or step % self.recipe.checkpoint_every_steps == 0:
            self.save(trainer)
        if self.stopped:
            trainer.should_stop = True

    def save(self, trainer: Trainer) -> None:
        path = checkpoint_path(self.out, trainer.global_step)
        if not trainer.is_global_zero:
            trainer.save_checkpoint(path)  # takes part in gathering; the first rank alone writes
            return
        place(path, trainer.save_checkpoint)
        seal_checkpoint(path, trainer.global_step)
        forget_old_checkpoints(self.out, self.recipe.keep_checkpoints)
        self.emit({"event": "checkpoint", "step": trainer.global_step, "path": str(path)})
