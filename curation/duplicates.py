"""Near-duplicates: clips that show the same footage, encoded, scaled, stretched or turned anew.

Two clips are near-duplicates if most frames of the one with fewer frames look like some frame of the other. Clips of
one video never are: where the camera stands still, two stretches of a video are as alike as two encodings of one.

Of near-duplicates the best is kept. Clips are taken best first, and each is compared with those kept so far alone: who
looks like one of them falls, so that every clip that falls really resembles the clip that is named for it, and many
copies of one clip cost no more than one comparison each. Since the relation is symmetric, what was kept earlier can be
put first (a run that was stopped, footage that came later) and the verdicts come out the same.

Comparisons are few because only clips of which two frames share a whole band of bits are compared at all: two frames
that differ in up to two bits always do, and copies of many frames have at least one such pair (docs/log.md). Where one
of the clips has few frames, single images among them, bands that differ in one bit count as shared: then frames that
differ in up to five bits always meet.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.annotators.fingerprints import COLOUR_PX
from curation.perceptual_hash import BAND_BITS, BANDS, BITS, bands, distances, turned
from warehouse.errors import SettingsError

FEW_FRAMES = 3
"""A clip of at most as many frames has too few to trust that one of them comes out of an encoder as it went in."""

_FLIPS = np.array([0, *(1 << bit for bit in range(BAND_BITS))], np.uint64)

REASON = "near_duplicate"
"""What a verdict says of a clip that falls."""


@dataclass(frozen=True)
class DuplicateConfig:
    """When two clips count as one, and whether the lesser falls. Figures behind the defaults are in docs/log.md."""

    drop: bool = True
    """Reject all near-duplicates but the best: the longest in whole seconds, then the one with most pixels, then the
    sharpest, then the one with the lowest id."""
    max_bits: int = 10
    """Most bits of 63 in which the hashes of two frames that look alike differ."""
    max_colour: float = 6.0
    """Largest mean difference (0..255) of the colours of two frames that look alike."""
    min_share: float = 0.6
    """Share of the frames of the clip with fewer frames that the other must show too, above 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_bits <= BITS // 2 or not 0 < self.min_share <= 1:
            raise SettingsError(
                f"duplicates: max_bits is {self.max_bits} and min_share {self.min_share}; expected 0 to {BITS // 2} "
                f"(half of all bits differ between unrelated pictures) and above 0 to 1"
            )


@dataclass(frozen=True)
class Fingerprint:
    """A clip as it is compared. `rank` sorts the best first and is unique."""

    clip_id: str
    video_id: str
    rank: tuple[Any, ...]
    hashes_N: NDArray[np.uint64]
    colours: bytes

    @property
    def colours_N883(self) -> NDArray[np.int16]:
        """Colours of the frames, RGB."""
        return np.frombuffer(self.colours, np.uint8).reshape(-1, COLOUR_PX, COLOUR_PX, 3).astype(np.int16)

    @property
    def turned_4N(self) -> NDArray[np.uint64]:
        """Hashes of the frames turned by 0 to 3 quarters."""
        return turned(self.hashes_N)


def near_duplicates(
    clips: Iterable[Fingerprint], config: DuplicateConfig, kept: Collection[str] = ()
) -> dict[str, str]:
    """The clip that is kept instead, by the id of each clip that falls. The order of `clips` does not matter.

    Args:
        kept: clips that stay whatever they resemble, because a verdict has been passed on them.
    """
    instead: dict[str, str] = {}
    index = _Index(config.max_bits)
    for clip in sorted(clips, key=lambda c: (c.clip_id not in kept, c.rank)):
        found = None if clip.clip_id in kept else _nearest(clip, index.candidates(clip), config)
        if found is None:
            index.add(clip)
        else:
            instead[clip.clip_id] = found.clip_id
    return instead


def _nearest(
    clip: Fingerprint, candidates: Iterable[Fingerprint], config: DuplicateConfig
) -> Fingerprint | None:
    """The near-duplicate among candidates: a better one rather than one that an earlier verdict kept, then the nearest."""
    found = []
    for other in candidates:
        if (bits := likeness(clip, other, config)) is not None:
            found.append((other.rank > clip.rank, bits, other.rank, other))
    return min(found, key=lambda f: f[:3])[3] if found else None


def likeness(a: Fingerprint, b: Fingerprint, config: DuplicateConfig) -> float | None:
    """Mean bits between the frames that the clips share, in the turn that brings them nearest; None if too few."""
    shares = [_shared(hashes_N, turn, a, b, config) for turn, hashes_N in enumerate(a.turned_4N)]
    return min((bits for bits in shares if bits is not None), default=None)


def _shared(
    hashes_N: NDArray[np.uint64], turn: int, a: Fingerprint, b: Fingerprint, config: DuplicateConfig
) -> float | None:
    """Mean bits between shared frames if `a` is turned by so many quarters; None if they are too few."""
    bits_NM = distances(hashes_N, b.hashes_N)
    near_NM = bits_NM <= config.max_bits
    if not near_NM.any():
        return None
    seen_N883 = np.rot90(a.colours_N883, turn, axes=(1, 2))
    colour_NM = np.abs(seen_N883[:, None] - b.colours_N883[None]).mean(axis=(2, 3, 4))
    like_NM = near_NM & (colour_NM <= config.max_colour)
    # With equally many frames each must be found in the other, or the answer would depend on who asks.
    axes = [axis for axis in (0, 1) if like_NM.shape[1 - axis] == min(like_NM.shape)]
    if any(like_NM.any(axis=axis).mean() < config.min_share for axis in axes):
        return None
    return float(bits_NM[like_NM].mean())


class _Index:
    """The clips kept so far, found by the bands of their frames' hashes."""

    def __init__(self, max_bits: int) -> None:
        self._max_bits = max_bits
        self._clips: list[Fingerprint] = []
        self._short, self._long = _Frames(), _Frames()

    def add(self, clip: Fingerprint) -> None:
        frames = self._short if _is_short(clip) else self._long
        frames.add(np.unique(clip.hashes_N), len(self._clips))
        self._clips.append(clip)

    def candidates(self, clip: Fingerprint) -> list[Fingerprint]:
        """Kept clips of other videos that have a frame which shares a band with one of the clip's, and is near it.

        Where either of the two is short, bands that differ in one bit are shared too.
        """
        asked = np.unique(clip.turned_4N)
        short = self._short.owners(asked, _flipped_keys, self._max_bits)
        long = self._long.owners(asked, _flipped_keys if _is_short(clip) else _keys, self._max_bits)
        return [c for c in (self._clips[n] for n in sorted(short | long)) if c.video_id != clip.video_id]


class _Frames:
    """Hashes of frames, found by their bands; each with the number of its clip."""

    def __init__(self) -> None:
        self._hashes, self._owners = array("Q"), array("L")
        self._by_key: defaultdict[int, list[int]] = defaultdict(list)

    def add(self, hashes_N: NDArray[np.uint64], owner: int) -> None:
        for number, keys in enumerate(_keys(hashes_N).tolist(), start=len(self._hashes)):
            for key in keys:
                self._by_key[key].append(number)
        self._hashes.extend(hashes_N.tolist())
        self._owners.extend([owner] * len(hashes_N))

    def owners(
        self,
        asked_N: NDArray[np.uint64],
        keys: Callable[[NDArray[np.uint64]], NDArray[np.uint64]],
        max_bits: int,
    ) -> set[int]:
        """Clips with a frame under one of the keys of a hash that is asked for, at most so many bits from it."""
        if not self._hashes:
            return set()
        numbers: list[int] = []
        counts = []
        for of_hash in keys(asked_N).tolist():
            before = len(numbers)
            for key in of_hash:
                numbers += self._by_key.get(key, ())
            counts.append(len(numbers) - before)
        met = np.array(numbers, np.int64)
        bits = np.bitwise_count(np.repeat(asked_N, counts) ^ np.frombuffer(self._hashes, np.uint64)[met])
        return set(np.frombuffer(self._owners, np.uint64)[met[bits <= max_bits]].tolist())


def _is_short(clip: Fingerprint) -> bool:
    return len(clip.hashes_N) <= FEW_FRAMES


def _keys(hashes_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[N, 3]: values of the bands, told apart by the band's number above their bits."""
    names = np.arange(BANDS, dtype=np.uint64) << np.uint64(BAND_BITS)
    return bands(hashes_N).T | names


def _flipped_keys(hashes_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[N, 66]: the same, and with each bit of a band flipped."""
    return (_keys(hashes_N)[:, :, None] ^ _FLIPS).reshape(len(hashes_N), -1)


def ranked(rows: Sequence[dict[str, Any]]) -> list[Fingerprint]:
    """Fingerprints from rows with clip_id, video_id, duration_s, width, height, sharpness, hashes and colours."""
    return [
        Fingerprint(
            row["clip_id"],
            row["video_id"],
            (
                -round(row["duration_s"]),
                -row["width"] * row["height"],
                -row["sharpness"] if row["sharpness"] is not None else 0.0,
                row["clip_id"],
            ),
            np.array(row["hashes"], np.uint64),
            row["colours"],
        )
        for row in rows
    ]
