"""`cutroom import-data` and `export-data` on real footage: a list in, curated, exported, and the list in again."""

from __future__ import annotations

import json
from pathlib import Path

import exchange
import footage
import pytest
from PIL import Image
from served import clean_environment, cutroom

from curation.pipeline import make_plan, of_embedded_models
from flows.settings import load_settings


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return clean_environment(tmp_path / "prefect", CUTROOM_WORKERS="2")


@pytest.mark.long
def test_a_list_goes_in_and_comes_out(tmp_path: Path, env: dict[str, str]) -> None:
    film = footage.write_video(tmp_path / "a.mp4", footage.numbered(60))
    (tmp_path / "list.csv").write_text(f"path,text,aes\n{film},a sunrise,5.5\ngone.mp4,nothing,1\n")
    import_ = ("import-data", "open-sora", tmp_path / "list.csv", "-w", tmp_path / "w", "--json")
    done = json.loads(cutroom(*import_, env=env).stdout)
    assert list(done) == ["list", "entries", "new_rows", "states", "spans", "problems"]
    assert done["states"] == {"done": 1, "failed": 1, "skipped": 0, "failed: not_found": 1}
    assert [(p["place"], p["path"], p["cause"]) for p in done["problems"]] == [
        ("line 3", "gone.mp4", "not_found")
    ]

    (tmp_path / "frames" / "b").mkdir(parents=True)
    for number, picture in enumerate(footage.numbered(60)):
        Image.fromarray(picture).save(tmp_path / "frames" / "b" / f"b_{number}.jpg")
    frames = ("import-data", "latte", tmp_path / "frames", "-w", tmp_path / "w", "--fps", "24", "--json")
    assert json.loads(cutroom(*frames, env=env).stdout)["states"] == {"done": 1, "failed": 0, "skipped": 0}

    settings = ("--set", "clips.min_s=0.5", "--set", "selection.filters=[]")
    curated = cutroom("curate", "-w", tmp_path / "w", *settings, "--json", env=env)
    assert json.loads(curated.stdout)["states"]["videos"]["done"] == 2, curated.stderr
    assert json.loads(cutroom("audit", tmp_path / "w", "--json", env=env).stdout)["balanced"]

    export = ("export-data", "open-sora", "default", tmp_path / "out", "-w", tmp_path / "w", "--json")
    both = [cutroom(*export, env=env) for _ in range(2)]
    assert "captions, similarity are of the embedded models" in both[0].stderr
    first, second = (json.loads(done.stdout) for done in both)
    assert list(first) == ["path", "clips", "failed", "bytes", "replaced"]
    assert (first["replaced"], second["replaced"]) == (False, True)
    assert first | {"replaced": True} == second
    assert first["clips"] > 0
    clip = json.loads((tmp_path / "out" / "export.json").read_text())["clips"]
    told = [json.loads(cutroom("explain", tmp_path / "w", c, "--json", env=env).stdout) for c in clip]
    assert "a sunrise" in [c["text"] for t in told for c in t["captions"] if c["of"] == "listed"]
    files = sorted((tmp_path / "out" / "clips").iterdir())
    assert all(exchange.pictures(f) for f in files)
    again = cutroom(
        "import-data", "open-sora", tmp_path / "out" / "clips.csv", "-w", tmp_path / "w2", "--json", env=env
    )
    assert json.loads(again.stdout)["states"]["done"] == first["clips"]

    tall = cutroom(
        "select", "-w", tmp_path / "w", "--name", "tall", "--filter", "height=480", "--json", env=env
    )
    assert json.loads(tall.stdout)["kept"] == 0, "no film is higher than 100 pixels"
    bare = cutroom("curate", "-w", tmp_path / "w", "--set", "clips.min_s=9", env=env)
    assert "no clip was found" in bare.stderr and "too_short (shorter than" in bare.stderr


def test_a_list_of_which_nothing_can_be_used_is_a_failure(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "list.csv").write_text("gone.mp4,nothing\n")
    done = cutroom("import-data", "open-sora-1.0", tmp_path / "list.csv", "-w", tmp_path / "w", env=env)
    assert done.returncode == 1
    assert "line 1: not_found" in done.stdout
    done = cutroom("import-data", "csv", tmp_path / "list.csv", "-w", tmp_path / "w", env=env)
    assert (done.returncode, "there is no format 'csv'" in done.stderr) == (2, True)


def test_a_list_whose_captions_stand_elsewhere_says_so(tmp_path: Path, env: dict[str, str]) -> None:
    film = footage.write_video(tmp_path / "a.mp4", footage.numbered(3))
    for header, said in (("path,caption,aes", True), ("path,text,aes", False)):
        (tmp_path / "list.csv").write_text(f"{header}\n{film},a sunrise,5\n")
        done = cutroom("import-data", "open-sora", tmp_path / "list.csv", "-w", tmp_path / "w", env=env)
        assert done.returncode == 0
        assert ("no entry has a caption" in done.stderr and "aes, caption" in done.stderr) is said


def test_what_embedded_models_said_is_known_unless_the_footage_is_theirs() -> None:
    def tables(**flags: object) -> tuple[str, ...]:
        return of_embedded_models(
            make_plan(load_settings({"warehouse": "w", **flags}, environ={}).curation())
        )

    assert tables() == ("embeddings", "aesthetics", "captions", "similarity")
    assert tables(selection={"trust_embedded": True}) == ()
    assert "captions" not in tables(annotators={"captions": {"model": "coca_ViT-L-14"}})
