"""What a clip went into: packed datasets, and the training runs that learnt from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from warehouse.manifest import MANIFEST, TRAIN, Manifest, parse_manifest
from warehouse.run_folder import DONE, RUN
from warehouse.store import Store


def datasets_with(store: Store, clip_id: str) -> Iterator[dict[str, Any]]:
    """Packed datasets of the warehouse that hold the clip."""
    for name in store.folders("datasets"):
        folder = f"datasets/{name}"
        if not store.exists(f"{folder}/{MANIFEST}"):
            continue
        text = store.read_bytes(f"{folder}/{MANIFEST}").decode()
        manifest = parse_manifest(text, f"{folder}/{MANIFEST}")
        for bucket, split in _places(store, folder, manifest, clip_id):
            facts = {"name": manifest.name, "path": folder, "digest": manifest.digest}
            yield facts | {"selection": manifest.selection, "bucket": bucket, "split": split}


def _places(store: Store, folder: str, manifest: Manifest, clip_id: str) -> Iterator[tuple[str, str]]:
    """Bucket and split of each part that holds the clip."""
    for name, bucket in manifest.buckets.items():
        for part in bucket.parts:
            rows = store.read_table(f"{folder}/{part.path}", ["clip_id"], [("clip_id", "=", clip_id)])
            if rows.num_rows:
                yield name, part.split


def checkpoints_with(store: Store, datasets: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Runs that trained on the clip, and those that went on from the weights of one that did."""
    train = {d["digest"]: d["path"] for d in datasets if d["split"] == TRAIN}
    taught: dict[str, str] = {}
    waiting = list(_runs(store))
    while found := [r for r in waiting if r["dataset"] in train or r["init_from"] in taught]:
        for run in found:
            waiting.remove(run)
            if run["weights_sha256"]:
                taught[run["weights_sha256"]] = run["path"]
            saw = train.get(run["dataset"])
            inherited = taught.get(run["init_from"]) if saw is None else None
            facts = {k: run[k] for k in ("path", "stage", "digest", "is_done")}
            yield facts | {"dataset": saw, "inherited_from": inherited}


def _runs(store: Store) -> Iterator[dict[str, Any]]:
    """Training runs under the warehouse: what each was trained on, by content, and the weights it ended with."""
    for name in store.folders("runs"):
        folder = f"runs/{name}"
        if not store.exists(f"{folder}/{RUN}"):
            continue
        run = json.loads(store.read_bytes(f"{folder}/{RUN}"))
        is_done = store.exists(f"{folder}/{DONE}")
        done = json.loads(store.read_bytes(f"{folder}/{DONE}")) if is_done else {}
        yield {
            "path": folder,
            "stage": run["recipe"]["stage"],
            "digest": run["digest"],
            "dataset": run["dataset"],
            "init_from": run["init_from"],
            "is_done": is_done,
            "weights_sha256": done.get("weights_sha256"),
        }
