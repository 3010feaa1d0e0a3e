"""Which caption of a clip a trainer reads: of all that lists and models say of it, one, cleaned, with its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from curation.captions.cleaning import CleaningConfig, clean, fault
from curation.captions.score_words import ScoreWordsConfig, with_score_words
from warehouse.ledger import Ledger
from warehouse.plan import digest

_KINDS = ("frame", "video", "summary")
"""What models write of a clip, in the order of the shares."""
SCORES = {"aesthetics": ["score"], "motion": ["score", "camera"]}
"""Tables and columns whose scores a caption may tell."""


def written_captions(
    ledger: Ledger, shard: str, ids: Sequence[str], listed: bool
) -> dict[str, dict[str, Any]]:
    """All that was written of each clip, and with `listed` what lists say, as `choose_caption` takes it."""
    wanted = [("clip_id", "in", list(ids))]
    captions = {r["clip_id"]: r for r in ledger.read("captions", shard, filters=wanted).iter_rows(named=True)}
    for row in ledger.read("summaries", shard, filters=wanted).iter_rows(named=True):
        captions[row["clip_id"]] |= {"summary_caption": row["summary"], "summary_method": row["method"]}
    if listed:
        columns = ["clip_id", "captions", "methods"]
        for clip_id, said, methods in ledger.read("listed_captions", shard, columns, wanted).iter_rows():
            captions[clip_id] |= {"listed_captions": said, "listed_methods": methods}
    return captions


def telling_scores(
    ledger: Ledger, shard: str, chosen: Mapping[str, tuple[str, str] | None], config: ScoreWordsConfig
) -> dict[str, tuple[str, str] | None]:
    """The chosen captions with what the clips score."""
    wanted = [("clip_id", "in", list(chosen))]
    aesthetics, motion = (
        {i: told for i, *told in ledger.read(t, shard, ["clip_id", *names], filters=wanted).iter_rows()}
        for t, names in SCORES.items()
    )

    def telling(caption: str, clip_id: str) -> str:
        (liked,), (moves, camera) = aesthetics.get(clip_id, [None]), motion.get(clip_id, [None, None])
        return with_score_words(caption, clip_id, liked, moves, config, camera)

    return {i: said and (telling(said[0], i), said[1]) for i, said in chosen.items()}


def choose_caption(
    clip_id: str, row: Mapping[str, Any], shares: Sequence[float], cleaning: CleaningConfig | None = None
) -> tuple[str, str] | None:
    """Caption and method for a clip: one of its listed captions (Open-Sora-Plan's rule), else a draw by the shares; what
    is drawn depends on the clip alone.

    Another takes its place where one is missing, or is not used once it is cleaned; None where there is none.
    """
    listed = list(zip(row.get("listed_captions") or (), row.get("listed_methods") or (), strict=True))
    drawn = int(digest([clip_id, "listed"]), 16) % len(listed) if listed else 0
    written = _by_shares(clip_id, row, shares)
    for caption, method in (*listed[drawn:], *listed[:drawn], *written):
        if caption and cleaning is not None:
            caption = clean(caption, cleaning)
            caption = None if fault(caption, cleaning) else caption
        if caption:
            return caption, method
    return None


def _by_shares(
    clip_id: str, row: Mapping[str, Any], shares: Sequence[float]
) -> Iterator[tuple[str | None, str | None]]:
    """What models wrote of a clip, with its method: the one that is drawn by the shares, then all."""
    point = int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "big") / 2**64 * sum(shares)
    first = int(np.searchsorted(np.cumsum(shares), point, side="right"))
    for kind in (_KINDS[first], *_KINDS):
        yield row.get(f"{kind}_caption"), row.get(f"{kind}_method")
