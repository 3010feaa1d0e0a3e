"""Adding one annotator to a warehouse, as docs/annotators.md tells it: that file's own code, typed as a user does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chat_server import chat_server
from served import ROOT, clean_environment, cutroom

from curation.annotators.raft_motion import RaftMotionConfig
from curation.pipeline import CurationConfig, make_plan
from curation.reel.sample_reel import make_reel
from curation.selection.duplicates import DuplicateConfig
from curation.selection.filters import SelectionConfig
from warehouse.plan import Plan
from warehouse.store import Store

Files = dict[str, int]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotate")
    make_reel(folder / "reel", num_films=2, shots_per_film=3, seed=3, side_px=96, num_workers=2)
    env = clean_environment(folder / "prefect", CUTROOM_WORKERS="2")
    done = cutroom("curate", folder / "reel", "-w", folder / "w", "--set", "clips.min_s=0.5", env=env)
    assert done.returncode == 0, done.stderr
    return folder / "w"


def env_of(warehouse: Path, own: Path | None = None) -> dict[str, str]:
    more = {"CUTROOM_ANNOTATORS": str(own)} if own else {}
    return clean_environment(warehouse.parent / "prefect", CUTROOM_WORKERS="2", **more)


def documented(folder: Path) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "annotators.md").read_text(), re.DOTALL)
    file = folder / "colourfulness.py"
    file.write_text(code)
    return file


def files(warehouse: Path) -> Files:
    """Every file of a table with the time at which it was written."""
    return {str(p.relative_to(warehouse)): p.stat().st_mtime_ns for p in warehouse.glob("*/*/*.parquet")}


def table(warehouse: Path, name: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(p) for p in sorted((warehouse / name).glob("*/*.parquet"))])


def run(*arguments: object, env: dict[str, str]) -> Any:
    done = cutroom(*arguments, "--json", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_documented_annotator_fills_its_own_table_alone_and_selects(
    warehouse: Path, tmp_path: Path
) -> None:
    env = env_of(warehouse, documented(tmp_path))
    before = files(warehouse)
    curated = run("annotate", warehouse, "colourfulness", env=env)
    clips = table(warehouse, "clips").filter(state="done").height
    new = {name: rows for name, rows in curated["new_rows"].items() if name != "verdicts"}
    assert new == {"colourfulness": clips}
    scores = table(warehouse, "colourfulness")
    assert scores["state"].to_list() == ["done"] * clips
    assert scores["score"].n_unique() > 1
    after = files(warehouse)
    assert {n: after[n] for n in before} == before
    assert all(n.startswith(("colourfulness/", "verdicts/")) for n in after.keys() - before.keys())

    assert run("audit", warehouse, env=env)["balanced"]
    selected = run("select", "-w", warehouse, "--filter", "colourfulness=50%", env=env)
    assert [t["score"] for t in selected["thresholds"]] == ["colourfulness"]
    assert 0 < selected["kept"] < selected["in"]

    again = run("annotate", warehouse, "colourfulness", env=env)
    assert again["new_rows"] == {}
    changed = ("--set", "annotators.colourfulness.num_frames=1")
    other = run("annotate", warehouse, "colourfulness", *changed, env=env)
    assert other["new_rows"]["colourfulness"] == clips
    assert len(list((warehouse / "colourfulness").iterdir())) == 2, "the old table stays"


@pytest.mark.long
def test_a_selection_by_an_own_score_says_what_makes_it_known_again(warehouse: Path, tmp_path: Path) -> None:
    env = env_of(warehouse, documented(tmp_path))
    run("annotate", warehouse, "colourfulness", env=env)
    run("select", "-w", warehouse, "--filter", "colourfulness=50%", env=env)
    for command in (("annotate", warehouse, "motion"), ("select", "-w", warehouse)):
        done = cutroom(*command, env=env_of(warehouse))
        assert done.returncode == 2
        assert "there is no score 'colourfulness'" in done.stderr
        assert "known once CUTROOM_ANNOTATORS names its file" in done.stderr
    assert "sharpness" in run("annotate", warehouse, "sharpness", env=env)["states"]


def test_a_table_that_nobody_here_knows_does_not_pass_the_audit_in_silence(
    warehouse: Path, tmp_path: Path
) -> None:
    run("annotate", warehouse, "colourfulness", env=env_of(warehouse, documented(tmp_path)))
    done = cutroom("audit", warehouse, "--json", env=env_of(warehouse))
    (problem,) = json.loads(done.stdout)["problems"]
    assert done.returncode == 1
    assert (problem["table"], problem["kind"]) == ("colourfulness", "unknown")
    assert "CUTROOM_ANNOTATORS" in problem["id"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "names 'colourfulness.py', which cannot be imported: FileNotFoundError"),
        ("import nothing_of_this_name", "cannot be imported: ModuleNotFoundError"),
        (
            "from curation.annotators.registry import register\nregister(type('X', (), {'name': 'motion'}))",
            "two",
        ),
    ],
)
def test_a_file_that_cannot_be_used_says_why(
    warehouse: Path, tmp_path: Path, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "colourfulness.py").write_text(text)
    env = env_of(warehouse) | {"CUTROOM_ANNOTATORS": "colourfulness.py", "PYTHONPATH": str(ROOT)}
    done = cutroom("annotate", warehouse, "motion", env=env, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_what_a_server_was_asked_for_is_told_and_shown(warehouse: Path, tmp_path: Path) -> None:
    env = env_of(warehouse, documented(tmp_path))  # another test may have selected by it
    clips = table(warehouse, "captions").filter(state="done").height
    with chat_server() as chat:
        server = {"url": chat.url, "model": "told", "usd_per_million_completion_tokens": 50.0}
        setting = f"annotators.summaries.server={json.dumps(server)}"
        curated = run("annotate", warehouse, "summaries", "--set", setting, env=env)
        again = cutroom("annotate", warehouse, "summaries", "--set", setting, env=env)
        assert len(chat.asked) == clips
        new = setting.replace("told", "anew")
        told = cutroom("annotate", warehouse, "summaries", "--set", new, env=env)
    cost = {"requests": clips, "prompt_tokens": 100 * clips, "completion_tokens": 20 * clips}
    assert curated["spent"] == cost | {"usd": pytest.approx(20 * clips * 50e-6)}
    words = f"{clips} requests, {100 * clips:,} prompt tokens, {20 * clips:,} completion tokens"
    assert f"summaries: {words}, {20 * clips * 50e-6:.4f} USD" in told.stdout
    assert "nothing to do" in again.stdout and "requests" not in again.stdout
    page = Path(run("report", warehouse, "--output", tmp_path / "page.html", env=env)["report"]).read_text()
    assert f"retries included: {words}, " in page


def test_an_annotator_that_is_not_there_is_named_with_those_that_are(warehouse: Path) -> None:
    done = cutroom("annotate", warehouse, "beauty", env=env_of(warehouse))
    assert done.returncode == 2
    assert "there is no annotator 'beauty'; known are motion, raft_motion, text_area" in done.stderr


@pytest.mark.long
def test_an_annotator_that_needs_weights_is_off_until_they_are_named(
    warehouse: Path, test_data: Path, tmp_path: Path
) -> None:
    env = env_of(warehouse, documented(tmp_path))  # another test may have selected by it
    off = cutroom("annotate", warehouse, "raft_motion", env=env)
    assert off.returncode == 2
    assert "annotator 'raft_motion' is off, as its settings say: RaftMotionConfig(weights=None," in off.stderr
    assert "--set annotators.raft_motion.SETTING=VALUE" in off.stderr
    before = sorted(warehouse.rglob("*"))
    (tmp_path / "picture.jpg").write_bytes(bytes.fromhex("ffd8ffe000104a464946") * 9)
    for wrong in ("nosuch.pth", tmp_path, tmp_path / "picture.jpg"):
        bad = f"annotators.raft_motion.weights={wrong}"
        done = cutroom("annotate", warehouse, "raft_motion", "--set", bad, env=env)
        assert done.returncode == 2
        assert (
            f"annotators.raft_motion: RAFT's weights {wrong}" in done.stderr
            or "does not hold RAFT" in done.stderr
        )
    assert sorted(warehouse.rglob("*")) == before
    assert not (warehouse / "raft_motion").exists()
    weights = test_data / "weights" / "raft_small_torchvision_keys.pth"
    small = [f"annotators.raft_motion.{name}={value}" for name, value in (("width", 128), ("height", 128))]
    settings = [
        part for each in (f"annotators.raft_motion.weights={weights}", *small) for part in ("--set", each)
    ]
    done = run("annotate", warehouse, "raft_motion", *settings, env=env)
    assert done["states"]["raft_motion"] == done["states"]["motion"]
    both = table(warehouse, "raft_motion").join(table(warehouse, "motion"), on="clip_id", suffix="_farneback")
    assert both["num_pairs"].to_list() == both["num_pairs_farneback"].to_list()
    assert both["score"].min() > 0
    assert cutroom("audit", warehouse, env=env).returncode == 0
    for command in (("select", "--filter", "raft_motion=25%"), ("encode",), ("curate",)):
        run(*command, "-w", warehouse, env=env)
        plan = Plan.load(Store(warehouse))
        assert plan.config["raft_motion"]["weights"] == str(weights), "named once, it holds for what follows"
        assert "raft_motion" in plan.keys
        assert [f["score"] for f in plan.config["select"]["filters"]] == ["raft_motion"]


def test_weights_are_known_by_their_content_however_their_path_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(path: str | Path) -> str:
        annotators = (("raft_motion", RaftMotionConfig(weights=str(path))),)
        nothing = SelectionConfig(filters=(), duplicates=DuplicateConfig(drop=False))
        return make_plan(CurationConfig(annotators=annotators, selection=nothing)).keys["raft_motion"]

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(b"one")
    (tmp_path / "copy.pth").write_bytes(b"one")
    (tmp_path / "other.pth").write_bytes(b"two")
    assert key("a.pth") == key("./a.pth") == key(tmp_path / "a.pth") == key("copy.pth")
    assert key("a.pth") != key("other.pth")
