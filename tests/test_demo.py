"""The demo: its prompts and its judge, and the whole of it at a size that tests can wait for."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import served

from curation.reel.sample_reel import COLOURS, SHAPES, Shot, make_reel, render
from flows.demo import NUM_SAMPLES, judge, reel_prompts
from tasks.sampling import Sampled


def sampled(prompts: list[str], shots: list[Shot]) -> Sampled:
    """What a perfect sampler would have made of `shots`, whatever was asked for."""
    frames = np.stack([np.stack([render(shot, 64, 1)[0]] * 3) for shot in shots])
    return Sampled(Path(), tuple(prompts), frames)


def test_prompts_name_every_shape_in_every_colour_once() -> None:
    named = {(prompt.split()[2], prompt.split()[1]) for prompt in reel_prompts(NUM_SAMPLES)}
    assert named == set(product(SHAPES, COLOURS))
    assert len(reel_prompts(3)) == 3


def test_the_judge_agrees_with_what_is_shown() -> None:
    prompts = reel_prompts(24)
    shots = [Shot(p.split()[2], p.split()[1], "still", "plain", level=128, size=0.5) for p in prompts]
    assert judge(sampled(prompts, shots)) >= 0.95
    other_colour = {colour: next(c for c in COLOURS if c != colour) for colour in COLOURS}
    assert judge(sampled(prompts, [replace(s, colour=other_colour[s.colour]) for s in shots])) == 0


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_demo_on_a_folder_of_videos_ends_with_a_report(tmp_path: Path) -> None:
    make_reel(tmp_path / "films", num_films=4, shots_per_film=5, seed=8, side_px=96, num_workers=2)
    sizes = {
        "num_samples": 16,
        "batch_size": 4,
        "warmup_samples": 4,
        "log_every_steps": 1,
        "evaluate_clips": 4,
    }
    recipes = dict.fromkeys(("images", "video", "high_quality"), sizes)
    env = served.clean_environment(
        tmp_path / "home",
        CUTROOM_RECIPES=json.dumps(recipes),
        CUTROOM_WORKERS="2",
        CUTROOM_CLIPS__MIN_S="1.0",
    )
    demo = ("demo", "--videos", tmp_path / "films", "--output", tmp_path / "out", "--json")
    done = served.cutroom(*demo, env=env, timeout_s=1500)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert list(made) == ["report", "warehouse", "runs", "samples", "right_share"]
    assert made["report"] == str(tmp_path / "out" / "report.html")
    assert "<video" in Path(made["report"]).read_text()
    assert len(made["runs"]) == 3
    assert len(list(Path(made["samples"]).glob("*.mp4"))) == NUM_SAMPLES
    assert not served.processes_with(str(tmp_path))
    assert served.cutroom("audit", made["warehouse"], env=env).returncode == 0

    weights = {p: p.stat().st_mtime_ns for p in Path(made["warehouse"]).rglob("*.safetensors")}
    again = served.cutroom(*demo, env=env)
    assert json.loads(again.stdout) == made
    assert {p: p.stat().st_mtime_ns for p in Path(made["warehouse"]).rglob("*.safetensors")} == weights
