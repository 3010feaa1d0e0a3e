"""Scores as words of a caption, so that a trained model can be asked for them.

Three ways: numbers and words as Open-Sora 1.2 and 1.3 append them, with the camera's motion behind them, and whole
sentences for what is very good or bad, as Open-Sora-Plan 1.3 adds them. A caption that has such words already stays as
it is; `without_score_words` takes numbers and words off again.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import pi
from typing import Literal

from warehouse.errors import SettingsError

Style = Literal["numbers", "words", "sentences"]

AESTHETIC_BOUNDS = (4.0, 4.5, 5.0, 5.5, 6.0, 6.5)
AESTHETIC_WORDS = ("terrible", "very poor", "poor", "fair", "good", "very good", "excellent")
MOTION_BOUNDS = (0.5, 2.0, 5.0, 10.0, 20.0)
MOTION_WORDS = ("very low", "low", "fair", "high", "very high", "extremely high")
LOW_AT_MOST, HIGH_AT_LEAST = 4.25, 5.75
"""Aesthetics from which a sentence speaks of low or high quality."""
OPEN_SORA_MOTION = 320 / 16 * 2 / pi
"""Open-Sora's motion score over ours. Theirs is the mean length of flow's two parts, in pixels of a 320 px high picture
between frames 15 apart, which is half a second at 30 fps; ours the mean length of its vectors, in pixels of a 16 px high
one in half a second. A part is 2/pi of its vector over all directions: half of it on average where all moves along an
axis, 0.71 along a diagonal."""
_LOW = ("A video of low quality.", "It looks poor.", "The picture is unappealing.")
_HIGH = ("A video of high quality.", "It looks beautiful.", "The picture is a pleasure to see.")


@dataclass(frozen=True)
class ScoreWordsConfig:
    """Whether and how a caption tells its clip's scores. Aesthetics are of published models' scale."""

    style: Style = "words"
    """'numbers' ('aesthetic score: 6.5. motion score: 5.0. camera motion: pan right.'), 'words' ('The aesthetic score is
    very good. The motion strength is fair. camera motion: pan right.'), or 'sentences' (one about
    quality, before or after the caption, where aesthetics are at most 4.25 or at least 5.75)."""
    drop_share: float = 0.2
    """Share of clips whose caption stays without them, so that a prompt may do without."""
    motion_scale: float = OPEN_SORA_MOTION
    """Table motion's score times this is what is told; by default in the unit that the bounds of 'words' (0.5, 2, 5, 10,
    20) come from."""
    camera: bool = True
    """Numbers and words also tell what the camera does, where table motion has one name for it."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop_share <= 1 or not self.motion_scale > 0:
            raise SettingsError(
                f"score_words: drop_share is {self.drop_share} and motion_scale {self.motion_scale}; expected 0 to 1, "
                "and above 0"
            )


def with_score_words(
    caption: str,
    clip_id: str,
    aesthetics: float | None,
    motion: float | None,
    config: ScoreWordsConfig,
    camera: str | None = None,
) -> str:
    """The caption with its clip's scores; those that are missing are not told. What is drawn depends on the clip alone.

    Args:
        camera: name of what the camera does, as table motion has it; 'mixed' is not told.
    """
    draws = hashlib.sha256(f"score words {clip_id}".encode()).digest()
    if int.from_bytes(draws[:8], "big") / 2**64 < config.drop_share:
        return caption
    if config.style == "sentences":
        return _with_sentence(caption, aesthetics, draws)
    told = None if motion is None else motion * config.motion_scale
    for score, (name, value) in zip((aesthetics, told), _PHRASES[config.style], strict=True):
        if score is not None and name not in caption:
            caption = f"{_ended(caption)} {name} {value(score)}."
    words = (camera or "").replace("_", " ")
    if config.camera and words in CAMERA_WORDS and _CAMERA not in caption:
        caption = f"{_ended(caption)} {_CAMERA} {words}."
    return caption


@dataclass(frozen=True)
class AskedScores:
    """Scores that a prompt asks for, in the units that captions tell them in."""

    aesthetics: float | None = None
    motion: float | None = None
    """As captions tell it: table motion's score times `motion_scale`."""
    camera: str | None = None
    """One of `CAMERA_WORDS`."""


def asking_for(prompt: str, asked: AskedScores, config: ScoreWordsConfig | None) -> str:
    """The prompt with the scores that are asked for, said as the captions of training said them.

    Raises:
        SettingsError: captions told no such score, or there is no such word for the camera.
    """
    given = [name for name, value in vars(asked).items() if value is not None]
    if not given:
        return prompt
    told = (
        [] if config is None else ["aesthetics"] if config.style == "sentences" else ["aesthetics", "motion"]
    )
    told += ["camera"] if config is not None and config.style != "sentences" and config.camera else []
    if untold := [name for name in given if name not in told]:
        raise SettingsError(
            f"{', '.join(untold)} cannot be asked for: the captions that the run was trained with told "
            f"{', '.join(told) or 'no score'} (encode.score_words)"
        )
    words = (asked.camera or "").replace("_", " ")
    if words and words not in CAMERA_WORDS:
        raise SettingsError(f"camera is {asked.camera!r}; captions say one of {', '.join(CAMERA_WORDS)}")
    as_told = replace(config, drop_share=0.0, motion_scale=1.0)
    return with_score_words(prompt, "", asked.aesthetics, asked.motion, as_told, words)


def without_score_words(caption: str) -> str:
    """The caption without numbers and words of scores."""
    return _PHRASE.sub("", caption).strip()


def parts(caption: str) -> list[str]:
    """The caption's own text and what tells scores, of any style, by turns; the own text comes first and may be empty."""
    return [part.strip() for part in _TOLD.split(caption)]


CAMERA_WORDS = (
    "static",
    "pan left",
    "pan right",
    "tilt up",
    "tilt down",
    "zoom in",
    "zoom out",
    "roll",
)
"""The names of `curation.motion.camera` but for mixed, which says nothing that could be asked for."""
_CAMERA = "camera motion:"
_GRADES = "|".join(sorted({*AESTHETIC_WORDS, *MOTION_WORDS}, key=len, reverse=True))
_PHRASE = re.compile(
    rf"\s*(?:\b(?:aesthetic|motion) score: -?\d+(?:\.\d+)?\.|\bThe aesthetic score is (?:{_GRADES})\."
    rf"|\bThe motion strength is (?:{_GRADES})\.|\b{_CAMERA} (?:{'|'.join(CAMERA_WORDS)})\.)"
)


def _graded(bounds: Sequence[float], words: Sequence[str]) -> Callable[[float], str]:
    return lambda score: words[bisect_right(bounds, score)]


_TOLD = re.compile(rf"({_PHRASE.pattern}|{'|'.join(map(re.escape, (*_LOW, *_HIGH)))})")

_PHRASES: dict[str, tuple[tuple[str, Callable[[float], str]], ...]] = {
    "numbers": (("aesthetic score:", "{:.1f}".format), ("motion score:", "{:.1f}".format)),
    "words": (
        ("The aesthetic score is", _graded(AESTHETIC_BOUNDS, AESTHETIC_WORDS)),
        ("The motion strength is", _graded(MOTION_BOUNDS, MOTION_WORDS)),
    ),
}
"""How aesthetics and motion are told."""


def _with_sentence(caption: str, aesthetics: float | None, draws: bytes) -> str:
    if aesthetics is None or LOW_AT_MOST < aesthetics < HIGH_AT_LEAST:
        return caption
    choices = _LOW if aesthetics <= LOW_AT_MOST else _HIGH
    if any(sentence in caption for sentence in (*_LOW, *_HIGH)):
        return caption
    sentence = choices[draws[8] % len(choices)]
    return f"{sentence} {caption}" if draws[9] % 2 else f"{_ended(caption)} {sentence}"


def _ended(caption: str) -> str:
    return caption if caption.endswith((".", "!", "?")) else f"{caption}."
