from __future__ import annotations

import json
import time
from difflib import SequenceMatcher
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from annotator_clips import check_columns, clip_of, picture, video_frames

from curation.annotators.base import Done, Failed
from curation.annotators.text_area import TextAreaAnnotator, TextAreaConfig, make_engine, union_area
from curation.annotators.text_engines import CraftConfig, RapidConfig, RapidEngine, TextBox
from warehouse.errors import SettingsError, WeightsError


def box(x0: float, y0: float, x1: float, y1: float) -> TextBox:
    return TextBox(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64), None)


@pytest.fixture(scope="module")
def rapid() -> RapidEngine:
    return RapidEngine(RapidConfig(num_threads=2), read_text=True)


@pytest.fixture(scope="module")
def annotator() -> TextAreaAnnotator:
    made = TextAreaAnnotator(TextAreaConfig(rapidocr=RapidConfig(num_threads=2)))
    made.load()
    return made


def test_overlapping_boxes_count_once_and_only_inside_the_picture() -> None:
    assert union_area([box(0, 0, 10, 10), box(5, 5, 15, 15)], 100, 100) == 175
    assert union_area([box(0, 0, 10, 10), box(2, 2, 4, 4)], 100, 100) == 100
    assert union_area([box(90, 90, 120, 120)], 100, 100) == 100
    assert union_area([], 100, 100) == 0
    diamond = TextBox(np.array([(5, 0), (10, 5), (5, 10), (0, 5)], np.float64), None)
    assert union_area([diamond], 100, 100) == 50


def overlap(found: TextBox, truth: list[int]) -> float:
    """Intersection over union of two boxes, the found one taken as upright."""
    low, high = found.corners.min(0), found.corners.max(0)
    sides = np.minimum(high, truth[2:]) - np.maximum(low, truth[:2])
    inside = float(np.prod(np.maximum(sides, 0)))
    return inside / (float(np.prod(high - low)) + (truth[2] - truth[0]) * (truth[3] - truth[1]) - inside)


def test_finds_every_burnt_in_line_with_its_words_and_its_area(test_data: Path, rapid: RapidEngine) -> None:
    (truth,) = json.loads((test_data / "burnt_text.json").read_text())["videos"]
    numbers = list(range(4, 150, 16))
    overlaps, errors, strays = [], [], 0
    for number, frame in zip(numbers, video_frames(test_data / truth["file"], numbers), strict=True):
        items = [item for item in truth["items"] if item["start"] <= number < item["end"]]
        found = rapid.find(frame)
        overlaps += [max((overlap(f, item["box_xyxy"]) for f in found), default=0.0) for item in items]
        assert {item["text"] for item in items} <= {f.text for f in found}
        strays += len(found) - len(items)
        errors.append(union_area(found, 360, 640) / (360 * 640) - sum(item["area_ratio"] for item in items))
    assert min(overlaps) > 0.5
    assert np.mean(overlaps) > 0.75
    assert strays == 0
    assert np.mean(np.abs(errors)) < 0.006 and np.max(np.abs(errors)) < 0.01


def test_reads_the_lines_of_the_pictures_with_known_text(test_data: Path, rapid: RapidEngine) -> None:
    for name, truth in json.loads((test_data / "ocr.json").read_text()).items():
        read = [found.text or "" for found in rapid.find(picture(test_data / "ocr" / name))]
        assert bool(read) == bool(truth["lines"]), name
        for line in truth["lines"]:
            best = max(SequenceMatcher(None, line, text).ratio() for text in read)
            assert best > 0.8, (name, line, read)


@pytest.mark.long
def test_recall_and_area_error_that_the_settings_state(
    test_data: Path, rapid: RapidEngine, annotator: TextAreaAnnotator
) -> None:
    """Every third frame of footage with burnt-in lines, and every picture whose text is known."""
    (truth,) = json.loads((test_data / "burnt_text.json").read_text())["videos"]
    numbers = list(range(0, 150, 3))
    overlaps, errors = [], []
    for number, frame in zip(numbers, video_frames(test_data / truth["file"], numbers), strict=True):
        items = [item for item in truth["items"] if item["start"] <= number < item["end"]]
        found = rapid.find(frame)
        overlaps += [max((overlap(f, item["box_xyxy"]) for f in found), default=0.0) for item in items]
        (outcome,) = annotator.annotate([clip_of([frame])])
        errors.append(outcome.columns["score"] - sum(item["area_ratio"] for item in items))
    assert np.mean(np.array(overlaps) >= 0.5) >= 0.98
    assert np.mean(np.abs(errors)) < 0.005 and np.max(np.abs(errors)) < 0.015
    lines = {n: t["lines"] for n, t in json.loads((test_data / "ocr.json").read_text()).items()}
    read = {n: [f.text or "" for f in rapid.find(picture(test_data / "ocr" / n))] for n in lines}
    alike = [max(SequenceMatcher(None, line, t).ratio() for t in read[n]) for n in lines for line in lines[n]]
    assert len(alike) == 38 and min(alike) > 0.8


def test_a_clip_scores_its_worst_frame_and_keeps_each_text_once(
    test_data: Path, annotator: TextAreaAnnotator
) -> None:
    frames = video_frames(test_data / "derived" / "burnt_text.mp4", [2, 30, 64])
    (outcome,) = annotator.annotate([clip_of(frames)])
    assert isinstance(outcome, Done)
    check_columns("text_area", outcome)
    areas = outcome.columns["areas"]
    assert outcome.columns["score"] == max(areas) == areas[1] > 0.04
    assert areas[0] < 0.02 and areas[2] < 0.02
    assert sorted(outcome.columns["text"]) == ["CHANNEL 7 NEWS", "Do not jump on the bed!"]
    assert outcome.columns["engine"] == "rapidocr"


def test_footage_without_text_has_none(test_data: Path, annotator: TextAreaAnnotator) -> None:
    frames = video_frames(test_data / "videos" / "flower_timelapse.webm", [5, 70, 140])
    (outcome,) = annotator.annotate([clip_of(frames)])
    assert isinstance(outcome, Done)
    assert outcome.columns["score"] == 0 and outcome.columns["text"] == []


def test_shapes_that_look_like_a_letter_are_no_text(annotator: TextAreaAnnotator) -> None:
    ring, words = (np.full((256, 256, 3), 200, np.uint8) for _ in range(2))
    cv2.circle(ring, (128, 128), 60, (220, 30, 30), 18, cv2.LINE_AA)
    cv2.putText(words, "RED RING", (40, 140), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (220, 30, 30), 3, cv2.LINE_AA)
    assert any(len(found.text or "") == 1 for found in RapidEngine(RapidConfig(), read_text=True).find(ring))
    shape, text = annotator.annotate([clip_of([ring]), clip_of([words])])
    assert isinstance(shape, Done) and shape.columns["score"] == 0 and shape.columns["text"] == []
    assert isinstance(text, Done) and 0.05 < text.columns["score"] < 0.2


def test_a_broken_picture_fails_its_clip_alone_and_a_batch_changes_nothing(
    test_data: Path, annotator: TextAreaAnnotator
) -> None:
    frames = video_frames(test_data / "derived" / "burnt_text.mp4", [30, 60, 90])
    alone = annotator.annotate([clip_of(frames)])
    together = annotator.annotate([clip_of([b"\xff\xd8 cut"]), clip_of(frames)])
    assert isinstance(together[0], Failed) and together[0].cause == "broken_frame"
    assert together[1:] == alone


def test_small_frames_take_a_fifth_of_a_second_a_clip() -> None:
    one_thread = TextAreaAnnotator(TextAreaConfig())
    one_thread.load()
    rng = np.random.default_rng(0)
    clip = clip_of([rng.integers(0, 255, (256, 256, 3), np.uint8) for _ in range(3)])
    one_thread.annotate([clip])
    started = time.process_time()
    one_thread.annotate([clip])
    assert time.process_time() - started < 0.4  # 0.17 s on the machine it was written on


def test_an_unknown_engine_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="expected 'rapidocr' or 'easyocr'"):
        TextAreaAnnotator(TextAreaConfig(engine="craft")).load()  # type: ignore[arg-type]


def test_missing_craft_weights_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    config = TextAreaConfig(engine="easyocr", craft=CraftConfig(folder=str(tmp_path)))
    with pytest.raises(WeightsError, match=r"craft_mlt_25k\.pth are missing; unpack https://"):
        TextAreaAnnotator(config).load()
    (tmp_path / "craft_mlt_25k.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(WeightsError, match="does not hold CRAFT's weights"):
        TextAreaAnnotator(config).load()


def test_craft_finds_the_box_that_its_network_marks(tmp_path: Path) -> None:
    """CRAFT's published weights are not at hand; a network that answers to brightness stands for them."""
    torch.save(_craft_that_answers_to_brightness(), tmp_path / "craft_mlt_25k.pth")
    config = TextAreaConfig(engine="easyocr", read_text=False, craft=CraftConfig(folder=str(tmp_path)))
    frame = np.zeros((128, 256, 3), np.uint8)
    frame[48:80, 64:192] = 255
    (found,) = make_engine(config).find(frame)
    assert overlap(found, [64, 48, 192, 80]) > 0.55
    annotator = TextAreaAnnotator(config)
    annotator.load()
    (outcome,) = annotator.annotate([clip_of([frame])])
    assert isinstance(outcome, Done)
    check_columns("text_area", outcome)
    assert outcome.columns["engine"] == "easyocr-craft with weights of its own"
    assert outcome.columns["text"] == []
    assert 0.12 < outcome.columns["score"] < 0.25


@torch.no_grad()
def _craft_that_answers_to_brightness() -> dict[str, torch.Tensor]:
    """CRAFT's state with every convolution passing on the mean of its inputs, so that both maps follow brightness."""
    from easyocr.craft import CRAFT

    with torch.device("meta"):
        network = CRAFT()
    network = network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_parameters()
        if isinstance(module, torch.nn.Conv2d):
            centre = module.kernel_size[0] // 2
            module.weight.zero_()[:, :, centre, centre] = 1 / module.in_channels
            module.bias.zero_()
    return {f"module.{key}": value for key, value in network.state_dict().items()}
