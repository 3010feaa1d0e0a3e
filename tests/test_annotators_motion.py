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
}
ANNOTATOR = MotionAnnotator(MotionConfig())


def grid(count: int) -> list[np.ndarray]:
    return [np.zeros((8, 8, 3), np.uint8)] * count


def test_averages_the_pairs_inside_and_leaves_out_the_one_that_straddles_the_end() -> None:
    (outcome,) = ANNOTATOR.annotate([clip_of(grid(4), rows={"flow": FLOW})])
    assert isinstance(outcome, Done)
    check_columns("motion", outcome)
    assert dict(outcome.columns) == pytest.approx({"score": 3.0, "dx": 1.0, "dy": -1.0, "num_pairs": 3})


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
