"""CPU seconds that curation spends on a minute of video: the scan, and every annotator by itself.

    python benchmarks/curation.py [VIDEO ...] [--repeats 1] [--max-clips 1] [--json]

Each video is decoded by PyAV alone (bare_decode), scanned, and cut into clips; then every annotator scores the first
clips of each. What an annotator reads of another's table it gets; making it is not counted twice. Loading models is left
out. Seconds are user and system time of this process, one thread, the least of the repeats, over the minutes of the
clips that were scored; a clip that an annotator skips counts as its minutes do.

Models are the embedded small ones, whatever a published one would cost: rows marked `embedded` say nothing about CLIP or
CoCa. RAFT runs with the small network's weights from the test footage, CRAFT with random weights, which cost the same as
trained ones (but find no text that would have to be read). Without VIDEO a few files of the test footage are taken
(CUTROOM_TEST_DATA).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.pop(0)  # this program's own folder, in which this file would stand for the package curation

import av
import cv2
import torch

from curation.annotators.base import Annotator, Clip, Done, GridFrame, Outcome
from curation.annotators.raft_motion import RaftMotionConfig
from curation.annotators.registry import ANNOTATORS
from curation.annotators.text_area import TextAreaConfig
from curation.annotators.text_engines import CraftConfig
from curation.cuts.boundaries import CutConfig, merge_cuts
from curation.cuts.clips import ClipConfig, spans
from curation.scan import ScanResult, scan_video
from curation.scan_work import flow_row, video_columns

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
VIDEOS = ("bbb_480p_30s.mp4", "cups.mp4", "dj_video2.mp4", "rio_aerial.mp4")
EMBEDDED = frozenset({"embeddings", "aesthetics", "captions", "similarity"})
"""Annotators whose models are small ones that came along."""


@dataclass(frozen=True)
class Contender:
    """One annotator with settings, under the name by which it is reported."""

    name: str
    kind: type[Annotator]
    config: Any


def contenders(data: Path, folder: Path) -> list[Contender]:
    """All annotators in an order in which each finds what it reads; RAFT and CRAFT where there are weights."""
    found = [
        Contender(name, kind, kind.config_type())
        for name, kind in ANNOTATORS.items()
        if name != "raft_motion"
    ]
    raft = data / "weights" / "raft_small_torchvision_keys.pth"
    if raft.is_file():
        found.append(Contender("raft_motion", ANNOTATORS["raft_motion"], RaftMotionConfig(str(raft))))
    _write_random_craft(folder)
    craft = TextAreaConfig(engine="easyocr", read_text=False, craft=CraftConfig(str(folder)))
    return [*found, Contender("text_area (easyocr)", ANNOTATORS["text_area"], craft)]


def _write_random_craft(folder: Path) -> None:
    from easyocr.config import detection_models
    from easyocr.craft import CRAFT

    torch.manual_seed(0)
    torch.save(CRAFT(pretrained=False).state_dict(), folder / detection_models["craft"]["filename"])


def bare_decode(video: Path) -> None:
    """Every frame, no pixel touched."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def clips_of(name: str, result: ScanResult, grid: Sequence[GridFrame], max_clips: int) -> list[Clip]:
    """The first clips of a scanned video, with its rows of the scan's tables."""
    signals = result.signals
    found = spans(signals, merge_cuts(signals, CutConfig()), ClipConfig())
    whole = [span for span in found if span.reason is None][:max_clips]
    rows = {"videos": video_columns(result), "flow": flow_row(name, result.flow)}
    return [
        Clip(
            clip_id=f"{name} {span.start_pts}",
            video_id=name,
            start_pts=span.start_pts,
            end_pts=span.end_pts,
            seconds_per_tick=float(signals.time_base),
            fps=result.num_frames / result.duration_s,
            grid=tuple(f for f in grid if span.start_pts <= f.pts < span.end_pts),
            rows=rows,
        )
        for span in whole
    ]


def scored(contender: Contender, clips: Sequence[Clip], repeats: int) -> tuple[list[Outcome], float]:
    """Outcomes, and the least CPU seconds of the repeats."""
    annotator = contender.kind(contender.config)
    annotator.load()
    annotator.annotate(clips[:1])
    return least_cpu(lambda: annotator.annotate(_fresh(clips)), repeats)


def _fresh(clips: Sequence[Clip]) -> list[Clip]:
    """The same clips with none of their pictures decoded yet."""
    return [replace(c, grid=tuple(GridFrame(f.pts, f.jpeg) for f in c.grid)) for c in clips]


def least_cpu(call: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """What a call gives, and its least CPU seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        answer = call()
        times.append(time.process_time() - start)
    return answer, min(times)


def measure(videos: Sequence[Path], data: Path, repeats: int, max_clips: int) -> dict[str, Any]:
    """CPU seconds a minute of video by step, and what they were measured on."""
    clips: list[Clip] = []
    cpu_s = {"bare_decode": 0.0, "scan": 0.0}
    length_s = 0.0
    for video in videos:
        result, grid, spent_s = _scan(video, repeats)
        cpu_s["scan"] += spent_s
        cpu_s["bare_decode"] += least_cpu(lambda video=video: bare_decode(video), repeats)[1]
        length_s += result.duration_s
        clips += clips_of(video.name, result, grid, max_clips)
    clips_s = sum(clip.duration_s for clip in clips)
    rows = [_row(name, spent_s, length_s) for name, spent_s in cpu_s.items()]
    with tempfile.TemporaryDirectory() as folder:
        for contender in contenders(data, Path(folder)):
            outcomes, spent_s = scored(contender, clips, repeats)
            rows.append(_row(contender.name, spent_s, clips_s, outcomes))
            if contender.name in ANNOTATORS:
                clips = [_with(c, contender.name, o) for c, o in zip(clips, outcomes, strict=True)]
    return {"steps": rows, "setup": _setup(videos, length_s, clips, clips_s, repeats)}


def _scan(video: Path, repeats: int) -> tuple[ScanResult, list[GridFrame], float]:
    grid: list[GridFrame] = []

    def scan() -> ScanResult:
        grid.clear()
        return scan_video(video, spool=lambda frame: grid.append(GridFrame(frame.pts, frame.jpeg)))

    result, spent_s = least_cpu(scan, repeats)
    return result, grid, spent_s


def _with(clip: Clip, table: str, outcome: Outcome) -> Clip:
    row = dict(outcome.columns) if isinstance(outcome, Done) else {}
    return replace(clip, rows={**clip.rows, table: row})


def _row(name: str, cpu_s: float, length_s: float, outcomes: Sequence[Outcome] = ()) -> dict[str, Any]:
    states = [type(outcome).__name__.lower() for outcome in outcomes]
    return {
        "step": name,
        "cpu_s_per_minute": round(60 * cpu_s / length_s, 3),
        "model": "embedded" if name in EMBEDDED else "random weights" if "easyocr" in name else None,
        "clips": {state: states.count(state) for state in sorted(set(states))},
    }


def _setup(
    videos: Sequence[Path], length_s: float, clips: Sequence[Clip], clips_s: float, repeats: int
) -> dict:
    return {
        "models": "the embedded small ones; RAFT small; CRAFT with random weights; published models cost more",
        "videos": [video.name for video in videos],
        "video_s": round(length_s, 2),
        "clips": len(clips),
        "clip_s": round(clips_s, 2),
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--max-clips", type=int, default=1, help="clips of each video that annotators score")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    data = Path(os.environ.get("CUTROOM_TEST_DATA", DEFAULT_DATA))
    videos = given.videos or [data / "videos" / name for name in VIDEOS]
    if missing := [str(video) for video in videos if not video.is_file()]:
        sys.exit(
            f"no video at {', '.join(missing)}; name videos, or set CUTROOM_TEST_DATA to the test footage"
        )
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    found = measure(videos, data, given.repeats, given.max_clips)
    if given.json:
        print(json.dumps(found))
        return
    print("CPU seconds per minute of video")
    for row in found["steps"]:
        print(f"{row['step']:22}{row['cpu_s_per_minute']:10.2f}  {row['model'] or ''}")
    print(json.dumps(found["setup"], indent=2))


if __name__ == "__main__":
    main()
