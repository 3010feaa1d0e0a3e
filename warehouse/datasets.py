"""The packed dataset of a plan's selection: where it lies, and the proof that it holds what it should."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

import polars as pl
import pyarrow.parquet as pq

from warehouse.errors import DatasetError
from warehouse.ledger import Ledger
from warehouse.manifest import MANIFEST, Manifest, Part, parse_manifest
from warehouse.plan import digest

PACKED_TABLES = ("verdicts", "latents", "text_embeddings", "motion", "clips")
"""Tables that a packed row is made of."""


def dataset_path(ledger: Ledger) -> str:
    """Path of the dataset from the root of the store: the selection's name, and a digest of all that goes in."""
    keys = {t: ledger.plan.keys[t] for t in PACKED_TABLES}
    members = [ledger.digest(t, s) for s in ledger.shards() for t in PACKED_TABLES]
    return f"datasets/{ledger.plan.config['select']['name']}.{digest([keys, ledger.plan.config['pack'], members])}"


def read_manifest(ledger: Ledger, path: str) -> Manifest:
    """The manifest of a dataset in the store. Raises DatasetError where it is no whole one."""
    return parse_manifest(ledger.store.read_bytes(f"{path}/{MANIFEST}").decode(), path)


def packable(ledger: Ledger, shard: str) -> pl.DataFrame:
    """Ids of a shard's clips that were kept and have both latents and a text embedding, in order."""
    found = ledger.read("verdicts", shard, ["clip_id", "kept"]).filter("kept").select("clip_id")
    for table in ("latents", "text_embeddings"):
        rows = ledger.read(table, shard, ["clip_id", "state"]).filter(pl.col("state") == "done")
        found = found.join(rows.select("clip_id"), on="clip_id", how="semi")
    return found.sort("clip_id")


def defects(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """(kind, id or file) of everything that is wrong with the plan's dataset; nothing where the plan packs none."""
    path = dataset_path(ledger)
    if not ledger.store.exists(f"{path}/{MANIFEST}"):
        yield "missing", path
        return
    try:
        manifest = read_manifest(ledger, path)
    except DatasetError:
        yield "damaged", f"{path}/{MANIFEST}"
        return
    counted: Counter[str] = Counter()
    for part in (p for bucket in manifest.buckets.values() for p in bucket.parts):
        file = f"{path}/{part.path}"
        if not ledger.store.exists(file):
            yield "missing", file
        elif not _is_whole(ledger, file, part):
            yield "damaged", file
        else:
            with ledger.store.filesystem.open_input_file(ledger.store.path(file)) as source:
                counted.update(pq.read_table(source, columns=["clip_id"])["clip_id"].to_pylist())
    yield from _compare(counted, {c for s in ledger.shards() for c in packable(ledger, s)["clip_id"]})


def _is_whole(ledger: Ledger, file: str, part: Part) -> bool:
    with ledger.store.filesystem.open_input_stream(ledger.store.path(file)) as stream:
        found = hashlib.sha256()
        while chunk := stream.read(8 << 20):
            found.update(chunk)
    return found.hexdigest() == part.sha256


def _compare(counted: Counter[str], expected: set[str]) -> Iterator[tuple[str, str]]:
    yield from (("doubled", i) for i, n in sorted(counted.items()) if n > 1)
    yield from (("unknown", i) for i in sorted(set(counted) - expected))
    yield from (("missing", i) for i in sorted(expected - set(counted)))
