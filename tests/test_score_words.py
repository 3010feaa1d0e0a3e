from __future__ import annotations

import pytest

from curation.captions.score_words import ScoreWordsConfig, with_score_words, without_score_words
from warehouse.errors import SettingsError

ALWAYS = {style: ScoreWordsConfig(style, drop_share=0.0) for style in ("numbers", "words", "sentences")}


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
    config = ScoreWordsConfig("words")
    told = [with_score_words("a dog.", str(n), 5.0, 1.0, config) for n in range(4000)]
    assert 0.17 < told.count("a dog.") / len(told) < 0.23
    assert told == [with_score_words("a dog.", str(n), 5.0, 1.0, config) for n in range(4000)]
    for wrong in ({"drop_share": 2.0}, {"motion_scale": 0.0}):
        with pytest.raises(SettingsError, match="expected 0 to 1, and above 0"):
            ScoreWordsConfig(**wrong)
