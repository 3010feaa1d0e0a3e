"""A small warehouse over real files: two films of numbered frames, their clips known frame by frame, one selection."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import footage
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.engine.work import settled
from curation.footage.frames import Decoder
from curation.footage.media import MediaLimits, content_hash, open_video, probe
from curation.formats.exports import Exported, export
from curation.formats.imports import LIST, MATCH, Imported, import_list, import_plan
from curation.formats.kept import choose
from curation.formats.registry import find
from curation.ingest import ASSIGN, GIVE, HASH, list_sources
from curation.listed_captions import LISTED_CAPTIONS, settle_listed_captions
from curation.selection.duplicates import DuplicateConfig
from curation.selection.filters import Filter, SelectionConfig
from curation.selection.verdicts import select, select_step
from warehouse.ledger import Ledger
from warehouse.plan import Plan, Step, digest
from warehouse.schema import TABLES
from warehouse.store import Store

COUNT = 30
SPANS = ((0, 4, "too_short"), (4, 14, None), (14, 26, None), (26, COUNT, "too_short"))
"""First frame, end, and why it is no clip; the two clips touch."""
CAPTIONS = ('a "red" circle, moving\nleft', "ein grüner Stern, 静止", "plain")
SELECTION = SelectionConfig("default", (Filter("motion", limit=0.5),), duplicates=DuplicateConfig(drop=False))
SCORES = ("motion", "aesthetics")
STEPS = (
    GIVE,
    LIST,
    MATCH,
    HASH,
    ASSIGN,
    Step("scan", 1, ("shards",), ("videos",)),
    Step("cut", 1, ("videos",), ("clips", "cuts")),
    *(Step(name, 1, ("clips",), (name,)) for name in (*SCORES, "captions", "summaries")),
    LISTED_CAPTIONS,
    select_step(SELECTION),
    Step("encode", 1, ("clips",), ("latents",), {"autoencoder": "embedded", "buckets": ["4x64x64"]}),
    Step("encode_text", 1, ("summaries",), ("text_embeddings",), {"text_encoder": "embedded"}),
)
STEP = {s.name: s for s in STEPS}


def films(folder: Path) -> list[Path]:
    """Numbered frames, stored out of order: one film at a steady rate, one with uneven gaps."""
    folder.mkdir()
    encoder = {"codec": "libx264", "options": {"bf": "3", "crf": "10", "g": "30"}}
    steady = footage.write_video(folder / "a.mp4", footage.numbered(COUNT), **encoder)
    gaps = np.random.default_rng(0).integers(20, 90, COUNT)
    pts = (100 + np.cumsum(gaps)).tolist()
    uneven = folder / "b, ü.mkv"
    footage.write_video(uneven, footage.numbered(COUNT), pts, time_base=footage.MILLISECOND, **encoder)
    return [steady, uneven]


def build(root: Path, footage_folder: Path) -> Ledger:
    """Fills a warehouse as curation would; every clip but the last is kept."""
    store, plan = Store(root), Plan.of(STEPS)
    plan.save(store)
    ledger = Ledger(store, plan)
    rows = list_sources(str(p) for p in films(footage_folder))
    members = [r | {"video_id": content_hash(Path(r["uri"])), "duration_s": 1.0} for r in rows]
    _commit(ledger, "give", "0", given=rows)
    _commit(ledger, "hash", "0", sources=[m | settled(1) for m in members])
    _commit(ledger, "assign", "0", shards=members)
    videos = [_video(m) for m in members]
    spans = [s for v in videos for s in _spans(v)]
    cuts = [
        {"video_id": v["video_id"], "cuts": [], "span_ids": _ids(spans, v["video_id"])} | settled(1)
        for v in videos
    ]
    _commit(ledger, "scan", "0", videos=videos)
    _commit(ledger, "cut", "0", clips=spans, cuts=cuts)
    ids = [s["clip_id"] for s in spans if s["state"] == "done"]
    _annotate(ledger, ids)
    settle_listed_captions(ledger, run_id="test")
    select(ledger, SELECTION, run_id="test")
    kept = [i for i, kept in ledger.read_all("verdicts", ["clip_id", "kept"]).iter_rows() if kept]
    _encode(ledger, kept)
    return ledger


def arrays_of(clip_id: str) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.bool_]]:
    """Latents, text embedding and mask of a clip, by its id."""
    rng = np.random.default_rng(int(clip_id[:8], 16))
    mask = np.arange(5) < rng.integers(1, 6)
    return rng.normal(size=(4, 4, 8, 8)).astype("<f2"), rng.normal(size=(5, 6)).astype("<f2"), mask


def _encode(ledger: Ledger, ids: list[str]) -> None:
    latents, texts = [], []
    for clip_id in ids:
        z, text, mask = arrays_of(clip_id)
        row = {"clip_id": clip_id, "bucket": "4x64x64", "latents": z.tobytes(), "shape": z.shape, "fps": 8.0}
        latents.append(row | settled(1))
        row = {"clip_id": clip_id, "text": text.tobytes(), "shape": text.shape, "mask": mask.tobytes()}
        texts.append(row | {"caption": f"encoded {clip_id}", "caption_method": "test"} | settled(1))
    _commit(ledger, "encode", "0", latents=latents)
    _commit(ledger, "encode_text", "0", text_embeddings=texts)


def _annotate(ledger: Ledger, ids: list[str]) -> None:
    motion = [{"clip_id": c, "score": float(n != len(ids) - 1)} | settled(1) for n, c in enumerate(ids)]
    looks = [{"clip_id": c, "score": 4 + n / 3, "model": "embedded"} | settled(1) for n, c in enumerate(ids)]
    said = [
        {"clip_id": c, "frame_caption": f"frame {n}", "video_caption": f"video {n}"} | settled(1)
        for n, c in enumerate(ids)
    ]
    summaries = [
        {"clip_id": c, "summary": CAPTIONS[n % len(CAPTIONS)], "method": "merge"} | settled(1)
        for n, c in enumerate(ids)
    ]
    for name, rows in zip((*SCORES, "captions", "summaries"), (motion, looks, said, summaries), strict=True):
        _commit(ledger, name, "0", **{name: rows})


def _commit(ledger: Ledger, step: str, shard: str, **rows: list[dict[str, Any]]) -> None:
    tables = {t: pa.Table.from_pylist(r, TABLES[t].schema).to_batches() for t, r in rows.items()}
    ledger.commit(STEP[step], shard, tables, run_id="test")


def _ids(spans: list[dict[str, Any]], video_id: str) -> list[str]:
    return [s["clip_id"] for s in spans if s["video_id"] == video_id]


def _video(member: dict[str, Any]) -> dict[str, Any]:
    facts = probe(Path(member["uri"]))
    with open_video(Path(member["uri"])) as media:
        decoder = Decoder(media)
        for _ in decoder:
            pass
        pts, end = decoder.pts.tolist(), decoder.end_pts
    duration_s = float((end - pts[0]) * Fraction(facts.time_base_num, facts.time_base_den))
    width, height = facts.display_size
    return {
        "video_id": member["video_id"], "uri": member["uri"], "width": width, "height": height, "stream": 0,
        "time_base_num": facts.time_base_num, "time_base_den": facts.time_base_den, "pts": [*pts, end],
        "start_pts": pts[0], "end_pts": end, "num_frames": len(pts), "fps": len(pts) / duration_s,
    } | settled(1)  # fmt: skip


def _spans(video: dict[str, Any]) -> list[dict[str, Any]]:
    tick_s = video["time_base_num"] / video["time_base_den"]
    rows = []
    for scene, (first, end, reason) in enumerate(SPANS):
        start_pts, end_pts = video["pts"][first], video["pts"][end]
        rows.append(
            {
                "clip_id": digest([video["video_id"], 0, start_pts, end_pts], 32),
                "video_id": video["video_id"], "stream": 0, "start_pts": start_pts, "end_pts": end_pts,
                "start_s": (start_pts - video["pts"][0]) * tick_s, "duration_s": (end_pts - start_pts) * tick_s,
                "num_frames": end - first, "scene": scene,
            } | settled(1, "skipped" if reason else "done", reason)
        )  # fmt: skip
    return rows


def out_of(ledger: Ledger, kind: str, out: Path, **options: Any) -> Exported:
    """Exports the warehouse's selection."""
    return export(choose(ledger.store, "default"), find(kind), out, limits=MediaLimits(), **options)


def into(warehouse: Path, kind: str, path: Path, **options: Any) -> tuple[Ledger, Imported]:
    """Imports a list into a warehouse, a new one unless it is there."""
    store = Store(warehouse)
    ledger = Ledger(store, import_plan(store))
    return ledger, import_list(ledger, find(kind), path, run_id="test", **options)


def pictures(path: Path) -> list[NDArray[np.uint8]]:
    """Frames of a video file, by another way than ours."""
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


def numbers(frames: list[NDArray[np.uint8]]) -> list[int]:
    return [footage.read_number(frame, COUNT) for frame in frames]


KEPT = [list(range(4, 14)), list(range(14, 26)), list(range(4, 14))]
"""Frame numbers of the kept clips, by video and time."""
