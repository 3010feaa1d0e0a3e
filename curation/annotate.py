"""Runs an annotator over the clips of a shard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import polars as pl

from curation.annotators.base import Annotator, Clip, Done, Failed, GridFrame, Outcome
from curation.annotators.registry import ANNOTATORS
from curation.engine.places import RunsOn
from curation.engine.work import Outputs, Unit, by_video, in_batches, settled
from models.digest import local_weights, weights_id
from models.weight_files import memory_of_weights
from warehouse.errors import CutroomError, SettingsError, WeightsError
from warehouse.ledger import Ledger
from warehouse.plan import WEIGHTS, Step, key_settings
from warehouse.schema import TABLES


def annotate_step(name: str, config: Any) -> Step:
    """The step that fills an annotator's table."""
    kind = ANNOTATORS[name]
    reads = tuple(dict.fromkeys(("videos", "clips", *kind.reads)))
    settings = key_settings(config)
    embedded = "aesthetics" if name == "aesthetics" else "coca"
    if weights := {value: weights_id(value, embedded) for value in _names_of_weights(settings)}:
        settings[WEIGHTS] = weights
    return Step(name, kind.version, reads, (name,), settings)


def check_annotators(annotators: Iterable[tuple[str, Any]]) -> None:
    """Raises SettingsError for weights that no worker could load, before anything is written."""
    for name, config in annotators:
        try:
            if check := getattr(ANNOTATORS[name], "check", None):  # see annotators.base.LoadsWeights
                check(config)
        except WeightsError as error:
            raise SettingsError(f"annotators.{name}: {error}") from error


def _names_of_weights(settings: Mapping[str, Any]) -> Iterator[str]:
    """Settings, at any depth, that stand for weights which can change under one name: the embedded ones, and paths."""
    for value in settings.values():
        if isinstance(value, Mapping):
            yield from _names_of_weights(value)
        elif isinstance(value, str) and value and (value == "embedded" or local_weights(value).exists()):
            yield value


@lru_cache(maxsize=4)
def _loaded(name: str, config: Any) -> Annotator:
    """The annotator with its models, kept by the process from one unit to the next."""
    annotator = ANNOTATORS[name](config)
    annotator.load()
    return annotator


@dataclass(frozen=True)
class AnnotateWork:
    """One annotator as the engine runs it."""

    name: str
    config: Any
    timeout_s: float = 1800.0
    isolated: bool = False
    runs_on: RunsOn = field(init=False)
    model_bytes: int = field(init=False)
    step: Step = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", annotate_step(self.name, self.config))
        object.__setattr__(self, "runs_on", self._chosen("runs_on", "cores"))
        object.__setattr__(self, "model_bytes", memory_of_weights(_names_of_weights(self.step.config)))

    def split(self, ledger: Ledger, shard: str, ids: Sequence[tuple]) -> Iterable[Sequence[tuple]]:
        near = [i for group in by_video(ledger, shard, ids) for i in group]
        return in_batches(near, self.batch_size)

    @property
    def batch_size(self) -> int:
        """Clips of one unit, at most."""
        return self._chosen("batch_size", 16)

    def _chosen(self, name: str, default: Any) -> Any:
        """What the annotator says of itself for its config; see annotators.base.ChoosesPlace."""
        choose = getattr(ANNOTATORS[self.name], name, None)
        return default if choose is None else choose(self.config)

    def run(self, ledger: Ledger, unit: Unit, outputs: Outputs) -> None:
        annotator = _loaded(self.name, self.config)
        clips = load_clips(ledger, unit.shard, [i for (i,) in unit.ids], annotator.reads)
        outcomes = _annotate(annotator, clips)
        outputs.append(
            self.name,
            [_row(c, o, spent + 1) for c, o, spent in zip(clips, outcomes, unit.attempts, strict=True)],
        )


def _annotate(annotator: Annotator, clips: Sequence[Clip]) -> list[Outcome]:
    """Outcomes of all clips; if the batch fails as a whole, each clip is tried alone."""
    try:
        return annotator.annotate(clips)
    except Exception as error:
        if len(clips) == 1:
            cause = getattr(error, "cause", "error")
            detail = str(error) if isinstance(error, CutroomError) else f"{type(error).__name__}: {error}"
            return [Failed(cause, detail)]
        return [outcome for clip in clips for outcome in _annotate(annotator, [clip])]


def _row(clip: Clip, outcome: Outcome, attempt: int) -> dict[str, Any]:
    row: dict[str, Any] = {"clip_id": clip.clip_id}
    if isinstance(outcome, Done):
        return row | dict(outcome.columns) | settled(attempt)
    if isinstance(outcome, Failed):
        return row | dict(outcome.columns) | settled(attempt, "failed", outcome.cause, outcome.detail)
    return row | settled(attempt, "skipped", outcome.reason)


def load_clips(ledger: Ledger, shard: str, clip_ids: Sequence[str], reads: Sequence[str]) -> list[Clip]:
    """Clips with their grid frames and their rows in other tables, in the order of `clip_ids`."""
    clips = ledger.read("clips", shard, filters=[("clip_id", "in", list(clip_ids))])
    video_ids = clips["video_id"].unique().to_list()
    videos = _by(ledger.read("videos", shard, filters=[("video_id", "in", video_ids)]), "video_id")
    frames = _grid_frames(ledger, shard, video_ids) if "grid_frames" in reads else {}
    rows = {t: _rows(ledger, t, shard, clip_ids, video_ids) for t in reads if t != "grid_frames"}
    found = {}
    for clip in clips.iter_rows(named=True):
        video = videos[clip["video_id"]]
        found[clip["clip_id"]] = Clip(
            clip_id=clip["clip_id"],
            video_id=clip["video_id"],
            start_pts=clip["start_pts"],
            end_pts=clip["end_pts"],
            seconds_per_tick=video["time_base_num"] / video["time_base_den"],
            fps=clip["num_frames"] / clip["duration_s"] if clip["duration_s"] else None,
            grid=tuple(
                f for f in frames.get(clip["video_id"], ()) if clip["start_pts"] <= f.pts < clip["end_pts"]
            ),
            rows={t: r.get(clip["clip_id"], r.get(clip["video_id"], {})) for t, r in rows.items()},
        )
    return [found[i] for i in clip_ids]


def _grid_frames(ledger: Ledger, shard: str, video_ids: Sequence[str]) -> dict[str, list[GridFrame]]:
    table = ledger.read(
        "grid_frames", shard, ["video_id", "pts", "jpeg"], filters=[("video_id", "in", list(video_ids))]
    )
    frames: dict[str, list[GridFrame]] = defaultdict(list)
    for video_id, pts, jpeg in table.sort("video_id", "pts").iter_rows():
        frames[video_id].append(GridFrame(pts, jpeg))
    return frames


def _rows(
    ledger: Ledger, table: str, shard: str, clip_ids: Sequence[str], video_ids: Sequence[str]
) -> Mapping[str, Mapping[str, Any]]:
    """A table's rows by clip, or by video where it has no clips; rows that are not done are left out."""
    by = TABLES[table].identity[0]
    wanted = list(clip_ids if by == "clip_id" else video_ids)
    rows = ledger.read(table, shard, filters=[(by, "in", wanted)])
    return _by(rows.filter(pl.col("state") == "done") if "state" in rows.columns else rows, by)


def _by(rows: pl.DataFrame, column: str) -> dict[str, dict[str, Any]]:
    return {row[column]: row for row in rows.iter_rows(named=True)}
