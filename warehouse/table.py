"""What a table of a warehouse is: its columns with their meaning, its row identity, and where its ids come from."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


def column(name: str, type_: pa.DataType, meaning: str, *, unit: str = "", source: str = "") -> pa.Field:
    """A field whose metadata carries what it means, in which unit, and where the definition comes from."""
    metadata = {"meaning": meaning, "unit": unit, "source": source}
    return pa.field(name, type_, metadata={k: v for k, v in metadata.items() if v})


STATE_COLUMNS = (
    column("state", pa.string(), "done, failed or skipped"),
    column("cause", pa.string(), "short stable word: why it failed or was skipped; null when done"),
    column("detail", pa.string(), "a sentence for people; null when done"),
    column("attempt", pa.int8(), "how often it was tried, this time included"),
)


@dataclass(frozen=True)
class Expects:
    """Where a table's ids come from: the values of `columns` in the rows of `table` in which `where` holds."""

    table: str
    columns: tuple[str, ...]
    where: tuple[str, str | bool] | None = None
    explode: bool = False
    """The last of `columns` is a list; each element makes an id."""


@dataclass(frozen=True)
class Table:
    """One table: name, row identity, columns, and the rows of which other table it answers for."""

    name: str
    identity: tuple[str, ...]
    fields: tuple[pa.Field, ...]
    expects: Expects | None
    stateful: bool = True
    by_shard: bool = True
    """Its files are named by shards of videos; otherwise by groups of sources, or by lists."""
    references: tuple[str, str] | None = None
    """A column, and the table whose ids its values must be among; null refers to nothing."""

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(self.fields + (STATE_COLUMNS if self.stateful else ()))
