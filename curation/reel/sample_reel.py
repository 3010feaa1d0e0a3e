"""A reel of generated films whose every cut, gap, caption and fault is known.

Films join shots by hard cuts, dissolves, fades through black and stretches of black. A fixed share of the shots is such
that curation should reject it: nothing moves, letters cover the frame, the picture is blurred, or it is over too soon.
The truth is written beside the films, and everything follows from the seed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from curation.reel.shots import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Shot,
    appeal,
    random_shot,
    random_shots,
    random_text,
    render,
)

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "FAULTS",
    "MOTIONS",
    "SHAPES",
    "FilmTruth",
    "Gradual",
    "Shot",
    "Span",
    "appeal",
    "make_film",
    "make_reel",
    "plan_film",
    "random_shots",
    "read_truth",
    "render",
]

# Share of shots with each fault; a shot has one at most.
FAULTS = {"static": 0.10, "covered": 0.08, "blurred": 0.09, "short": 0.06}
_SUBTITLED = 0.10  # share of faultless shots with one line of text
_JOINS = {"cut": 0.76, "dissolve": 0.10, "fade": 0.09, "black": 0.05}
_TRUTH = "truth.json"


@dataclass(frozen=True)
class Span:
    """Frames [start, end) that show one shot and nothing else, or black where `shot` is None."""

    start: int
    end: int
    shot: Shot | None
    fault: str | None = None


@dataclass(frozen=True)
class Gradual:
    """Frames [start, end) of a transition: `dissolve` mixes two shots, `fade` goes through black."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class FilmTruth:
    """What a film shows. A cut is the first frame that is wholly of the new scene; spans and graduals tile the film."""

    file: str
    fps: int
    side_px: int
    num_frames: int
    spans: tuple[Span, ...]
    gradual: tuple[Gradual, ...]

    @property
    def cuts(self) -> tuple[int, ...]:
        """Hard cuts: the starts of spans that follow another span directly."""
        ends = {span.end for span in self.spans}
        return tuple(span.start for span in self.spans if span.start in ends)


def make_reel(
    folder: Path,
    *,
    num_films: int = 24,
    shots_per_film: int = 14,
    seed: int = 0,
    side_px: int = 256,
    fps: int = 24,
    num_workers: int | None = None,
) -> list[FilmTruth]:
    """Write `num_films` H.264 files and `truth.json` into `folder`, on `num_workers` processes (default: all cores)."""
    folder.mkdir(parents=True, exist_ok=True)
    plans = [
        plan_film(
            f"film_{number:03d}.mp4", shots_per_film, seed=seed * 100_003 + number, side_px=side_px, fps=fps
        )
        for number in range(num_films)
    ]
    workers = min(num_films, num_workers or len(os.sched_getaffinity(0)))
    if workers <= 1:
        for plan in plans:
            make_film(plan, folder)
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(make_film, plans, [folder] * len(plans)))
    text = json.dumps([{**asdict(plan), "cuts": plan.cuts} for plan in plans], indent=1)
    (folder / _TRUTH).write_text(text, encoding="utf-8")
    return plans


def read_truth(folder: Path) -> list[FilmTruth]:
    """The truth that `make_reel` wrote into `folder`."""
    films = json.loads((folder / _TRUTH).read_text(encoding="utf-8"))
    for film in films:
        del film["cuts"]  # follow from the spans
        film["spans"] = tuple(
            Span(**{**span, "shot": span["shot"] and Shot(**span["shot"])}) for span in film["spans"]
        )
        film["gradual"] = tuple(Gradual(**gradual) for gradual in film["gradual"])
    return [FilmTruth(**film) for film in films]


def plan_film(file: str, num_shots: int, *, seed: int, side_px: int = 256, fps: int = 24) -> FilmTruth:
    """Draw the shots of a film and how they are joined; nothing is rendered yet."""
    rng = np.random.default_rng(seed)
    spans: list[Span] = []
    gradual: list[Gradual] = []
    at = 0
    for number, (shot, fault) in enumerate(_cast(num_shots, rng)):
        if number > 0:
            join = str(rng.choice(list(_JOINS), p=list(_JOINS.values())))
            if join == "black":
                spans.append(Span(at, at + int(rng.integers(fps // 2, 2 * fps)), None))
                at = spans[-1].end
            elif join != "cut":
                gradual.append(Gradual(at, at + int(rng.integers(10, 25)), join))
                at = gradual[-1].end
        spans.append(Span(at, at + round(shot.duration_s * fps), shot, fault))
        at = spans[-1].end
    return FilmTruth(file, fps, side_px, at, tuple(spans), tuple(gradual))


def make_film(plan: FilmTruth, folder: Path) -> None:
    """Render `plan` and encode it as `folder`/`plan.file`; the same plan gives the same frames."""
    import av
    import cv2

    cv2.setNumThreads(1)  # films are the unit of parallel work
    partial = folder / f".{plan.file}.partial"
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=plan.fps, options={"preset": "veryfast", "crf": "20"})
        stream.width = stream.height = plan.side_px
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in film_frames(plan):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    partial.rename(folder / plan.file)


def film_frames(plan: FilmTruth) -> Iterator[np.ndarray]:
    """Every frame of the film in order: uint8 RGB, (side_px, side_px, 3)."""
    arriving = {gradual.end: gradual for gradual in plan.gradual}
    leaving = {gradual.start: gradual for gradual in plan.gradual}
    tail: np.ndarray | None = None
    for span in plan.spans:
        before, after = arriving.get(span.start), leaving.get(span.end)
        lead_in, lead_out = _length(before), _length(after)
        frames = _span_frames(span, plan.side_px, lead_in, lead_out)
        if before is not None and tail is not None:
            yield from _transition(before.kind, tail, frames[:lead_in])
        yield from frames[lead_in : len(frames) - lead_out]
        tail = frames[len(frames) - lead_out :]


def _length(gradual: Gradual | None) -> int:
    return 0 if gradual is None else gradual.end - gradual.start


def _span_frames(span: Span, side_px: int, lead_in: int, lead_out: int) -> np.ndarray:
    """The span with the frames that it lends to the transitions around it."""
    num_frames = lead_in + span.end - span.start + lead_out
    if span.shot is None:
        return np.zeros((num_frames, side_px, side_px, 3), np.uint8)
    return render(span.shot, side_px, num_frames)


def _transition(kind: str, old: np.ndarray, new: np.ndarray) -> Iterator[np.ndarray]:
    """Mix `old` into `new`, two stretches of one length; a fade is black for its middle fifth."""
    steps = np.arange(1, len(old) + 1) / (len(old) + 1)
    for before, after, step in zip(old, new, steps, strict=True):
        if kind == "dissolve":
            mixed = (1 - step) * before + step * after
        else:
            mixed = max(0.0, 1 - 2.5 * step) * before + max(0.0, 2.5 * step - 1.5) * after
        yield (mixed + 0.5).astype(np.uint8)


def _cast(num_shots: int, rng: np.random.Generator) -> Iterator[tuple[Shot, str | None]]:
    """Shots with their fault; neighbours differ clearly in the grey and the tint of their background."""
    names = [*FAULTS, None]
    shares = [*FAULTS.values(), 1 - sum(FAULTS.values())]
    dark, tint = bool(rng.random() < 0.5), float(rng.uniform(0, 360))
    for _ in range(num_shots):
        fault = names[int(rng.choice(len(names), p=shares))]
        dark, tint = not dark, (tint + float(rng.uniform(110, 250))) % 360
        shot = random_shot(rng, levels=(28, 90) if dark else (150, 225))
        shot = replace(shot, tint_deg=tint, blur=0.0, text=None)
        if shot.motion == "still":
            shot = replace(
                shot, motion=str(rng.choice(["left", "right", "up", "down", "growing", "shrinking"]))
            )
        yield _spoil(shot, fault, rng), fault


def _spoil(shot: Shot, fault: str | None, rng: np.random.Generator) -> Shot:
    match fault:
        case "static":
            return replace(shot, motion="still")
        case "covered":
            return replace(shot, text=random_text(rng, covering=True))
        case "blurred":
            return replace(shot, blur=float(rng.uniform(0.025, 0.04)))
        case "short":
            return replace(shot, duration_s=float(rng.uniform(0.25, 0.6)))
        case _:
            subtitle = random_text(rng, covering=False) if rng.random() < _SUBTITLED else None
            return replace(shot, text=subtitle)
