"""What the report knows about the footage: what came in, what failed or was skipped and why, where the seconds went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from curation.cuts.clips import REASONS
from screen.report.words import name_of
from warehouse.ledger import Ledger
from warehouse.schema import TABLES

MAX_EXAMPLES = 4
MAX_ROWS = 7
_LENGTHS = (
    (5, "under 5 s"),
    (15, "5 to 15 s"),
    (60, "15 to 60 s"),
    (600, "1 to 10 min"),
    (3600, "10 to 60 min"),
)
_LONGER = "over an hour"
_SIDES = ((240, "under 240 px"), (480, "240 to 479 px"), (720, "480 to 719 px"), (1080, "720 to 1079 px"))
_LARGER = "1080 px and more"


@dataclass(frozen=True)
class Bar:
    """A labelled number, and its share of the largest beside it."""

    label: str
    value: float
    share: float


@dataclass(frozen=True)
class Example:
    """One failed or skipped thing: its name, where it lies, and what was said about it."""

    name: str
    where: str
    detail: str | None


@dataclass(frozen=True)
class Trouble:
    """All rows of a table that failed or were skipped for one cause."""

    table: str
    cause: str
    count: int
    duration_s: float | None
    """Footage that it concerns; null where that is unknown."""
    meaning: str | None
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Slice:
    """A part of the footage's seconds and what became of it; `css` is its class."""

    label: str
    css: str
    duration_s: float


def read_videos(ledger: Ledger) -> pl.DataFrame:
    """All rows of `videos` without their lists, with the shard that holds each."""
    columns = [f.name for f in TABLES["videos"].schema if not pa.types.is_list(f.type)]
    frames = [
        ledger.read("videos", shard, columns).with_columns(shard=pl.lit(shard)) for shard in ledger.shards()
    ]
    return pl.concat(frames) if frames else ledger.read("videos", "", columns).with_columns(shard=pl.lit(""))


def with_grid(ledger: Ledger, videos: pl.DataFrame) -> pl.DataFrame:
    """A few videos with the pts of their spooled frames, `grid_pts`."""
    grids = [ledger.read("videos", "", ["video_id", "grid_pts"])]
    for (shard,), members in videos.partition_by("shard", as_dict=True).items():
        wanted = [("video_id", "in", members["video_id"].to_list())]
        grids.append(ledger.read("videos", shard, ["video_id", "grid_pts"], wanted))
    return videos.join(pl.concat(grids), on="video_id", maintain_order="left")


def came_in(videos: pl.DataFrame) -> dict[str, list[Bar]]:
    """Videos that could be used, by codec, by the shorter side of the displayed picture, by length."""
    done = videos.filter(pl.col("state") == "done")
    sides = done.select(pl.min_horizontal("width", "height").alias("side"))["side"]
    return {
        "Codec": _bars(Counter(done["codec"].fill_null("unknown"))),
        "Shorter side": _classes(sides, _SIDES, _LARGER),
        "Length": _classes(done["duration_s"], _LENGTHS, _LONGER),
    }


def _classes(values: Iterable[float], classes: Sequence[tuple[float, str]], above: str) -> list[Bar]:
    """How many values lie below each limit and above the last, without the classes that hold none."""
    counts = Counter(next((name for limit, name in classes if v < limit), above) for v in values)
    return _scaled([(name, counts[name]) for name in (*(n for _, n in classes), above) if counts[name]])


def _bars(counts: Counter[str]) -> list[Bar]:
    """The most frequent ones, the others as one."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    top, rest = ordered[:MAX_ROWS], ordered[MAX_ROWS:]
    if rest:
        top.append((f"{len(rest)} others", sum(n for _, n in rest)))
    return _scaled(top)


def _scaled(items: Sequence[tuple[str, float]]) -> list[Bar]:
    largest = max((n for _, n in items), default=1)
    return [Bar(label, n, n / largest) for label, n in items]


def troubles(ledger: Ledger, state: str, uris: dict[str, str]) -> list[Trouble]:
    """Everything in one state (failed or skipped), by table and cause, the most frequent cause of a table first.

    Args:
        uris: of videos and clips by id, to name the examples by.
    """
    stateful = [t for t in TABLES.values() if t.stateful and t.name in ledger.plan.keys]
    return [trouble for table in stateful for trouble in _of_table(ledger, table.name, state, uris)]


def _of_table(ledger: Ledger, table: str, state: str, uris: dict[str, str]) -> Iterator[Trouble]:
    spec = TABLES[table]
    wanted = dict.fromkeys([*spec.identity, "state", "cause", "detail"])
    further = [c for c in ("uri", "duration_s") if c in spec.schema.names]
    rows = ledger.read_all(table, [*wanted, *further]).filter(pl.col("state") == state)
    causes = rows.group_by("cause").len().sort(["len", "cause"], descending=[True, False])
    for cause, number in causes.iter_rows():
        concerned = rows.filter(pl.col("cause").eq_missing(cause)).sort(spec.identity)
        durations = (
            concerned["duration_s"].drop_nulls()
            if "duration_s" in further
            else pl.Series([], dtype=pl.Float64)
        )
        yield Trouble(
            table=table,
            cause=cause or "unknown",
            count=number,
            duration_s=float(durations.sum()) if len(durations) == number else None,
            meaning=REASONS.get(cause) if table == "clips" else None,
            examples=tuple(
                _example(r, spec.identity[0], uris) for r in concerned.head(MAX_EXAMPLES).to_dicts()
            ),
        )


def _example(row: dict, identity: str, uris: dict[str, str]) -> Example:
    uri = row.get("uri") or uris.get(row[identity], row[identity])
    name = name_of(uri)
    return Example(f"{name}, clip {row['clip_id'][:12]}" if "clip_id" in row else name, uri, row["detail"])


def where_seconds_went(spans: pl.DataFrame) -> list[Slice]:
    """Seconds of all spans by what became of them, kept ones first.

    Args:
        spans: rows of `clips` with the column `kept` (null: not judged).
    """
    fates = spans.with_columns(
        fate=pl.when(pl.col("state") != "done")
        .then(pl.col("cause"))
        .when(pl.col("kept").is_null())
        .then(pl.lit("not judged"))
        .when(pl.col("kept"))
        .then(pl.lit("kept"))
        .otherwise(pl.lit("rejected"))
    )
    sums = dict(fates.group_by("fate").agg(pl.col("duration_s").sum()).iter_rows())
    known = {"kept": "kept", "rejected": "fails", "not judged": "plain"}
    first = [Slice(label, css, sums.pop(label)) for label, css in known.items() if label in sums]
    others = sorted(sums.items(), key=lambda item: -item[1])
    return first + [Slice(str(cause).replace("_", " "), "skipped", s) for cause, s in others]
