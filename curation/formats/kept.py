"""Which clips an export is of, and what is known of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curation.formats.base import Clip
from warehouse.descendants import RUN
from warehouse.errors import WarehouseError
from warehouse.ledger import Ledger
from warehouse.manifest import MANIFEST, TRAIN, parse_manifest
from warehouse.plan import Plan
from warehouse.schema import TABLES
from warehouse.store import Entry, Store
from warehouse.table import Table

CAPTIONS = {
    "listed": ("listed_captions", "captions"),
    "summary": ("summaries", "summary"),
    "video": ("captions", "video_caption"),
    "frame": ("captions", "frame_caption"),
}
"""Where each caption of a clip is, the preferred first."""


@dataclass(frozen=True)
class Chosen:
    """The clips that an export is of."""

    name: str
    """The selection's name, or the run's."""
    ledger: Ledger
    """The tables that they are described in."""
    clip_ids: frozenset[str]


def choose(store: Store, run_or_selection: str) -> Chosen:
    """Clips that a selection keeps, or that a training run learnt from.

    Args:
        run_or_selection: a selection's name or its file, by the current plan's where several have the name; or the
            folder of a training run, by its path or its name below ``runs/``.

    Raises:
        WarehouseError: there is neither.
    """
    current = Plan.load(store)
    for path in (f"runs/{run_or_selection}", run_or_selection):
        if store.exists(f"{path}/{RUN}"):
            return _of_run(Ledger(store, current), path, json.loads(store.read_bytes(f"{path}/{RUN}")))
    for path in (Path(run_or_selection), Path(store.root) / run_or_selection):
        if store.is_local and (path / RUN).is_file():
            return _of_run(Ledger(store, current), path.name, json.loads((path / RUN).read_text()))
    return _of_selection(store, current, run_or_selection)


def choose_all(store: Store) -> Chosen:
    """Every clip of the current plan, whatever a selection says of it."""
    ledger = Ledger(store, Plan.load(store))
    clips = ledger.read_all("clips", ["clip_id", "state"]).filter(pl.col("state") == "done")
    return Chosen("the warehouse", ledger, frozenset(clips["clip_id"]))


def choose_kept(store: Store) -> Chosen:
    """Clips that the current plan's selection keeps.

    Raises:
        WarehouseError: nothing has been selected under the current plan.
    """
    plan = Plan.load(store)
    if "select" not in plan.config:
        raise WarehouseError("nothing has been selected under the current plan; run `cutroom select` first")
    return _of_selection(store, plan, f"{plan.config['select']['name']}.{plan.keys['verdicts']}")


def _of_selection(store: Store, current: Plan, name: str) -> Chosen:
    files = [tuple(e.name.removesuffix(".json").rsplit(".", 1)) for e in store.list("selections")]
    asked = Path(name).name.removesuffix(".json")
    wanted = {key for n, key in files if asked in (n, f"{n}.{key}")}
    plans = [current, *(Plan.load(store, e.name.removesuffix(".json")) for e in _plans(store))]
    for plan in plans:
        if plan.keys.get("verdicts") in wanted:
            ledger = Ledger(store, plan)
            kept = ledger.read_all("verdicts", ["clip_id", "kept"]).filter("kept")["clip_id"]
            return Chosen(plan.config["select"]["name"], ledger, frozenset(kept))
    known = ", ".join(sorted({n for n, _ in files})) or "none"
    raise WarehouseError(f"there is no selection and no training run {name!r}; selections here: {known}")


def _plans(store: Store) -> list[Entry]:
    return [e for e in store.list("plans") if e.name != "current.json"]


def _of_run(ledger: Ledger, name: str, run: Mapping[str, Any]) -> Chosen:
    """Clips of the training split of the dataset that a run learnt from."""
    store = ledger.store
    for folder in store.folders("datasets"):
        path = f"datasets/{folder}/{MANIFEST}"
        if not store.exists(path):
            continue
        manifest = parse_manifest(store.read_bytes(path).decode(), path)
        if manifest.digest == run["dataset"]:
            parts = [p.path for b in manifest.buckets.values() for p in b.parts if p.split == TRAIN]
            tables = [store.read_table(f"datasets/{folder}/{p}", ["clip_id"]) for p in parts]
            return Chosen(name, ledger, frozenset(i for t in tables for i in t["clip_id"].to_pylist()))
    raise WarehouseError(
        f"run {name} learnt from dataset {run['dataset']}, which is not in this warehouse; name its selection instead"
    )


def describe(chosen: Chosen, *, caption: str = "listed") -> list[Clip]:
    """The clips, by video and in order of time.

    Args:
        caption: which caption comes first, of `CAPTIONS`; the others follow.

    Raises:
        WarehouseError: a clip is not in the tables of the plan.
    """
    clips = [c for shard in chosen.ledger.shards() for c in _of_shard(chosen, shard, caption)]
    if missing := chosen.clip_ids - {c.clip_id for c in clips}:
        raise WarehouseError(
            f"{len(missing)} of {len(chosen.clip_ids)} clips of {chosen.name} are not in the current plan's tables, such "
            f"as {min(missing)}; they were cut with other settings: select with those again"
        )
    return sorted(clips, key=lambda c: (c.uri, c.video_id, c.start_pts))


def _of_shard(chosen: Chosen, shard: str, caption: str) -> Iterator[Clip]:
    ledger = chosen.ledger
    spans = ledger.read("clips", shard).sort("video_id", "start_pts")
    before = pl.col("num_frames").cum_sum().over("video_id") - pl.col("num_frames")
    spans = spans.with_columns(start_frame=before).filter(pl.col("clip_id").is_in(list(chosen.clip_ids)))
    if spans.is_empty():
        return
    videos = {r["video_id"]: r for r in ledger.read("videos", shard, _VIDEO).iter_rows(named=True)}
    said = _columns(ledger, shard, CAPTIONS)
    scores = _columns(ledger, shard, {n: (n, "score") for n, t in TABLES.items() if _is_score(t)})
    order = sorted(CAPTIONS, key=lambda kind: kind != caption)
    for span in spans.iter_rows(named=True):
        video, clip_id = videos[span["video_id"]], span["clip_id"]
        captions = dict(c for k in order for c in _named(k, said.get(k, {}).get(clip_id)))
        yield Clip(
            **{n: span[n] for n in _SPAN},
            **{n: video[n] for n in ("uri", "fps", "width", "height")},
            captions=captions,
            scores={name: values.get(clip_id) for name, values in scores.items()},
        )


def _named(kind: str, said: str | Sequence[str] | None) -> Iterator[tuple[str, str]]:
    """Captions of one kind by name; of several (listed ones) the second is `listed_2`."""
    texts = [said] if isinstance(said, str) else said or []
    yield from ((kind if n == 1 else f"{kind}_{n}", text) for n, text in enumerate(texts, 1) if text)


def unusable(clip: Clip, cause: str, detail: str) -> dict[str, str]:
    """What an export says of a clip that it could not write."""
    return {"clip_id": clip.clip_id, "cause": cause, "detail": detail}


def encoded(clips: Sequence[Clip], ledger: Ledger) -> tuple[list[Clip], list[dict[str, str]]]:
    """Clips that have both latents and a text embedding; and why others have not.

    Raises:
        WarehouseError: nothing was encoded under the plan.
    """
    tables = ("latents", "text_embeddings")
    if any(t not in ledger.plan.keys for t in tables):
        raise WarehouseError("clips have no latents under the current plan; run `cutroom encode` first")
    causes: dict[str, str] = {}
    for table in reversed(tables):
        rows = ledger.read_all(table, ["clip_id", "state", "cause"])
        known = {i: None if state == "done" else cause for i, state, cause in rows.iter_rows()}
        causes |= {c.clip_id: why for c in clips if (why := known.get(c.clip_id, "pending"))}
    detail = "it has no latents or no text embedding; `cutroom encode` makes them, `cutroom audit` says what failed"
    failed = [unusable(c, causes[c.clip_id], detail) for c in clips if c.clip_id in causes]
    return [c for c in clips if c.clip_id not in causes], failed


@dataclass(frozen=True)
class Latents:
    """What an autoencoder made of a clip."""

    values: NDArray[np.float16]
    """(frames, channels, height, width), scaled."""
    bucket: str


@dataclass(frozen=True)
class Text:
    """What a text encoder made of a clip's caption."""

    values: NDArray[np.float16]
    """(tokens, width)"""
    mask: NDArray[np.bool_]
    caption: str


def features_of(clips: Sequence[Clip], ledger: Ledger) -> Iterator[tuple[Clip, Latents, Text]]:
    """Encoded clips with their latents and text embeddings, shard by shard."""
    wanted = {c.clip_id: c for c in clips}
    for shard in ledger.shards():
        ids = [("clip_id", "in", list(wanted))]
        texts = {
            r["clip_id"]: r for r in ledger.read("text_embeddings", shard, None, ids).iter_rows(named=True)
        }
        for row in ledger.read("latents", shard, None, ids).sort("clip_id").iter_rows(named=True):
            text = texts[row["clip_id"]]
            embedding = np.frombuffer(text["text"], "<f2").reshape(text["shape"])
            mask = np.frombuffer(text["mask"], np.bool_)
            latents = np.frombuffer(row["latents"], "<f2").reshape(row["shape"])
            yield (
                wanted[row["clip_id"]],
                Latents(latents, row["bucket"]),
                Text(embedding, mask, text["caption"]),
            )


_SPAN = ("clip_id", "video_id", "start_pts", "end_pts", "start_s", "duration_s", "start_frame", "num_frames")
_VIDEO = ["video_id", "uri", "fps", "width", "height"]


def _is_score(table: Table) -> bool:
    return table.identity == ("clip_id",) and "score" in table.schema.names


def _columns(ledger: Ledger, shard: str, wanted: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Values by clip of each column whose table the plan has."""
    return {
        name: dict(ledger.read(table, shard, ["clip_id", column]).iter_rows())
        for name, (table, column) in wanted.items()
        if table in ledger.plan.keys
    }
