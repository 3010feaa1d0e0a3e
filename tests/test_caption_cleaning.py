from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.captions.cleaning import CleaningConfig, clean, fault
from warehouse.errors import SettingsError

PLAIN, T5 = CleaningConfig(), CleaningConfig(t5=True)


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("The video shows a dog on grass.", "A dog on grass."),
        ("This clip features that a man runs", "A man runs"),
        ("In this image, two cats sleep", "Two cats sleep"),
        ("photo of a red car", "A red car"),
        ("A picture of a dog", "A dog"),
        ("Footage of the sea", "The sea"),
        ("The video shows a picture of a lake", "A lake"),
        ("Two dogs look at a picture of a lake", "Two dogs look at a video of a lake"),
        ("An image, the photograph and This Photo.", "A video, the video and This Video."),
        ("a man takes photos of an image", "a man takes videos of a video"),
        ("The Video game shows on a screen", "The Video game shows on a screen"),
        ("the image shows the video captures a bird", "A bird"),
        ("  a   dog\n runs ", "a dog runs"),
        ("a photogenic dog pictured", "a photogenic dog pictured"),
    ],
)
def test_openings_go_and_image_words_become_video_words(caption: str, cleaned: str) -> None:
    assert clean(caption, PLAIN) == cleaned
    assert clean(caption, CleaningConfig(opening=False, video_words=False)) == " ".join(caption.split())


@pytest.mark.parametrize(
    "caption",
    [
        "Frame of wood leans on a wall",
        "Frame of a door",
        "Scene of the crime",
        "Picture of health magazine",
        "A cat jumps through the picture frame",
        "An image sensor lies beside a photo album",
    ],
)
def test_words_that_are_no_medium_stay(caption: str) -> None:
    assert clean(caption, PLAIN) == caption


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("A <b>Dog</b> &amp;amp; a Cat", "a dog a cat"),
        ("Boats at www.boats.com/sale by @sailor", "boats at by"),
        ("IMG_0042.jpg a lake 1920x1080 #12 at 10.0.0.1", "a lake at"),
        ("order 1234567 now!!! ---- go", "order 1234567 now! go".replace("1234567 ", "")),
        ("\u201cthe wave\u201d \u2014 caf\u00c3\u00a9", '"the wave" - caf\u00e9'.strip('"')),
        ("\u732b a cat", "a cat"),
        ("The video shows A Dog , running", "a dog, running"),
        ("The video shows - a dog", "a dog"),
        ("&amp;amp;amp;amp;lt;b&amp;gt; a dog", "a dog"),
    ],
)
def test_the_t5_way(caption: str, cleaned: str) -> None:
    assert clean(caption, T5) == cleaned


@pytest.mark.parametrize(
    "caption",
    [
        "A man (left) and two dogs [off screen] near a car/truck",
        "A close-up, slow-motion shot of a well-lit, black-and-white room",
        "A well-lit room, seen close-up",
        "A cat... then a dog\u2026 and R&B music, 100% loud * very",
        "The Red Circle, which moves LEFT; it's a \u201cnice\u201d one.",
        "A sign that says {OPEN} | #12 ~ more",
    ],
)
def test_the_t5_way_is_that_of_the_pipelines(caption: str) -> None:
    """Those of PixArt-alpha and of Open-Sora clean twice."""
    from diffusers import PixArtAlphaPipeline

    theirs = PixArtAlphaPipeline.__new__(PixArtAlphaPipeline)
    once = theirs._clean_caption(caption)
    assert clean(caption, CleaningConfig(opening=False, video_words=False, t5=True)) == theirs._clean_caption(
        once
    )


WORDS = (
    "The video shows", "the image depicts that", "In this clip,", "A photo of", "picture of a", "photos", "an image",
    "a", "the", "Dog", "frame", "scene", "-", "--", ":", "'", '"', ",", ".", "_", "&amp;", "&amp;lt;b&gt;", "<b>",
    "www.a.com", "a.jpg", "@me", "1920x1080", "#12", "1234567", "\u732b", "caf\u00c3\u00a9", "\u0130", "\u2014", "\n",
)  # fmt: skip
CAPTION = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join),
    st.lists(st.sampled_from((*WORDS, " ")), max_size=12).map("".join),
)


@settings(max_examples=500, deadline=None)
@given(CAPTION, st.sampled_from([PLAIN, T5, CleaningConfig(t5=True, opening=False)]))
def test_cleaning_again_changes_nothing_and_leaves_single_spaces(
    caption: str, config: CleaningConfig
) -> None:
    once = clean(caption, config)
    assert clean(once, config) == once == " ".join(once.split())


@pytest.mark.parametrize(
    ("cleaned", "why"),
    [
        ("", "empty"),
        ("12 . !", "empty"),
        ("see https://a.b/c for a dog", "link"),
        ("dogs at shop.com", "link"),
        ("\u043a\u043e\u0442 \u0441\u043f\u0438\u0442 \u0434\u043e\u043c\u0430 now", "other_script"),
        ("\u732b\u304c\u5bdd\u3066\u3044\u308b", "other_script"),
        ("a caf\u00e9 in \u00c5rhus", None),
        ("one two three four", "too_verbose"),
        ("one two three", None),
    ],
)
def test_captions_that_are_not_used_have_a_reason(cleaned: str, why: str | None) -> None:
    words = 3 if "one" in cleaned else None
    assert fault(cleaned, CleaningConfig(max_words=words)) == why


def test_the_rules_can_be_lifted_and_senseless_ones_are_refused() -> None:
    lenient = CleaningConfig(reject_links=False, latin_share=0.0)
    assert fault("\u732b www.a.com", lenient) is None
    for wrong in ({"latin_share": 1.5}, {"max_words": 0}):
        with pytest.raises(SettingsError, match="expected 0 to 1, and at least 1"):
            CleaningConfig(**wrong)
