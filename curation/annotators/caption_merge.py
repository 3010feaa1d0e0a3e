"""One caption out of two without a language model: the clip's caption, and the phrases of the frame's that add to it."""

from __future__ import annotations

import re

# A phrase of a caption begins at one of these and tells one thing: where, with whom, while what.
_STARTS = """
    about above across after against along among and around at before behind below beneath beside between by during for
    from in inside into near next off on onto outside over past through toward towards under upon wearing while with
    without
"""
# Words that tell nothing by themselves, beside those.
_OTHERS = (
    "a an are be been being it is its of or some that the their there these this those to was were which who"
)

_PHRASE_STARTS = frozenset(_STARTS.split())
_FILLERS = _PHRASE_STARTS | frozenset(_OTHERS.split())


def merge_captions(frame_caption: str, video_caption: str) -> str:
    """The clip's caption followed by every phrase of the frame's caption that has a word which is not told yet.

    What both tell is told once: each telling word of either caption is in the result, and where one caption tells
    all that the other does, the result is that caption.
    """
    frame, video = _tidy(frame_caption), _tidy(video_caption)
    told = telling_words(video)
    if told < telling_words(frame):
        return frame
    merged = video
    for phrase in _phrases(frame):
        news = telling_words(phrase) - told
        if news:
            merged += f" {phrase}" if phrase.split()[0].lower() in _PHRASE_STARTS else f", {phrase}"
            told |= news
    return merged


def telling_words(text: str) -> frozenset[str]:
    """Words that carry meaning, in lower case, one form for singular and plural."""
    words = re.findall(r"[^\W_]+", text.lower())
    return frozenset(_singular(word) for word in words if word not in _FILLERS)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _tidy(caption: str) -> str:
    return " ".join(caption.split()).rstrip(" .")


def _phrases(caption: str) -> list[str]:
    phrases: list[list[str]] = [[]]
    for word in caption.split():
        if phrases[-1] and word.lower() in _PHRASE_STARTS:
            phrases.append([])
        phrases[-1].append(word)
    return [" ".join(words) for words in phrases if words]
