"""Held-out loss by noise level, against the predictor that always says zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.edm import SVD, Network, Preconditioning, clip_losses
from training.data import Batch
from training.draws import generator, sample_noise

SIGMA_EDGES = (0.1, 0.17, 0.3, 0.55, 1.0, 1.7, 3.0, 5.5, 10.0)


@dataclass(frozen=True)
class BucketLoss:
    """Mean squared error of the prediction over held-out clips with sigma in [low, high), of the network and of a
    predictor of 0.

    The zero predictor's is the mean square of the target: of v it is close to 1 where the latents have a standard
    deviation of 1.
    """

    low: float
    high: float
    loss: float
    zero_loss: float

    @property
    def ratio(self) -> float:
        return self.loss / self.zero_loss

    def as_json(self) -> dict[str, float]:
        """As metrics and reports of a run have it."""
        return {**vars(self), "ratio": self.ratio}


@torch.no_grad()
def held_out_losses(
    network: Network,
    batches: Sequence[Batch],
    motion_edges: Tensor,
    *,
    preconditioning: Preconditioning = SVD,
    seed: int = 0,
    edges: Sequence[float] = SIGMA_EDGES,
    rank: int = 0,
    num_ranks: int = 1,
    add_up: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> list[BucketLoss]:
    """Losses for each sigma bucket between neighbouring `edges`; the noise is the same in every call.

    Each rank takes its share of the (batch, bucket) pairs and `add_up` sums over the ranks. No batches:
    no losses.
    """
    if not batches:
        return []
    buckets = list(pairwise(edges))
    sums_K3 = torch.zeros(len(buckets), 3, dtype=torch.float64, device=motion_edges.device)
    pairs = [(i, k) for i in range(len(batches)) for k in range(len(buckets))]
    for i, k in pairs[rank::num_ranks]:
        batch = batches[i].to(motion_edges.device)
        key = (seed, "held out", i, k)
        losses_B, zero_B = _bucket_losses(preconditioning, network, batch, motion_edges, buckets[k], key)
        sums_K3[k] += torch.stack([losses_B.sum(), zero_B.sum(), torch.tensor(len(zero_B))]).to(sums_K3)
    sums_K3 = add_up(sums_K3)
    return [
        BucketLoss(low, high, float(loss / count), float(zero / count))
        for (low, high), (loss, zero, count) in zip(buckets, sums_K3.tolist(), strict=True)
    ]


def _bucket_losses(
    preconditioning: Preconditioning,
    network: Network,
    batch: Batch,
    motion_edges: Tensor,
    bucket: tuple[float, float],
    key: tuple[int | str, ...],
) -> tuple[Tensor, Tensor]:
    """Loss of every clip, of the network and of zero, at levels log-uniform in the bucket."""
    x0 = batch.latents_BCTHW
    noise = sample_noise(tuple(x0.shape), key, 0).to(x0)
    low, high = (math.log(edge) for edge in bucket)
    place_B = (torch.arange(len(x0)) + torch.rand(len(x0), generator=generator(*key, "levels"))) / len(x0)
    sigma_B = (low + (high - low) * place_B).exp().to(x0)
    conditioning = batch.conditioning(motion_edges)
    losses_B = clip_losses(preconditioning, network, x0, noise, sigma_B, conditioning)
    return losses_B, preconditioning.target(x0, noise, sigma_B).square().flatten(1).mean(1)
