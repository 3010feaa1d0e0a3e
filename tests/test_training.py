"""Stages from beginning to end on a tiny dataset: what they leave, hand over, and take up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import packed
import pytest
import tiny_stage
import torch
from safetensors.torch import load_file

from models.conditioning import Conditioning
from models.edm import SVD
from models.video_unet import VideoUNet
from training.__main__ import main
from training.checkpoints import load_weights, newest_checkpoint, read_origin
from training.data import held_out_batches
from training.evaluate import SIGMA_EDGES, held_out_losses
from training.stage import run_stage
from training.stop import StopRequest
from warehouse.errors import SettingsError, WeightsError
from warehouse.reader import PackedDataset

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning", "ignore:.*LeafSpec.*")


def train(job, out: Path) -> tuple[dict, list[dict]]:
    events: list[dict] = []
    report = run_stage(job, out, events.append, StopRequest())
    return report, events


def test_a_stage_learns_reports_and_is_not_repeated(tmp_path):
    job = tiny_stage.job(tmp_path, num_samples=400)
    report, events = train(job, tmp_path / "out")
    assert [event["event"] for event in events][:2] == ["start", "step"]
    assert [e["samples"] for e in events if e["event"] == "step"] == list(range(32, 401, 32))
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert losses[-1] < losses[0]
    assert all(0 <= event["data_wait_share"] < 1 for event in events if event["event"] == "step")
    assert [(b["low"], b["high"]) for b in report["held_out"]] == list(pairwise(SIGMA_EDGES))
    assert all(0.8 < bucket["zero_loss"] < 1.2 for bucket in report["held_out"]), (
        "the test's latents are N(0, 1)"
    )
    assert min(bucket["ratio"] for bucket in report["held_out"]) < 1
    assert json.loads((tmp_path / "out/done.json").read_text()) == report
    lines = (tmp_path / "out/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == events

    again, nothing = train(job, tmp_path / "out")
    assert (again, nothing) == (report, [])
    with pytest.raises(SettingsError, match="holds a run of another job"):
        train(replace(job, recipe=replace(job.recipe, lr=1e-5)), tmp_path / "out")


def test_images_hand_over_to_video_without_a_change(tmp_path):
    train(tiny_stage.job(tmp_path, tiny_stage.IMAGES), tmp_path / "images")
    start = str(tmp_path / "images")
    job = tiny_stage.job(tmp_path, tiny_stage.VIDEO, start, lr=1e-12, num_samples=8)
    train(job, tmp_path / "video")
    images, video = (load_weights(tmp_path / stage).network() for stage in ("images", "video"))
    x_BCTHW = torch.randn(2, 4, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    told = Conditioning(torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, 2))
    frames = torch.cat([images(frame, torch.zeros(2), told) for frame in x_BCTHW.split(1, dim=2)], dim=2)
    assert frames.std() > 0.01
    torch.testing.assert_close(video(x_BCTHW, torch.zeros(2), told), frames, atol=1e-5, rtol=1e-4)
    assert torch.equal(
        load_weights(tmp_path / "images").motion_edges, load_weights(tmp_path / "video").motion_edges
    )
    origin = load_weights(tmp_path / "video").origin
    assert origin["dataset"] == PackedDataset.open(job.dataset).manifest.digest
    assert origin["encoding"] == packed.MANIFEST.encoding == read_origin(tmp_path / "video")["encoding"]
    assert origin["init_from"] == json.loads((tmp_path / "images/done.json").read_text())["weights_sha256"]


def test_what_is_computed_again_leaves_the_same_weights(tmp_path):
    kept = tiny_stage.job(tmp_path, num_samples=24)
    again = tiny_stage.job(tmp_path, num_samples=24, recompute="block", recompute_keep_first=1)
    train(kept, tmp_path / "kept")
    train(again, tmp_path / "again")
    first, second = (load_weights(tmp_path / name).tensors for name in ("kept", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(SettingsError, match="'cudnn', which needs CUDA"):
        train(tiny_stage.job(tmp_path, attention="cudnn"), tmp_path / "cudnn")


def test_weights_of_another_shape_are_refused(tmp_path):
    train(tiny_stage.job(tmp_path, num_samples=8), tmp_path / "video")
    wide = replace(tiny_stage.NETWORK, width=16)
    with pytest.raises(WeightsError, match="does not fit"):
        train(
            tiny_stage.job(tmp_path, tiny_stage.VIDEO, str(tmp_path / "video"), network=wide),
            tmp_path / "wide",
        )
    silent = tiny_stage.job(tmp_path, num_samples=8, network=replace(tiny_stage.NETWORK, pooled_text=False))
    train(silent, tmp_path / "silent")
    with pytest.raises(WeightsError, match=r"lacks \['embedding.text.weight', 'embedding.text.bias'\]"):
        train(tiny_stage.job(tmp_path, tiny_stage.VIDEO, str(tmp_path / "silent")), tmp_path / "deaf")
    with pytest.raises(SettingsError, match=r"text_dim are \(4, 7\), but .* has \(4, 6\)"):
        train(tiny_stage.job(tmp_path, network=replace(tiny_stage.NETWORK, text_dim=7)), tmp_path / "other")
    with pytest.raises(SettingsError, match=r"init_from is .*nowhere"):
        train(tiny_stage.job(tmp_path, tiny_stage.VIDEO, str(tmp_path / "nowhere")), tmp_path / "none")
    content = (tmp_path / "video/weights.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"cut\.safetensors cannot be read"):
        load_weights(tmp_path / "cut.safetensors")


def test_a_cut_short_checkpoint_is_passed_over_loudly(tmp_path, caplog):
    job = tiny_stage.job(tmp_path)
    train(job, tmp_path / "out")
    first, second = sorted((tmp_path / "out/checkpoints").glob("*.ckpt"))
    assert newest_checkpoint(tmp_path / "out") == second
    assert not caplog.records
    content = second.read_bytes()
    for damage in (content[:-1], content[:-9] + b"X" + content[-8:]):
        second.write_bytes(damage)
        caplog.clear()
        assert newest_checkpoint(tmp_path / "out") == first
        assert f"{second} is passed over" in caplog.text
    second.write_bytes(content)
    second.with_suffix(".json").unlink()
    assert newest_checkpoint(tmp_path / "out") == first
    first.unlink()
    assert newest_checkpoint(tmp_path / "out") is None


def test_loss_of_zero_is_that_of_a_fresh_network_and_of_truth_is_none(tmp_path):
    job = tiny_stage.job(tmp_path)
    batches = held_out_batches(PackedDataset.open(job.dataset), job.recipe)
    fresh = held_out_losses(VideoUNet(job.recipe.network), batches, torch.zeros(255))
    assert all(loss.ratio == pytest.approx(1) for loss in fresh)
    assert all(loss.zero_loss == pytest.approx(1, abs=0.2) for loss in fresh)

    def nearest_truth(x, c_noise_B, conditioning):
        """Knows every held-out clip: finds it by its text, and says its v from it and the noisy input."""
        sigma = (4 * c_noise_B).exp()[:, None, None, None, None]
        known = torch.cat([batch.latents_BCTHW for batch in batches])
        text = torch.cat([batch.text_BLD for batch in batches]).flatten(1)
        x0 = known[torch.cdist(conditioning.text_BLD.flatten(1), text).argmin(1)]
        noise = (x * (1 + sigma**2).sqrt() - x0) / sigma
        return SVD.target(x0, noise, sigma.flatten())

    assert all(loss.loss < 1e-6 for loss in held_out_losses(nearest_truth, batches, torch.zeros(255)))


def arguments(job, out: Path) -> list[str]:
    recipe_file = out.with_suffix(".json")
    recipe_file.write_text(job.recipe.to_json())
    return ["--recipe", str(recipe_file), "--dataset", job.dataset, "--out", str(out)]


def run_until(words: list[str], stop_step: int, sent: signal.Signals) -> int:
    """Start a run of its own, signal it when it has reported `stop_step`, return its exit code."""
    command = [sys.executable, "-m", "training", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        for line in child.stdout:
            event = json.loads(line)
            if event["event"] == "step" and event["step"] >= stop_step:
                child.send_signal(sent)
                break
        child.stdout.read()
        return child.wait()


def step_events(out: Path) -> list[dict]:
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


def test_killed_and_stopped_runs_end_bit_for_bit_as_the_uninterrupted_one(tmp_path):
    job = tiny_stage.job(tmp_path, num_samples=8 * 60, data_workers=1)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    assert run_until(arguments(job, broken), 12, signal.SIGKILL) == -signal.SIGKILL
    assert not (broken / "done.json").exists()
    assert run_until(arguments(job, broken), 28, signal.SIGTERM) == 75
    assert int(newest_checkpoint(broken).stem.removeprefix("step-")) >= 28

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _, events = train(job, broken)
    train(job, whole)
    torch.set_num_threads(num_threads)
    assert events[0]["step"] >= 28
    expected, got = (load_file(out / "weights.safetensors") for out in (whole, broken))
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    pairs = list(zip(step_events(whole), step_events(broken), strict=True))
    assert all((one["step"], one["lr"]) == (other["step"], other["lr"]) for one, other in pairs)
    same = sum(one["loss"] == other["loss"] for one, other in pairs)
    assert same >= len(pairs) - 2, "only a window of steps that was cut in two may report another mean"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "speed=3"], "recipe has no setting 'speed'"),
        (["--set", "lr=-1"], "lr is -1"),
        (["--dataset", "/nowhere"], "no dataset.json in /nowhere"),
        (["--config", "/nowhere/none.json"], "cannot be read as JSON"),
    ],
)
def test_wrong_settings_exit_2_and_leave_nothing(tmp_path, capsys, words, message):
    job = tiny_stage.job(tmp_path)
    assert main([*arguments(job, tmp_path / "out"), *words], StopRequest()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_two_ranks_train_as_one_does(tmp_path):
    job = tiny_stage.job(tmp_path, num_samples=80)
    train(job, tmp_path / "one")
    elastic = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*elastic, "-m", "training", *arguments(job, tmp_path / "two")]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    expected, got = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=2e-4, rtol=1e-3)
    reports = [json.loads((tmp_path / name / "done.json").read_text())["held_out"] for name in ("one", "two")]
    for first, second in zip(*reports, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-3)
