"""MindONE's numpy cache of latents and text embeddings: ``<video>/video_latent-<frame>.npy`` and ``<video>.npz``.

The ``.npz`` holds ``video`` (a name), ``caption`` or ``class``, ``text_emb``, and in some caches all frames as
``video_latent`` (frames, channels, height, width). Latents are scaled already: by 0.18215 there, here by whatever scales
the autoencoder's latents to a standard deviation of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curation.formats.arrays import ArrayError, read_facts, shape_of
from curation.formats.base import Clip, Entry, Format, Target, malformed
from curation.formats.kept import features_of
from warehouse.errors import FormatError

CACHE = "cache"
LATENT = "video_latent"
_FACTS = ("video", "caption", "class")


def read(folder: Path) -> Iterator[Entry]:
    """One entry for every video of a cache: what is written beside its latents, and their shape. It names no footage."""
    if not folder.is_dir():
        raise FormatError(f"{folder} is no folder; name the cache that holds <video>.npz and <video>/*.npy")
    videos = {p.stem for p in folder.glob("*.npz")} | {
        p.name for p in folder.iterdir() if any(p.glob("*.npy"))
    }
    for name in sorted(videos):
        try:
            yield _entry(folder, name)
        except (ArrayError, OSError) as error:
            yield malformed(name, "bad_array", str(error))


def _entry(folder: Path, name: str) -> Entry:
    facts: dict[str, Any] = {}
    if (folder / f"{name}.npz").exists():
        facts = read_facts(folder / f"{name}.npz", _FACTS)
    frames = sorted((folder / name).glob("*.npy"))
    shapes = {shape_of(f) for f in frames}
    if len(shapes) > 1:
        raise ArrayError(f"{name}: its frames have {len(shapes)} shapes")
    caption = facts.pop("caption", None)
    columns = facts | ({"num_frames": len(frames), "frame_shape": list(*shapes)} if frames else {})
    return Entry(name, captions=(str(caption),) if caption else (), columns=columns)


def write(clips: Sequence[Clip], target: Target) -> None:
    """A cache of the clips: each frame's latents in float16 in a file of its own, text and its embedding beside them."""
    for clip, latents, text in features_of(clips, target.ledger):
        folder = target.folder / CACHE / clip.clip_id
        folder.mkdir(parents=True)
        for number, frame in enumerate(latents.values):
            np.save(folder / f"{LATENT}-frame_{number:06d}.npy", frame)
        told = {
            "video": clip.clip_id,
            "caption": text.caption,
            "text_emb": text.values,
            "text_mask": text.mask,
        }
        np.savez_compressed(target.folder / CACHE / f"{clip.clip_id}.npz", **told)


MINDONE_CACHE = Format("mindone-cache", read, write, ("features",), encoded=True)
