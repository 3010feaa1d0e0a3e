from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from annotator_clips import check_columns, clip_of
from tiny_coca import save_tiny_clip, save_tiny_coca

from curation.annotators.base import Done, Failed, Skipped
from curation.annotators.caption_decoding import DecodingConfig
from curation.annotators.captions import CaptionsAnnotator, CaptionsConfig
from curation.annotators.clip_model import load_clip
from curation.annotators.coca import Caption, CocaCaptioner
from curation.annotators.motion_words import MotionWordsConfig, motion_words, with_motion
from curation.annotators.video_captioners import elect
from warehouse.errors import WeightsError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_coca(tmp_path_factory.mktemp("coca"))


@pytest.fixture(scope="module")
def config(tiny: str) -> CaptionsConfig:
    return CaptionsConfig(model=tiny, decoding=DecodingConfig(max_tokens=4), num_frames=3, batch_size=5)


@pytest.fixture(scope="module")
def annotator(config: CaptionsConfig) -> CaptionsAnnotator:
    made = CaptionsAnnotator(config)
    made.load()
    return made


def noise(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.broadcast_to(rng.integers(0, 255, 3, np.uint8), (40, 60, 3)) ^ rng.integers(
        0, 64, (40, 60, 3), np.uint8
    )


def test_greedy_captions_are_the_argmax_of_open_clips_own_forward_at_each_step(tiny: str) -> None:
    clip = load_clip(tiny, None)
    pictures = [noise(i) for i in range(4)]
    found = CocaCaptioner(clip, DecodingConfig(max_tokens=9, min_tokens=0), batch_size=4).caption(pictures)
    assert len({caption.text for caption in found}) > 1
    for picture, caption in zip(pictures, found, strict=True):
        ids = [clip.tokenizer.sot_token_id]
        while len(ids) < 10:
            text = torch.tensor([ids + [clip.network.pad_id] * (20 - len(ids))])  # padded, as in training
            with torch.no_grad():
                logits_LV = clip.network(clip.images([picture]), text, output_labels=False)["logits"][0]
            logits_V = logits_LV[len(ids) - 1]
            logits_V[[clip.tokenizer.sot_token_id, clip.network.pad_id]] = -torch.inf
            ids.append(int(logits_V.argmax()))
            if ids[-1] == clip.tokenizer.eot_token_id:
                break
        ended = ids[-1] == clip.tokenizer.eot_token_id
        words = clip.tokenizer.decode(ids[1:-1] if ended else ids[1:]).split()
        assert caption.text.split() == words
        assert caption.status == ("ok" if ended else "truncated")


def test_the_models_context_bounds_a_caption(tiny: str) -> None:
    (caption,) = CocaCaptioner(load_clip(tiny, None), DecodingConfig(max_tokens=500), 4).caption([noise(0)])
    assert caption.status == "truncated"


def test_both_captions_and_their_methods_are_columns(
    config: CaptionsConfig, annotator: CaptionsAnnotator
) -> None:
    frames = [noise(i) for i in range(5)]
    moving = {"score": 1.0, "dx": -0.9, "dy": 0.1}
    with_flow, without = annotator.annotate([clip_of(frames, rows={"motion": moving}), clip_of(frames)])
    assert isinstance(with_flow, Done) and isinstance(without, Done)
    check_columns("captions", with_flow)
    coca = CocaCaptioner(load_clip(config.model, None), config.decoding, 4)
    assert with_flow.columns["frame_caption"] == coca.caption([clip_of(frames).grid[2].rgb])[0].text
    assert with_flow.columns["frame_method"] == f"coca-{config.model}"
    assert with_flow.columns["video_method"] == f"coca-{config.model}-3-frames+flow"
    assert without.columns["video_method"] == f"coca-{config.model}-3-frames"
    assert with_flow.columns["video_caption"] == f"{without.columns['video_caption']} moving left"
    assert with_flow.columns["video_status"] == "truncated"


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_clip_is_captioned_alike_alone_and_among_six_others(config: CaptionsConfig, num_beams: int) -> None:
    annotator = CaptionsAnnotator(replace(config, decoding=replace(config.decoding, num_beams=num_beams)))
    annotator.load()
    clips = [clip_of([noise(10 * c + i) for i in range(1 + c)], clip_id=f"c{c}") for c in range(7)]
    together = annotator.annotate(clips)
    assert len({outcome.columns["video_caption"] for outcome in together}) > 1
    assert [annotator.annotate([clip])[0] for clip in clips] == together


def test_each_caption_has_a_status_of_its_own_and_a_clip_without_any_fails(
    annotator: CaptionsAnnotator,
) -> None:
    frame_text, video_text = Caption("a dog", "ok"), Caption("", "ok")
    for frame, video, status in (
        (frame_text, video_text, ("ok", "failed")),
        (video_text, replace(frame_text, status="truncated"), ("failed", "truncated")),
    ):
        row = annotator._row(frame, video, "some model")
        assert (row["frame_status"], row["video_status"]) == status
        assert (row["frame_caption"], row["video_caption"]) == (frame.text or None, video.text or None)
        check_columns("captions", Done(row))
    none = annotator._row(video_text, video_text, "some model")
    assert isinstance(none, Failed) and none.cause == "empty_caption"


def test_a_broken_picture_fails_its_clip_alone(annotator: CaptionsAnnotator) -> None:
    good, broken, empty = annotator.annotate(
        [clip_of([noise(0)]), clip_of([noise(0), noise(1), b"half a pict", noise(2)]), clip_of([])]
    )
    assert isinstance(good, Done)
    assert isinstance(broken, Failed) and broken.cause == "broken_frame"
    assert empty == Skipped("no_grid_frame")


def test_a_model_without_a_text_decoder_is_refused(tmp_path: Path) -> None:
    annotator = CaptionsAnnotator(CaptionsConfig(model=save_tiny_clip(tmp_path)))
    with pytest.raises(WeightsError, match="has no text decoder"):
        annotator.load()


def test_frames_vote_and_likelihood_breaks_a_tie() -> None:
    red, blue = Caption("a red ring", "ok", -2.0), Caption("a blue ring", "ok", -0.1)
    assert elect([red, blue, red]).text == "a red ring"
    assert elect([red, blue]).text == "a blue ring"
    assert elect([red, replace(blue, mean_log_prob=-3.0)]).text == "a red ring"


@pytest.mark.parametrize(
    ("score", "dx", "dy", "words"),
    [
        (0.01, 0.01, 0.0, "standing still"),
        (1.0, 0.9, 0.1, "moving right"),
        (1.0, -0.9, 0.1, "moving left"),
        (1.0, 0.2, 0.8, "moving down"),
        (1.0, 0.2, -0.8, "moving up"),
        (1.0, 0.1, 0.1, "moving"),
    ],
)
def test_motion_words_follow_the_flow(score: float, dx: float, dy: float, words: str) -> None:
    assert motion_words({"score": score, "dx": dx, "dy": dy}, MotionWordsConfig()) == words


def test_motion_words_stand_behind_what_moves() -> None:
    assert (
        with_motion("a red ring on a plain background", "moving up")
        == "a red ring moving up on a plain background"
    )
    assert with_motion("two dogs", "moving") == "two dogs moving"
