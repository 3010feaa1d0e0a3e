"""Files that still hold a video's bytes: one that was replaced must never stand in for the one that was scanned."""

from __future__ import annotations

import polars as pl

from curation.footage.media import content_hash
from curation.ingest import is_unchanged, open_source
from warehouse.errors import MediaError
from warehouse.ledger import Ledger

_CHANGED = (
    "its content is another than when it was curated; put the file back, or curate a copy of it, and use "
    "--retry-failed"
)


def check_holds(uri: str, video_id: str, source_id: str | None = None) -> None:
    """Raises MediaError `changed` unless a file holds a video's bytes; touched or copied back, it does.

    Args:
        source_id: of the file as it was given; where size and time are still those, nothing is read.
    """
    if source_id is not None and is_unchanged(uri, source_id):
        return
    if content_hash(open_source(uri)) != video_id:
        raise MediaError("changed", _CHANGED)


def find_source(ledger: Ledger, shard: str, video_id: str) -> str:
    """URI of a file that holds a video: the one that it was scanned from or, where that is gone or changed, another that
    was given with the same content.

    Raises:
        MediaError: there is none; of the file that it was scanned from.
        OSError: likewise.
    """
    rows = ledger.read("shards", shard, ["uri", "source_id"], filters=[("video_id", "=", video_id)])
    ((uri, source_id),) = rows.iter_rows()
    try:
        check_holds(uri, video_id, source_id)
        return str(uri)
    except (MediaError, OSError):
        sources = ledger.read_all("sources", ["uri", "source_id", "video_id"])
        others = sources.filter((pl.col("video_id") == video_id) & (pl.col("uri") != uri))
        for other, its_id in others.sort("uri").select("uri", "source_id").iter_rows():
            if _holds(other, video_id, its_id):
                return str(other)
        raise


def _holds(uri: str, video_id: str, source_id: str) -> bool:
    try:
        check_holds(uri, video_id, source_id)
    except (MediaError, OSError):
        return False
    return True
