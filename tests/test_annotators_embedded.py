"""The annotators with the models that come along, on shots that those never saw, as curation hands them over."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
from annotator_clips import check_columns, clip_of

from curation.annotators.base import Clip, Done
from curation.annotators.clip_model import load_clip
from curation.annotators.registry import ANNOTATORS
from curation.motion.flow import flow_means
from curation.reel.shots import MOTIONS, Shot, appeal, random_shots, render

SHOTS = random_shots(48, seed=9_000_001)
CLEAR = [number for number, shot in enumerate(SHOTS) if shot.text is None and shot.blur == 0]

Tables = dict[str, list[Mapping[str, Any]]]


def filmed(shot: Shot, number: int) -> Clip:
    """The shot's grid frames, and its row in table motion."""
    frames = list(render(shot, 256, 6))
    greys = [
        cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (96, 96), interpolation=cv2.INTER_AREA)
        for f in frames
    ]
    score, dx, dy = np.mean([flow_means(a, b) for a, b in pairwise(greys)], axis=0)
    return clip_of(
        frames, clip_id=f"c{number}", rows={"motion": {"score": score, "dx": dx, "dy": dy}}, quality=90
    )


@pytest.fixture(scope="module")
def tables() -> Tables:
    """What the registered annotators with default settings say of every shot, each fed with what those before said."""
    clips = [filmed(shot, number) for number, shot in enumerate(SHOTS)]
    found: Tables = {}
    for name in ("embeddings", "aesthetics", "captions", "summaries", "similarity"):
        annotator = ANNOTATORS[name](ANNOTATORS[name].config_type())
        annotator.load()
        handed = [
            clip_of(
                [frame.jpeg for frame in clip.grid],
                clip_id=clip.clip_id,
                rows={**clip.rows, **{table: columns[number] for table, columns in found.items()}},
            )
            for number, clip in enumerate(clips)
        ]
        outcomes = annotator.annotate(handed)
        for outcome in outcomes:
            assert isinstance(outcome, Done)
            check_columns(name, outcome)
        found[name] = [outcome.columns for outcome in outcomes]
    return found


def share(right: list[bool]) -> float:
    return sum(right) / len(right)


def test_captions_name_shape_and_colour_and_say_who_wrote_them(tables: Tables) -> None:
    for column in ("frame_caption", "video_caption"):
        words = [tables["captions"][number][column].split() for number in CLEAR]
        named = [
            SHOTS[n].shape in said and SHOTS[n].colour in said for n, said in zip(CLEAR, words, strict=True)
        ]
        assert share(named) >= 0.9
    assert {row["frame_method"] for row in tables["captions"]} == {"coca-embedded"}
    assert {row["video_method"] for row in tables["captions"]} == {"coca-embedded-8-frames+flow"}
    assert {row["video_status"] for row in tables["captions"]} == {"ok"}
    assert {row["method"] for row in tables["summaries"]} == {"offline-merge"}


def test_the_clips_caption_says_which_way_it_moves(tables: Tables) -> None:
    told = {"left", "right", "up", "down", "still"}
    right = [
        f" {MOTIONS[SHOTS[n].motion]} on" in tables["captions"][n]["video_caption"]
        for n in CLEAR
        if SHOTS[n].motion in told
    ]
    assert len(right) >= 15 and share(right) >= 0.9


def test_the_summary_tells_what_both_captions_tell(tables: Tables) -> None:
    for captions, summary in zip(tables["captions"], tables["summaries"], strict=True):
        told = set(summary["summary"].replace(",", "").split())
        assert {*captions["frame_caption"].split(), *captions["video_caption"].split()} <= told | {
            "a",
            "with",
        }


def test_what_is_meant_to_please_more_scores_higher(tables: Tables) -> None:
    meant = np.array([np.mean([appeal(shot, moment) for moment in (0, 0.5, 1)]) for shot in SHOTS])
    scores = np.array([row["score"] for row in tables["aesthetics"]])
    ranks = [values.argsort().argsort() for values in (meant, scores)]
    assert np.corrcoef(*ranks)[0, 1] > 0.5


def test_a_clips_own_summary_is_nearer_than_those_of_other_clips(tables: Tables) -> None:
    summaries = [row["summary"] for row in tables["summaries"]]
    texts = load_clip("embedded", None).embed_texts(summaries)
    frames = np.array([row["middle"] for row in tables["embeddings"]], np.float32)
    cosines = frames @ texts.T
    nearer = [
        bool(cosines[n, n] > cosines[n, other])
        for n in CLEAR
        for other in range(len(SHOTS))
        if summaries[other] != summaries[n]
    ]
    assert share(nearer) >= 0.97
    np.testing.assert_allclose(
        [row["cosines"][5] for row in tables["similarity"]], np.diag(cosines), atol=1e-5
    )
