"""Applies a selection to a warehouse: thresholds frozen once as a file, a verdict for every clip."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from curation.annotators.aesthetics import FRAMES
from curation.selection.duplicates import DuplicateConfig, Fingerprint, near_duplicates, ranked
from curation.selection.filters import (
    STILL,
    UNKNOWN,
    Filter,
    Score,
    SelectionConfig,
    Threshold,
    applies,
    duplicates_stage,
    freeze,
    frozen,
    funnel,
    judge,
    score_columns,
)
from warehouse.claims import claim
from warehouse.errors import SettingsError, WarehouseError
from warehouse.ledger import Ledger
from warehouse.lineage import FrozenSelection, frozen_selection
from warehouse.plan import Step
from warehouse.schema import TABLES

_COMPARED = ("videos", "sharpness", "fingerprints")
"""Tables that near-duplicates are found and ranked by."""


@dataclass(frozen=True)
class Selected:
    """A selection as it was applied."""

    name: str
    path: str
    thresholds: tuple[Threshold, ...]
    funnel: tuple[Mapping[str, Any], ...]
    num_clips: int
    num_kept: int


def select_step(config: SelectionConfig) -> Step:
    """The step that fills `verdicts`; it reads the tables of what it filters and compares by."""
    scores = [s.table for s in score_columns(config).values()]
    compared = _COMPARED if config.duplicates.drop else ()
    embedded = ("embeddings",) if config.duplicates.compares_embeddings else ()
    tables = dict.fromkeys(["clips", *scores, *compared, *embedded])
    return Step("select", 5, tuple(tables), ("verdicts",), asdict(config))


def gather_scores(ledger: Ledger, shard: str | None, scores: Mapping[str, Score]) -> pl.DataFrame:
    """One row per clip: id, `STILL`, `UNKNOWN`, and one column per score, null where it has none.

    What a step skipped, or left null in a row that is done, is unknown; what it failed at or has no row of is missing.
    All shards if `shard` is None.
    """

    def rows(table: str, columns: list[str]) -> pl.DataFrame:
        return ledger.read_all(table, columns) if shard is None else ledger.read(table, shard, columns)

    gathered = rows("clips", ["clip_id", "state", "num_frames"]).filter(pl.col("state") == "done")
    gathered = gathered.select("clip_id", (pl.col("num_frames") == 1).alias(STILL))
    unknown = []
    for name, score in scores.items():
        values = rows(score.table, ["clip_id", score.column, "state"])
        settled = pl.col("state").is_in(["done", "skipped"]) & pl.col(score.column).is_null()
        values = values.select(
            "clip_id", pl.col(score.column).alias(name), settled.alias(f"{UNKNOWN}:{name}")
        )
        gathered = gathered.join(values, on="clip_id", how="left")
        unknown.append(pl.when(f"{UNKNOWN}:{name}").then(pl.lit(name)))
    names = pl.concat_list(unknown).list.drop_nulls() if unknown else pl.lit([], pl.List(pl.String))
    return gathered.sort("clip_id").select("clip_id", STILL, names.alias(UNKNOWN), *scores)


def select(ledger: Ledger, config: SelectionConfig, *, run_id: str) -> Selected:
    """Freezes the thresholds unless they are frozen, and judges the clips that have no verdict.

    Near-duplicates are compared over all shards, so one run at a time judges.

    Raises:
        SettingsError: a filter uses a score of embedded models on footage that they do not know, or near-duplicates are
            found by their embeddings.
        WarehouseError: another run has been judging for ten minutes.
    """
    _check_validity(ledger, config)
    with claim(ledger.store, ledger.folder("verdicts"), wait_s=600) as held:
        if not held:
            raise WarehouseError(
                f"another run has been judging the clips of {ledger.store.uri} for 10 minutes; end it or wait for it"
            )
        pending = _pending(ledger, config)
        everything = gather_scores(ledger, None, score_columns(config))
        thresholds = _freeze_once(ledger, config, everything)
        if any(pending.values()):
            _judge_pending(ledger, config, thresholds, everything, pending, run_id)
    verdicts = ledger.read_all("verdicts", ["clip_id", "rejected_by"])
    return Selected(
        config.name,
        ledger.plan.selection_path,
        tuple(thresholds),
        (*funnel(thresholds, everything), *duplicates_stage(config.duplicates, verdicts)),
        everything.height,
        int(verdicts["rejected_by"].is_null().sum()),
    )


def _pending(ledger: Ledger, config: SelectionConfig) -> dict[str, set[str]]:
    """Clips without a verdict, by shard."""
    step = select_step(config)
    return {s: {i for (i,) in ledger.pending(step, s).attempts} for s in ledger.shards()}


def _judge_pending(
    ledger: Ledger,
    config: SelectionConfig,
    thresholds: list[Threshold],
    everything: pl.DataFrame,
    pending: Mapping[str, set[str]],
    run_id: str,
) -> None:
    """Commits the verdicts of pending clips, shard by shard; those that were passed before stand."""
    step, waiting = select_step(config), set().union(*pending.values())
    rows = everything.filter(pl.col("clip_id").is_in(waiting))
    verdicts = judge(thresholds, rows)
    if config.duplicates.drop:
        settled = ledger.read_all("verdicts", ["clip_id", "kept"]).filter("kept")["clip_id"]
        passing = verdicts.filter("kept")["clip_id"]
        prints = _fingerprints(ledger, {*settled, *passing}, config.duplicates)
        verdicts = judge(thresholds, rows, near_duplicates(prints, config.duplicates, frozenset(settled)))
    for shard, ids in pending.items():
        if ids:
            own = verdicts.filter(pl.col("clip_id").is_in(ids)).to_arrow().cast(TABLES["verdicts"].schema)
            ledger.commit(step, shard, {"verdicts": own.to_batches()}, run_id=run_id)


def _fingerprints(ledger: Ledger, clip_ids: set[str], config: DuplicateConfig) -> Iterator[Fingerprint]:
    """Fingerprints of those clips that have one, with what ranks them, and with embeddings where they are compared."""
    for shard in ledger.shards():
        clips = ledger.read("clips", shard, ["clip_id", "video_id", "duration_s"])
        clips = clips.filter(pl.col("clip_id").is_in(clip_ids))
        videos = ledger.read("videos", shard, ["video_id", "width", "height"])
        sharpness = ledger.read("sharpness", shard, ["clip_id", "score"]).rename({"score": "sharpness"})
        prints = ledger.read("fingerprints", shard, ["clip_id", "hashes", "colours"]).drop_nulls()
        rows = clips.join(videos, on="video_id").join(sharpness, on="clip_id", how="left")
        rows = rows.join(prints, on="clip_id")
        if config.compares_embeddings:
            embedded = ledger.read("embeddings", shard, ["clip_id", *FRAMES]).drop_nulls()
            rows = rows.join(embedded, on="clip_id", how="left")
        yield from ranked(rows.to_dicts())


def _freeze_once(ledger: Ledger, config: SelectionConfig, everything: pl.DataFrame) -> list[Threshold]:
    if selection := frozen_selection(ledger):
        return _complete(selection, config, everything)
    thresholds = freeze(config, everything)
    body = frozen(config, thresholds, ledger.plan.keys)
    ledger.store.write_bytes(ledger.plan.selection_path, json.dumps(body, indent=2).encode())
    return thresholds


def _complete(
    selection: FrozenSelection, config: SelectionConfig, everything: pl.DataFrame
) -> list[Threshold]:
    """Frozen thresholds; there are none for what no clip could have when they were frozen, as stills have no motion."""
    thresholds = _thresholds(selection)
    lacking = sorted({f.score for f in config.filters} - {t.score for t in thresholds})
    if wanting := [name for name in lacking if everything.filter(applies(name, everything)).height]:
        raise SettingsError(
            f"selection {config.name} was frozen when no clip could have {', '.join(wanting)} (still pictures, or "
            "clips of which it cannot be known), so it has no threshold for it; now there are clips that can: "
            "select under another name"
        )
    return thresholds


def _thresholds(selection: FrozenSelection) -> list[Threshold]:
    return [Threshold(**t) for t in selection.thresholds]


def current(ledger: Ledger) -> tuple[SelectionConfig, list[Threshold]]:
    """The plan's selection and its frozen thresholds.

    Raises:
        WarehouseError: nothing has been selected under this plan yet.
    """
    selection = frozen_selection(ledger)
    if selection is None:
        raise WarehouseError("nothing has been selected under the current plan; run `cutroom select` first")
    body = ledger.plan.config["select"]
    nested = {
        "filters": tuple(Filter(**f) for f in body["filters"]),
        "duplicates": DuplicateConfig(**body["duplicates"]),
    }
    config = SelectionConfig(**{**body, **nested})
    return config, _thresholds(selection)


def _check_validity(ledger: Ledger, config: SelectionConfig) -> None:
    """What embedded models say is refused unless the footage is known to be what they were trained on."""
    scores = score_columns(config).items()
    doubtful = {f"filter {name}": score.table for name, score in scores if not score.embedded_is_valid}
    if config.duplicates.compares_embeddings:
        doubtful["duplicates.min_cosine"] = "embeddings"
    for name, table in doubtful.items():
        if config.trust_embedded:
            continue
        models = set(ledger.read_all(table, ["model"])["model"].drop_nulls())
        if "embedded" in models:
            raise SettingsError(
                f"{name}: table {table} comes from the embedded model, which knows the sample reel alone and means "
                "nothing on other footage; choose published weights (profile = 'published'), drop the setting, or set "
                "selection.trust_embedded if this footage is the sample reel"
            )
