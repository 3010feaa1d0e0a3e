"""Clips by what an image model sees in them: neighbours of an embedding, through usearch's graph (HNSW).

The graph is walked, not read whole, so that time grows with the logarithm of the number of clips; it may miss a
neighbour, and docs/log.md says how often it did. It never invents one: every product is computed again from the vectors.
One thread adds in the order of the calls, so the same calls give the same answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST_COUNT = 8
"""Neighbours that are asked for at first; four times as many while all of them are near."""


class EmbeddingIndex:
    """Vectors of length 1, numbered in the order in which they were added."""

    def __init__(self, min_cosine: float) -> None:
        self._min_cosine = min_cosine
        self._vectors: list[NDArray[np.float32]] = []
        self._graph: Any = None

    def add(self, vector_D: NDArray[np.float32]) -> int:
        """The number of the vector that is added."""
        if self._graph is None:
            from usearch.index import Index

            self._graph = Index(
                ndim=len(vector_D), metric="ip", dtype="f16", expansion_add=128, expansion_search=128
            )
        self._vectors.append(vector_D)
        self._graph.add(len(self._vectors) - 1, vector_D, threads=1)
        return len(self._vectors) - 1

    def near(self, vector_D: NDArray[np.float32]) -> list[tuple[int, float]]:
        """Numbers and cosines of the vectors that are at least as near as `min_cosine`."""
        count = _FIRST_COUNT
        while self._vectors:
            keys = self._graph.search(vector_D, min(count, len(self._vectors)), threads=1).keys
            cosines = [float(self._vectors[key] @ vector_D) for key in keys]
            if count >= len(self._vectors) or min(cosines) < self._min_cosine:
                found = zip(keys.tolist(), cosines, strict=True)
                return [(key, cosine) for key, cosine in found if cosine >= self._min_cosine]
            count *= 4
        return []
