"""What training runs left in their folders: losses, samples, and whether they are complete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from screen.report.charts import Series, line_chart, short
from screen.report.pictures import Picture, data_uri, thumbnail
from warehouse.errors import CutroomError
from warehouse.run_folder import DONE, METRICS, PROMPTS, RUN, SAMPLES

MAX_VIDEOS, MAX_VIDEO_BYTES = 8, 200_000
SHEET_PX = 1024


@dataclass(frozen=True)
class Level:
    """Held-out loss in one bucket of noise levels, as a share of what always predicting zero would lose."""

    name: str
    ratio: float
    width: float
    """The ratio as a share of a bar, at most 1."""


@dataclass(frozen=True)
class SampleView:
    """A sampled video inside the page, and what was asked for."""

    uri: str
    prompt: str | None


@dataclass(frozen=True)
class SamplesView:
    """What was sampled from a run's weights: videos (at most a few), pictures of all of them at once."""

    videos: tuple[SampleView, ...]
    num_videos: int
    sheets: tuple[Picture, ...]


@dataclass(frozen=True)
class RunView:
    """One training run."""

    stage: str
    folder: str
    is_done: bool
    samples: int
    """Clips (or frames) trained on so far, repeats counted."""
    total_samples: int
    facts: tuple[tuple[str, str], ...]
    loss: Markup | None
    """Null while nothing was logged."""
    held_out: Markup | None
    """Null unless held-out loss was measured at least twice."""
    levels: tuple[Level, ...]
    """Of the last measurement, in the order of the lines of `held_out`; empty if there was none."""
    samples_view: SamplesView | None
    """Null if nothing was sampled."""


def read_runs(folders: Sequence[Path]) -> list[RunView]:
    """Views of all runs.

    Raises:
        CutroomError: a folder holds no run, or a file in it was damaged.
    """
    return [_read_run(folder) for folder in folders]


def _read_run(folder: Path) -> RunView:
    if not (folder / RUN).exists():
        raise CutroomError(
            f"{folder} holds no training run: there is no {RUN} in it; give the folder of a stage's run"
        )
    described = json.loads((folder / RUN).read_text())
    recipe, events = described["recipe"], _events(folder / METRICS)
    steps = [e for e in events if e["event"] == "step"]
    held_out = [e for e in events if e["event"] == "held_out" and e["buckets"]]
    is_done = (folder / DONE).exists()
    whole = recipe["num_samples"] // recipe["batch_size"] * recipe["batch_size"]
    return RunView(
        stage=recipe["stage"].replace("_", " "),
        folder=folder.name,
        is_done=is_done,
        samples=whole if is_done else steps[-1]["samples"] if steps else 0,
        total_samples=whole,
        facts=tuple(_facts(described, steps)),
        loss=_loss_chart(recipe["stage"], steps) if steps else None,
        held_out=_held_out_chart(recipe["stage"], held_out) if len(held_out) > 1 else None,
        levels=tuple(_levels(held_out[-1]["buckets"])) if held_out else (),
        samples_view=_read_samples(folder / SAMPLES),
    )


def _read_samples(folder: Path) -> SamplesView | None:
    """Videos (mp4) and contact sheets (png) of a folder by name, with the prompts in their order."""
    videos, sheets = sorted(folder.glob("*.mp4")), sorted(folder.glob("*.png"))
    if not videos and not sheets:
        return None
    prompts = (
        json.loads((folder / PROMPTS).read_text(encoding="utf-8")) if (folder / PROMPTS).exists() else None
    )
    if prompts is not None and len(prompts) != len(videos):
        raise CutroomError(
            f"{folder} holds {len(videos)} videos, but {PROMPTS} has {len(prompts)} prompts, expected one for each; "
            "sample again"
        )
    small = [(v, p) for v, p in zip(videos, prompts or [None] * len(videos), strict=True) if _is_small(v)]
    views = [SampleView(data_uri(v.read_bytes(), "video/mp4"), p) for v, p in small[:MAX_VIDEOS]]
    return SamplesView(tuple(views), len(videos), tuple(thumbnail(s.read_bytes(), SHEET_PX) for s in sheets))


def _is_small(path: Path) -> bool:
    return path.stat().st_size <= MAX_VIDEO_BYTES


def _events(path: Path) -> list[dict[str, Any]]:
    """Events of a run; a last line without its end belongs to a run that is still writing it."""
    if not path.exists():
        return []
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise CutroomError(
                f"line {number} of {path} is no event ({error}); run that stage again"
            ) from error
    return events


def _facts(described: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    recipe = described["recipe"]
    facts = [
        ("trained on", "single frames" if recipe["single_frames"] else "clips"),
        ("batch", str(recipe["batch_size"])),
        ("learning rate", short(recipe["lr"])),
        ("noise", _noise(recipe)),
        ("text dropout", f"{recipe['text_dropout']:.0%}"),
        ("began from", "an earlier stage's weights" if described["init_from"] else "random weights"),
    ]
    if steps:
        times = sorted(s["step_s"] for s in steps)
        waits = sorted(s["data_wait_share"] for s in steps)
        facts.append(("time a step", f"{times[len(times) // 2]:.3f} s"))
        facts.append(("waiting for data", f"{waits[len(waits) // 2]:.1%}"))
    return facts


def _noise(recipe: Mapping[str, Any]) -> str:
    """What the network says, and of how much noise; runs before there was a choice do not name it."""
    objective = recipe.get("objective", {"name": "edm"})
    if objective["name"] not in ("edm", "flow"):
        return f"{objective['name']}, 1000 steps of {objective['betas'].replace('_', ' ')} betas"
    if objective.get("times") == "uniform":
        return f"flow, uniform times shifted by exp({recipe['p_mean']:g})"
    return f"{objective['name']}, ln σ ~ N({recipe['p_mean']:g}, {recipe['p_std']:g}²)"


def _loss_chart(stage: str, steps: Sequence[Mapping[str, Any]]) -> Markup:
    series = Series("loss", [s["samples"] for s in steps], [s["loss"] for s in steps])
    said = f"from {short(series.y[0])} to {short(series.y[-1])} over {short(series.x[-1])} samples"
    return line_chart(f"Training loss of {stage}", said, [series], x_label="samples")


def _held_out_chart(stage: str, measured: Sequence[Mapping[str, Any]]) -> Markup:
    """One line per bucket of noise levels, from low noise to high."""
    samples = [m["samples"] for m in measured]
    buckets = [_bucket_name(b) for b in measured[0]["buckets"]]
    lines = [Series(n, samples, [m["buckets"][i]["ratio"] for m in measured]) for i, n in enumerate(buckets)]
    said = ", ".join(f"σ {line.name}: {short(line.y[-1])}" for line in lines)
    return line_chart(
        f"Held-out loss of {stage} over the zero predictor's", said, lines, x_label="samples", include=(0, 1)
    )


def _levels(buckets: Sequence[Mapping[str, Any]]) -> list[Level]:
    return [Level(_bucket_name(b), b["ratio"], min(1.0, b["ratio"])) for b in buckets]


def _bucket_name(bucket: Mapping[str, Any]) -> str:
    return f"{bucket['low']:g} to {bucket['high']:g}"
