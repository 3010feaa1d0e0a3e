"""A standing check of captions: each must fit its own clip better than another clip's caption does.

A row that slipped by one puts every caption to a wrong clip, and no table by itself shows it: counts, ids and texts are
all right. What shows it is the share of clips whose own caption is nearer to their frames than another's, in the space
of the CLIP model that embedded the frames: near 1 for captions that tell clips apart, 0.5 for captions dealt at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curation.annotators.aesthetics import FRAMES
from curation.annotators.clip_model import load_clip
from curation.formats.kept import CAPTIONS
from warehouse.errors import SettingsError, WarehouseError
from warehouse.ledger import Ledger

OTHERS = 8
"""Other clips whose captions each clip is held against."""
LEAST_SHARE = 0.8
"""Below this the captions do not fit. Captions of the next clip of the same video can reach more than one half."""


@dataclass(frozen=True)
class CaptionFit:
    """How captions of one kind fit."""

    of: str
    """frame, video, summary or listed."""
    clips: int
    pairs: int
    """Pairs of a clip and another one with another caption."""
    share: float | None
    """Share of the pairs in which the clip's own caption is the nearer one, ties by half; null without pairs."""
    own: float | None
    """Mean cosine of the frames of a clip and its own caption."""
    other: float | None
    """The same for the other clip's caption."""

    def fits(self, least: float = LEAST_SHARE) -> bool:
        """Whether the share is at least `least`; what could not be checked does not fit."""
        return self.share is not None and self.share >= least

    def unchecked(self) -> str | None:
        """Why nothing could be checked; None if it was."""
        if self.pairs:
            return None
        if not self.clips:
            return "no clip has both embeddings and this caption"
        if self.clips == 1:
            return "only one clip has both embeddings and this caption, and there is none to hold it against"
        return f"all {self.clips} clips have the same caption"


def in_words(fits: Sequence[CaptionFit]) -> str:
    """One line: ``captions fit their clips: frame 97%, ...``, shares of pairs, or which do not, or were not checked."""
    checked = [fit for fit in fits if not fit.unchecked()]
    bad = [fit.of for fit in checked if not fit.fits()]
    told = [f"{fit.of} {fit.share:.0%}" for fit in checked]
    told += [f"{fit.of} not checked ({fit.unchecked()})" for fit in fits if fit.unchecked()]
    if not checked:
        verdict = "captions were not checked against their clips"
    elif bad:
        verdict = f"captions of {', '.join(bad)} DO NOT fit their clips better than those of others"
    else:
        verdict = "captions fit their clips"
    return f"{verdict}: {', '.join(told)}"


def caption_fit(
    of: str, frames_N3D: NDArray[np.float32], texts_ND: NDArray[np.float32], captions: Sequence[str]
) -> CaptionFit:
    """Holds each clip's caption against those of the `OTHERS` clips after it, in a circle; equal captions do not count.

    Args:
        frames_N3D: embeddings of the clips' frames, of length 1, in an order that has nothing to do with what they show.
        texts_ND: embeddings of their captions, of length 1, in the same order.
    """
    said = np.array(captions, object)
    cosines_NN = frames_N3D.mean(axis=1) @ texts_ND.T
    mine_N = cosines_NN.diagonal()
    own, other = [], []
    for step in range(1, min(OTHERS, len(said) - 1) + 1):
        theirs = np.roll(np.arange(len(said)), -step)
        differ = said != said[theirs]
        own.append(mine_N[differ])
        other.append(cosines_NN[np.arange(len(said)), theirs][differ])
    own_P, other_P = (np.concatenate(part) if part else np.zeros(0) for part in (own, other))
    if not len(own_P):
        return CaptionFit(of, len(said), 0, None, None, None)
    share = float((own_P > other_P).mean() + (own_P == other_P).mean() / 2)
    return CaptionFit(of, len(said), len(own_P), share, float(own_P.mean()), float(other_P.mean()))


def check_captions(ledger: Ledger, sample: int = 2000) -> list[CaptionFit]:
    """How the captions of up to `sample` clips fit, for every kind that the plan has; always the same clips, those of
    the lowest ids.

    Raises:
        WarehouseError: the plan has no embeddings or no captions.
        SettingsError: the model that is to embed the captions is not the one that embedded the frames.
    """
    kinds = {of: place for of, place in CAPTIONS.items() if place[0] in ledger.plan.keys}
    if not kinds or not {"embeddings", "similarity"} <= ledger.plan.keys.keys():
        raise WarehouseError(
            "captions are checked with tables embeddings, similarity and captions, which the plan has not; "
            "curate with these annotators first"
        )
    embedded = ledger.read_all("embeddings", ["clip_id", "model", *FRAMES]).drop_nulls()
    embedded = embedded.sort("clip_id").head(sample)
    if embedded.is_empty():
        return [_nothing(of) for of in kinds if of != "listed"]
    clip = _model(ledger.plan.config["similarity"], set(embedded["model"]))
    found = []
    for of, (table, column) in kinds.items():
        said = ledger.read_all(table, ["clip_id", column])
        if of == "listed":  # a list may have several; most warehouses have no list
            said = said.with_columns(pl.col(column).list.first())
            if not said[column].count():
                continue
        rows = embedded.join(said.drop_nulls(), on="clip_id").sort("clip_id")
        captions = rows[column].to_list()
        told = (
            caption_fit(of, _frames(rows), clip.embed_texts(captions), captions) if captions else _nothing(of)
        )
        found.append(told)
    return found


def _nothing(of: str) -> CaptionFit:
    return CaptionFit(of, 0, 0, None, None, None)


def _frames(rows: pl.DataFrame) -> NDArray[np.float32]:
    return np.stack([np.array(rows[frame].to_list(), np.float32) for frame in FRAMES], axis=1)


def _model(config: Mapping[str, Any], embedded_by: set[str]) -> Any:
    clip = load_clip(config["model"], config["pretrained"])
    if embedded_by - {clip.name}:
        raise SettingsError(
            f"frames were embedded by {', '.join(sorted(embedded_by))}, but similarity is set to {clip.name}; set "
            "annotators.similarity as annotators.embeddings is"
        )
    return clip
