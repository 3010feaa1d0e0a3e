"""Applies a selection to a warehouse: thresholds frozen once as a file, a verdict for every clip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from curation.selection import (
    Filter,
    Score,
    SelectionConfig,
    Threshold,
    freeze,
    frozen,
    funnel,
    judge,
    score_columns,
)
from warehouse.claims import claim
from warehouse.errors import SettingsError, WarehouseError
from warehouse.ledger import Ledger
from warehouse.plan import Step
from warehouse.schema import TABLES


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
    """The step that fills `verdicts`; it reads the tables of the scores that it filters by."""
    tables = dict.fromkeys(["clips", *(s.table for s in score_columns(config).values())])
    return Step("select", 1, tuple(tables), ("verdicts",), asdict(config))


def gather_scores(ledger: Ledger, shard: str | None, scores: Mapping[str, Score]) -> pl.DataFrame:
    """One row per clip: its id and one column per score, null where it has none. All shards if `shard` is None."""

    def rows(table: str, columns: list[str]) -> pl.DataFrame:
        return ledger.read_all(table, columns) if shard is None else ledger.read(table, shard, columns)

    gathered = rows("clips", ["clip_id", "state"]).filter(pl.col("state") == "done").select("clip_id")
    for name, score in scores.items():
        values = rows(score.table, ["clip_id", score.column]).rename({score.column: name})
        gathered = gathered.join(values, on="clip_id", how="left")
    return gathered.sort("clip_id")


def select(ledger: Ledger, config: SelectionConfig, *, run_id: str) -> Selected:
    """Freezes the thresholds unless they are frozen, and judges the clips that have no verdict.

    Raises:
        SettingsError: a filter uses a score of embedded models on footage that they do not know.
    """
    scores = score_columns(config)
    _check_validity(ledger, config)
    path = f"selections/{config.name}.{ledger.plan.keys['verdicts']}.json"
    everything = gather_scores(ledger, None, scores)
    thresholds = _freeze_once(ledger, config, path, everything)
    step = select_step(config)
    for shard in ledger.shards():
        _judge_shard(ledger, step, shard, thresholds, scores, run_id)
    kept = judge(thresholds, everything)["kept"].sum()
    return Selected(
        config.name,
        path,
        tuple(thresholds),
        tuple(funnel(thresholds, everything)),
        everything.height,
        int(kept),
    )


def _judge_shard(
    ledger: Ledger,
    step: Step,
    shard: str,
    thresholds: list[Threshold],
    scores: Mapping[str, Score],
    run_id: str,
) -> None:
    with claim(ledger.store, f"{ledger.folder('verdicts')}/{shard}", wait_s=600) as held:
        if not held:
            raise WarehouseError(
                f"another run has been judging shard {shard} for 10 minutes; end it or wait for it"
            )
        pending = {i for (i,) in ledger.pending(step, shard).attempts}
        if pending:
            rows = gather_scores(ledger, shard, scores).filter(pl.col("clip_id").is_in(pending))
            verdicts = judge(thresholds, rows).to_arrow()
            ledger.commit(step, shard, {"verdicts": _cast(verdicts).to_batches()}, run_id=run_id)


def _cast(table: Any) -> Any:
    return table.cast(TABLES["verdicts"].schema)


def _freeze_once(
    ledger: Ledger, config: SelectionConfig, path: str, everything: pl.DataFrame
) -> list[Threshold]:
    if ledger.store.exists(path):
        return load_thresholds(ledger, path)
    thresholds = freeze(config, everything)
    body = frozen(config, thresholds, ledger.plan.keys)
    ledger.store.write_bytes(path, json.dumps(body, indent=2).encode())
    return thresholds


def load_thresholds(ledger: Ledger, path: str) -> list[Threshold]:
    """Thresholds of a frozen selection."""
    return [Threshold(**t) for t in json.loads(ledger.store.read_bytes(path))["thresholds"]]


def current(ledger: Ledger) -> tuple[SelectionConfig, list[Threshold]]:
    """The plan's selection and its frozen thresholds.

    Raises:
        WarehouseError: nothing has been selected under this plan yet.
    """
    body = ledger.plan.config.get("select")
    if body is None or not ledger.store.exists(
        path := f"selections/{body['name']}.{ledger.plan.keys['verdicts']}.json"
    ):
        raise WarehouseError("nothing has been selected under the current plan; run `cutroom select` first")
    config = SelectionConfig(**{**body, "filters": tuple(Filter(**f) for f in body["filters"])})
    return config, load_thresholds(ledger, path)


def _check_validity(ledger: Ledger, config: SelectionConfig) -> None:
    """Scores of embedded models are refused unless the footage is known to be what they were trained on."""
    for name, score in score_columns(config).items():
        if score.embedded_is_valid or config.trust_embedded:
            continue
        models = set(ledger.read_all(score.table, ["model"])["model"].drop_nulls())
        if "embedded" in models:
            raise SettingsError(
                f"filter {name}: its scores come from the embedded model, which knows the sample reel alone and means "
                "nothing on other footage; choose published weights (profile = 'published'), drop the filter, or set "
                "selection.trust_embedded if this footage is the sample reel"
            )
