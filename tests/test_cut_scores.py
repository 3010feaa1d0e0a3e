"""The scorer of cuts: against closed forms, a second scorer, and a published figure."""

from __future__ import annotations

import importlib.util
import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.cuts.scorer import (
    TRANSNET,
    Boundary,
    Convention,
    boundaries_of_scenes,
    boundaries_of_scores,
    count,
    intervals,
    score,
)


def hard(*frames: int) -> list[Boundary]:
    return [Boundary(frame, frame) for frame in frames]


def test_the_published_f1_of_autoshot_is_reproduced(test_data: Path) -> None:
    """0.8405 at threshold 0.296 (Zhu et al. 2023)."""
    table = pq.read_table(test_data / "shot_scores" / "autoshot_test.parquet")
    counts = [
        count(
            boundaries_of_scenes([tuple(scene) for scene in row["scenes"]]),
            boundaries_of_scores(np.array(row["score"]) > 0.296),
            TRANSNET,
        )
        for row in table.to_pylist()
    ]
    assert len(counts) == 200
    assert round(score(np.stack(counts))["all"].f1, 4) == 0.8405


def test_it_agrees_with_another_scorer_on_disturbed_truth(test_data: Path) -> None:
    """Cuts moved, dropped, doubled and made up at random; that scorer takes points alone."""
    script = test_data.parent / "tools" / "score_cuts.py"
    if not script.exists():
        pytest.skip("the other scorer is not there")
    spec = importlib.util.spec_from_file_location("score_cuts", script)
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    truth = json.loads((test_data / "cuts.json").read_text())["videos"]
    generator = np.random.default_rng(0)
    found = {name: _disturbed(row, generator) for name, row in truth.items()}
    theirs = other.score(truth, found)
    counts = [count(_truth(row), hard(*found[name])) for name, row in truth.items()]
    ours = score(np.stack(counts))
    assert 0.5 < theirs["f1"] < 0.95
    assert ours["hard"].num_true == theirs["hard"]
    assert ours["gradual"].num_true == theirs["gradual"]
    assert ours["all"].num_false == theirs["false"]
    assert round(ours["hard"].recall, 3) == theirs["hard_recall"]
    assert round(ours["gradual"].recall, 3) == theirs["gradual_recall"]
    assert round(ours["all"].precision, 3) == theirs["precision"]
    assert round(ours["all"].f1, 3) == theirs["f1"]


def _truth(row: dict) -> list[Boundary]:
    return hard(*row["hard"]) + [Boundary(span["start"], span["end"]) for span in row["gradual"]]


def _disturbed(row: dict, generator: np.random.Generator) -> list[int]:
    kept = [frame + int(generator.integers(-2, 3)) for frame in row["hard"] if generator.random() < 0.9]
    for span in row["gradual"]:
        kept += generator.integers(span["start"] - 7, span["end"] + 7, generator.integers(0, 3)).tolist()
    return sorted(kept + generator.integers(0, 200, generator.integers(0, 2)).tolist())


def test_scenes_and_marks_become_the_same_boundaries() -> None:
    """Frames 3 and 4 belong to neither scene; then a hard cut before frame 7."""
    expected = [Boundary(3, 5), Boundary(7, 7)]
    assert boundaries_of_scenes([(0, 2), (5, 6), (7, 9)]) == expected
    assert boundaries_of_scores(np.array([0, 0, 1, 1, 1, 0, 1, 0, 0, 0], bool)) == expected


def test_marks_at_the_ends_are_between_no_two_scenes() -> None:
    assert boundaries_of_scores(np.array([1, 1, 0, 0, 1], bool)) == []
    assert boundaries_of_scores(np.ones(4, bool)) == boundaries_of_scores(np.zeros(0, bool)) == []


@pytest.mark.parametrize(("off", "hit"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_hard_cut_is_found_within_its_tolerance(off: int, hit: bool) -> None:
    assert count(hard(50), hard(50 + off)).tolist() == [[1, hit, not hit], [0, 0, 0]]


@pytest.mark.parametrize(("frame", "hit"), [(34, False), (35, True), (50, True), (65, True), (66, False)])
def test_a_gradual_transition_is_found_within_its_range(frame: int, hit: bool) -> None:
    assert count([Boundary(40, 60)], hard(frame)).tolist() == [[0, 0, not hit], [1, hit, 0]]


def test_a_false_boundary_counts_for_its_own_type() -> None:
    assert count([], [Boundary(3, 9), Boundary(20, 20)]).tolist() == [[0, 0, 1], [0, 0, 1]]


def test_one_boundary_finds_one_cut() -> None:
    assert count(hard(10, 11), hard(10)).tolist() == [[2, 1, 0], [0, 0, 0]]
    assert count(hard(10), hard(10, 11)).tolist() == [[1, 1, 1], [0, 0, 0]]


def test_repeats_in_a_gradual_transition_are_forgiven_by_choice() -> None:
    truth, found = [Boundary(40, 60)], hard(42, 50, 58)
    assert count(truth, found).tolist() == [[0, 0, 0], [1, 1, 0]]
    assert count(truth, found, Convention(forgives_repeats=False)).tolist() == [[0, 0, 2], [1, 1, 0]]


def test_a_match_is_given_up_where_both_can_have_one() -> None:
    """11 is near both cuts, 9 only near the first: taking what comes first would lose the second."""
    assert count(hard(10, 12), hard(11, 9))[0].tolist() == [2, 2, 0]


def test_where_one_of_two_can_be_found_it_is_the_hard_cut() -> None:
    assert count([Boundary(2, 8), Boundary(10, 10)], hard(9)).tolist() == [[1, 1, 0], [1, 0, 0]]


spans = st.lists(
    st.tuples(st.integers(0, 25), st.integers(0, 4)).map(lambda s: Boundary(s[0], s[0] + s[1])), max_size=5
)


@settings(deadline=None)
@given(spans, spans)
def test_no_assignment_finds_more_hard_cuts_or_more_in_all(
    truth: list[Boundary], found: list[Boundary]
) -> None:
    """Against all assignments there are."""
    convention = Convention(1, 2, forgives_repeats=False)
    reach = [convention.hard_frames if t.is_hard else convention.gradual_frames for t in truth]
    slots = [*found, *[None] * len(truth)]
    best = 0, 0
    for chosen in set(permutations(range(len(slots)), len(truth))) if len(slots) < 8 else ():
        hits = [
            slots[c] is not None and max(t.start - slots[c].end, slots[c].start - t.end) <= r
            for t, r, c in zip(truth, reach, chosen, strict=True)
        ]
        num_hard = sum(h for h, t in zip(hits, truth, strict=True) if t.is_hard)
        best = max(best, (sum(hits), num_hard))
    counts = count(truth, found, convention)
    if len(slots) < 8:
        assert counts[:, 1].sum() == best[0]
        assert counts[0, 1] >= best[1]
    assert counts[:, 2].sum() == len(found) - counts[:, 1].sum()


def test_scores_are_those_of_the_summed_counts() -> None:
    counts = np.array([[[4, 3, 1], [2, 1, 0]], [[6, 5, 3], [0, 0, 2]]])
    found = score(counts)
    assert (found["hard"].precision, found["hard"].recall) == (8 / 12, 8 / 10)
    assert (found["gradual"].precision, found["gradual"].recall) == (1 / 3, 1 / 2)
    assert found["all"].f1 == pytest.approx(2 * 9 / (2 * 9 + 6 + 3))


def test_nothing_to_find_and_nothing_found_is_no_mistake() -> None:
    assert (score(np.zeros((3, 2, 3)))["all"].precision, score(np.zeros((3, 2, 3)))["all"].recall) == (1, 1)
    missed = score(np.array([[[2, 0, 3], [0, 0, 0]]]))["hard"]
    assert (missed.precision, missed.recall, missed.f1) == (0, 0, 0)


def test_the_interval_is_that_of_resampled_videos() -> None:
    """Half of the videos have recall 1, half 0: the mean of n draws has deviation 1 / (2 sqrt n)."""
    one, none = [[1, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]]
    counts = np.array([one, none] * 50)
    low, high = intervals(counts, seed=1, num_draws=2000)["hard"]["recall"]
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.05, 0.5 + 1.96 * 0.05), abs=0.02)
    assert intervals(counts, seed=1) == intervals(counts, seed=1)
    same = intervals(np.array([one] * 9), seed=0)["hard"]["recall"]
    assert same == (1, 1)
