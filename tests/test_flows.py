"""Flows as Prefect shows them: runs, tasks, artifacts, and what is not green."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import packed
import polars as pl
import pytest
import served

import flows.curate
from curation.engine.work import Work
from curation.ingest import assign, give
from curation.pipeline import hash_work, shard_works
from curation.reel.sample_reel import make_reel
from curation.selection.filters import Threshold
from flows.settings import load_settings
from tasks.artifacts import histogram, losses
from tasks.windows import MAX_TASK_RUNS, Engine, Outcome, Window, run_windows, windows
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.store import Store


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    api, home = served.server()
    return served.clean_environment(
        home, PREFECT_API_URL=api, CUTROOM_WORKERS="2", CUTROOM_CLIPS__MIN_S="0.5"
    )


@pytest.fixture(scope="module")
def reel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reel")
    make_reel(folder, num_films=2, shots_per_film=3, seed=12, side_px=64, num_workers=2)
    return folder


def runs_of(env: dict[str, str], flow: str) -> list[dict]:
    return served.ask(env["PREFECT_API_URL"], "flow_runs/filter", flows={"name": {"any_": [flow]}})


def test_curation_shows_its_windows_and_its_story(env: dict[str, str], reel: Path, tmp_path: Path) -> None:
    split = env | {"CUTROOM_SHARD__VIDEOS": "1"}
    done = served.cutroom("curate", reel, "-w", tmp_path / "w", "--json", env=split)
    assert done.returncode == 0, done.stderr
    (run,) = (r for r in runs_of(env, "curate-lvd") if str(tmp_path) in r["name"])
    assert run["state_type"] == "COMPLETED"
    assert run["parameters"]["params"]["footage"] == [str(reel)]

    api, mine = env["PREFECT_API_URL"], {"id": {"any_": [run["id"]]}}
    deadline = time.monotonic() + 60  # the server writes tasks' events down in batches, a little later
    tasks = served.ask(api, "task_runs/filter", flow_runs=mine)
    while {t["state_type"] for t in tasks} != {"COMPLETED"}:
        log = Path(env["PREFECT_HOME"], "server.log").read_text()[-4000:]
        assert time.monotonic() < deadline, f"{[(t['name'], t['state_type']) for t in tasks]}\n{log}"
        time.sleep(0.5)
        tasks = served.ask(api, "task_runs/filter", flow_runs=mine)
    counted = Counter(t["name"].split(" ")[0] for t in tasks)
    assert counted["scan"] == counted["cut"] == counted["motion"] == 2, "one task for each window of shards"
    assert counted["hash"] == counted["select"] == 1

    artifacts = served.ask(api, "artifacts/filter", flow_runs=mine)
    by_key = {a["key"]: a for a in artifacts if a["key"]}
    assert set(by_key) == {"states", "funnel", "score-histograms"}
    funnel = json.loads(by_key["funnel"]["data"])
    result = json.loads(done.stdout)["selection"]
    assert [row["kept"] for row in funnel] == [row["kept"] for row in result["funnel"]]
    assert "**motion**" in by_key["score-histograms"]["data"]

    again = served.cutroom("curate", reel, "-w", tmp_path / "w", env=split)
    assert "nothing to do" in again.stdout


def test_a_run_in_which_everything_fails_is_not_green(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    done = served.cutroom("curate", tmp_path / "a.mp4", "-w", tmp_path / "w", env=env)
    assert done.returncode == 1
    (run,) = (r for r in runs_of(env, "curate-lvd") if str(tmp_path) in r["name"])
    assert run["state_type"] == "FAILED"
    assert "every one of 1 failed" in run["state"]["message"]


def test_parameters_are_refused_before_a_run_begins(env: dict[str, str]) -> None:
    code = "from flows.curate import curate_lvd; curate_lvd(params={'workers': 0})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, cwd=served.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "greater than or equal to 1" in done.stderr


@pytest.mark.long
def test_a_flow_needs_no_server_that_somebody_started(reel: Path, tmp_path: Path) -> None:
    code = (
        "from flows.curate import curate_lvd; from flows.settings import CurateParams; import sys;"
        "made = curate_lvd(CurateParams(footage=(sys.argv[1],), warehouse=sys.argv[2])); print(made.selected.num_clips)"
    )
    env = served.clean_environment(tmp_path / "home", CUTROOM_CLIPS__MIN_S="0.5")
    command = [sys.executable, "-c", code, str(reel), str(tmp_path / "w")]
    done = subprocess.run(command, env=env, cwd=served.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 0


def test_shards_of_another_run_are_scored_before_they_are_judged(
    reel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the last step runs, another run adds a video and has cut it into clips, which have no scores yet."""
    monkeypatch.chdir(tmp_path)
    first, second = sorted(reel.glob("*.mp4"))
    given = {"warehouse": str(tmp_path / "w"), "workers": 2, "clips": {"min_s": 0.5}}
    settings = load_settings(given | {"footage": [str(first)]}, environ={})
    config = settings.curation()
    late = []

    def run_and_be_joined(work: Work, engine: Engine, over: list[Window]) -> Outcome:
        outcome = run_windows(work, engine, over)
        if work.step.name == list(shard_works(config))[-1].step.name and not late:
            late.append(second)
            groups = give(engine.ledger, [str(second)], run_id="other").groups
            run_windows(hash_work(config), engine, windows(groups, 1))
            shards = assign(engine.ledger, config.shard, run_id="other")
            for early in list(shard_works(config))[:2]:
                run_windows(early, engine, windows(shards, 1))
        return outcome

    monkeypatch.setattr(flows.curate, "run_windows", run_and_be_joined)
    flows.curate.curate(settings)
    ledger = Ledger(Store(tmp_path / "w"), Plan.load(Store(tmp_path / "w")))
    assert ledger.read_all("videos")["state"].to_list() == ["done", "done"]
    measured = set(ledger.read_all("motion", ["clip_id"])["clip_id"])
    assert set(ledger.read_all("verdicts", ["clip_id"])["clip_id"]) == measured


def tiny(**more: object) -> str:
    """Recipes that train in seconds on the datasets of `packed`, as the environment takes them."""
    network = {"width": 8, "head_dim": 8, "text_dim": 6}
    sizes = {
        "num_samples": 16,
        "batch_size": 4,
        "warmup_samples": 4,
        "log_every_steps": 1,
        "evaluate_clips": 4,
    }
    return json.dumps({name: {"network": network, **sizes, **more} for name in ("images", "video")})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "set"
    packed.write(path, packed.rows(24))
    return path


def test_a_stage_trains_what_it_builds_on_and_shows_its_losses(
    env: dict[str, str], dataset: Path, tmp_path: Path
) -> None:
    train = ("train", "video", "--dataset", dataset, "--runs", tmp_path / "runs", "--json")
    done = served.cutroom(*train, env=env | {"CUTROOM_RECIPES": tiny()})
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    folders = {p.name.rsplit("-", 1)[0]: p for p in (tmp_path / "runs").iterdir()}
    assert set(folders) == {"images", "video"}
    assert (result["run"], result["samples"]) == (str(folders["video"]), 16)
    described = json.loads((folders["video"] / "run.json").read_text())
    assert described["paths"]["init_from"] == str(folders["images"])

    (run,) = runs_of(env, "train-stage-2")
    assert run["state_type"] == "COMPLETED"
    artifacts = served.ask(
        env["PREFECT_API_URL"], "artifacts/filter", flow_runs={"id": {"any_": [run["id"]]}}
    )
    curves = {a["key"]: a["data"] for a in artifacts if a["key"]}
    assert set(curves) == {"loss-images", "loss-video"}
    rows = [line.split(" | ")[0] for line in curves["loss-video"].splitlines() if line.startswith("|")]
    assert rows == ["| samples", "| ---:", "| 4", "| 8", "| 12", "| 16"]

    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("weights*")}
    again = served.cutroom(*train, env=served.clean_environment(tmp_path, CUTROOM_RECIPES=tiny()))
    assert json.loads(again.stdout) == result
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("weights*")} == before


def test_a_wrong_setting_is_found_before_anything_is_trained(dataset: Path, tmp_path: Path) -> None:
    env = served.clean_environment(tmp_path / "home", CUTROOM_RECIPES=tiny())
    place = ("--dataset", dataset, "--runs", tmp_path / "runs")
    done = served.cutroom("train", "video", *place, "--set", "lrr=1", env=env)
    assert (done.returncode, "recipes.video has no setting 'lrr'" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_a_stopped_training_leaves_no_process_and_goes_on_where_it_was(
    env: dict[str, str], dataset: Path, tmp_path: Path
) -> None:
    slow = env | {"CUTROOM_RECIPES": tiny(num_samples=40_000, checkpoint_every_steps=50)}
    command = [sys.executable, "-m", "flows.cli", "train", "images", "--dataset", str(dataset)]
    command += ["--runs", str(tmp_path / "runs")]
    child = subprocess.Popen(command, env=slow, cwd=served.ROOT, stderr=subprocess.PIPE, text=True)
    while (
        not (metrics := list(tmp_path.glob("runs/*/metrics.jsonl"))) or '"step"' not in metrics[0].read_text()
    ):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.2)
    trainers = served.processes_with(str(tmp_path / "runs"))
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, "the same command again goes on" in said) == (1, True), said
    assert len(trainers) > 1
    assert not served.processes_with(str(tmp_path / "runs"))
    assert list(tmp_path.glob("runs/*/checkpoints/*.ckpt")), "it saved before it ended"


@pytest.mark.parametrize(
    ("shards", "size", "steps"), [(0, 1, 9), (1, 1, 9), (7, 3, 2), (10_000, 1, 12), (499, 1, 1)]
)
def test_windows_hold_every_shard_once_and_are_never_too_many(shards: int, size: int, steps: int) -> None:
    names = [f"s{i}" for i in range(shards)]
    made = windows(names, size, steps=steps)
    assert [s for w in made for s in w.shards] == names
    assert len(made) * steps <= MAX_TASK_RUNS
    assert all(len(w.shards) >= min(size, shards) for w in made[:-1])
    assert [w.number for w in made] == list(range(1, len(made) + 1))


def test_a_curve_is_drawn_to_scale() -> None:
    text = losses([{"samples": 50, "loss": 2.0}, {"samples": 100, "loss": 1.0}])
    svg = base64.b64decode(text.split("base64,")[1].split(")")[0]).decode()
    assert 'points="300.0,10.0 600.0,105.0"' in svg
    assert text.endswith("| 50 | 2 |\n| 100 | 1 |")


def test_a_histogram_shows_where_the_threshold_lies() -> None:
    values = pl.Series([0.0] * 8 + [1.0] * 4 + [None])
    bars, arrow, note = histogram(Threshold("motion", "high", 0.5, 0.25, 12), values).split("\n")[3:6]
    assert (bars[0], bars[-1], set(bars[1:-1])) == ("█", "▄", {" "})
    assert arrow.index("↑") == len(bars) // 2
    assert note == "0 to 1; kept >= 0.5"
    same = histogram(Threshold("text_area", "low", 0.0, 0.25, 3), pl.Series([0.0, 0.0, 0.0]))
    assert "(3 clips)" in same
    assert "no clip has this score" in histogram(
        Threshold("motion", "high", 0.5, 0.1, 0), pl.Series([None], dtype=pl.Float64)
    )
