"""Near-duplicates: clips that show the same footage, encoded, scaled, stretched, turned or mirrored anew.

Two clips are near-duplicates if most frames of the one with fewer frames look like some frame of the other. Clips of
one video never are: where the camera stands still, two stretches of a video are as alike as two encodings of one.

Where a selection asks for it, clips whose embeddings are near are near-duplicates too (SemDeDup, Abbas et al. 2023):
crops and other grading, which no hash of signs survives. How near is for the model to tell.

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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curation.annotators.fingerprints import COLOUR_PX
from curation.selection.embedding_index import EmbeddingIndex
from curation.selection.perceptual_hash import BAND_BITS, BANDS, BITS, bands, distances, mirrored, turned
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
    min_cosine: float | None = None
    """Clips are near-duplicates too whose first, middle and last frames' embeddings have at least this mean cosine,
    above 0 to 1; none compares no embeddings."""

    def __post_init__(self) -> None:
        if self.min_cosine is not None and not 0 < self.min_cosine <= 1:
            raise SettingsError(
                f"duplicates: min_cosine is {self.min_cosine}; expected above 0 to 1, or none to compare hashes alone"
            )
        if not 0 <= self.max_bits <= BITS // 2 or not 0 < self.min_share <= 1:
            raise SettingsError(
                f"duplicates: max_bits is {self.max_bits} and min_share {self.min_share}; expected 0 to {BITS // 2} "
                f"(half of all bits differ between unrelated pictures) and above 0 to 1"
            )

    @property
    def compares_embeddings(self) -> bool:
        """Whether near-duplicates are found by their embeddings too."""
        return self.drop and self.min_cosine is not None


@dataclass(frozen=True)
class Fingerprint:
    """A clip as it is compared. `rank` sorts the best first and is unique."""

    clip_id: str
    video_id: str
    rank: tuple[Any, ...]
    hashes_N: NDArray[np.uint64]
    colours: bytes
    embedding: NDArray[np.float32] | None = None
    """Embeddings of the first, middle and last frame one after the other, of length 1 as a whole: the product of two
    clips' is the mean cosine of their frames."""

    @property
    def colours_N883(self) -> NDArray[np.int16]:
        """Colours of the frames, RGB."""
        return np.frombuffer(self.colours, np.uint8).reshape(-1, COLOUR_PX, COLOUR_PX, 3).astype(np.int16)

    @property
    def views_8N(self) -> NDArray[np.uint64]:
        """Hashes of the frames turned by 0 to 3 quarters, then of their mirror images turned so."""
        return np.concatenate([turned(self.hashes_N), turned(mirrored(self.hashes_N))])

    def seen_N883(self, view: int) -> NDArray[np.int16]:
        """Colours of the frames as one of the eight views has them."""
        colours_N883 = self.colours_N883[:, :, ::-1] if view >= 4 else self.colours_N883
        return np.rot90(colours_N883, view % 4, axes=(1, 2))


@dataclass(frozen=True)
class Duplicate:
    """Why a clip falls."""

    of: str
    """The clip that is kept in its place."""
    by: Literal["hash", "embedding"]
    """What the two have in common; the hash where both."""


def near_duplicates(
    clips: Iterable[Fingerprint], config: DuplicateConfig, kept: Collection[str] = ()
) -> dict[str, Duplicate]:
    """What each clip that falls is a copy of, by its id. The order of `clips` does not matter.

    Args:
        kept: clips that stay whatever they resemble, because a verdict has been passed on them.
    """
    fallen: dict[str, Duplicate] = {}
    index = _Kept(config)
    for clip in sorted(clips, key=lambda c: (c.clip_id not in kept, c.rank)):
        found = None if clip.clip_id in kept else index.nearest(clip)
        if found is None:
            index.add(clip)
        else:
            fallen[clip.clip_id] = found
    return fallen


class _Kept:
    """The clips kept so far, found by hash and, where it is asked for, by embedding."""

    def __init__(self, config: DuplicateConfig) -> None:
        self._config = config
        self._by_hash = _Index(config.max_bits)
        self._by_embedding = None if config.min_cosine is None else EmbeddingIndex(config.min_cosine)
        self._embedded: list[Fingerprint] = []

    def add(self, clip: Fingerprint) -> None:
        self._by_hash.add(clip)
        if self._by_embedding is not None and clip.embedding is not None:
            self._by_embedding.add(clip.embedding)
            self._embedded.append(clip)

    def nearest(self, clip: Fingerprint) -> Duplicate | None:
        """A better clip rather than one that an earlier verdict kept, by hash rather than by embedding, the nearest."""
        found = [*self._alike(clip), *self._near(clip)]
        if not found:
            return None
        by, _, other = min(found, key=lambda f: (f[2].rank > clip.rank, f[0] != "hash", f[1], f[2].rank))
        return Duplicate(other.clip_id, by)

    def _alike(self, clip: Fingerprint) -> Iterator[tuple[Literal["hash"], float, Fingerprint]]:
        for other in self._by_hash.candidates(clip):
            if (bits := likeness(clip, other, self._config)) is not None:
                yield "hash", bits, other

    def _near(self, clip: Fingerprint) -> Iterator[tuple[Literal["embedding"], float, Fingerprint]]:
        if self._by_embedding is None or clip.embedding is None:
            return
        for number, cosine in self._by_embedding.near(clip.embedding):
            other = self._embedded[number]
            if other.video_id != clip.video_id:
                yield "embedding", -cosine, other


def likeness(a: Fingerprint, b: Fingerprint, config: DuplicateConfig) -> float | None:
    """Mean bits between the frames that the clips share, in the view that brings them nearest; None if too few."""
    shares = [_shared(hashes_N, view, a, b, config) for view, hashes_N in enumerate(a.views_8N)]
    return min((bits for bits in shares if bits is not None), default=None)


def _shared(
    hashes_N: NDArray[np.uint64], view: int, a: Fingerprint, b: Fingerprint, config: DuplicateConfig
) -> float | None:
    """Mean bits between shared frames if `a` is seen in one of its views; None if they are too few."""
    bits_NM = distances(hashes_N, b.hashes_N)
    near_NM = bits_NM <= config.max_bits
    if not near_NM.any():
        return None
    colour_NM = np.abs(a.seen_N883(view)[:, None] - b.colours_N883[None]).mean(axis=(2, 3, 4))
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
        asked = np.unique(clip.views_8N)
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
    """Fingerprints from rows with clip_id, video_id, duration_s, width, height, sharpness, hashes and colours.

    A row may have `first`, `middle` and `last` too: its frames' embeddings of length 1.
    """
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
            _side_by_side(row) if row.get("first") else None,
        )
        for row in rows
    ]


def _side_by_side(row: Mapping[str, Any]) -> NDArray[np.float32]:
    """Three vectors of length 1 as one."""
    frames_3D = np.array([row[frame] for frame in ("first", "middle", "last")], np.float32)
    return frames_3D.reshape(-1) / np.float32(np.sqrt(3))
