"""Rows of annotators for a warehouse that is built for tests: numbers drawn from a clip's id, words from its shot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from curation.reel.shots import Shot
from warehouse.plan import digest

FPS = 24


def settled(state: str = "done", cause: str | None = None, detail: str | None = None) -> dict[str, Any]:
    return {"state": state, "cause": cause, "detail": detail, "attempt": 1}


def seeded(*names: str) -> np.random.Generator:
    return np.random.default_rng(int(digest(names), 16))


def annotation(name: str, index: int, clip: dict[str, Any], copies: bool) -> dict[str, Any]:
    """An annotator's row; in each shard text detection fails on the first clip, and motion has no pair in the second."""
    clip_id = clip["clip_id"]
    if name == "text_area" and index == 0:
        return {"clip_id": clip_id} | settled(
            "failed", "error", "RuntimeError: the detector returned no boxes <b>"
        )
    if name == "motion" and index == 1:
        return {"clip_id": clip_id} | settled("skipped", "no_pairs")
    drawn_from = "one" if copies and name == "fingerprints" else clip_id
    return {"clip_id": clip_id} | _COLUMNS[name](seeded(drawn_from, name), clip["shot"]) | settled()


def _unit_vector(rng: np.random.Generator) -> list[float]:
    vector = rng.normal(size=128)  # as wide as those of the embedded CoCa
    return (vector / np.linalg.norm(vector)).tolist()


def _text_area(rng: np.random.Generator, _: Shot) -> dict[str, Any]:
    area = float(rng.uniform(0.01, 0.2)) if rng.random() < 0.3 else 0.0
    return {
        "score": area,
        "areas": [area, 0.0, area / 2],
        "text": ["SALE <50%"] if area else [],
        "engine": "rapidocr",
    }


def _captions(_: np.random.Generator, shot: Shot) -> dict[str, Any]:
    of_frame = {"frame_caption": shot.image_caption, "frame_method": "coca-embedded", "frame_status": "ok"}
    of_video = {
        "video_caption": shot.caption,
        "video_method": "coca-embedded-8-frames+flow",
        "video_status": "ok",
    }
    return of_frame | of_video


def _quality(rng: np.random.Generator, _: Shot) -> dict[str, Any]:
    margin = float(rng.choice([0.0, 0.0, 0.1]))
    letterbox = {"letterbox": 2 * margin, "bar_top": margin, "bar_bottom": margin}
    pillarbox = {"pillarbox": 0.0, "bar_left": 0.0, "bar_right": 0.0}
    size = {"width": 160.0, "height": 90.0, "pixels": 14400.0}
    rest = {"aspect": 160 / 90, "fps": float(FPS), "bits_per_pixel": 0.1, "audio": 1.0}
    measured = {"contrast": float(rng.uniform(0.05, 0.3)), "frozen": float(rng.choice([0.0, 0.25]))}
    return letterbox | pillarbox | size | rest | measured


def _moved(rng: np.random.Generator) -> dict[str, Any]:
    return {"score": float(rng.lognormal(-1, 1)), "dx": 0.1, "dy": -0.2, "num_pairs": 5}


def _mean_of_frames(rng: np.random.Generator, low: float, high: float) -> dict[str, Any]:
    scores = rng.uniform(low, high, 3).tolist()
    return {"model": "embedded", "score": float(np.mean(scores)), "scores": scores}


_COLUMNS: dict[str, Callable[[np.random.Generator, Shot], dict[str, Any]]] = {
    "motion": lambda rng, _: {
        **_moved(rng),
        **{name: float(rng.lognormal(-1, 1)) for name in ("camera_motion", "object_motion")},
        **{f"camera_{part}": float(rng.normal()) for part in ("dx", "dy", "zoom", "roll")},
        "num_camera_pairs": 5,
        "camera": str(rng.choice(["mixed", "static", "pan_left", "zoom_in"])),
    },
    "raft_motion": lambda rng, _: _moved(rng) | {"network": "raft_small"},
    "text_area": _text_area,
    "overlays": lambda rng, _: {"score": float(rng.uniform(0, 0.1)), "boxes": [], "num_frames": 8},
    "sharpness": lambda rng, _: {
        "score": float(rng.normal(5, 1)),
        "brightness": float(rng.uniform(0.2, 0.8)),
    },
    "quality": _quality,
    "fingerprints": lambda rng, _: {
        "hashes": rng.integers(0, 1 << 63, 5).tolist(),
        "colours": rng.integers(0, 256, (5, 8, 8, 3), np.uint8).tobytes(),
    },
    "embeddings": lambda rng, _: {
        "model": "embedded",
        **{place: _unit_vector(rng) for place in ("first", "middle", "last")},
    },
    "aesthetics": lambda rng, _: _mean_of_frames(rng, 3, 9),
    "captions": _captions,
    "summaries": lambda _, shot: {"summary": shot.caption, "method": "merge", "status": "ok"},
    "similarity": lambda rng, _: {
        "model": "embedded",
        "score": float(rng.uniform(0.2, 0.9)),
        "cosines": rng.uniform(0.2, 0.9, 9).tolist(),
    },
}
