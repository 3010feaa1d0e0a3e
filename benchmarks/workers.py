"""How much faster N scan workers are than one, beside how much faster N bare decoders are than one.

    python benchmarks/workers.py [VIDEO] [--workers 2] [--videos 8] [--seconds 6] [--repeats 3] [--json]

Both do the same number of videos. A bare decoder is a process that decodes one video after the other and drops the
frames; scan workers are those of the engine, with all that belongs to them: a fork for every video, rows through
files, one commit. What they take to start is not counted, for either. The speed-up of decoders is what the machine
gives; the share of it that the workers reach is the figure. Runs are interleaved, and of each kind the
fastest counts: what else the machine does can only slow it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scan import FPS, bare_decode, write_input

sys.path.pop(0)  # this folder holds a program named curation, as the package is

from curation.engine.local import run_shards
from curation.engine.pool import Pool
from curation.footage.media import MediaLimits
from curation.ingest import ASSIGN, GIVE, HashWork, ShardSize, assign, give
from curation.pipeline import PRELOAD
from curation.scan import ScanConfig
from curation.scan_work import ScanWork
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.store import Store


def decoders_s(videos: Sequence[Path], num: int) -> float:
    """Seconds that `num` processes take to decode the videos."""
    with multiprocessing.get_context("fork").Pool(num) as pool:
        pool.map(time.sleep, [0.1] * num, chunksize=1)
        started = time.perf_counter()
        pool.map(bare_decode, videos, chunksize=1)
        return time.perf_counter() - started


def workers_s(videos: Sequence[Path], num: int, folder: Path) -> float:
    """Seconds that `num` scan workers take to scan the videos into a new warehouse."""
    hashing, scanning = HashWork(MediaLimits()), ScanWork(ScanConfig(), MediaLimits())
    plan, store = Plan.of([GIVE, hashing.step, ASSIGN, scanning.step]), Store(folder)
    ledger = Ledger(store, plan)
    groups = give(ledger, [str(v) for v in videos], run_id="benchmark").groups
    with Pool(num, store.scratch(), PRELOAD) as pool:
        run_shards(hashing, ledger, groups, pool, run_id="benchmark")
        shards = assign(ledger, ShardSize(), run_id="benchmark")
        _warm(pool, store, plan, num)
        started = time.perf_counter()
        run_shards(scanning, ledger, shards, pool, run_id="benchmark")
        return time.perf_counter() - started


def _warm(pool: Pool, store: Store, plan: Plan, num: int) -> None:
    """Starts all workers: hashing, of a handful of files, has started one alone."""
    other = Ledger(Store(f"{store.root}.warm"), plan)
    folder = Path(f"{store.root}.warm.files")
    folder.mkdir()
    for n in range(17 * num):
        (folder / f"{n}.mp4").write_bytes(str(n).encode())
    groups = give(other, [str(folder)], run_id="benchmark").groups
    run_shards(HashWork(MediaLimits()), other, groups, pool, run_id="benchmark")


def measure(video: Path, num_videos: int, num: int, repeats: int) -> dict[str, float]:
    """Least seconds, speed-ups, and the share of the decoders' speed-up that the workers reach."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = [_copy(video, folder / f"{n}{video.suffix}") for n in range(num_videos)]
        for repeat in range(repeats):
            for n in (1, num):
                seconds.setdefault(f"decoders_{n}_s", []).append(decoders_s(videos, n))
                seconds.setdefault(f"workers_{n}_s", []).append(
                    workers_s(videos, n, folder / f"{repeat}-{n}")
                )
    found = {name: min(values) for name, values in seconds.items()}
    decoders = found["decoders_1_s"] / found[f"decoders_{num}_s"]
    workers = found["workers_1_s"] / found[f"workers_{num}_s"]
    speedups = {"decoders_speedup": decoders, "workers_speedup": workers, "share": workers / decoders}
    return {name: round(value, 3) for name, value in (found | speedups).items()}


def _copy(video: Path, path: Path) -> Path:
    """Another video by its bytes: a copy with a few bytes behind its end, which no decoder reads."""
    shutil.copyfile(video, path)
    with path.open("ab") as file:
        file.write(b"\0\0\0\x10free" + os.urandom(8))
    return path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        video = options.video or Path(name) / "input.mp4"
        if not options.video:
            write_input(video, round(options.seconds * FPS))
        found = measure(video, options.videos, options.workers, options.repeats)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:20} {value:8.3f}")


if __name__ == "__main__":
    main()
