"""Where settings come from, in which order, and what is said of those that nobody knows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from curation.annotators.registry import ANNOTATORS
from curation.cuts.clips import ClipConfig
from curation.pipeline import CurationConfig
from curation.scan import ScanConfig
from curation.selection.filters import Filter, SelectionConfig
from flows.settings import (
    OTHER_VARIABLES,
    CurateParams,
    Section,
    Settings,
    TrainParams,
    load_settings,
    nest,
    parse_set,
    validate,
)
from warehouse.errors import SettingsError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(flags: dict | None = None, toml: str | None = None, **environ: str) -> Settings:
    if toml is not None:
        Path("cutroom.toml").write_text(toml)
    return load_settings(flags, environ=environ)


def test_defaults_are_those_of_the_layers_below() -> None:
    settings = load()
    assert (settings.scan, settings.clips, settings.selection) == (
        ScanConfig(),
        ClipConfig(),
        SelectionConfig(),
    )
    config = settings.curation()
    own = {"annotators": config.annotators}
    assert config == dataclasses.replace(CurationConfig(), **own)
    on = {name: kind.config_type() for name, kind in ANNOTATORS.items() if name != "raft_motion"}
    assert dict(config.annotators) == on


def test_raft_is_on_once_its_weights_are_named() -> None:
    flags = {"annotators": {"raft_motion": {"weights": "raft.pth"}}}
    assert dict(load(flags).curation().annotators)["raft_motion"].weights == "raft.pth"


def test_flags_come_before_the_file_before_the_environment_before_the_defaults() -> None:
    toml = "[clips]\nmin_s = 1.5\nmax_s = 30\n"
    environ = {"CUTROOM_CLIPS__MIN_S": "1.2", "CUTROOM_CLIPS__MAX_S": "25", "CUTROOM_CLIPS__TRIM_S": "0.1"}
    clips = load({"clips": {"min_s": 1.8}}, toml, **environ).clips
    assert clips == ClipConfig(min_s=1.8, max_s=30.0, trim_s=0.1, min_frames=ClipConfig().min_frames)
    assert load(None, toml, **environ).clips.min_s == 1.5
    Path("cutroom.toml").unlink()
    assert load(None, **environ).clips.min_s == 1.2


def test_a_named_file_is_read_instead_of_the_one_in_the_folder(tmp_path: Path) -> None:
    Path("cutroom.toml").write_text("workers = 3\n")
    other = tmp_path / "other.toml"
    other.write_text("window_shards = 7\n")
    settings = load_settings(toml=other, environ={})
    assert settings.window_shards == 7
    assert "workers" not in settings.model_fields_set
    with pytest.raises(SettingsError, match=r"no settings file .*gone\.toml"):
        load_settings(toml="gone.toml", environ={})
    other.write_text("workers = \n")
    with pytest.raises(SettingsError, match=r"other\.toml is no TOML"):
        load_settings(toml=other, environ={})


def test_values_of_the_environment_are_lists_tables_or_texts() -> None:
    environ = {
        "CUTROOM_SCAN__LEVEL_FPS": "[null, 4]",
        "CUTROOM_SELECTION__FILTERS": '[{"score": "motion", "limit": 0.5}]',
        "CUTROOM_SELECTION__NAME": "12",
        "CUTROOM_RETRY_FAILED": "true",
    }
    settings = load(None, None, **environ)
    assert settings.scan.level_fps == (None, 4.0)
    assert settings.selection == SelectionConfig("12", (Filter("motion", limit=0.5),))
    assert settings.retry_failed is True
    assert load(None, None, CUTROOM_FOOTAGE="films").footage == ("films",)
    assert load(None, None, CUTROOM_FOOTAGE='["films", "more"]').footage == ("films", "more")


@pytest.mark.parametrize(
    ("flags", "name", "known"),
    [
        ({"scann": {}}, "scann", "scan"),
        ({"scan": {"grid": 1}}, "scan.grid", "grid_fps"),
        (
            {"annotators": {"text_area": {"rapidocr": {"size": 1}}}},
            "annotators.text_area.rapidocr.size",
            "long_side_px",
        ),
        ({"selection": {"filters": [{"score": "motion", "dropp": 1}]}}, "selection.filters.0.dropp", "drop"),
    ],
)
def test_unknown_keys_are_errors_at_every_depth_and_name_the_known(
    flags: dict, name: str, known: str
) -> None:
    with pytest.raises(
        SettingsError, match=rf"unknown setting {name} \(in the command\); known here: .*\b{known}\b"
    ):
        load(flags)


def test_unknown_keys_say_where_they_stand() -> None:
    with pytest.raises(SettingsError, match=r"clips\.mins \(in cutroom\.toml\)"):
        load(None, "[clips]\nmins = 1\n")
    Path("cutroom.toml").unlink()
    with pytest.raises(SettingsError, match=r"clips\.mins \(in the environment\)"):
        load(None, CUTROOM_CLIPS__MINS="1")
    assert load(None, **dict.fromkeys(OTHER_VARIABLES, "x")) == load()


def test_values_that_do_not_fit_are_errors() -> None:
    with pytest.raises(SettingsError, match=r"workers \(in the command\) is 0: .*greater than or equal to 1"):
        load({"workers": 0})
    with pytest.raises(SettingsError, match=r"profile .* is 'best': .*'embedded' or 'published'"):
        load({"profile": "best"})
    with pytest.raises(SettingsError, match="min_s is 15"):
        load({"clips": {"min_s": 15}})
    with pytest.raises(SettingsError, match="no score 'movement'"):
        load({"selection": {"filters": [{"score": "movement", "drop": 0.1}]}})


def test_the_published_profile_takes_the_models_and_filters_of_the_paper() -> None:
    settings = load({"profile": "published"})
    shares = {f.score: f.drop for f in settings.selection.filters}
    assert shares == {"motion": 0.25, "text_area": 0.25, "aesthetics": 0.25, "similarity": 0.5}
    assert load(None, None, PROFILE="published") == load(None, None, CUTROOM_PROFILE="published") == settings
    assert load({"profile": "embedded"}, None, PROFILE="published") == load({"profile": "embedded"})


def test_a_base_stands_below_what_is_given_but_a_profile_that_is_asked_for_stands_above_it() -> None:
    base = {"selection": {"name": "earlier", "filters": []}, "clips": {"min_s": 1.0}}
    assert load_settings({}, environ={}, base=base).selection == SelectionConfig("earlier", ())
    chosen = load_settings({"profile": "published"}, environ={}, base=base)
    assert (chosen.selection.name, chosen.clips.min_s) == ("svd", 1.0)


def test_parameters_of_a_flow_give_back_what_was_resolved() -> None:
    settings = load({"clips": {"min_s": 1.0}, "workers": 2}, "[scan]\ngrid_fps = 4.0\n")
    params = CurateParams.of(settings, None)
    Path("cutroom.toml").unlink()
    assert params.resolve() == settings
    sent = json.loads(params.model_dump_json(exclude_unset=True))
    assert CurateParams(**sent).resolve() == settings
    assert TrainParams.of(settings, None).flags == {"workers": 2}


def test_every_setting_is_described_and_choices_are_lists() -> None:
    schema = CurateParams.model_json_schema()
    assert schema["properties"]["profile"]["enum"] == ["embedded", "published"]
    assert schema["$defs"]["TextAreaConfig"]["properties"]["engine"]["enum"] == ["rapidocr", "easyocr"]
    assert "Frames a second" in schema["$defs"]["ScanConfig"]["properties"]["grid_fps"]["description"]
    for model in (CurateParams, TrainParams):
        nested = [n for n, p in model.model_json_schema()["properties"].items() if "description" not in p]
        assert all("$ref" in model.model_json_schema()["properties"][n] for n in nested), nested


def test_names_with_dots_nest() -> None:
    assert nest({"a.b.c": 1, "a.d": 2, "e": 3}) == {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    assert parse_set("clips.min_s=1.5") == ("clips.min_s", "1.5")
    assert parse_set("scan.level_fps=[null, 2]") == ("scan.level_fps", [None, 2])
    for wrong in ("clips", "=1", ""):
        with pytest.raises(SettingsError, match="NAME=VALUE"):
            parse_set(wrong)


def test_validate_explains_models_of_any_kind() -> None:
    class Small(Section):
        size: int = 1

    with pytest.raises(SettingsError, match="unknown setting sizes; known here: size"):
        validate(Small, {"sizes": 2})
