"""Selection against arithmetic done by hand and properties that must hold for any scores."""

from __future__ import annotations

import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.selection.filters import SCORES, Filter, SelectionConfig, freeze, funnel, judge
from warehouse.errors import SettingsError

FILTERS = SelectionConfig("test", (Filter("motion", drop=0.25), Filter("text_area", limit=0.07)))
maybe = st.none() | st.floats(-1e6, 1e6, width=32)


def _scores(motion: list[float | None], text: list[float | None]) -> pl.DataFrame:
    schema = {"clip_id": pl.String, "motion": pl.Float32, "text_area": pl.Float32}
    ids = [f"{i:04d}" for i in range(len(motion))]
    return pl.DataFrame({"clip_id": ids, "motion": motion, "text_area": text}, schema)


def test_the_worst_quarter_goes_and_the_first_filter_gives_the_reason() -> None:
    scores = _scores([1, 2, 3, 4, 5, 6, 7, 8], [0.5, 0, 0, 0.08, 0.07, 0, 0, None])
    thresholds = freeze(FILTERS, scores)
    assert [(t.score, t.value, t.reference_clips) for t in thresholds] == [
        ("motion", 3.0, 8),
        ("text_area", 0.07, 0),
    ]
    verdicts = judge(thresholds, scores)
    assert verdicts["rejected_by"].to_list() == [
        "motion", "motion", None, "text_area", None, None, None, "text_area:missing",
    ]  # fmt: skip
    assert verdicts["failed_filters"].to_list()[0] == ["motion", "text_area"]


def test_what_cannot_be_known_is_let_be_and_what_is_missing_is_rejected() -> None:
    scores = _scores([None, None, 1, 2, 3, 4], [None, 0.5, 0, 0, 0, 0])
    unknown = [["motion", "text_area"], [], [], [], [], []]
    scores = scores.with_columns(pl.Series("unknown", unknown, pl.List(pl.String)))
    thresholds = freeze(FILTERS, scores)
    assert (thresholds[0].value, thresholds[0].reference_clips) == (2.0, 4)
    verdicts = judge(thresholds, scores)
    assert verdicts["rejected_by"].to_list() == [None, "motion:missing", "motion", None, None, None]
    assert verdicts["failed_filters"].to_list()[1] == ["motion:missing", "text_area"]
    motion, text = funnel(thresholds, scores)
    assert (motion["unknown"], motion["exempt"], motion["rejects_alone"]) == (1, 0, 2)
    assert (motion["rejected"], motion["kept"]) == (2, 4)
    assert (text["unknown"], text["rejects_alone"], text["rejected"], text["kept"]) == (1, 1, 0, 4)


def test_where_no_clip_can_have_a_score_its_filter_gets_no_threshold() -> None:
    scores = _scores([None, None], [0.0, 0.0])
    unknown = scores.with_columns(pl.Series("unknown", [["motion"]] * 2))
    assert [t.score for t in freeze(FILTERS, unknown)] == ["text_area"]
    one_is_missing = scores.with_columns(pl.Series("unknown", [["motion"], []]))
    with pytest.raises(SettingsError, match="motion: no clip has this score"):
        freeze(FILTERS, one_is_missing)


def test_a_clip_on_the_threshold_is_kept_so_ties_are_never_split() -> None:
    scores = _scores([0.0] * 9 + [5.0], [0.0] * 10)
    assert judge(freeze(FILTERS, scores), scores)["kept"].all()


def test_high_is_worse_for_text() -> None:
    config = SelectionConfig("test", (Filter("text_area", drop=0.25),))
    scores = _scores([1.0] * 8, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    kept = judge(freeze(config, scores), scores)["kept"].to_list()
    assert kept == [True] * 6 + [False] * 2


@given(st.lists(st.tuples(maybe, maybe), min_size=1, max_size=60), st.floats(0, 0.99))
def test_kept_and_rejected_add_up_and_the_funnel_agrees(rows: list[tuple], drop: float) -> None:
    scores = _scores([m for m, _ in rows], [t for _, t in rows])
    config = SelectionConfig("test", (Filter("text_area", limit=0.0), Filter("motion", drop=drop)))
    if scores["motion"].is_null().all():
        with pytest.raises(SettingsError, match="motion"):
            freeze(config, scores)
        return
    thresholds = freeze(config, scores)
    verdicts = judge(thresholds, scores)
    assert verdicts["clip_id"].to_list() == scores["clip_id"].to_list()
    assert (verdicts["kept"] == verdicts["rejected_by"].is_null()).all()
    stages = funnel(thresholds, scores)
    assert stages[0]["in"] == len(rows)
    assert stages[-1]["kept"] == verdicts["kept"].sum()
    assert all(s["in"] - s["rejected"] == s["kept"] for s in stages)
    scored = scores["motion"].drop_nulls()
    assert (scored < thresholds[1].value).sum() <= drop * len(scored) + 1


def test_frozen_thresholds_do_not_move_with_new_clips() -> None:
    reference = _scores([1, 2, 3, 4], [0] * 4)
    thresholds = freeze(FILTERS, reference)
    later = _scores([1.5, 100.0], [0, 0])
    assert judge(thresholds, later)["kept"].to_list() == [False, True]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"score": "beauty", "drop": 0.1}, "motion"),
        ({"score": "motion"}, "either `drop` or `limit`"),
        ({"score": "motion", "drop": 0.1, "limit": 1.0}, "either `drop` or `limit`"),
        ({"score": "motion", "drop": 1.0}, "share from 0"),
        ({"score": "motion", "drop": math.nan}, "share from 0"),
        ({"score": "motion", "limit": math.nan}, "finite"),
        ({"score": "motion", "limit": math.inf}, "finite"),
        ({"score": "motion", "limit": -math.inf}, "finite"),
        ({"score": "text_area", "limit": -1.0}, "share from 0 to 1"),
        ({"score": "text_area", "limit": 5.0}, "share from 0 to 1"),
    ],
)
def test_a_wrong_filter_says_how_to_mend_it(settings: dict, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Filter(**settings)


@pytest.mark.parametrize("name", ["../../../evil", "a/b", "/evil", ".hidden", "..", "", "a b", "a\n", "ä"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="letters, digits"):
        SelectionConfig(name)


@pytest.mark.parametrize("name", ["default", "best-10_v1.2", "_", "7"])
def test_a_plain_name_is_taken(name: str) -> None:
    assert SelectionConfig(name).name == name


def test_two_filters_by_one_score_are_refused() -> None:
    with pytest.raises(SettingsError, match="motion is filtered by more than once"):
        SelectionConfig(
            filters=(Filter("motion", drop=0.1), Filter("sharpness", drop=0.1), Filter("motion", limit=1.0))
        )


def test_every_score_is_a_column_of_the_schema() -> None:
    from warehouse.schema import TABLES

    assert all(score.column in TABLES[score.table].schema.names for score in SCORES.values())
