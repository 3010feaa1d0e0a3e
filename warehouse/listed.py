"""What imported lists say of videos."""

from __future__ import annotations

import polars as pl

from warehouse.ledger import Ledger

_SAID = ["entry_id", "format", "uri", "captions", "start_s", "end_s", "start_frame", "end_frame"]


def import_numbers(ledger: Ledger) -> pl.DataFrame:
    """Of each list that was imported: list_id, format, uri, and the number of its last import (0 where none is told)."""
    rows = ledger.read_all("listed", ["entry_id", "list_id", "format", "uri"])
    rows = rows.join(ledger.read_all("matched", ["entry_id", "import_number"]), on="entry_id")
    last = rows.group_by("list_id", "format", "uri").agg(pl.col("import_number").max().fill_null(0))
    return last.sort("uri", "format", "import_number", "list_id")


def newest_lists(ledger: Ledger) -> list[str]:
    """Ids of the lists that count, in order of their URIs: of versions of one list, the one that was imported last."""
    newest = import_numbers(ledger).unique(["uri", "format"], keep="last", maintain_order=True)
    return newest["list_id"].to_list()


def captioned_entries(ledger: Ledger) -> pl.DataFrame:
    """Entries of the lists that count, each with the video that it is of.

    Returns:
        video_id, format, uri, captions, start_s, end_s, start_frame, end_frame; in the order of the lists.
    """
    found = [_entries(ledger, list_id) for list_id in newest_lists(ledger)]
    videos = ledger.read_all("sources", ["source_id", "video_id"]).drop_nulls()
    none = ledger.read("listed", "", _SAID).with_columns(source_id=pl.lit(None, pl.String))
    rows = pl.concat([none, *found]).join(videos, on="source_id", maintain_order="left")
    return rows.drop("entry_id", "source_id")


def _entries(ledger: Ledger, list_id: str) -> pl.DataFrame:
    matched = ledger.read("matched", list_id, ["entry_id", "source_id"]).drop_nulls()
    rows = ledger.read("listed", list_id, _SAID)
    return rows.join(matched, on="entry_id", maintain_order="left")
