"""One training stage from beginning to end: on a dataset, from earlier weights or none, into a folder."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from models.attention import use_attention
from models.counting import network_of
from models.recompute import use_recompute
from models.video_unet import VideoUNetConfig
from training.callbacks import Checkpoints, Emit, Evaluation, Progress, Recorder
from training.checkpoints import (
    Weights,
    file_sha256,
    load_for_resume,
    load_weights,
    newest_checkpoint,
    place_json,
    save_weights,
    start_from,
)
from training.data import TrainingClips, dataset_motion_edges, held_out_batches, training_loader
from training.evaluate import BucketLoss
from training.job import Job, finished
from training.module import LatentDiffusion
from training.recipe import Recipe
from training.stop import StopRequest
from training.trained import TRAINED, Trained
from warehouse.errors import SettingsError
from warehouse.reader import PackedDataset
from warehouse.run_folder import DONE, RUN, WEIGHTS

log = logging.getLogger(__name__)


def run_stage(job: Job, out: Path, pass_on: Emit, stop: StopRequest) -> dict[str, Any] | None:
    """Train, resuming from the newest whole checkpoint in `out`; return the report of done.json.

    A complete run of the same job is not repeated. Returns None if the run was asked to stop: then a
    checkpoint holds all that was done. Raises SettingsError if `out` holds a run of another job.
    """
    described = job.describe()
    _claim_folder(out, described)
    if (report := finished(out, described["digest"])) is not None:
        return report
    checkpoint = newest_checkpoint(out)
    position = 0 if checkpoint is None else int(load_for_resume(checkpoint)["global_step"])
    rank, num_ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    emit = Recorder(out, position, pass_on) if rank == 0 else (lambda event: None)
    dataset = PackedDataset.open(job.dataset)
    module = build(job, dataset)
    clips = TrainingClips(dataset, job.recipe, position, rank, num_ranks)
    evaluation = Evaluation(job.recipe, held_out_batches(dataset, job.recipe), emit)
    checkpoints = Checkpoints(job.recipe, out, stop, emit)
    trainer = _trainer(job.recipe, [Progress(job.recipe, emit), evaluation, checkpoints])
    emit({"event": "start", "step": position, "digest": described["digest"], "paths": described["paths"]})
    loader = training_loader(clips, job.recipe.data_workers)
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    if checkpoints.stopped:
        return None
    return _finish(job, out, described, module, evaluation.losses, emit) if rank == 0 else {}


def build(job: Job, dataset: PackedDataset) -> LatentDiffusion:
    """The module of a fresh run: network from the recipe's seed, then from the earlier weights where
    given.
    """
    torch.manual_seed(job.recipe.seed)
    network = network_of(job.recipe.network)
    use_attention(network, job.recipe.attention)
    use_recompute(network, job.recipe.recompute, job.recipe.recompute_keep_first)
    _check_fit(job.recipe, dataset)
    earlier = None if job.init_from is None else load_weights(Path(job.init_from))
    if earlier is not None:
        _check_objective(job.recipe, earlier)
        start_from(network, earlier)
    return LatentDiffusion(job.recipe, network, _motion_edges(dataset, earlier))


def _check_fit(recipe: Recipe, dataset: PackedDataset) -> None:
    manifest, network = dataset.manifest, recipe.network
    heard = manifest.text_shape[1] if network.text_dim is not None else None
    got, expected = (network.latent_channels, network.text_dim), (manifest.latent_channels, heard)
    if got != expected:
        unet = isinstance(network, VideoUNetConfig)
        channels = "network.latent_channels" if unet else "network.in_channels"
        raise SettingsError(
            f"{channels} and network.text_dim are {got}, but {dataset.uri} has {expected}: set them to these, or encode "
            f"with the autoencoder and the text encoder that the network is made for"
        )


def _check_objective(recipe: Recipe, earlier: Weights) -> None:
    """A network is told noise levels in the numbers of its objective. What was imported may learn others, which is said:
    so SVD began with Stable Diffusion.
    """
    had, has = Trained.of(earlier.origin).objective, recipe.objective
    if (had.name, had.betas) == (has.name, has.betas):
        return
    if "recipe" in earlier.origin:
        raise SettingsError(
            f"objective is {has.name} with betas {has.betas}, but the earlier weights were trained with {had.name} and "
            f"{had.betas}: give both stages one, or start from other weights"
        )
    if TRAINED in earlier.origin:
        log.warning(
            "imported weights were trained with objective %s (betas %s) and go on with %s: they have to learn anew what "
            "noise levels they are told; set objective to theirs where there is little to train on",
            *(had.name, had.betas, has.name),
        )


def _motion_edges(dataset: PackedDataset, earlier: Weights | None) -> Tensor:
    """A bucket means the same motion in every stage. Weights of others, and of clips without scores, have no edges."""
    if earlier is not None and earlier.motion_edges.any():
        return earlier.motion_edges
    return dataset_motion_edges(dataset)


def _claim_folder(out: Path, described: dict[str, Any]) -> None:
    if (out / RUN).exists():
        there = json.loads((out / RUN).read_text())
        if there["digest"] != described["digest"]:
            raise SettingsError(
                f"{out} holds a run of another job ({there['digest'][:12]}, this one is {described['digest'][:12]}): "
                f"choose another folder"
            )
        return
    place_json(out / RUN, described)


def _trainer(recipe: Recipe, callbacks: list[Any]) -> Trainer:
    num_ranks, here = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    return Trainer(
        accelerator="auto",
        devices=here,
        num_nodes=num_ranks // here,
        strategy=DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
        if num_ranks > 1
        else "auto",
        precision=recipe.precision,
        max_steps=recipe.num_steps,
        max_epochs=-1,
        gradient_clip_val=recipe.grad_clip or None,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )


def _finish(
    job: Job,
    out: Path,
    described: dict[str, Any],
    module: LatentDiffusion,
    losses: list[BucketLoss],
    emit: Emit,
) -> dict[str, Any]:
    recipe = job.recipe
    origin = {"stage": recipe.stage, "samples": recipe.num_steps * recipe.batch_size} | described
    averaged = module.ema.weights(module.network)
    save_weights(out / WEIGHTS, Weights(recipe.network, averaged, module.motion_edges, origin))
    report = {
        "digest": described["digest"],
        "stage": recipe.stage,
        "samples": origin["samples"],
        "weights": WEIGHTS,
        "weights_sha256": file_sha256(out / WEIGHTS),
        "held_out": [loss.as_json() for loss in losses],
    }
    emit({"event": "done", "step": recipe.num_steps} | report)
    place_json(out / DONE, report)
    return report
