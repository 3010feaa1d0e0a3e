"""In which order a trainer meets the clips of a packed dataset: pure arithmetic, no files.

The order is a function of (seed, epoch, position) for a fixed global batch. Ranks and workers only decide who
reads which slice of a batch, so a run stopped at a position goes on at the very next sample on any number
of them.

Each bucket is an endless stream: epoch after epoch, each a shuffle of its row groups and, within each
window of a few consecutive row groups, of all their clips. A batch is the next `global_batch` samples of
one bucket's stream, so the tail of an epoch opens the first batch of the next: in a bucket no clip is
ever met twice more often than another. Buckets take turns in proportion to their clips.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from warehouse.errors import DatasetError


@dataclass(frozen=True)
class BatchPlan:
    """Which clips make the batch at `position`: for each sample its epoch, row group and row (all (B,)
    int64).
    """

    position: int
    bucket: str
    epoch_B: np.ndarray
    group_B: np.ndarray
    row_B: np.ndarray

    def slice(self, rank: int, num_ranks: int) -> BatchPlan:
        """The samples of one rank: every rank takes an equal run of the batch."""
        each = len(self.epoch_B) // num_ranks
        mine = slice(rank * each, (rank + 1) * each)
        return BatchPlan(self.position, self.bucket, self.epoch_B[mine], self.group_B[mine], self.row_B[mine])


@dataclass(frozen=True)
class BatchOrder:
    """The order of a dataset whose buckets have row groups of `group_sizes[bucket]` clips."""

    group_sizes: Mapping[str, Sequence[int]]
    global_batch: int
    seed: int
    window: int = 8

    def __post_init__(self) -> None:
        if self.global_batch < 1 or self.window < 1:
            raise DatasetError(
                f"got global batch {self.global_batch}, window {self.window}: expected at least 1"
            )
        if not any(map(sum, self.group_sizes.values())):
            raise DatasetError("there are no clips to train on: choose a wider selection and pack it again")

    def check_ranks(self, num_ranks: int) -> None:
        if self.global_batch % num_ranks:
            raise DatasetError(
                f"{num_ranks} ranks do not divide the global batch of {self.global_batch}: change one of them"
            )

    def plans(self, position: int = 0) -> Iterator[BatchPlan]:
        """Batches from `position` (batches already taken) on, without end."""
        streams = {
            bucket: _Stream(np.asarray(sizes), self.window, (self.seed, index))
            for index, (bucket, sizes) in enumerate(sorted(self.group_sizes.items()))
            if sum(sizes)
        }
        for current, (bucket, turn) in enumerate(self._turns(streams)):
            if current >= position:
                first = turn * self.global_batch
                yield BatchPlan(current, bucket, *streams[bucket].samples(first, first + self.global_batch))

    def _turns(self, streams: Mapping[str, _Stream]) -> Iterator[tuple[str, int]]:
        """(bucket, how many batches it had before), where batch k of a bucket falls at a random point of
        the k-th span that it takes to use up global_batch of its clips."""
        times = [(self._time(stream, 0), bucket, 0) for bucket, stream in streams.items()]
        heapq.heapify(times)
        while True:
            _, bucket, turn = times[0]
            yield bucket, turn
            heapq.heapreplace(times, (self._time(streams[bucket], turn + 1), bucket, turn + 1))

    def _time(self, stream: _Stream, turn: int) -> float:
        jitter = np.random.default_rng((*stream.key, 1, turn)).random()
        return (turn + jitter) * self.global_batch / stream.num_clips


class _Stream:
    """The endless stream of one bucket."""

    def __init__(self, sizes: np.ndarray, window: int, key: tuple[int, int]) -> None:
        self.sizes, self.window, self.key = sizes, window, key
        self.num_clips = int(sizes.sum())
        self._epoch_groups = lru_cache(maxsize=2)(self._shuffled_groups)
        self._window_rows = lru_cache(maxsize=2)(self._shuffled_rows)

    def samples(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Epoch, row group and row of samples first..last - 1."""
        runs = []
        while first < last:
            epoch, offset = divmod(first, self.num_clips)
            _, starts = self._epoch_groups(epoch)
            index = int(np.searchsorted(starts, offset, side="right")) - 1
            groups, rows = self._window_rows(epoch, index)
            begin = offset - int(starts[index])
            end = min(begin + last - first, len(rows))
            runs.append((np.full(end - begin, epoch), groups[begin:end], rows[begin:end]))
            first += end - begin
        epochs, groups, rows = (np.concatenate(run) for run in zip(*runs, strict=True))
        return epochs, groups, rows

    def _shuffled_groups(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's order of row groups, and the sample at which each window begins."""
        groups = np.random.default_rng((*self.key, 2, epoch)).permutation(np.flatnonzero(self.sizes))
        ends = np.cumsum(self.sizes[groups])
        return groups, np.concatenate([[0], ends])[: len(groups) : self.window]

    def _shuffled_rows(self, epoch: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Row group and row of every clip in a window, shuffled together."""
        groups = self._epoch_groups(epoch)[0][window * self.window : (window + 1) * self.window]
        sizes = self.sizes[groups]
        rows = np.concatenate([np.arange(size) for size in sizes])
        order = np.random.default_rng((*self.key, 3, epoch, window)).permutation(len(rows))
        return np.repeat(groups, sizes)[order], rows[order]
