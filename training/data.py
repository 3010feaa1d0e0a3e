"""Batches for a network from a packed dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from models.conditioning import Conditioning, drop_text, motion_bucket, motion_edges
from models.joined_frames import joined
from training.joined import Joiner
from training.recipe import Recipe
from warehouse.errors import DatasetError
from warehouse.manifest import HELD_OUT, TRAIN
from warehouse.order import BatchOrder
from warehouse.reader import Clips, PackedDataset, frame_choice


@dataclass(frozen=True)
class Batch:
    """One rank's slice of the global batch at `position`.

    `latents_BCTHW`: float32. `motion_B`: scores, NaN where unknown. `size_B3`: height and width in pixels, and height
    over width. `clip_ids`: of the clips, for messages. `joined_BCFHW`: one or two frames of each clip, noised, as the
    autoencoder's own latents, for networks that are shown them (`models.joined_frames`); `joined_sigma_B`: the noise on
    them; `silent_B`: bool, clips without text because these frames were dropped with it. None for other networks.
    """

    position: int
    clip_ids: list[str]
    latents_BCTHW: Tensor
    text_BLD: Tensor
    mask_BL: Tensor
    fps_B: Tensor
    motion_B: Tensor
    size_B3: Tensor
    joined_BCFHW: Tensor | None = None
    joined_sigma_B: Tensor | None = None
    silent_B: Tensor | None = None

    def to(self, device: torch.device, **options: object) -> Batch:
        """Lightning's way to move a batch."""
        moved = {k: v.to(device, **options) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Batch(**moved)

    def conditioning(self, edges: Tensor) -> Conditioning:
        """What the network is told, with motion as the bucket between `edges`; no clip has a class."""
        numbers_BN = torch.stack([self.fps_B, motion_bucket(self.motion_B, edges)], dim=1)
        no_label_B = torch.full_like(self.fps_B, torch.nan)
        told = Conditioning(self.text_BLD, self.mask_BL, numbers_BN, no_label_B, self.size_B3)
        if self.joined_BCFHW is None:
            return told
        told = replace(told, numbers_BN=torch.cat([numbers_BN, self.joined_sigma_B[:, None]], dim=1))
        return drop_text(joined(told, self.joined_BCFHW, self.latents_BCTHW.shape[2]), self.silent_B)


def to_batch(clips: Clips, position: int, downsampling: int, frame_B: np.ndarray | None = None) -> Batch:
    """Tensors of some clips; with `frame_B` of that one frame of each. `downsampling`: pixels a latent."""
    latents = clips.latents_BTCHW
    height_px, width_px = (downsampling * side for side in latents.shape[-2:])
    if frame_B is not None:
        latents = latents[np.arange(len(clips)), frame_B][:, None]
    return Batch(
        position=position,
        clip_ids=list(clips.clip_id_B),
        latents_BCTHW=torch.from_numpy(latents.astype(np.float32)).movedim(1, 2).contiguous(),
        text_BLD=torch.from_numpy(clips.text_BLD.astype(np.float32)),
        mask_BL=torch.from_numpy(clips.mask_BL.copy()),
        fps_B=torch.from_numpy(clips.fps_B.copy()),
        motion_B=torch.from_numpy(clips.motion_B.copy()),
        size_B3=torch.tensor([[height_px, width_px, height_px / width_px]]).expand(len(clips), -1),
    )


class TrainingClips(IterableDataset[Batch]):
    """The endless stream of one rank's batches from `position` on, the same for any number of workers."""

    def __init__(
        self, dataset: PackedDataset, recipe: Recipe, position: int, rank: int, num_ranks: int
    ) -> None:
        self.dataset, self.recipe, self.position = dataset, recipe, position
        self.rank, self.num_ranks = rank, num_ranks
        self.order: BatchOrder = dataset.order(recipe.batch_size, recipe.seed, recipe.shuffle_window)
        self.order.check_ranks(num_ranks)
        self.joiner = Joiner.of(recipe, dataset)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        reading = {
            "rank": self.rank,
            "num_ranks": self.num_ranks,
            "worker": worker,
            "num_workers": num_workers,
        }
        for plan, clips in self.dataset.read_batches(self.order, self.position, **reading):
            single = self.recipe.single_frames
            frame_B = frame_choice(clips, plan.epoch_B, self.recipe.seed) if single else None
            batch = to_batch(clips, plan.position, self.dataset.manifest.downsampling, frame_B)
            if self.joiner is not None:
                shown = self.joiner.training(batch.latents_BCTHW, plan.position, self.rank)
                batch = replace(batch, **vars(shown))
            yield batch


def training_loader(clips: TrainingClips, num_workers: int) -> DataLoader[Batch]:
    """One rank's batches as Lightning takes them, read ahead by `num_workers` processes, or in this one for 0.

    The stream already has batches, so the loader makes none; their order does not depend on the workers.
    """
    return DataLoader(clips, batch_size=None, num_workers=num_workers, persistent_workers=num_workers > 0)


def held_out_batches(dataset: PackedDataset, recipe: Recipe) -> list[Batch]:
    """The first `evaluate_clips` held-out clips, those of one row group a batch; empty if none are held
    out.
    """
    batches: list[Batch] = []
    left, joiner = recipe.evaluate_clips, Joiner.of(recipe, dataset)
    for _, clips in dataset.read_split(HELD_OUT):
        some = clips.take(np.arange(min(left, len(clips))))
        if not len(some):
            break
        frame_B = frame_choice(some, np.zeros(len(some)), recipe.seed) if recipe.single_frames else None
        batch = to_batch(some, len(batches), dataset.manifest.downsampling, frame_B)
        if joiner is not None:
            batch = replace(batch, **vars(joiner.held_out(batch.latents_BCTHW, len(batches))))
        batches.append(batch)
        left -= len(some)
    return batches


def dataset_motion_edges(dataset: PackedDataset) -> Tensor:
    """Edges of the motion buckets over the training clips."""
    scores = [torch.from_numpy(clips.motion_B.copy()) for _, clips in dataset.read_split(TRAIN)]
    if not scores:
        raise DatasetError(
            f"{dataset.uri} has no clips to train on: choose a wider selection and pack it again"
        )
    return motion_edges(torch.cat(scores))
