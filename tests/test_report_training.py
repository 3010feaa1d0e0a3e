"""What the report tells of training runs, from their own records."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_page import build_page, ledger, section
from tiny_run import train_two_stages
from warehouse_builder import build_warehouse

from screen.report.training import read_runs
from tasks.sampling import SHEET
from warehouse.errors import CutroomError
from warehouse.ledger import Ledger
from warehouse.run_folder import PROMPTS

__all__ = ["ledger"]


def _run(folder: Path, events: list[dict] | None, done: bool = False) -> Path:
    folder.mkdir(parents=True)
    recipe = {
        "stage": "high_quality",
        "num_samples": 100,
        "batch_size": 8,
        "single_frames": False,
        "lr": 3e-4,
    }
    recipe |= {"p_mean": 0.0, "p_std": 1.0, "text_dropout": 0.15}
    run = {"recipe": recipe, "dataset": "d", "init_from": "w", "digest": "e"}
    (folder / "run.json").write_text(json.dumps(run))
    if events is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    if done:
        (folder / "done.json").write_text("{}")
    return folder


def _step(samples: int, loss: float) -> dict:
    return {
        "event": "step",
        "step": samples // 8,
        "samples": samples,
        "loss": loss,
        "step_s": 0.25,
        "data_wait_share": 0.5,
    }


def _held_out(samples: int, *ratios: float) -> dict:
    buckets = [
        {"low": 0.1 * 2**i, "high": 0.2 * 2**i, "loss": r, "zero_loss": 1.0, "ratio": r}
        for i, r in enumerate(ratios)
    ]
    return {"event": "held_out", "step": samples // 8, "samples": samples, "buckets": buckets}


def test_a_run_is_read_to_its_last_whole_event(tmp_path: Path) -> None:
    events = [
        {"event": "start", "step": 0},
        _step(8, 1.0),
        _held_out(8, 0.9, 0.8),
        _step(96, 0.5),
        _held_out(96, 0.4, 1.3),
    ]
    folder = _run(tmp_path / "run", events)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "sam')
    (view,) = read_runs([folder])
    assert (view.stage, view.is_done, view.samples, view.total_samples) == ("high quality", False, 96, 96)
    assert [(lv.name, lv.ratio, lv.width) for lv in view.levels] == [
        ("0.1 to 0.2", 0.4, 0.4),
        ("0.2 to 0.4", 1.3, 1.0),
    ]
    facts = dict(view.facts)
    assert (facts["time a step"], facts["waiting for data"]) == ("0.250 s", "50.0%")
    assert facts["began from"] == "an earlier stage's weights"
    assert "from 1 to 0.5 over 96 samples" in view.loss


# Raised by Lightning over its own use of torch's trees.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_real_runs_are_told_as_they_ended(tmp_path: Path) -> None:
    runs = train_two_stages(build_warehouse(tmp_path / "warehouse", packed=True))
    for view, folder in zip(read_runs(runs), runs, strict=True):
        done = json.loads((folder / "done.json").read_text())
        assert (view.stage, view.is_done, view.samples) == (done["stage"], True, done["samples"])
        assert [lv.ratio for lv in view.levels] == [b["ratio"] for b in done["held_out"]]
        assert view.loss is not None
    first, second = read_runs(runs)
    assert dict(first.facts)["began from"] == "random weights"
    assert dict(second.facts)["began from"] == "an earlier stage's weights"
    assert first.held_out.count("<path") == len(first.levels)


def test_what_a_run_lacks_is_said(tmp_path: Path, ledger: Ledger) -> None:
    fresh, blind = _run(tmp_path / "fresh", None), _run(tmp_path / "blind", [_step(8, 1.0)], done=True)
    said = section(build_page(ledger, tmp_path, (fresh, blind)), "training")
    assert said.count("not finished") == 1
    assert "Nothing has been logged yet" in said
    assert "Not measured: no clip is held out" in said
    assert said.count("Nothing has been sampled from this stage") == 2
    with pytest.raises(CutroomError, match=r"holds no training run: there is no run\.json"):
        read_runs([tmp_path])


def test_a_damaged_record_is_named_and_not_passed_over(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run", [_step(8, 1.0)])
    whole = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text("{broken\n" + whole)
    with pytest.raises(CutroomError, match=r"line 1 of .*metrics\.jsonl is no event"):
        read_runs([folder])


def test_samples_stand_with_the_prompts_that_asked_for_them(tmp_path: Path, ledger: Ledger) -> None:
    samples = _run(tmp_path / "run", [_step(8, 1.0)], done=True) / "samples"
    samples.mkdir()
    for i in range(10):
        (samples / f"{i:03d}.mp4").write_bytes(b"video %d" % i)
    Image.fromarray(np.full((64, 512, 3), 90, np.uint8)).save(samples / SHEET)
    (samples / PROMPTS).write_text(json.dumps([f"a <red> star {i}" for i in range(10)]))
    page = build_page(ledger, tmp_path, (tmp_path / "run",))
    videos = page.all("video")
    assert [base64.b64decode(v["src"].split(",")[1]) for v in videos] == [b"video %d" % i for i in range(8)]
    assert [v["aria-label"] for v in videos] == [f"sampled video: a <red> star {i}" for i in range(8)]
    assert "Shown: 8 of 10" in page.words and "a <red> star 7" in page.words
    assert page.all("img")[-1]["alt"] == "Contact sheet of sampled videos"
    (samples / PROMPTS).write_text(json.dumps(["one"]))
    with pytest.raises(CutroomError, match=r"10 videos, but prompts\.json has 1 prompts"):
        read_runs([tmp_path / "run"])
