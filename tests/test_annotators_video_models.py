"""The published video models are not at hand: small random ones of the same classes, saved as they are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from annotator_clips import check_columns, clip_of
from tiny_coca import save_tiny_coca
from tiny_video_models import SAVE

from curation.annotators.base import Done
from curation.annotators.captions import CaptionsAnnotator, CaptionsConfig
from curation.annotators.video_captioners import VideoView
from curation.annotators.video_models import VideoModel, VideoModelConfig
from warehouse.errors import SettingsError, WeightsError

PROMPT = "describe this video in one sentence ."


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {kind: tmp_path_factory.mktemp(kind) for kind in SAVE}
    for kind, folder in made.items():
        SAVE[kind](folder)
    return made


def view(seed: int, count: int) -> VideoView:
    rng = np.random.default_rng(seed)
    return VideoView([rng.integers(0, 255, (60, 80, 3), np.uint8) for _ in range(count)], None)


@pytest.mark.parametrize("kind", list(SAVE))
def test_a_saved_model_describes_clips_of_any_length_alike_in_any_company(
    folders: dict[str, Path], kind: str
) -> None:
    config = VideoModelConfig(kind=kind, model=str(folders[kind]), prompt=PROMPT, num_beams=2, max_tokens=8)
    model = VideoModel(config)
    views = [view(0, 8), view(1, 1), view(2, 5)]
    together = model.caption(views)
    assert [model.caption([v])[0] for v in views] == together
    for caption, method in together:
        assert method == f"{kind}-{folders[kind]}"
        assert caption.text and "describe" not in caption.text.split()[:1]
        assert len(caption.text.split()) <= 8 and caption.status == "truncated"


def test_instructblip_writes_the_argmax_of_its_own_forward_at_each_step(folders: dict[str, Path]) -> None:
    from transformers import InstructBlipVideoForConditionalGeneration, InstructBlipVideoProcessor

    folder = folders["instructblip-video"]
    config = VideoModelConfig(model=str(folder), prompt=PROMPT, num_beams=1, max_tokens=6)
    shown = view(3, 4)
    ((caption, _),) = VideoModel(config).caption([shown])
    network = InstructBlipVideoForConditionalGeneration.from_pretrained(folder).eval()
    processor = InstructBlipVideoProcessor.from_pretrained(folder)
    inputs = dict(processor(images=list(shown.frames_HW3), text=PROMPT, return_tensors="pt"))
    written: list[int] = []
    with torch.no_grad():
        for _ in range(6):
            token = network(**inputs).logits[0, -1].argmax().reshape(1, 1)
            written.append(int(token))
            inputs["input_ids"] = torch.cat([inputs["input_ids"], token], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    assert caption.text == " ".join(processor.tokenizer.decode(written, skip_special_tokens=True).split())


def test_the_annotator_takes_its_video_caption_from_the_model_of_its_settings(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    video = VideoModelConfig(
        kind="chat", model=str(folders["chat"]), prompt=PROMPT, num_beams=1, max_tokens=5
    )
    annotator = CaptionsAnnotator(CaptionsConfig(model=save_tiny_coca(tmp_path), video=video))
    annotator.load()
    motion = {"score": 1.0, "dx": 0.9, "dy": 0.0}
    (outcome,) = annotator.annotate([clip_of(view(0, 3).frames_HW3, rows={"motion": motion})])
    assert isinstance(outcome, Done)
    check_columns("captions", outcome)
    assert outcome.columns["video_method"] == f"chat-{folders['chat']}"
    assert "moving" not in outcome.columns["video_caption"]


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="name a folder that holds the model"):
        VideoModel(VideoModelConfig(model=str(tmp_path)))
    with pytest.raises(SettingsError, match="expected one of instructblip-video"):
        VideoModel(VideoModelConfig(kind="llava"))  # type: ignore[arg-type]
