"""The flow `cutroom-demo`: everything from footage to sampled videos and a report, at the smallest size that works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from prefect import flow
from pydantic import Field

from curation.reel.oracle import read_shape_and_colour
from curation.reel.sample_reel import BACKGROUNDS, COLOURS, SHAPES, make_reel
from flows.curate import curate
from flows.plans import current_settings
from flows.report import write_report
from flows.sample import captions
from flows.settings import Section, load_settings, nest
from flows.train import STAGES, train_chain
from tasks.progress import Progress, note
from tasks.sampling import Sampled, sample_run
from tasks.tracking import step
from training.sample_settings import Sampling
from warehouse.run_folder import SAMPLES

NUM_SAMPLES = 64
REEL_SETTINGS: dict[str, Any] = {
    "clips.min_s": 1.0,
    "shard.videos": 6,
    "selection.name": "demo",
    "selection.trust_embedded": True,
    "selection.filters": [
        {"score": "sharpness", "drop": 0.1},
        {"score": "text_area", "limit": 0.07},
        {"score": "motion", "drop": 0.1},
        {"score": "aesthetics", "drop": 0.1},
        {"score": "similarity", "drop": 0.1},
    ],
}
"""For the sample reel, which the embedded models know, so that their scores may filter it."""


class DemoParams(Section):
    """What to work on, and where to put it."""

    videos: str | None = None
    """Folder of videos; without one a sample reel is generated."""
    output: str = "cutroom-demo"
    """Folder for the reel, the warehouse and the report."""
    profile: Literal["embedded", "published"] | None = None
    """Models and filters; by default as cutroom.toml or the environment says."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Any further settings, nested by section."""


@dataclass(frozen=True)
class Demo:
    """What the demo made."""

    report: Path
    warehouse: str
    runs: tuple[Path, ...]
    samples: Path
    right_share: float | None
    """Share of samples whose shape and colour an oracle reads as asked for; None on footage other than the reel."""


@flow(name="cutroom-demo", flow_run_name="demo in {params.output}", persist_result=False)
def demo(params: DemoParams = DemoParams()) -> Demo:  # noqa: B008 (frozen)
    """Footage to clips, clips to a dataset, three stages of training, samples, and a report."""
    out = Path(params.output)
    footage = Path(params.videos) if params.videos else generate_reel(out / "reel")
    flags = _flags(params, footage, out)
    curate(load_settings(flags))
    runs = train_chain(STAGES, flags)
    settings, store, plan = current_settings(flags)
    prompts = captions(store, plan, NUM_SAMPLES) if params.videos else reel_prompts(NUM_SAMPLES)
    samples = runs[-1] / SAMPLES
    sampled = sample_run(runs[-1], prompts, settings.encode, samples, seed=0, sampling=Sampling(num_steps=16))
    right = None if params.videos else judge(sampled)
    report = write_report(settings.warehouse, out / "report.html", runs, "Cutroom demo")
    return Demo(report, store.uri, tuple(runs), samples, right)


def _flags(params: DemoParams, footage: Path, out: Path) -> dict[str, Any]:
    """Settings of the demo; those of the reel give way to what was asked for."""
    own = {"footage": [str(footage)], "warehouse": str(out / "warehouse")}
    given: Mapping[str, Any] = params.settings | ({"profile": params.profile} if params.profile else {})
    return nest({} if params.videos else REEL_SETTINGS) | given | own


@step(name="reel", run_name="generate {folder}")
def generate_reel(folder: Path) -> Path:
    """Renders the sample reel, unless it is there."""
    progress = Progress("reel")
    progress(0, 1)
    if not (folder / "truth.json").exists():
        make_reel(folder)
    progress.finish()
    return folder


def reel_prompts(count: int) -> list[str]:
    """Captions of single frames that name every shape in every colour, in turns."""
    pairs = list(product(SHAPES, COLOURS))
    order = np.random.default_rng(0).permutation(len(pairs))
    chosen = [pairs[order[i % len(pairs)]] for i in range(count)]
    return [
        f"a {colour} {shape} on a {BACKGROUNDS[i % len(BACKGROUNDS)]} background"
        for i, (shape, colour) in enumerate(chosen)
    ]


def judge(sampled: Sampled) -> float:
    """Share of samples of which the middle frame shows the shape and the colour that its prompt names."""
    middle = sampled.frames_BTHWC[:, sampled.frames_BTHWC.shape[1] // 2]
    right = [_shows(prompt, frame) for prompt, frame in zip(sampled.prompts, middle, strict=True)]
    share = sum(right) / len(right)
    note(f"shape and colour of {sum(right)} of {len(right)} samples are as asked for")
    return share


def _shows(prompt: str, frame: np.ndarray) -> bool:
    shape, colour = read_shape_and_colour(frame)
    return shape is not None and colour is not None and f"a {colour} {shape} " in prompt
