"""Captions as a text encoder should read them: without phrases that tell nothing, markup or links, or not at all.

What Open-Sora's list tool does to captions (remove a prefix such as "The video shows", turn image words to video words,
clean as the T5 encoders of DeepFloyd IF expect it, drop empty, linking, foreign or verbose ones), as pure functions.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from warehouse.errors import SettingsError


@dataclass(frozen=True)
class CleaningConfig:
    """What is done to a caption, in this order, and which captions are not used then."""

    opening: bool = True
    """Take off openings that speak of the medium: 'The video shows', 'In this image,', 'A photo of' before an article."""
    video_words: bool = True
    """What is left of 'an image', 'the photo', 'photos' becomes 'a video', 'the video', 'videos'."""
    t5: bool = False
    """Lower case without links, markup, brackets, file names, sizes in pixels, long numbers, doubled punctuation and, of
    more than three, hyphens."""
    reject_links: bool = True
    """A caption with a link or a web address is not used (unless `t5` took it out)."""
    latin_share: float = 0.5
    """Least share of Latin letters among the letters; below it a caption is in another script. 0 takes any."""
    max_words: int | None = None
    """A caption of more words is not used; none sets no limit."""

    def __post_init__(self) -> None:
        if not 0 <= self.latin_share <= 1 or (self.max_words is not None and self.max_words < 1):
            raise SettingsError(
                f"cleaning: latin_share is {self.latin_share} and max_words {self.max_words}; expected 0 to 1, and at "
                "least 1 or none"
            )


_MEDIUM = r"(?:video|clip|footage|scene|image|picture|photo|photograph|frame|screenshot)"
_MEDIUM_OF = r"(?:video|clip|footage|image|picture|photo|photograph|screenshot)"
"""A frame of wood and the scene of a crime are no media."""
_TELLS = (
    r"(?:shows?|features?|depicts?|captures?|displays?|presents?|portrays?|begins? with|opens? with|is of)"
)
_OPENING = re.compile(
    rf"^\s*(?:(?:the|this|a|an)\s+{_MEDIUM}\s+{_TELLS}\s+(?:that\s+)?|in\s+(?:the|this)\s+{_MEDIUM}\s*,\s*"
    rf"|(?:(?:the|this|a|an)\s+)?{_MEDIUM_OF}\s+of\s+(?=(?:a|an|the)\s))",
    re.IGNORECASE,
)
_IMAGE = re.compile(
    r"\b(?:(an?|the|this)\s+(image|picture|photo|photograph|screenshot)|(images|pictures|photos|photographs|screenshots))"
    rf"(?=\s*(?:[.,:;!?)]|$)|\s+(?:of|in|on|at|by|to|with|from|for|and|or|that|which|is|are|was|were|taken|{_TELLS})\b)",
    re.IGNORECASE,
)
"""Not before another noun: a picture frame is no video frame."""
_LINK = re.compile(r"(?:https?://|www\.)\S+|\b[\w-]+\.(?:com|org|net|io|ru|co)\b(?:/\S*)?", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)

_JOINT = re.compile("[-_]")

_T5 = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"@[\w\d]+\b", ""),  # names of accounts
        (r"[\u3040-\u30ff\u31c0-\u31ef\u3200-\u4dbf\u4e00-\u9fff]+", ""),
        (r"[\u2010-\u2015\u2212\u2e3a\u2e3b\ufe58\ufe63\uff0d]+", "-"),
        (r"[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
        (r"[\u2018\u2019]", "'"),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}\b", ""),  # network addresses
        (r"\\n|[\r\n\t]", " "),
        (r"#\d+\b", ""),
        (r"\b\d{6,}\b", ""),
        (r"\S+\.(?:jpe?g|png|gif|webp|bmp|pdf|mp4|mov|avi|html?)\b", ""),
        (r"\b\d{2,5}\s*[x\u00d7]\s*\d{2,5}\b", ""),  # sizes in pixels
        (r"[#&@~|*\\/()\[\]{}\u00a1\u00a7\u00a9\u00ae\u00b7\u00ba\u00bd-\u00bf\u2022\u2122]+", " "),
        (r"[-_]{3,}|\.{2,}", " "),
        (r"([\"',!?])\1+", r"\1"),
        (r"\s+([.,:;!?])", r"\1"),
    )
)


def clean(caption: str, config: CleaningConfig) -> str:
    """The caption after what `config` does to it, with single spaces; possibly empty. Cleaning twice changes nothing."""
    text, before = " ".join(caption.split()), None
    while text != before:  # what is taken off can bare another opening, link or mark
        before = text
        text = _clean_once(text, config)
    return text


def _clean_once(text: str, config: CleaningConfig) -> str:
    if config.t5:
        text = _clean_t5(text)
    if config.opening and (found := _OPENING.match(text)):
        text = text[found.end() :]
        text = text if config.t5 else text[:1].upper() + text[1:]
    return _IMAGE.sub(_as_video, text) if config.video_words else text


def fault(cleaned: str, config: CleaningConfig) -> str | None:
    """Why a cleaned caption is not used: 'empty', 'link', 'other_script' or 'too_verbose'; None if it is."""
    letters = [c for c in cleaned if c.isalpha()]
    if not letters:
        return "empty"
    if config.reject_links and _LINK.search(cleaned):
        return "link"
    if sum(c < "\u0250" for c in letters) < config.latin_share * len(letters):
        return "other_script"
    if config.max_words is not None and len(cleaned.split()) > config.max_words:
        return "too_verbose"
    return None


def _as_video(found: re.Match[str]) -> str:
    article, one, many = found.groups()
    word = "video" if one else "videos"
    word = word.capitalize() if (one or many)[0].isupper() else word
    if article is None:
        return word
    return f"{article[0] if article.lower() == 'an' else article} {word}"


def _clean_t5(text: str) -> str:
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text))).lower()
    text = _LINK.sub("", _TAG.sub(" ", text))
    for pattern, replacement in _T5:
        text = pattern.sub(replacement, text)
    if len(_JOINT.findall(text)) > 3:  # a name of many parts, and all words that are joined beside it
        text = _JOINT.sub(" ", text)
    return " ".join(text.split()).strip("\"'-_:; ")
