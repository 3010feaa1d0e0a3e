"""The published video models are not at hand: small random ones of the same classes, saved as they are published."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotator_clips import check_columns, clip_of
from safetensors.torch import load_file, save_file
from tiny_coca import save_tiny_coca
from tiny_video_models import CHATS, SAVE

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
    frames = [rng.integers(0, 255, (60, 80, 3), np.uint8) for _ in range(count)]
    return VideoView(frames, [i / 2 for i in range(count)], None)


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


LEVELS = [10, 60, 200, 90, 40, 170, 240, 120]
"""Grey of each frame, so that frames tell which they are."""


def shown_to(kind: str, folder: Path, times_s: list[float]) -> tuple[VideoModel, list[dict[str, Any]]]:
    """A model that has captioned a clip of grey frames, and what its network was given of each batch."""
    model = VideoModel(
        VideoModelConfig(kind=kind, model=str(folder), prompt=PROMPT, num_beams=1, max_tokens=2)
    )
    seen: list[dict[str, Any]] = []
    generate = model._network.generate

    def kept(**given: Any) -> Any:
        seen.append(given)
        return generate(**given)

    model._network.generate = kept
    frames = [np.full((60, 80, 3), level, np.uint8) for level in LEVELS[: len(times_s)]]
    model.caption([VideoView(frames, times_s, None)])
    return model, seen


def greys(processor: Any, pixels: torch.Tensor) -> list[int]:
    """Grey levels of normalised pictures [N, 3, ...]."""
    mean, std = (torch.tensor(values) for values in (processor.image_mean, processor.image_std))
    return ((pixels.flatten(2).mean(2) * std + mean) * 255).mean(1).round().int().tolist()


@pytest.fixture(scope="module", params=list(CHATS))
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    CHATS[request.param](folder)
    return request.param, folder


@pytest.mark.parametrize("apart_s", [0.5, 1.5])
def test_a_chat_model_is_shown_every_frame_at_its_own_time(chat: tuple[str, Path], apart_s: float) -> None:
    family, folder = chat
    times_s = [0.2 + apart_s * i for i in range(len(LEVELS))]
    model, (given,) = shown_to("chat", folder, times_s)
    processor = model._processor.video_processor
    ((of_time, *_),) = given["video_grid_thw"].tolist()
    patch = processor.patch_size
    pixels = given["pixel_values_videos"].reshape(of_time, -1, 3, 2, patch, patch).permute(0, 3, 2, 1, 4, 5)
    assert greys(processor, pixels.flatten(0, 1)) == LEVELS
    if family == "qwen2.5":
        assert given["second_per_grid_ts"].tolist() == pytest.approx([2 * apart_s])
    if family == "qwen3":
        told = model._processor.tokenizer.decode(given["input_ids"][0]).replace(" ", "")
        middles_s = [(times_s[i] + times_s[i + 1]) / 2 for i in range(0, len(times_s), 2)]
        for middle_s in middles_s:
            assert f"<{middle_s:.1f}seconds>" in told


@pytest.mark.parametrize("count", [1, 5])
def test_a_chat_model_is_shown_an_odd_number_of_frames(chat: tuple[str, Path], count: int) -> None:
    _, (given,) = shown_to("chat", chat[1], [0.5 * i for i in range(count)])
    ((of_time, *_),) = given["video_grid_thw"].tolist()
    assert of_time == (count + 1) // 2


def test_blip2_is_shown_every_frame_and_instructblip_four_that_span_the_clip(
    folders: dict[str, Path],
) -> None:
    times_s = [i / 2 for i in range(len(LEVELS))]
    model, seen = shown_to("blip-2", folders["blip-2"], times_s)
    shown = torch.cat([given["pixel_values"] for given in seen])
    assert greys(model._processor.image_processor, shown) == LEVELS
    model, (given,) = shown_to("instructblip-video", folders["instructblip-video"], times_s)
    shown = given["pixel_values"].flatten(0, 1)
    assert greys(model._processor.video_processor, shown) == [LEVELS[i] for i in (0, 2, 5, 7)]


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="name a folder that holds the model"):
        VideoModel(VideoModelConfig(model=str(tmp_path)))
    with pytest.raises(SettingsError, match="expected one of instructblip-video"):
        VideoModel(VideoModelConfig(kind="llava"))  # type: ignore[arg-type]


def test_a_model_that_lacks_a_weight_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    kind = min(folders)
    shutil.copytree(folders[kind], tmp_path / "model")
    (file,) = (tmp_path / "model").glob("*.safetensors")
    tensors = load_file(file)
    del tensors[min(name for name in tensors if "vision" in name)]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"holds no whole .*: it lacks 1"):
        VideoModel(VideoModelConfig(kind=kind, model=str(tmp_path / "model")))
