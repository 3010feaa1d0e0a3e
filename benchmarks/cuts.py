"""How well cuts are found: precision, recall and F1 by type, with bootstrap intervals over videos.

    python benchmarks/cuts.py [--seed 0] [--reels 4] [--workers 2] [--no-transnet] [--json]

generated  reels of real shots (videos of the test footage that hold no gradual transition, cut where its truth says)
           joined by hard cuts, dissolves of 0.3 to 2 s and fades through black, with flashes, whip pans and still
           shots that are no cuts; H.264. The sources are dealt out to folds, and each reel draws from one fold
real       the annotated videos of the test footage, derived ones included

content, adaptive, histogram, hash, threshold: PySceneDetect's detectors at their defaults, each alone. cascade: our
content detectors at three frame rates, calibrated: the same with thresholds of each video's own. cutroom: the cuts
that the warehouse gets. transnetv2: the network alone, as its package decides. with_transnet: the network as a level
of the cascade. Without --no-transnet a frame costs some 40 ms of a core.

left_out: cutroom with thresholds chosen on the generated reels of all other folds, so that no figure is of footage
that chose a setting; on real videos, thresholds chosen on generated reels alone. with_transnet_left_out: the network's
thresholds chosen on real videos but the one that is scored, and for generated reels on the reels of other folds.
crossed: those for reels chosen on real videos, and the other way round.

Needs the test footage (CUTROOM_TEST_DATA). A found cut may be 1 frame off a hard cut, 5 off a gradual transition.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder holds a program named curation, as the package is

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from curation.cuts.boundaries import Cut, CutConfig, cascade_cuts, merge_cuts
from curation.cuts.detector_rules import Calibration
from curation.cuts.detectors import Signals
from curation.cuts.scorer import TYPES, Boundary, boundaries_of_scores, count, intervals, score
from curation.cuts.transnet import ONE, TransNetConfig
from curation.reel.cut_reel import make_reel, write_reel
from curation.scan import ScanConfig, scan_video

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZE = (640, 360)
NUM_FOLDS = 5
SHOTS_PER_REEL = 10
SHOT_FRAMES = (70, 150)
MOST_FRAMES = 500
"""Of one source video."""
NEAR_DUPLICATES = ("bbb_720p_30s_vp8.webm", "bbb_square_vp9.webm", "goldeneye_rotated90.mp4")
"""Left out of reels: a cut between two copies of one picture is none."""
CHOICES = {
    "cut_change": (0.3, 0.4, 0.5),
    "cut_ratio": (2.0, 2.5, 3.0),
    "blend_change": (0.35, 0.45, 0.55),
    "blend_residual": (0.25, 0.3, 0.35),
}
CHANCES = (0.7, 0.75, 0.8, 0.9, 0.65, 0.6, 0.5)
"""Thresholds of TransNet V2 as a level; an earlier one wins a draw."""
ALONE = (0.5, 0.3, 0.4, 0.6, 0.7)
"""Thresholds of TransNet V2 alone, likewise."""


@dataclass(frozen=True)
class Case:
    """One video with its truth, and what was found in it."""

    name: str
    fold: int | None
    """Of generated footage."""
    truth: tuple[Boundary, ...]
    found: Mapping[str, tuple[Boundary, ...]]
    signals: Signals


def read_truth(data: Path) -> dict[str, list[Boundary]]:
    """Boundaries of every annotated video, by its path below `data`."""
    given = json.loads((data / "cuts.json").read_text())
    truth = {}
    for name, row in given["videos"].items():
        gradual = [Boundary(span["start"], span["end"]) for span in row["gradual"]]
        truth[f"videos/{name}"] = sorted([Boundary(f, f) for f in row["hard"]] + gradual)
    for row in given["derived"]:
        spans = [(t.get("start", t.get("frame")), t.get("end", t.get("frame"))) for t in row["transitions"]]
        truth[row["file"]] = [Boundary(start, end) for start, end in spans]
    return truth


def source_shots(path: Path, truth: Sequence[Boundary]) -> Iterator[NDArray[np.uint8]]:
    """Shots [T, H, W, 3] RGB of a video, centre-cropped to `SIZE`; those that are short or nearly blank are left out."""
    with av.open(str(path)) as container:
        frames = islice(container.decode(video=0), MOST_FRAMES)
        pictures = [_cropped(frame.to_ndarray(format="rgb24")) for frame in frames]
    edges = [0, *(cut.end for cut in truth if cut.end < len(pictures)), len(pictures)]
    for first, stop in pairwise(edges):
        inner = pictures[first + 2 : stop - 2]
        if len(inner) >= SHOT_FRAMES[0] and min(picture[::8, ::8].std() for picture in inner) > 12:
            yield np.stack(inner)


def _cropped(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = max(SIZE[0] / width, SIZE[1] / height)
    columns, rows = round(SIZE[0] / scale), round(SIZE[1] / scale)
    left, top = (width - columns) // 2, (height - rows) // 2
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture[top : top + rows, left : left + columns], SIZE, interpolation=method)


def write_reels(
    folder: Path, data: Path, seed: int, num_reels: int
) -> Iterator[tuple[Path, int, tuple[Boundary, ...]]]:
    """Encode the reels of every fold: file, fold, truth."""
    truth = {
        name: cuts
        for name, cuts in read_truth(data).items()
        if name.startswith("videos/")
        and all(cut.is_hard for cut in cuts)
        and Path(name).name not in NEAR_DUPLICATES
    }
    names = np.random.default_rng(seed).permutation(sorted(truth)).tolist()
    for fold in range(NUM_FOLDS):
        sources = [list(source_shots(data / name, truth[name])) for name in names[fold::NUM_FOLDS]]
        sources = [shots for shots in sources if shots]
        for index in range(num_reels):
            generator = np.random.default_rng([seed, fold, index])
            reel = make_reel(_drawn(sources, generator), generator)
            path = write_reel(folder / f"reel_{fold}_{index}.mp4", reel)
            yield path, fold, reel.cuts


def _drawn(
    sources: Sequence[Sequence[NDArray[np.uint8]]], generator: np.random.Generator
) -> list[NDArray[np.uint8]]:
    """Spans of shots; neighbours come from two sources."""
    shots, last = [], -1
    for _ in range(SHOTS_PER_REEL):
        last = int(generator.choice([i for i in range(len(sources)) if i != last]))
        shot = sources[last][generator.integers(len(sources[last]))]
        length = min(len(shot), int(generator.integers(SHOT_FRAMES[0], SHOT_FRAMES[1] + 1)))
        start = int(generator.integers(0, len(shot) - length + 1))
        shots.append(shot[start : start + length])
    return shots


def examine(path: Path, name: str, fold: int | None, truth: Sequence[Boundary], transnet: bool) -> Case:
    """Run everything over one video."""
    signals = scan_video(path, ScanConfig(transnet=transnet)).signals
    found = {"cascade": _boundaries(signals, cascade_cuts(signals, CutConfig()))}
    calibrated = CutConfig(calibration=Calibration())
    found["calibrated"] = _boundaries(signals, cascade_cuts(signals, calibrated))
    found["cutroom"] = _boundaries(signals, merge_cuts(signals, CutConfig(transnet=None)))
    found |= scenedetect_cuts(path)
    if transnet:
        found["transnetv2"] = transnet_cuts(signals, ALONE[0])
        found["with_transnet"] = _boundaries(signals, merge_cuts(signals))
    return Case(name, fold, tuple(truth), found, signals)


def _boundaries(signals: Signals, cuts: Sequence[Cut]) -> tuple[Boundary, ...]:
    """Cuts as the scorer takes them; a flash is none."""
    starts = (int(np.searchsorted(signals.pts, cut.start_pts)) for cut in cuts)
    return tuple(Boundary(s, cut.frame) for s, cut in zip(starts, cuts, strict=True) if cut.parts_scenes)


def scenedetect_cuts(path: Path) -> dict[str, tuple[Boundary, ...]]:
    """Cuts of PySceneDetect's detectors, fed in one decode with the pictures that its own manager would feed."""
    from scenedetect import FrameTimecode, detectors

    running = {
        "content": detectors.ContentDetector(),
        "adaptive": detectors.AdaptiveDetector(),
        "histogram": detectors.HistogramDetector(),
        "hash": detectors.HashDetector(),
        "threshold": detectors.ThresholdDetector(),
    }
    cuts: dict[str, set[int]] = {name: set() for name in running}
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 25)
        for index, frame in enumerate(container.decode(video=0)):
            shrink = max(1.0, max(frame.width, frame.height) / 256)
            size = round(frame.width / shrink), round(frame.height / shrink)
            small = cv2.resize(frame.to_ndarray(format="bgr24"), size, interpolation=cv2.INTER_LINEAR)
            time = FrameTimecode(index, rate)
            for name, detector in running.items():
                cuts[name].update(cut.frame_num for cut in detector.process_frame(time, small))
    for name, detector in running.items():
        cuts[name].update(cut.frame_num for cut in detector.post_process(time))
    return {name: tuple(Boundary(cut, cut) for cut in sorted(frames)) for name, frames in cuts.items()}


def transnet_cuts(signals: Signals, threshold: float) -> tuple[Boundary, ...]:
    """TransNet V2 as its package decides: runs of frames whose first chance is above the threshold."""
    return tuple(boundaries_of_scores(signals.measures[ONE].value > threshold))


def candidates() -> list[CutConfig]:
    """Every combination of `CHOICES`; those that differ from the defaults in less come first, and win a draw."""
    base = CutConfig(transnet=None)
    found = [
        replace(base, evidence=replace(base.evidence, **dict(zip(CHOICES, values, strict=True))))
        for values in product(*CHOICES.values())
    ]
    return sorted(found, key=lambda config: sum(_chosen(config)[n] != _chosen(base)[n] for n in CHOICES))


def left_out(
    generated: Sequence[Case], real: Sequence[Case]
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict]:
    """Counts [video, type, 3] of generated and real videos with thresholds that other footage chose, and the choices."""
    configs = candidates()
    counts_NVTC = np.stack([[_count(case, config) for case in generated] for config in configs])
    f1_NV = [
        [score(np.delete(counts_VTC, held, axis=0))["all"].f1 for held in _folds(generated)]
        for counts_VTC in counts_NVTC
    ]
    chosen = np.argmax(f1_NV, axis=0)
    here = np.concatenate([counts_NVTC[n, held] for n, held in zip(chosen, _folds(generated), strict=True)])
    overall = configs[int(np.argmax([score(counts_VTC)["all"].f1 for counts_VTC in counts_NVTC]))]
    there = np.stack([_count(case, overall) for case in real])
    names = {f"fold {fold}": _chosen(configs[n]) for fold, n in enumerate(chosen)}
    return here, there, names | {"real": _chosen(overall)}


def transnet_left_out(generated: Sequence[Case], real: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """For each group, counts [video, type, 3] by contender with thresholds that other footage chose, and the choices."""
    configs = [CutConfig(transnet=TransNetConfig(threshold=chance)) for chance in CHANCES]
    level = {
        group: np.stack([[_count(case, config) for case in cases] for config in configs])
        for group, cases in (("generated", generated), ("real", real))
    }
    alone = {
        group: np.stack(
            [[count(case.truth, transnet_cuts(case.signals, chance)) for case in cases] for chance in ALONE]
        )
        for group, cases in (("generated", generated), ("real", real))
    }
    held = {"generated": _folds(generated), "real": [np.array([i]) for i in range(len(real))]}
    other = {"generated": "real", "real": "generated"}
    found: dict[str, dict[str, Any]] = {}
    for group, parts in held.items():
        by_others, chosen = _held_out(level[group], parts)
        crossed = int(np.argmax(_f1(level[other[group]])))
        net_alone, net_chosen = _held_out(alone[group], parts)
        found[group] = {
            "with_transnet_left_out": by_others,
            "crossed": level[group][crossed],
            "transnetv2_left_out": net_alone,
            "chosen": {
                "with_transnet_left_out": sorted({CHANCES[n] for n in chosen}),
                "crossed": CHANCES[crossed],
                "transnetv2_left_out": sorted({ALONE[n] for n in net_chosen}),
            },
        }
    return found


def _held_out(
    counts_NVTC: NDArray[np.int64], parts: Sequence[NDArray[np.intp]]
) -> tuple[NDArray[np.int64], list[int]]:
    """Counts [video, type, 3] in which every part has the setting that is best for all others, and those settings."""
    chosen = [int(np.argmax(_f1(np.delete(counts_NVTC, part, axis=1)))) for part in parts]
    taken = np.zeros_like(counts_NVTC[0])
    for setting, part in zip(chosen, parts, strict=True):
        taken[part] = counts_NVTC[setting, part]
    return taken, chosen


def _f1(counts_NVTC: NDArray[np.int64]) -> list[float]:
    """Of all types together, by setting."""
    return [score(counts_VTC)["all"].f1 for counts_VTC in counts_NVTC]


def _folds(generated: Sequence[Case]) -> list[NDArray[np.intp]]:
    folds = np.array([case.fold for case in generated])
    return [np.flatnonzero(folds == fold) for fold in np.unique(folds)]


def _chosen(config: CutConfig) -> dict[str, float]:
    return {name: getattr(config.evidence, name) for name in CHOICES}


def _count(case: Case, config: CutConfig) -> NDArray[np.int64]:
    return count(case.truth, _boundaries(case.signals, merge_cuts(case.signals, config)))


def scores_of(counts_VTC: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Scores by type, each with its interval."""
    spread = intervals(counts_VTC, seed)
    return {name: asdict(row) | {"interval": spread[name]} for name, row in score(counts_VTC).items()}


def run(data: Path, seed: int, num_reels: int, workers: int, transnet: bool) -> dict[str, Any]:
    """Scores of every contender on generated and on real footage."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
    ):
        jobs = [
            pool.submit(examine, path, path.stem, fold, truth, transnet)
            for path, fold, truth in write_reels(Path(folder), data, seed, num_reels)
        ]
        jobs += [
            pool.submit(examine, data / name, name, None, cuts, transnet)
            for name, cuts in read_truth(data).items()
        ]
        cases = [job.result() for job in jobs]
    groups = {
        "generated": [c for c in cases if c.fold is not None],
        "real": [c for c in cases if c.fold is None],
    }
    here, there, chosen = left_out(groups["generated"], groups["real"])
    report: dict[str, Any] = {"seed": seed, "transnetv2": transnet, "chosen": chosen}
    learned = transnet_left_out(groups["generated"], groups["real"]) if transnet else {}
    for (group, members), held_out in zip(groups.items(), (here, there), strict=True):
        tables = {name: [count(c.truth, c.found[name]) for c in members] for name in cases[0].found}
        rows = {name: scores_of(np.stack(table), seed) for name, table in tables.items()}
        extra = dict(learned.get(group, {}))
        report["chosen"] |= {f"{group} {name}": value for name, value in extra.pop("chosen", {}).items()}
        held = {name: scores_of(table, seed) for name, table in extra.items()}
        report[group] = rows | {"left_out": scores_of(held_out, seed)} | held
        report[f"{group}_videos"] = len(members)
    return report


def show(report: Mapping[str, Any]) -> None:
    """The report as tables."""
    for group in ("generated", "real"):
        print(f"{group}: {report[f'{group}_videos']} videos")
        print(f"{'':23}" + "".join(f"{kind:>9}  P     R     F1   (95%)        " for kind in (*TYPES, "all")))
        for name, rows in report[group].items():
            cells = (
                f"{'':9}{row['precision']:5.3f} {row['recall']:5.3f} {row['f1']:5.3f} "
                f"({row['interval']['f1'][0]:.2f}-{row['interval']['f1'][1]:.2f})    "
                for row in rows.values()
            )
            print(f"{name:23}" + "".join(cells))
    print("thresholds chosen:", json.dumps(report["chosen"]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of folds, reels and intervals")
    parser.add_argument("--reels", type=int, default=4, help="reels of each fold")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--no-transnet", action="store_true", help="leave TransNet V2 out: some 20 times faster"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    data = Path(os.environ.get("CUTROOM_TEST_DATA", DEFAULT_DATA))
    if not (data / "cuts.json").exists():
        sys.exit(f"no annotated footage at {data}: set CUTROOM_TEST_DATA")
    report = run(data, given.seed, given.reels, given.workers, not given.no_transnet)
    print(json.dumps(report)) if given.json else show(report)


if __name__ == "__main__":
    main()
