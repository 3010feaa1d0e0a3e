from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from annotator_clips import clip_of

from curation.annotators.base import Done
from curation.annotators.motion import MotionAnnotator, MotionConfig
from curation.captions.score_words import (
    CAMERA_WORDS,
    AskedScores,
    ScoreWordsConfig,
    asking_for,
    parts,
    with_score_words,
    without_score_words,
)
from curation.motion.camera import CameraNames, camera_name
from curation.scan import scan_video
from tests.footage import texture, write_video
from warehouse.errors import SettingsError

AS_TOLD = {"drop_share": 0.0, "motion_scale": 1.0}
"""The score that is given is the one that is told."""
ALWAYS = {style: ScoreWordsConfig(style, **AS_TOLD) for style in ("numbers", "words", "sentences")}


def test_numbers_and_words_are_those_of_open_sora() -> None:
    numbers = with_score_words("a dog", "c", 6.51, 5.0, ALWAYS["numbers"])
    assert numbers == "a dog. aesthetic score: 6.5. motion score: 5.0."
    words = with_score_words("a dog runs!", "c", 5.7, 12.0, ALWAYS["words"])
    assert words == "a dog runs! The aesthetic score is good. The motion strength is very high."
    assert with_score_words("a dog", "c", None, None, ALWAYS["words"]) == "a dog"
    assert with_score_words("a dog", "c", None, 5.0, ALWAYS["numbers"]) == "a dog. motion score: 5.0."


@pytest.mark.parametrize(
    ("score", "word"),
    [
        (3.9, "terrible"),
        (4.0, "very poor"),
        (4.5, "poor"),
        (5.0, "fair"),
        (5.5, "good"),
        (6.0, "very good"),
        (6.5, "excellent"),
    ],
)
def test_grades_of_aesthetics(score: float, word: str) -> None:
    assert with_score_words("a.", "c", score, None, ALWAYS["words"]) == f"a. The aesthetic score is {word}."


@pytest.mark.parametrize(
    ("score", "word"),
    [
        (0.49, "very low"),
        (0.5, "low"),
        (2.0, "fair"),
        (5.0, "high"),
        (10.0, "very high"),
        (20.0, "extremely high"),
    ],
)
def test_grades_of_motion_follow_its_unit(score: float, word: str) -> None:
    scaled = ScoreWordsConfig("words", drop_share=0.0, motion_scale=10.0)
    assert with_score_words("a.", "c", None, score / 10, scaled) == f"a. The motion strength is {word}."


@pytest.mark.parametrize("style", ["numbers", "words"])
def test_telling_twice_changes_nothing_and_it_can_be_taken_back(style: str) -> None:
    told = with_score_words("a dog runs.", "c", 6.2, 3.0, ALWAYS[style])
    assert with_score_words(told, "c", 1.0, 30.0, ALWAYS[style]) == told
    assert without_score_words(told) == "a dog runs."
    assert without_score_words("the motion score: high, of a game") == "the motion score: high, of a game"


def test_sentences_speak_of_the_best_and_the_worst_before_or_after() -> None:
    clips = [str(n) for n in range(200)]
    high, low, middle = (
        {with_score_words("a dog", clip, score, 1.0, ALWAYS["sentences"]) for clip in clips}
        for score in (5.75, 4.25, 5.0)
    )
    assert middle == {"a dog"} and not high & low
    for told in (high, low):
        assert len(told) == 6 and sum(text.startswith("a dog. ") for text in told) == 3
    again = {with_score_words(text, "c", 6.0, None, ALWAYS["sentences"]) for text in high}
    assert again == high


def test_a_share_of_clips_is_left_without_and_always_the_same_ones() -> None:
    config = ScoreWordsConfig("words", motion_scale=1.0)
    told = [with_score_words("a dog.", str(n), 5.0, 1.0, config) for n in range(4000)]
    assert 0.17 < told.count("a dog.") / len(told) < 0.23
    assert told == [with_score_words("a dog.", str(n), 5.0, 1.0, config) for n in range(4000)]
    for wrong in ({"drop_share": 2.0}, {"motion_scale": 0.0}):
        with pytest.raises(SettingsError, match="expected 0 to 1, and above 0"):
            ScoreWordsConfig(**wrong)


def test_the_cameras_motion_stands_behind_the_scores() -> None:
    assert (
        with_score_words("a dog", "c", 6.51, 5.0, ALWAYS["numbers"], "pan_right")
        == "a dog. aesthetic score: 6.5. motion score: 5.0. camera motion: pan right."
    )
    for style in ("numbers", "words"):
        for camera in ("mixed", None):
            assert "camera" not in with_score_words("a dog", "c", 6.0, 5.0, ALWAYS[style], camera)
        told = with_score_words("a dog.", "c", 6.0, 5.0, ALWAYS[style], "zoom_in")
        assert with_score_words(told, "c", 6.0, 5.0, ALWAYS[style], "roll") == told
        assert without_score_words(told) == "a dog."
        assert "".join(parts(told)[::2]) == "a dog."
    assert "camera" not in with_score_words("a dog", "c", 6.0, 5.0, ALWAYS["sentences"], "roll")
    silent = ScoreWordsConfig("words", drop_share=0.0, camera=False)
    assert "camera" not in with_score_words("a dog", "c", 6.0, 5.0, silent, "roll")


def test_every_name_that_a_camera_can_have_has_words() -> None:
    parts_of = ("camera_dx", "camera_dy", "camera_zoom", "camera_roll")
    names = {
        camera_name(1.0, dict.fromkeys(parts_of, 0.0) | {p: s}, CameraNames())
        for p in parts_of
        for s in (1, -1)
    }
    names.add(camera_name(0.0, dict.fromkeys(parts_of, 0.0), CameraNames()))
    assert {name.replace("_", " ") for name in names} == set(CAMERA_WORDS)


@pytest.mark.parametrize(
    ("pan_px", "word", "camera"),
    [
        (0.0, "very low", "static"),
        (0.4, "very low", "static"),
        (2.0, "low", "pan right"),
        (-6.0, "fair", "pan left"),
        (14.0, "high", "pan right"),
        (27.0, "very high", "pan right"),
    ],
)
def test_words_of_a_pan_are_those_of_open_soras_unit(
    tmp_path: Path, pan_px: float, word: str, camera: str
) -> None:
    """A camera pans by so many pixels of a 320 px high picture in half a second, of 15 frames: of Open-Sora's score,
    the mean of |dx| and |dy|, that is half, and the words are those that its bounds give to it. Nothing here uses our
    own unit."""
    height, rate = 160, 30
    field = texture(5, height, 1600, grain=16)
    places = [700 + round(i * pan_px * height / 320 / 15) for i in range(2 * rate + 1)]
    pictures = [np.ascontiguousarray(field[:, x : x + 284]) for x in places]
    video = write_video(tmp_path / "pan.mp4", pictures, time_base=Fraction(1, rate))
    scan = scan_video(video)
    flow = {name: values.tolist() for name, values in asdict(scan.flow).items()}
    clip = clip_of([], rows={"flow": flow})
    object.__setattr__(clip, "end_pts", scan.signals.end_pts)
    (outcome,) = MotionAnnotator(MotionConfig()).annotate([clip])
    assert isinstance(outcome, Done)
    row = outcome.columns
    always = ScoreWordsConfig("words", drop_share=0.0)
    told = with_score_words("a wall.", "c", None, row["score"], always, row["camera"])
    assert told == f"a wall. The motion strength is {word}. camera motion: {camera}."


def test_a_prompt_asks_for_scores_as_captions_of_training_told_them() -> None:
    asked = AskedScores(6.2, 12.0, "pan right")
    told = with_score_words("a dog", "c", 6.2, 12.0, ALWAYS["words"], "pan_right")
    for scale in (1.0, 20.0):  # what is asked for is what was told, after the scale
        config = ScoreWordsConfig("words", drop_share=1.0, motion_scale=scale)
        assert asking_for("a dog", asked, config) == told
    assert asking_for("a dog", AskedScores(camera="pan_right"), ALWAYS["words"]).endswith(
        "motion: pan right."
    )
    assert asking_for("a dog", AskedScores(), None) == "a dog"
    assert asking_for("a dog", AskedScores(6.0), ALWAYS["sentences"]) != "a dog"


@pytest.mark.parametrize(
    ("asked", "config", "said"),
    [
        (AskedScores(6.0), None, "aesthetics cannot be asked for: .* told no score"),
        (
            AskedScores(6.0, 3.0, "roll"),
            ALWAYS["sentences"],
            "motion, camera cannot be asked for: .* told aesthetics",
        ),
        (AskedScores(camera="roll"), ScoreWordsConfig(camera=False), "camera cannot be asked for"),
        (
            AskedScores(camera="dolly"),
            ALWAYS["words"],
            "camera is 'dolly'; captions say one of static, pan left",
        ),
    ],
)
def test_what_captions_did_not_tell_cannot_be_asked_for(
    asked: AskedScores, config: ScoreWordsConfig | None, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        asking_for("a dog", asked, config)
