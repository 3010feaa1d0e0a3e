"""The scan and the cutting of a shard's videos as the engine runs them, and their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl

from curation.cuts.boundaries import CutConfig, merge_cuts
from curation.cuts.changes import Measure
from curation.cuts.clips import ClipConfig, Span, spans
from curation.cuts.detectors import MEASURES, LevelScores, Signals
from curation.engine.places import RunsOn
from curation.engine.work import Outputs, Unit, in_batches, settled
from curation.footage.grid_frames import GridFrame
from curation.footage.media import MediaLimits
from curation.ingest import open_source
from curation.motion.flow import FlowPairs
from curation.scan import ScanConfig, ScanResult, scan_video
from curation.sources import check_holds
from warehouse.errors import MediaError
from warehouse.ledger import Ledger
from warehouse.plan import Step, digest

_SPOOL_BYTES = 8 << 20
_EVIDENCE = "change."
"""Before the names of `Signals.measures` among the signals of `frame_scores`."""


@dataclass(frozen=True)
class ScanWork:
    """One decode of every video: its facts, its frames' scores, its flow, its grid frames."""

    config: ScanConfig
    limits: MediaLimits
    timeout_s: float = 3600.0
    isolated: bool = True
    runs_on: RunsOn = "cores"
    model_bytes: int = 0
    step: Step = field(init=False)

    def __post_init__(self) -> None:
        settings = {"scan": asdict(self.config), "limits": asdict(self.limits)}
        writes = ("frame_scores", "flow", "grid_frames", "videos")
        object.__setattr__(self, "step", Step("scan", 6, ("shards",), writes, settings))

    def split(self, ledger: Ledger, shard: str, ids: Sequence[tuple]) -> Iterable[Sequence[tuple]]:
        return in_batches(ids, 1)

    def run(self, ledger: Ledger, unit: Unit, outputs: Outputs) -> None:
        ((video_id,),), (spent,) = unit.ids, unit.attempts
        rows = ledger.read("shards", unit.shard, ["uri", "source_id"], filters=[("video_id", "=", video_id)])
        ((uri, source_id),) = rows.iter_rows()
        row = {"video_id": video_id, "uri": uri}
        spool = _Spool(video_id, outputs)
        try:
            result = scan_video(open_source(uri), self.config, spool, self.limits)
            check_holds(uri, video_id, source_id)
        except (MediaError, OSError) as error:
            outputs.clear()  # frames of the grid that came before it failed
            outputs.append("videos", [row | _failure(MediaError.of(error), spent + 1)])
            return
        spool.flush()
        outputs.append("frame_scores", list(signal_rows(video_id, result.signals)))
        outputs.append("flow", [flow_row(video_id, result.flow)])
        outputs.append("videos", [row | video_columns(result) | settled(spent + 1)])


def _failure(error: MediaError, attempt: int) -> dict[str, Any]:
    state = "skipped" if error.cause.startswith("limit_") else "failed"
    return settled(attempt, state, error.cause, error.detail)


class _Spool:
    """Takes grid frames as they come and passes them on in handfuls."""

    def __init__(self, video_id: str, outputs: Outputs) -> None:
        self._video_id, self._outputs = video_id, outputs
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def __call__(self, frame: GridFrame) -> None:
        self._rows.append({"video_id": self._video_id, **asdict(frame)})
        self._bytes += len(frame.jpeg)
        if self._bytes >= _SPOOL_BYTES:
            self.flush()

    def flush(self) -> None:
        self._outputs.append("grid_frames", self._rows)
        self._rows, self._bytes = [], 0


def video_columns(result: ScanResult) -> dict[str, Any]:
    """Facts of a scanned video for its row in `videos`."""
    probe, signals = result.probe, result.signals
    width, height = probe.display_size
    facts = (
        "container",
        "codec",
        "pix_fmt",
        "rotation_deg",
        "time_base_num",
        "time_base_den",
        "has_audio",
        "bytes",
    )
    return {name: getattr(probe, name) for name in facts} | {
        "stream": probe.stream_index,
        "width": width,
        "height": height,
        "start_pts": int(signals.pts[0]),
        "end_pts": int(signals.end_pts),
        "duration_s": result.duration_s,
        "fps": result.num_frames / result.duration_s if result.duration_s else None,
        "bit_rate": 8 * result.stream_bytes / result.duration_s if result.duration_s else None,
        "num_frames": result.num_frames,
        "decode_errors": result.decode_errors,
        "signals": [row["signal"] for row in signal_rows("", signals)],
        "grid_pts": result.grid_pts.tolist(),
    }


def signal_rows(video_id: str, signals: Signals) -> Iterator[dict[str, Any]]:
    """Rows of `frame_scores`: brightness of every frame, the damaged ones, each detector level, and all evidence."""
    every = np.arange(len(signals.pts))
    yield _signal("brightness", None, video_id, every, signals.pts, signals.brightness)
    damaged = signals.damaged
    yield _signal("damaged", None, video_id, damaged, signals.pts[damaged], np.ones(len(damaged)))
    for level in signals.levels:
        name = f"{level.measure}@{level.fps:g}" if level.fps else level.measure
        yield _signal(name, level.fps, video_id, level.frame, level.pts, level.score)
    for name, measure in signals.measures.items():
        yield _signal(_EVIDENCE + name, None, video_id, measure.frame, measure.pts, measure.value)


def _signal(
    name: str, fps: float | None, video_id: str, frame: np.ndarray, pts: np.ndarray, value: np.ndarray
) -> dict[str, Any]:
    columns = {"frame": frame, "pts": pts, "value": value}
    return {"video_id": video_id, "signal": name, "rate_fps": fps} | {
        k: v.tolist() for k, v in columns.items()
    }


def signals_of(video: Mapping[str, Any], rows: pl.DataFrame) -> Signals:
    """A video's signals back from its rows."""
    by_name = {r["signal"]: r for r in rows.iter_rows(named=True)}
    brightness = by_name["brightness"]
    levels = tuple(
        LevelScores(r["rate_fps"], *_columns(r), measure)
        for name, r in by_name.items()
        if (measure := name.partition("@")[0]) in MEASURES
    )
    measures = {name.removeprefix(_EVIDENCE): r for name, r in by_name.items() if name.startswith(_EVIDENCE)}
    return Signals(
        time_base=Fraction(video["time_base_num"], video["time_base_den"]),
        pts=np.array(brightness["pts"], np.int64),
        end_pts=video["end_pts"],
        brightness=np.array(brightness["value"], np.float32),
        damaged=np.array(by_name["damaged"]["frame"], np.int32),
        levels=levels,
        measures={name: Measure(name, *_columns(r)) for name, r in measures.items()},
    )


def _columns(row: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(frame, pts, value) of one signal."""
    return (
        np.array(row["frame"], np.int32),
        np.array(row["pts"], np.int64),
        np.array(row["value"], np.float32),
    )


def flow_row(video_id: str, flow: FlowPairs) -> dict[str, Any]:
    """A video's row in `flow`; what is not known of a pair is null."""
    lists = {name: column.tolist() for name, column in vars(flow).items()}
    return {"video_id": video_id} | {
        name: [None if value != value else value for value in values] for name, values in lists.items()
    }


@dataclass(frozen=True)
class CutWork:
    """Merges the detectors' scores into cuts, and what lies between into clips. Reads no pixel."""

    cuts: CutConfig
    clips: ClipConfig
    timeout_s: float = 600.0
    isolated: bool = False
    runs_on: RunsOn = "cores"
    model_bytes: int = 0
    step: Step = field(init=False)

    def __post_init__(self) -> None:
        settings = {"cuts": asdict(self.cuts), "clips": asdict(self.clips)}
        reads = ("videos", "frame_scores")
        object.__setattr__(self, "step", Step("cut", 4, reads, ("clips", "cuts"), settings))

    def split(self, ledger: Ledger, shard: str, ids: Sequence[tuple]) -> Iterable[Sequence[tuple]]:
        return in_batches(ids, 64)

    def run(self, ledger: Ledger, unit: Unit, outputs: Outputs) -> None:
        ids = [i for (i,) in unit.ids]
        wanted = [("video_id", "in", ids)]
        videos = {
            r["video_id"]: r for r in ledger.read("videos", unit.shard, filters=wanted).iter_rows(named=True)
        }
        scores = ledger.read("frame_scores", unit.shard, filters=wanted).partition_by(
            "video_id", as_dict=True
        )
        for video_id, spent in zip(ids, unit.attempts, strict=True):
            signals = signals_of(videos[video_id], scores[(video_id,)])
            cuts = merge_cuts(signals, self.cuts)
            rows = clip_rows(videos[video_id], signals, spans(signals, cuts, self.clips))
            outputs.append("clips", [r | settled(1, *_state(r.pop("reason"))) for r in rows])
            span_ids = [r["clip_id"] for r in rows]
            row = {"video_id": video_id, "cuts": [asdict(c) for c in cuts], "span_ids": span_ids}
            outputs.append("cuts", [row | settled(spent + 1)])


def _state(reason: str | None) -> tuple[str, str | None]:
    return ("skipped", reason) if reason else ("done", None)


def clip_rows(video: Mapping[str, Any], signals: Signals, found: list[Span]) -> list[dict[str, Any]]:
    """Rows of `clips` for all spans of a video, each with the `reason` why it is no clip."""
    first = int(signals.pts[0])
    return [
        {
            "clip_id": digest([video["video_id"], video["stream"], span.start_pts, span.end_pts], 32),
            "video_id": video["video_id"],
            "stream": video["stream"],
            "start_pts": span.start_pts,
            "end_pts": span.end_pts,
            "start_s": signals.seconds(span.start_pts - first),
            "duration_s": signals.seconds(span.end_pts - span.start_pts),
            "num_frames": span.num_frames,
            "scene": span.scene_index,
            "reason": span.reason,
        }
        for span in found
    ]
