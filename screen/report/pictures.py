"""Spooled frames as small JPEGs inside the page."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow.compute as pc
from PIL import Image

from warehouse.ledger import Ledger

THUMBNAIL_PX = 208
"""Width at most; twice what most screens give a picture here would double the page for little."""
JPEG_QUALITY = 74


@dataclass(frozen=True)
class Picture:
    """An image as the page holds it."""

    uri: str
    width: int
    height: int


FrameId = tuple[str, int]
"""Video and pts."""


def read_pictures(
    ledger: Ledger, wanted: Iterable[FrameId], shards: Mapping[str, str]
) -> dict[FrameId, Picture]:
    """Thumbnails of grid frames; only the rows asked for are read.

    Args:
        shards: the shard of each video.
    """
    by_video: dict[str, set[int]] = defaultdict(set)
    for video_id, pts in wanted:
        by_video[video_id].add(pts)
    pictures = {}
    for video_id, pts in by_video.items():
        is_wanted = (pc.field("video_id") == video_id) & pc.field("pts").isin(sorted(pts))
        rows = ledger.read("grid_frames", shards[video_id], ["video_id", "pts", "jpeg"], is_wanted)
        for row in rows.sort(pl.col("pts")).iter_rows(named=True):
            pictures[video_id, row["pts"]] = thumbnail(row["jpeg"])
    return pictures


def thumbnail(encoded: bytes, max_width: int = THUMBNAIL_PX) -> Picture:
    """Scales an encoded image down to at most `max_width` pixels of width."""
    with Image.open(io.BytesIO(encoded)) as image:
        image.draft("RGB", (max_width, max_width))
        small = image.convert("RGB")
        if small.width > max_width:
            small = small.resize(
                (max_width, max(1, round(small.height * max_width / small.width))), reducing_gap=2.0
            )
        out = io.BytesIO()
        small.save(out, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return Picture(data_uri(out.getvalue(), "image/jpeg"), small.width, small.height)


def data_uri(content: bytes, media_type: str) -> str:
    """Bytes as an address that needs no request."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
