"""Selection: percentile thresholds over scores, frozen; every clip kept, or rejected with its reason.

SVD (section 3.3, appendix E.2) drops the worst share of a reference set by one score at a time and reuses the absolute
thresholds on everything. Here a filter names a score and the share to drop from its low or its high end; `freeze` turns
the shares into absolute thresholds, and `judge` applies those. A clip exactly on a threshold is kept, so that ties
(many clips with no text at all) are never split by chance. A clip whose score is missing, because its step failed or has
not come to it, is rejected as `<score>:missing`.

Two kinds of clips a filter lets be: it neither rejects them nor counts them when a threshold is frozen. Scores of time
(`Score.of_time`) say nothing of a still picture, a clip of one frame (`exempt` in the funnel). And some clips can have no
such score, as their step found (`unknown` in the funnel): no overlay can be told from a scene that stands still, no camera
from what it films where nothing moves together.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import polars as pl

from curation.selection.duplicates import REASON, Duplicate, DuplicateConfig
from warehouse.errors import SettingsError


@dataclass(frozen=True)
class Score:
    """A column by which clips can be filtered."""

    table: str
    column: str
    better: Literal["high", "low"]
    embedded_is_valid: bool
    """Means something on any footage, whatever weights made it."""
    of_time: bool = False
    """It is about how a clip goes on, so a still picture has none."""


SCORES: dict[str, Score] = {
    "motion": Score("motion", "score", "high", True, of_time=True),
    "camera_motion": Score("motion", "camera_motion", "low", True, of_time=True),
    "object_motion": Score("motion", "object_motion", "high", True, of_time=True),
    "raft_motion": Score("raft_motion", "score", "high", True, of_time=True),
    "text_area": Score("text_area", "score", "low", True),
    "overlays": Score("overlays", "score", "low", True, of_time=True),
    "sharpness": Score("sharpness", "score", "high", True),
    "brightness": Score("sharpness", "brightness", "high", True),
    "contrast": Score("quality", "contrast", "high", True),
    "letterbox": Score("quality", "letterbox", "low", True),
    "pillarbox": Score("quality", "pillarbox", "low", True),
    "bar_top": Score("quality", "bar_top", "low", True),
    "bar_bottom": Score("quality", "bar_bottom", "low", True),
    "bar_left": Score("quality", "bar_left", "low", True),
    "bar_right": Score("quality", "bar_right", "low", True),
    "frozen": Score("quality", "frozen", "low", True, of_time=True),
    "width": Score("quality", "width", "high", True),
    "height": Score("quality", "height", "high", True),
    "pixels": Score("quality", "pixels", "high", True),
    "aspect": Score("quality", "aspect", "high", True),
    "fps": Score("quality", "fps", "high", True, of_time=True),
    "bits_per_pixel": Score("quality", "bits_per_pixel", "high", True),
    "audio": Score("quality", "audio", "high", True, of_time=True),
    "duration": Score("clips", "duration_s", "high", True, of_time=True),
    "aesthetics": Score("aesthetics", "score", "high", False),
    "similarity": Score("similarity", "score", "high", False),
}


_SHARES = frozenset(
    [
        "text_area",
        "overlays",
        "letterbox",
        "pillarbox",
        "bar_top",
        "bar_bottom",
        "bar_left",
        "bar_right",
        "frozen",
    ]
)
"""Scores that lie between 0 and 1 whatever the footage."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

STILL = "still"
"""Column of scores: the clip has one frame. Where it is left out, no clip has."""
UNKNOWN = "unknown"
"""Column of scores: names of those that its clip can have no value of, though their steps did what they could. Where it
is left out, whatever a clip lacks is missing."""


@dataclass(frozen=True)
class Filter:
    """Drops clips by one score: a share of the worst, or all beyond an absolute limit."""

    score: str
    """One of `SCORES`."""
    drop: float | None = None
    """Share of the reference clips to drop from the worse end, 0 to 1."""
    limit: float | None = None
    """Worst value that is still kept, in the score's unit."""

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise SettingsError(
                f"filter: there is no score {self.score!r}; there are {', '.join(SCORES)}. One of your own annotator is "
                "known once CUTROOM_ANNOTATORS names its file"
            )
        if (self.drop is None) == (self.limit is None):
            raise SettingsError(
                f"filter {self.score}: give either `drop` or `limit`, got {self.drop} and {self.limit}"
            )
        if self.drop is not None and not 0 <= self.drop < 1:
            raise SettingsError(f"filter {self.score}: `drop` is a share from 0 to below 1, got {self.drop}")
        if self.limit is not None and not math.isfinite(self.limit):
            raise SettingsError(
                f"filter {self.score}: `limit` is {self.limit}, expected a finite number; to let every clip pass, leave "
                "the filter out"
            )
        if self.limit is not None and self.score in _SHARES and not 0 <= self.limit <= 1:
            raise SettingsError(
                f"filter {self.score}: `limit` is {self.limit}, and the score is a share from 0 to 1"
            )


@dataclass(frozen=True)
class SelectionConfig:
    """A named list of filters, applied in order."""

    name: str = "default"
    filters: tuple[Filter, ...] = (
        Filter("sharpness", drop=0.1),
        Filter("text_area", drop=0.25),
        Filter("motion", drop=0.25),
    )
    duplicates: DuplicateConfig = field(default_factory=DuplicateConfig)
    """Near-duplicates among the clips that pass every filter."""
    trust_embedded: bool = False
    """Allow scores of the embedded models: the footage is the sample reel, which they were trained on."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SettingsError(
                f"selection.name is {self.name!r}: it names a file, so expected letters, digits, `-`, `_` and `.`, the "
                "first of them no `.`"
            )
        twice = [score for score, count in Counter(f.score for f in self.filters).items() if count > 1]
        if twice:
            raise SettingsError(
                f"selection.filters: {', '.join(twice)} is filtered by more than once; give one filter a score"
            )


@dataclass(frozen=True)
class Threshold:
    """A filter frozen to an absolute value."""

    score: str
    better: Literal["high", "low"]
    value: float
    drop: float | None
    reference_clips: int
    """Clips that the value was computed from; 0 for a limit that was given."""


def score_columns(config: SelectionConfig) -> dict[str, Score]:
    """The scores that a selection needs."""
    return {f.score: SCORES[f.score] for f in config.filters}


def freeze(config: SelectionConfig, scores: pl.DataFrame) -> list[Threshold]:
    """Absolute thresholds from reference clips; none for filters that are for none of them (see `applies`).

    Args:
        scores: one column per score of the selection, null where a clip has none, and perhaps `STILL` and `UNKNOWN`.

    Raises:
        SettingsError: no clip has a score that a share is to be dropped by.
    """
    applied = [(f, scores.filter(applies(f.score, scores))[f.score]) for f in config.filters]
    return [_freeze(f, values.drop_nulls()) for f, values in applied if len(values) or not len(scores)]


def applies(score: str, scores: pl.DataFrame) -> pl.Expr:
    """Whether a filter by the score is for a clip: a still has no score of time, and some scores cannot be known."""
    return ~_is_exempt(score, scores) & ~_is_unknown(score, scores)


def _is_exempt(score: str, scores: pl.DataFrame) -> pl.Expr:
    return pl.col(STILL) if STILL in scores.columns and SCORES[score].of_time else pl.lit(False)


def _is_unknown(score: str, scores: pl.DataFrame) -> pl.Expr:
    return pl.col(UNKNOWN).list.contains(score) if UNKNOWN in scores.columns else pl.lit(False)


def _freeze(filter_: Filter, values: pl.Series) -> Threshold:
    better = SCORES[filter_.score].better
    if filter_.limit is not None:
        return Threshold(filter_.score, better, float(filter_.limit), None, 0)
    if values.is_empty():
        raise SettingsError(
            f"filter {filter_.score}: no clip has this score, so no share of it can be dropped; "
            "take the filter out or see with `cutroom audit` why its table has no rows"
        )
    quantile = filter_.drop if better == "high" else 1 - filter_.drop
    value = values.quantile(quantile, interpolation="nearest")
    return Threshold(filter_.score, better, float(value), filter_.drop, len(values))


def passes(threshold: Threshold) -> pl.Expr:
    """Whether a clip passes; null where it has no score."""
    column, value = pl.col(threshold.score).cast(pl.Float32), pl.lit(threshold.value, pl.Float32)
    return column >= value if threshold.better == "high" else column <= value


def outcome(threshold: Threshold, scores: pl.DataFrame) -> pl.Expr:
    """Whether a clip passes; false where it lacks the score, null where the filter is not for it and lets it be."""
    return pl.when(applies(threshold.score, scores)).then(passes(threshold).fill_null(False))


def judge(
    thresholds: Sequence[Threshold], scores: pl.DataFrame, copies: Mapping[str, Duplicate] | None = None
) -> pl.DataFrame:
    """Columns clip_id, kept, rejected_by, failed_filters, near_duplicate_of, near_duplicate_by, in the rows' order.

    Args:
        copies: what a near-duplicate is a copy of, by its id.
    """
    failures = [
        pl.when(~outcome(t, scores)).then(
            pl.when(pl.col(t.score).is_null()).then(pl.lit(f"{t.score}:missing")).otherwise(pl.lit(t.score))
        )
        for t in thresholds
    ]
    found = copies or {}
    kept_clip = _looked_up({clip: copy.of for clip, copy in found.items()})
    by = _looked_up({clip: copy.by for clip, copy in found.items()})
    failures.append(pl.when(kept_clip.is_not_null()).then(pl.lit(REASON)))
    listed = pl.concat_list(failures).list.drop_nulls()
    judged = scores.select(
        "clip_id", failed_filters=listed, near_duplicate_of=kept_clip, near_duplicate_by=by
    )
    return judged.select(
        "clip_id",
        (pl.col("failed_filters").list.len() == 0).alias("kept"),
        pl.col("failed_filters").list.first().alias("rejected_by"),
        "failed_filters",
        "near_duplicate_of",
        "near_duplicate_by",
    )


def _looked_up(by_clip: Mapping[str, str]) -> pl.Expr:
    return pl.col("clip_id").replace_strict(by_clip, default=None, return_dtype=pl.String)


def funnel(thresholds: Sequence[Threshold], scores: pl.DataFrame) -> list[dict[str, Any]]:
    """One row per filter: how many it rejects alone, and how many are left after it and all before it."""
    rows, left = [], scores
    for threshold in thresholds:
        exempt = _is_exempt(threshold.score, scores)
        unknown = _is_unknown(threshold.score, scores) & ~exempt
        fails = ~outcome(threshold, scores).fill_null(True)
        alone = scores.filter(fails).height
        before, left = left.height, left.filter(~fails)
        rows.append(
            asdict(threshold)
            | {"rejects_alone": alone, "in": before, "rejected": before - left.height, "kept": left.height}
            | {"exempt": scores.filter(exempt).height, "unknown": scores.filter(unknown).height}
        )
    return rows


def duplicates_stage(config: DuplicateConfig, verdicts: pl.DataFrame) -> list[dict[str, Any]]:
    """The funnel's last row, as those of `funnel`, from the verdicts' column `rejected_by`; none if nothing is dropped."""
    if not config.drop:
        return []
    kept, fell = verdicts["rejected_by"].is_null().sum(), (verdicts["rejected_by"] == REASON).sum()
    threshold = Threshold(REASON, "high", float(config.max_bits), None, 0)
    counts = {"rejects_alone": fell, "in": kept + fell, "rejected": fell, "kept": kept}
    return [asdict(threshold) | counts | {"exempt": 0, "unknown": 0}]


def frozen(
    config: SelectionConfig, thresholds: Sequence[Threshold], keys: Mapping[str, str]
) -> dict[str, Any]:
    """The selection as it is kept in a file: what was asked for, the thresholds, and the tables they came from."""
    return {
        "name": config.name,
        "thresholds": [asdict(t) for t in thresholds],
        "duplicates": asdict(config.duplicates),
        "keys": dict(keys),
    }
