"""The command line as users and scripts meet it: names, exit codes, JSON, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from served import ROOT, clean_environment, cutroom

from curation.reel.sample_reel import FilmTruth, make_reel, read_truth
from flows import cli

COMMON = {"--config", "--set", "--json", "--help"}
PUBLIC = {
    "curate": {"FOOTAGE", "--warehouse", "-w", "--profile", "--workers", "--retry-failed", *COMMON},
    "annotate": {"W", "NAME", "--workers", "--retry-failed", *COMMON},
    "cuts": {"VIDEO", *COMMON},
    "select": {"--warehouse", "-w", "--name", "--filter", "--profile", *COMMON},
    "encode": {"--warehouse", "-w", "--workers", "--retry-failed", *COMMON},
    "pack": {"--warehouse", "-w", *COMMON},
    "train": {"RECIPE", "--warehouse", "-w", "--dataset", "--runs", "--init-from", "--processes", *COMMON},
    "sample": {"PROMPT", "--warehouse", "-w", "--run", "--count", "--seed", "--guidance", "--guidance-end",
               "--guidance-shape", "--frames-guidance", "--guided-channels", "--oscillating", "--steps",
               "--spacing", "--sigma-min", "--sigma-max", "--shift", "--sampler", "--frames", "--overlap", "--seamless",
               "--reference", "--mask-strategy", "--loops", "--carry", "--repeats", "--aesthetics", "--motion", "--camera",
               "--augmentation", "--image-encoder", "--motion-bucket", "--elevation",
               "--output", *COMMON},
    "import-data": {"FORMAT", "PATH", "--warehouse", "-w", "--root", "--fps", *COMMON},
    "export-data": {"FORMAT", "RUN_OR_SELECTION", "OUT", "--warehouse", "-w", "--spans", "--caption", *COMMON},
    "export": {"RUN", "OUT", "--to", "--autoencoder", "--image-encoder", "--json", "--help"},
    "import-weights": {"SOURCE", "OUT", "--network", "--objective", "--json", "--help"},
    "write-clips": {"OUT", "--warehouse", "-w", "--of", "--mode", "--short", "--size", "--enlarge", *COMMON},
    "audit": {"W", "--deep", "--json", "--help"},
    "check-captions": {"W", "--sample", "--least", "--json", "--help"},
    "explain": {"W", "CLIP", "--json", "--help"},
    "report": {"W", "--output", "--run", "--title", "--json", "--help"},
    "networks": {"--json", "--help"},
    "demo": {"--videos", "--output", "--profile", "--set", "--json", "--help"},
}  # fmt: skip

Run = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def reel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reel")
    make_reel(folder, num_films=2, shots_per_film=3, seed=11, side_px=96, num_workers=2)
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli") / "warehouse"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Run]:
    """Runs the command in this process; returns its exit code, and its output read as JSON where it was asked for."""
    for name in [n for n in os.environ if n.startswith(("CUTROOM_", "PREFECT_")) or n == "PROFILE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("CUTROOM_WORKERS", "2")
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: object) -> tuple[int, Any]:
        monkeypatch.setattr(sys, "argv", ["cutroom", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        written = capsys.readouterr()
        if end.value.code in (0, None) and "--json" in arguments:
            return 0, json.loads(written.out)
        return end.value.code or 0, written.out + written.err

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


def test_commands_and_options_are_the_public_ones() -> None:
    commands = typer.main.get_command(cli.app).commands
    found = {}
    for name, command in commands.items():
        options = {o for p in command.params for o in getattr(p, "opts", []) if o.startswith("-")}
        arguments = {p.metavar or p.name.upper() for p in command.params if p.param_type_name == "argument"}
        found[name] = options | arguments | {"--help"}
    assert found == PUBLIC


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    for name in PUBLIC:
        assert f"\n## {name}\n" in text, name


def test_help_loads_nothing_heavy() -> None:
    heavy = ("torch", "prefect", "polars", "cv2", "pydantic", "numpy", "av")
    code = f"import flows.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["curate", "--wharehouse", "w"], "No such option: --wharehouse"),
        (["curate", "x", "--warehouse", "w", "--set", "clips.mins=1"], "known here: black_below, max_s"),
        (["curate", "x"], "no warehouse is given: use --warehouse"),
        (["curate", "--warehouse", "w"], "no footage is given: name videos or folders"),
        (["curate", "x", "-w", "w", "--workers", "0"], "greater than or equal to 1"),
        (["select"], "no warehouse is given"),
        (["select", "-w", "w", "--filter", "motion"], "neither SCORE=25% nor SCORE=0.07"),
        (["select", "-w", "w", "--filter", "motion=nan"], "expected a finite number"),
        (["select", "-w", "w", "--filter", "motion=1", "--filter", "motion=10%"], "motion is filtered by more than"),
        (["select", "-w", "w", "--name", "../../../evil"], "selection.name is '../../../evil'"),
        (["curate", "x", "-w", "w", "--set", "selection.name=a/b"], "selection.name is 'a/b'"),
        (["train", "images", "-w", "w", "--set", "lr"], "is not name=value"),
        (["train", "nothing", "-w", "w", "--set", "lr=1"], "there is no recipe 'nothing'"),
        (["explain", "w"], "Missing argument"),
    ],
)  # fmt: skip
def test_wrong_usage_exits_2_and_says_what_is_right(run: Run, arguments: list[str], said: str) -> None:
    code, output = run(*arguments)
    assert code == 2, output
    assert said in output
    assert "Traceback" not in output


def test_failures_exit_1(run: Run, tmp_path: Path) -> None:
    assert run("audit", tmp_path / "nowhere") == (
        1, f"cutroom: {tmp_path / 'nowhere'} is no warehouse: it holds no plan; run `cutroom curate` on it first\n"
    )  # fmt: skip
    code, output = run("cuts", tmp_path / "gone.mp4")
    assert code == 1
    assert "unreadable" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["curate", "x", "-w", "FILE"],
        ["import-data", "open-sora", "FILE", "-w", "FILE"],
        ["train", "images", "--dataset", "d", "--runs", "FILE"],
    ],
)
def test_a_file_in_a_folders_place_is_named(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "file.txt"
    file.write_text("mine")
    code, output = run(*(str(file) if a == "FILE" else a for a in arguments))
    assert code == 2
    assert f"{file} is no folder" in output
    assert file.read_text() == "mine"


def test_cuts_are_those_that_the_film_has(run: Run, reel: Path, tmp_path: Path) -> None:
    film: FilmTruth = read_truth(reel)[0]
    code, result = run("cuts", reel / film.file, "--json")
    assert code == 0
    assert list(result) == ["cuts"]
    for cut in result["cuts"]:
        assert list(cut) == ["frame", "time_s", "type", "confidence"]
        assert cut["time_s"] == pytest.approx(cut["frame"] / film.fps)
    found = [cut["frame"] for cut in result["cuts"] if cut["type"] == "hard"]
    assert set(film.cuts) <= set(found), (film.cuts, found)
    code, output = run("cuts", reel / film.file)
    assert (code, f"{len(result['cuts'])} cuts in {film.num_frames} frames" in output) == (0, True)
    assert "decides where cuts are" not in output
    unheard = ("--set", "cuts.min_scene_s=2")
    code, output = run("cuts", reel / film.file, *unheard)
    assert (code, "cuts.min_scene_s only change how sure a cut is" in output) == (0, True)
    code, output = run("curate", tmp_path / "gone.mp4", "-w", tmp_path / "none", *unheard)
    assert "cuts.min_scene_s only change how sure a cut is" in output


def test_curate_select_explain_report_and_audit(
    run: Run, reel: Path, warehouse: Path, tmp_path: Path
) -> None:
    curate = ("curate", reel, "--warehouse", warehouse, "--set", "clips.min_s=0.5")
    code, first = run(*curate, "--json")
    assert code == 0
    assert list(first) == [
        "warehouse",
        "new_rows",
        "states",
        "selection",
        "spent",
        "captions",
        "problems",
        "pictures_left_out",
    ]
    assert first["states"]["videos"] == {"done": 2, "failed": 1, "skipped": 0, "failed: invalid_data": 1}
    assert first["new_rows"]["videos"] == 3
    motion = first["states"]["motion"]
    assert first["selection"]["in"] == sum(motion[s] for s in ("done", "failed", "skipped")) > 1

    wrong = [tmp_path / "nosuch.mp4", "nosuchdir"]
    code, again = run(*curate, *wrong, "--json")
    assert (code, [p["path"] for p in again["problems"]]) == (0, list(map(str, wrong)))
    assert all(f"{place}: there is no such file or folder" in run(*curate, *wrong)[1] for place in wrong)
    (tmp_path / "nosuch.mp4").write_bytes((reel / read_truth(reel)[0].file).read_bytes())
    (tmp_path / "nosuchdir").mkdir()
    code, came = run(*curate, *wrong, "--json")
    assert (code, came["problems"]) == (0, [])
    assert came["states"]["sources"]["failed: not_found"] == 1, (
        "of a folder nothing can come under its own name"
    )
    (tmp_path / "nosuch.mp4").unlink()
    first = came

    code, again = run(*curate, "--json")
    assert (code, again["new_rows"]) == (0, {})
    assert (again["states"], again["selection"]) == (first["states"], first["selection"])
    assert "nothing to do" in run(*curate)[1]

    code, selected = run("select", "-w", warehouse, "--name", "half", "--filter", "motion=50%", "--json")
    assert code == 0
    (threshold,) = selected["thresholds"]
    assert (threshold["score"], threshold["drop"], threshold["better"]) == ("motion", 0.5, "high")
    assert threshold["reference_clips"] == motion["done"]
    assert 0 < selected["kept"] < selected["in"]

    code, audited = run("audit", warehouse, "--deep", "--json")
    assert (code, audited["balanced"], list(audited["selections"])) == (0, True, ["half"])
    code, kept = run(*curate, "--json")
    assert kept["selection"] == selected, "curating again must not undo a selection"

    (clips,) = {p.parent for p in (warehouse / "clips").glob("*/*.parquet")}
    clip = selected_clip(clips)
    code, told = run("explain", warehouse, clip[:12], "--json")
    assert (code, told["clip"]["clip_id"]) == (0, clip)
    assert run("explain", warehouse, "nothing")[0] == 1
    code, written = run("report", warehouse, "--json")
    assert (code, Path(written["report"]).read_text().lstrip()[:15].lower()) == (0, "<!doctype html>")

    assert run("report", warehouse, "--output", reel) == (
        2, f"cutroom: --output {reel} is a folder; name the report's file, such as {reel / 'report.html'}\n"
    )  # fmt: skip

    next((warehouse / "motion").glob("*/*.parquet")).unlink()
    code, output = run("audit", warehouse)
    assert code == 1
    assert "NOT balanced" in output


def selected_clip(folder: Path) -> str:
    import polars as pl

    rows = pl.read_parquet(folder / "*.parquet")
    return rows.filter(pl.col("state") == "done")["clip_id"].sort()[0]


def test_other_settings_after_curation_are_refused_where_they_would_ask_for_other_tables(
    run: Run, reel: Path, warehouse: Path
) -> None:
    run("curate", reel, "--warehouse", warehouse, "--set", "clips.min_s=0.5")
    code, output = run("select", "-w", warehouse, "--set", "clips.min_s=0.7")
    assert code == 2
    assert "they make other tables clips, cuts, motion" in output


def test_a_run_in_which_everything_fails_is_a_failure(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    code, output = run("curate", tmp_path / "a.mp4", tmp_path / "gone.mp4", "--warehouse", tmp_path / "w")
    assert code == 1
    assert "videos: every one of 1 failed (1 failed: invalid_data)" in output
    code, output = run("curate", tmp_path / "gone.mp4", "--warehouse", tmp_path / "v")
    assert code == 1
    assert f"there is no such file: {tmp_path / 'gone.mp4'} (No such file" in output
    assert run("audit", tmp_path / "w")[0] == 0, "what failed is accounted for all the same"


@pytest.mark.parametrize(
    ("number", "times"),
    [
        (signal.SIGINT, 3),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.long),
    ],
)
def test_a_stopped_run_leaves_no_process_and_can_be_taken_up_again(
    number: signal.Signals, times: int, reel: Path, tmp_path: Path
) -> None:
    env = clean_environment(tmp_path / "prefect", CUTROOM_WORKERS="2", CUTROOM_CLIPS__MIN_S="0.5")
    command = [sys.executable, "-m", "flows.cli", "curate", str(reel), "-w", str(tmp_path / "w")]
    child = subprocess.Popen(
        command, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (workers := workers_of(child.pid)):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    for _ in range(times):
        child.send_signal(number)
        time.sleep(0.1)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, "the same command again goes on" in said) == (1, True), said
    assert not [pid for pid in workers if is_running(pid)]
    assert not list((tmp_path / "w" / "tmp").iterdir())
    assert (
        subprocess.run(
            command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ).returncode
        == 0
    )


@pytest.mark.long
def test_two_runs_at_once_neither_lose_nor_double_anything(reel: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    make_reel(second, num_films=3, shots_per_film=3, seed=77, side_px=96, num_workers=2)
    sizes = {"CUTROOM_WORKERS": "1", "CUTROOM_CLIPS__MIN_S": "0.5", "CUTROOM_SHARD__VIDEOS": "1"}
    env = clean_environment(tmp_path / "prefect", **sizes)
    place = ("-w", str(tmp_path / "w"))
    command = [sys.executable, "-m", "flows.cli", "curate", *place]
    runs = [
        subprocess.Popen([*command, str(f)], env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
        for f in (reel, second)
    ]
    assert [child.wait(timeout=300) for child in runs] == [0, 0]
    found = json.loads(cutroom("audit", tmp_path / "w", "--json", env=env).stdout)
    assert found["balanced"], found["problems"]
    assert found["tables"]["videos"]["done"] == 5
    assert not judged_before_they_were_scored(tmp_path / "w")


def judged_before_they_were_scored(warehouse: Path) -> list[str]:
    """Clips that were rejected for a missing score which they have."""
    import polars as pl

    def rows(table: str) -> pl.DataFrame:
        return pl.read_parquet(warehouse / table / "*" / "*.parquet")

    missing = rows("verdicts").filter(pl.col("failed_filters").list.contains("motion:missing"))
    return missing.join(rows("motion").filter(pl.col("score").is_not_null()), on="clip_id")[
        "clip_id"
    ].to_list()


def workers_of(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(status.parent.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
