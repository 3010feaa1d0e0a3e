"""A hash of how a picture looks, which scaling, stretching and compression hardly change and a turn changes predictably.

The picture is squeezed to a 32 px square, and the signs of the 63 lowest frequencies of its cosine transform (8 x 8
without the mean) are its bits, after Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010),
with zero in place of the median. With zero, turning the picture by a quarter only swaps the two directions and flips
the odd frequencies of one, and a mirror image only has the odd frequencies across flipped, so the hash of a turned or
mirrored picture follows from the hash alone.

Bits are ordered in three bands of 21, each closed under that swap: the bits of a band stay in it however the picture
is turned. By the pigeonhole principle, hashes that differ in up to two bits share a band.
"""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

BITS, BANDS, BAND_BITS = 63, 3, 21
_SQUARE_PX, _FREQUENCIES = 32, 8
FLAT_BELOW = 5.0
"""Standard deviation of grey levels (0..255) under which the signs are those of noise."""


def _layout() -> list[tuple[int, int]]:
    """Frequency (down, across) of every bit, low ones first in each band; a frequency and its mirror share a band."""
    bands: list[list[tuple[int, int]]] = [[] for _ in range(BANDS)]
    low_first = sorted(product(range(_FREQUENCIES), repeat=2), key=lambda f: (sum(f), f))
    for down, across in (f for f in low_first[1:] if f[0] < f[1]):
        band = min(bands, key=len)
        band += [(down, across), (across, down)]
    for equal in range(1, _FREQUENCIES):
        min(bands, key=len).append((equal, equal))
    return [frequency for band in bands for frequency in band]


_LAYOUT = _layout()
_DOWN, _ACROSS = np.array(_LAYOUT).T
_SWAPPED = np.array([_LAYOUT.index((across, down)) for down, across in _LAYOUT])
_WEIGHTS = np.uint64(1) << np.arange(BITS, dtype=np.uint64)


def picture_hash(luma_HW: NDArray[np.uint8]) -> int | None:
    """63 bits of a picture in grey levels; None for one without structure, such as a plain colour."""
    square = cv2.resize(luma_HW, (_SQUARE_PX, _SQUARE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    if square.std() < FLAT_BELOW:
        return None
    return int(_pack(cv2.dct(square)[_DOWN, _ACROSS] > 0))


def turned(hashes_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[4, N]: hashes of the same pictures turned by 0, 1, 2 and 3 quarters counterclockwise."""
    bits = hashes_N[:, None] & _WEIGHTS > 0
    swapped = bits[:, _SWAPPED]
    odd_down, odd_across = _DOWN % 2 == 1, _ACROSS % 2 == 1
    return np.stack(
        [_pack(b) for b in (bits, swapped ^ odd_down, bits ^ odd_down ^ odd_across, swapped ^ odd_across)]
    )


def mirrored(hashes_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[N]: hashes of the same pictures with left and right exchanged."""
    return hashes_N ^ _pack(_ACROSS % 2 == 1)


def distances(a_N: NDArray[np.uint64], b_M: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """[N, M]: bits in which hashes differ."""
    return np.bitwise_count(a_N[:, None] ^ b_M[None])


def bands(hashes_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[3, N]: the bits of each band as a number."""
    shifts = np.arange(BANDS, dtype=np.uint64)[:, None] * np.uint64(BAND_BITS)
    return (hashes_N[None] >> shifts) & np.uint64((1 << BAND_BITS) - 1)


def _pack(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return (bits * _WEIGHTS).sum(axis=-1, dtype=np.uint64)
