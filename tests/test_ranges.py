"""Numbers that no step could work with are refused by their setting's name before anything is read or written."""

from __future__ import annotations

import math

import pytest

from flows.settings import load_settings, nest
from warehouse.errors import SettingsError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scan.grid_fps", 0.0),
        ("scan.grid_fps", -2.0),
        ("scan.grid_fps", math.nan),
        ("scan.flow_fps", math.inf),
        ("scan.level_fps", [None, 0.0]),
        ("scan.detectors", [["hash", 0.0]]),
        ("scan.grid_short_px", 0),
        ("scan.flow_short_px", 1),
        ("scan.jpeg_quality", 200),
        ("scan.decode_threads", -1),
        ("clips.min_frames", 0),
        ("clips.trim_s", -1.0),
        ("clips.black_below", 300.0),
        ("cuts.join_s", -0.1),
        ("shard.hours", math.nan),
        ("shard.videos", 0),
        ("limits.max_width", 0),
        ("limits.max_refused_share", 1.5),
        ("annotators.captions.num_frames", 0),
        ("annotators.embeddings.batch_size", 0),
        ("annotators.similarity.batch_size", -3),
        ("annotators.quality.num_frames", 0),
        ("annotators.sharpness.short_side_px", 0),
        ("annotators.fingerprints.max_frames", 0),
        ("annotators.text_area.min_letters", -3),
        ("annotators.text_area.rapidocr.box_threshold", 2.0),
        ("annotators.raft_motion.width", 0),
    ],
)
def test_a_number_out_of_range_is_named_with_its_setting(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"{name.replace('.', '[.]')} (is|has) .*expected"):
        load_settings(nest({name: value}), environ={})


def test_levels_of_cuts_that_the_scan_does_not_measure_are_found_before_it_runs() -> None:
    settings = load_settings(nest({"scan.level_fps": [None, 4.0]}), environ={})
    with pytest.raises(SettingsError, match=r"cuts\.levels has content at 8\.0 fps, but the scan measures"):
        settings.curation()
    levels = [{"detector": "content"}, {"detector": "adaptive", "fps": 4.0}, {"detector": "hash", "fps": 2.0}]
    fitting = {"cuts.levels": levels, "scan.level_fps": [None, 4.0], "scan.detectors": [["hash", 2.0]]}
    assert load_settings(nest(fitting), environ={}).curation().cuts.levels[1].detector == "adaptive"
    assert load_settings({}, environ={}).curation().scan.grid_fps == 2.0
