from __future__ import annotations

import numpy as np
import pytest
from annotator_clips import check_columns, clip_of

from curation.annotators.base import Done, Failed, Skipped
from curation.annotators.motion import MotionAnnotator, MotionConfig

FLOW = {
    "pts0": [0, 500, 1000, 1500],
    "pts1": [500, 1000, 1500, 2000],
    "magnitude": [1.0, 3.0, 5.0, 100.0],
    "dx": [1.0, -2.0, 4.0, 0.0],
    "dy": [0.5, 0.5, -4.0, 0.0],
    "camera_motion": [1.0, None, 3.0, 50.0],
    "object_motion": [0.25, None, 0.75, 50.0],
    "camera_dx": [-1.0, None, -3.0, 50.0],
    "camera_dy": [0.5, None, -0.5, 50.0],
    "camera_zoom": [0.0, None, 0.5, 50.0],
    "camera_roll": [0.0, None, 0.0, 50.0],
}
CAMERA = ("camera_motion", "object_motion", "camera_dx", "camera_dy", "camera_zoom", "camera_roll")
ANNOTATOR = MotionAnnotator(MotionConfig())


def grid(count: int) -> list[np.ndarray]:
    return [np.zeros((8, 8, 3), np.uint8)] * count


def test_averages_the_pairs_inside_and_leaves_out_the_one_that_straddles_the_end() -> None:
    (outcome,) = ANNOTATOR.annotate([clip_of(grid(4), rows={"flow": FLOW})])
    assert isinstance(outcome, Done)
    check_columns("motion", outcome)
    found = dict(outcome.columns)
    assert found.pop("camera") == "pan_right"
    camera = dict(zip(CAMERA, (2.0, 0.5, -2.0, 0.0, 0.25, 0.0), strict=True))
    whole = {"score": 3.0, "dx": 1.0, "dy": -1.0, "num_pairs": 3, "num_camera_pairs": 2}
    assert found == pytest.approx(whole | camera)


def test_a_clip_whose_flow_no_camera_explains_has_null_for_it() -> None:
    unknown = FLOW | {name: [None] * 4 for name in CAMERA}
    (outcome,) = ANNOTATOR.annotate([clip_of(grid(4), rows={"flow": unknown})])
    assert isinstance(outcome, Done)
    check_columns("motion", outcome)
    assert outcome.columns["score"] == 3.0 and outcome.columns["num_camera_pairs"] == 0
    assert [outcome.columns[name] for name in ("camera", *CAMERA)] == [None] * 7


def test_a_clip_without_a_pair_is_skipped_and_one_without_a_flow_row_fails() -> None:
    pair, no_pair, no_row = ANNOTATOR.annotate(
        [
            clip_of(grid(2), rows={"flow": FLOW}),
            clip_of(grid(1), rows={"flow": FLOW}),
            clip_of(grid(2), rows={"flow": {}}),
        ]
    )
    assert isinstance(pair, Done) and pair.columns["num_pairs"] == 1
    assert no_pair == Skipped("no_flow_pair")
    assert isinstance(no_row, Failed) and no_row.cause == "missing_input"
