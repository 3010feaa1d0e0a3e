"""The datasets and training runs that a clip went into, held against the packed parts and real runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from tiny_run import IMAGES, VIDEO, train_two_stages
from warehouse_builder import build_warehouse

from curation.selection.explained import explain
from warehouse.ledger import Ledger
from warehouse.lineage_text import render
from warehouse.store import Store


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return build_warehouse(tmp_path_factory.mktemp("descendants") / "warehouse", packed=True)


def _verdicts(ledger: Ledger) -> pl.DataFrame:
    return ledger.read_all("verdicts").sort("clip_id")


# Raised by Lightning over its own use of torch's trees.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_datasets_and_checkpoints_that_a_clip_went_into(ledger: Ledger, tmp_path: Path) -> None:
    copy = Ledger(Store(shutil.copytree(ledger.store.root, tmp_path / "copy")), ledger.plan)
    train_two_stages(copy)
    (root,) = Path(copy.store.root, "datasets").iterdir()
    seen = {}
    for part in root.glob("parts/*/*.parquet"):
        for clip_id, split in zip(
            *pq.read_table(part, columns=["clip_id", "split"]).to_pydict().values(), strict=True
        ):
            seen[clip_id] = (part.parent.name, split)
    assert {split for _, split in seen.values()} == {"train", "heldout"}
    for row in _verdicts(copy).iter_rows(named=True):
        told = explain(copy, row["clip_id"])
        assert bool(told.datasets) == row["kept"] == (row["clip_id"] in seen)
        if row["kept"]:
            bucket, split = seen[row["clip_id"]]
            (found,) = told.datasets
            assert (found["bucket"], found["split"]) == (bucket, split)
            runs = [c["path"] for c in told.checkpoints]
            assert runs == ([IMAGES, VIDEO] if split == "train" else [])


def test_a_run_on_other_clips_is_reached_through_the_weights_that_it_began_from(
    ledger: Ledger, tmp_path: Path
) -> None:
    copy = Ledger(Store(shutil.copytree(ledger.store.root, tmp_path / "copy")), ledger.plan)
    clip_id = next(
        c
        for c in _verdicts(copy).filter("kept")["clip_id"]
        if explain(copy, c).datasets[0]["split"] == "train"
    )
    digest = explain(copy, clip_id).datasets[0]["digest"]
    weights = hashlib.sha256(b"first").hexdigest()
    for name, dataset, init_from, done in (
        ("second", "another dataset", weights, None),
        ("first", digest, None, weights),
        ("stranger", "another dataset", None, "f" * 64),
    ):
        folder = Path(copy.store.root, "runs", name)
        folder.mkdir(parents=True)
        run = {"recipe": {"stage": name}, "digest": name, "dataset": dataset, "init_from": init_from}
        (folder / "run.json").write_text(json.dumps(run))
        if done:
            (folder / "done.json").write_text(json.dumps({"weights_sha256": done}))
    found = {c["path"]: c for c in explain(copy, clip_id).checkpoints}
    assert set(found) == {"runs/first", "runs/second"}
    assert found["runs/second"]["inherited_from"] == "runs/first"
    assert (found["runs/first"]["is_done"], found["runs/second"]["is_done"]) == (True, False)
    assert "through runs/first" in render(explain(copy, clip_id))
