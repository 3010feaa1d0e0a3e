"""A small warehouse with every table filled, its rows consistent by id, written through the ledger as a run would.

Numbers and pictures are generated from a seed. What is in it, beside the good videos: a second source of the first
video, a source that is gone, a file that is no video, and two videos that cannot be used, one of them with a hostile
name. Each good video has `clips_per_video` clips, a fade (a skipped span) and a last span that is too short.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pyarrow as pa
from annotation_rows import FPS, annotation, seeded, settled

from curation.listed_captions import LISTED_CAPTIONS, settle_listed_captions
from curation.reel.shots import Shot, random_shots, render_moments
from curation.selection.filters import Filter, SelectionConfig
from curation.selection.verdicts import select, select_step
from tasks.packing import PackConfig, pack, pack_step
from warehouse.ledger import Ledger
from warehouse.plan import WEIGHTS, Plan, Step, digest
from warehouse.schema import TABLES
from warehouse.store import Store

HOSTILE_NAME = "<script>alert('x')<script> & \"friends\".mp4"
RUN_ID = "builder"
TICKS = 1000
"""From one frame to the next; the time base is 1/24000."""
FADE_FRAMES, SHORT_FRAMES = 12, 20
SELECTION = SelectionConfig(
    "default",
    (
        Filter("sharpness", drop=0.1),
        Filter("text_area", drop=0.2),
        Filter("motion", drop=0.2),
        Filter("brightness", limit=0.25),
    ),
)
PER_CLIP = (
    "motion",
    "raft_motion",
    "text_area",
    "overlays",
    "sharpness",
    "quality",
    "fingerprints",
    "embeddings",
    "aesthetics",
    "captions",
    "summaries",
    "similarity",
)

STEPS = (
    Step("give", 1, (), ("given",)),
    Step("list", 1, (), ("listed",)),
    Step("match", 2, ("given", "listed"), ("matched",)),
    Step("hash", 1, ("given",), ("sources",)),
    Step("assign", 1, ("sources",), ("shards",)),
    Step("scan", 1, ("shards",), ("frame_scores", "flow", "grid_frames", "videos"), {"grid_fps": 2.0}),
    Step("cut", 1, ("videos", "frame_scores"), ("clips", "cuts"), {"min_s": 2.0}),
    *(
        Step(name, 2, ("videos", "clips", "grid_frames"), (name,), {"model": "embedded", "pretrained": None})
        for name in PER_CLIP
    ),
    LISTED_CAPTIONS,
    select_step(SELECTION),
    Step("encode", 1, ("clips",), ("latents",), {"autoencoder": "embedded", WEIGHTS: {"embedded": "a"}}),
    Step(
        "encode_text",
        1,
        ("summaries",),
        ("text_embeddings",),
        {"text_encoder": "embedded", WEIGHTS: {"embedded": "b"}},
    ),
)
"""The plan's steps, in order; `STEP` has them by name."""
STEP = {s.name: s for s in STEPS}


def build_warehouse(
    root: Path,
    *,
    videos: int = 4,
    clips_per_video: int = 3,
    seed: int = 0,
    packed: bool = False,
    copies: bool = False,
) -> Ledger:
    """Fills a new warehouse in `root` and returns its ledger; the same arguments give the same rows.

    Every second video goes to the second of two shards. All tables of the plan are complete: the audit balances. With
    `packed` the kept clips are packed into a dataset too, a third of the videos held out; with `copies` all clips have
    one fingerprint.
    """
    store = Store(root)
    packing = PackConfig(held_out_share=1 / 3)
    plan = Plan.of([*STEPS, pack_step(packing)] if packed else STEPS)
    plan.save(store)
    ledger = Ledger(store, plan)
    shards = _fill_sources(ledger, root, videos, seed)
    for shard, members in shards.items():
        _fill_shard(ledger, shard, members, clips_per_video, seed, copies)
    select(ledger, SELECTION, run_id=RUN_ID)
    for shard in ledger.shards():
        _fill_encoded(ledger, shard, seed)
    if packed:
        pack(ledger, packing)
    return ledger


def commit(ledger: Ledger, step: str, shard: str, **rows: Sequence[dict[str, Any]]) -> None:
    """Commits rows of a step's tables; columns that are not given are null."""
    tables = {t: pa.Table.from_pylist(list(r), TABLES[t].schema).to_batches() for t, r in rows.items()}
    ledger.commit(STEP[step], shard, tables, run_id=RUN_ID)


def _fill_sources(ledger: Ledger, root: Path, videos: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Commits given, sources and shards; returns the members of each shard of videos."""
    footage = root.resolve().parent / "footage"
    contents = {f"holiday_{i:02d}.mp4": f"good {i}" for i in range(videos)}
    contents |= {"copy of holiday.mp4": "good 0", "cut_short.mkv": "broken", HOSTILE_NAME: "sound"}
    sources = [_source(footage / name, hash_of(seed, content)) for name, content in contents.items()]
    gone = _source(footage / "gone.mp4", None) | settled("failed", "not_found", "there is no such file")
    notes = _source(footage / "notes.txt", None)
    notes |= settled("skipped", "not_a_video_name", "found in a folder, and not named like a video")
    sources += [gone | {"bytes": None, "modified_ns": None}, notes]
    commit(ledger, "give", digest("group"), given=sources)
    commit(ledger, "hash", digest("group"), sources=sources)
    entries = [{"entry_id": digest(n), "list_id": digest("list"), "place": f"line {n}"} for n in range(3)]
    commit(ledger, "list", digest("list"), listed=entries)
    ids = [sources[0]["source_id"], sources[1]["source_id"], None]
    rows = [{"entry_id": e["entry_id"], "source_id": i} for e, i in zip(entries, ids, strict=True)]
    states = [settled(), settled(), settled("failed", "not_found", "there is no such file")]
    commit(ledger, "match", digest("list"), matched=[r | s for r, s in zip(rows, states, strict=True)])
    first = {s["video_id"]: s for s in reversed(sources) if s["video_id"]}
    members = [first[v] for v in sorted(first, key=lambda v: first[v]["uri"])]
    shards = {digest(part): members[part::2] for part in (0, 1) if members[part::2]}
    for shard, rows in shards.items():
        commit(ledger, "assign", shard, shards=rows)
    return shards


def hash_of(seed: int, content: str) -> str:
    """What stands for the content hash of a video: "good 0", "good 1", ..., "broken" or "sound"."""
    return hashlib.sha256(f"{seed} {content}".encode()).hexdigest()


def _source(path: Path, video_id: str | None) -> dict[str, Any]:
    return {
        "source_id": digest(str(path), 32),
        "uri": str(path),
        "named": False,
        "bytes": 1_000_000 + len(path.name) * 1000,
        "modified_ns": 1_700_000_000_000_000_000,
        "video_id": video_id,
        "duration_s": 12.0 if video_id else None,
    } | settled()


def _fill_shard(
    ledger: Ledger, shard: str, members: list[dict], clips_per_video: int, seed: int, copies: bool
) -> None:
    """Commits everything from videos to similarity for one shard."""
    videos, frames, signals, flows, spans, cuts = [], [], [], [], [], []
    bad = {
        hash_of(seed, "broken"): settled("failed", "invalid_data", "moov atom not found"),
        hash_of(seed, "sound"): settled("failed", "no_video_stream", "it has 1 stream, none of them video"),
    }
    for member in members:
        identity = {"video_id": member["video_id"], "uri": member["uri"], "bytes": member["bytes"]}
        if member["video_id"] in bad:
            videos.append(identity | bad[member["video_id"]])
            continue
        film = _Film(member["video_id"], clips_per_video)
        videos.append(identity | film.facts())
        frames += film.grid_frames()
        signals += film.signals()
        flows.append(film.flow())
        spans += film.spans
        cuts.append(
            {"video_id": film.video_id, "cuts": film.cuts, "span_ids": [s["clip_id"] for s in film.spans]}
        )
    commit(ledger, "scan", shard, frame_scores=signals, flow=flows, grid_frames=frames, videos=videos)
    commit(ledger, "cut", shard, clips=spans, cuts=[c | settled() for c in cuts])
    clips = [s for s in spans if s["state"] == "done"]
    for name in PER_CLIP:
        rows = [annotation(name, i, clip, copies) for i, clip in enumerate(clips)]
        commit(ledger, name, shard, **{name: rows})
    settle_listed_captions(ledger, run_id=RUN_ID)


class _Film:
    """One good video: its scenes, each one generated shot, its spans, cuts, frames and signals."""

    def __init__(self, video_id: str, clips: int) -> None:
        self.video_id = video_id
        self.rng = seeded(video_id)
        self.start_pts = int(self.rng.integers(0, 3)) * TICKS
        lengths = [int(n) for n in self.rng.integers(60, 100, clips)]
        self.shots: list[Shot] = random_shots(clips + 1, int(self.rng.integers(2**31)))
        self.spans: list[dict[str, Any]] = []
        self.cuts: list[dict[str, Any]] = []
        self.num_frames = 0
        for scene, length in enumerate(lengths):
            if scene == 1:
                self._span(scene - 1, FADE_FRAMES, settled("skipped", "gradual_edge"))
            if scene:
                self._cut("gradual" if scene == 1 else "hard")
            self._span(scene, length, settled())
        self._cut("hard")
        self._span(clips, SHORT_FRAMES, settled("skipped", "too_short"))

    def _pts(self, frame: int) -> int:
        return self.start_pts + frame * TICKS

    def _span(self, scene: int, frames: int, state: dict[str, Any]) -> None:
        start, end = self._pts(self.num_frames), self._pts(self.num_frames + frames)
        self.spans.append(
            {
                "clip_id": digest([self.video_id, 0, start, end], 32),
                "video_id": self.video_id,
                "stream": 0,
                "start_pts": start,
                "end_pts": end,
                "start_s": self.num_frames / FPS,
                "duration_s": frames / FPS,
                "num_frames": frames,
                "scene": scene,
                "shot": self.shots[scene],
            }
            | state
        )
        self.num_frames += frames

    def _cut(self, kind: str) -> None:
        pts = self._pts(self.num_frames)
        self.cuts.append(
            {
                "frame": self.num_frames,
                "pts": pts,
                "time_s": self.num_frames / FPS,
                "start_pts": pts - (FADE_FRAMES * TICKS if kind == "gradual" else 0),
                "end_pts": pts,
                "type": kind,
                "confidence": float(self.rng.uniform(0.55, 0.99)),
            }
        )

    @property
    def grid(self) -> list[int]:
        """Frames on the grid of 2 fps."""
        return list(range(0, self.num_frames, FPS // 2))

    def facts(self) -> dict[str, Any]:
        return {
            "container": "mov,mp4,m4a,3gp,3g2,mj2",
            "stream": 0,
            "codec": str(self.rng.choice(["h264", "hevc", "vp9"])),
            "pix_fmt": "yuv420p",
            "width": 160,
            "height": 90,
            "rotation_deg": 0,
            "time_base_num": 1,
            "time_base_den": FPS * TICKS,
            "start_pts": self.start_pts,
            "end_pts": self._pts(self.num_frames),
            "duration_s": self.num_frames / FPS,
            "fps": float(FPS),
            "num_frames": self.num_frames,
            "decode_errors": 0,
            "bit_rate": 2e6,
            "has_audio": True,
            "signals": ["brightness", "content"],
            "grid_pts": [self._pts(f) for f in self.grid],
        } | settled()

    def grid_frames(self) -> Iterator[dict[str, Any]]:
        for span in self.spans:
            first = round(span["start_s"] * FPS)
            inside = [f for f in self.grid if first <= f < first + span["num_frames"]]
            moments = np.array([(f - first) / span["num_frames"] for f in inside])
            pictures = render_moments(self.shots[span["scene"]], 160, moments)[:, 35:125]
            for frame, rgb in zip(inside, pictures, strict=True):
                _, jpeg = cv2.imencode(".jpg", rgb[..., ::-1])
                row = {"video_id": self.video_id, "pts": self._pts(frame), "jpeg": jpeg.tobytes()}
                yield row | {"width": 160, "height": 90}

    def signals(self) -> Iterator[dict[str, Any]]:
        frames = list(range(self.num_frames))
        at_cut = {c["frame"] for c in self.cuts}
        content = self.rng.uniform(0, 8, self.num_frames) + [40.0 * (f in at_cut) for f in frames]
        for signal, values in (
            ("brightness", self.rng.uniform(60, 200, self.num_frames)),
            ("content", content),
        ):
            row = {"video_id": self.video_id, "signal": signal, "rate_fps": None}
            yield row | {"frame": frames, "pts": [self._pts(f) for f in frames], "value": values.tolist()}

    def flow(self) -> dict[str, Any]:
        pairs = list(pairwise(self._pts(f) for f in self.grid))
        measured = self.rng.uniform(0, 2, (3, len(pairs)))
        row = {"video_id": self.video_id, "pts0": [p[0] for p in pairs], "pts1": [p[1] for p in pairs]}
        return row | dict(zip(("magnitude", "dx", "dy"), measured.tolist(), strict=True))


def _fill_encoded(ledger: Ledger, shard: str, seed: int) -> None:
    """Commits latents and text embeddings of the kept clips."""
    kept = ledger.read("verdicts", shard).filter(pl.col("kept")).sort("clip_id")["clip_id"]
    summaries = dict(ledger.read("summaries", shard, ["clip_id", "summary"]).iter_rows())
    latents, texts = [], []
    for clip_id in kept:
        rng = np.random.default_rng([seed, int(clip_id[:8], 16)])
        pictures = rng.normal(size=(8, 4, 6, 10)).astype(np.float16)
        words = rng.normal(size=(4, 16)).astype(np.float16)
        latents.append(
            {"clip_id": clip_id, "latents": pictures.tobytes(), "fps": 4.0}
            | {"bucket": "8x48x80", "shape": [8, 4, 6, 10]}
        )
        text = {"caption": summaries[clip_id], "caption_method": "merge", "text": words.tobytes()}
        whole = 3 if texts else 12  # the first caption of a shard is cut
        text |= {"shape": [4, 16], "mask": bytes([1, 1, 1, 0]), "num_tokens": whole}
        texts.append({"clip_id": clip_id, **text})
    commit(ledger, "encode", shard, latents=[r | settled() for r in latents])
    commit(ledger, "encode_text", shard, text_embeddings=[r | settled() for r in texts])
