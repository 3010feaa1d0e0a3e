"""RAFT against published flow of rendered and real pictures, and against pictures that move by a known distance."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import cv2
import numpy as np
import pytest
import torch
from annotator_clips import check_columns, clip_of, picture, video_frames
from numpy.typing import NDArray

from curation.annotators.base import Done, Outcome, Skipped
from curation.annotators.raft_motion import RaftMotionAnnotator, RaftMotionConfig
from curation.motion.raft import fit_area, load_raft, raft_flow
from warehouse.errors import WeightsError

CHAIRS = (2.59, 0.97, 1.25, 0.76, 1.79, 1.54)
"""End-point errors of these weights on the first pairs of FlyingChairs, as the manifest of the test data has them."""


@pytest.fixture(scope="module")
def weights(test_data: Path) -> Path:
    return test_data / "weights" / "raft_small_torchvision_keys.pth"


@pytest.fixture(scope="module")
def raft(weights: Path) -> torch.nn.Module:
    return load_raft(weights)


@pytest.fixture(scope="module")
def photograph(test_data: Path) -> NDArray[np.uint8]:
    """A frame of real footage, detailed all over."""
    (frame,) = video_frames(test_data / "videos" / "rio_aerial.mp4", [10])
    return frame


def chairs(test_data: Path, index: int) -> tuple[NDArray, NDArray, NDArray]:
    stem = test_data / "flow" / f"chairs{index}_"
    first, second = (picture(Path(f"{stem}img{i}.ppm")) for i in (0, 1))
    return first, second, np.fromfile(f"{stem}gt.flo", np.float32, offset=12).reshape(*first.shape[:2], 2)


def endpoint_error(found: NDArray, truth: NDArray) -> float:
    return float(np.linalg.norm(found - truth, axis=2).mean())


@pytest.mark.parametrize(
    "index", [0, 1, *(pytest.param(i, marks=pytest.mark.long) for i in range(2, len(CHAIRS)))]
)
def test_end_point_errors_on_rendered_chairs(test_data: Path, raft: torch.nn.Module, index: int) -> None:
    first, second, truth = chairs(test_data, index)
    assert endpoint_error(raft_flow(raft, first, second), truth) == pytest.approx(CHAIRS[index], abs=0.006)


@pytest.mark.long
def test_end_point_error_on_a_street_seen_from_a_car(test_data: Path, raft: torch.nn.Module) -> None:
    """A height that is no multiple of 8, and a mean motion of 51 px."""
    first, second = (picture(test_data / "flow" / f"kitti_frame{i}.png") for i in (1, 2))
    coded = cv2.imread(str(test_data / "flow" / "kitti_flow_gt.png"), cv2.IMREAD_UNCHANGED).astype(np.float32)
    truth, valid = (coded[..., :0:-1] - 32768) / 64, coded[..., 0] > 0
    errors = np.linalg.norm(raft_flow(raft, first, second) - truth, axis=2)[valid]
    assert errors.mean() == pytest.approx(8.8, abs=0.05)


def test_the_authors_file_is_the_same_network(test_data: Path, raft: torch.nn.Module) -> None:
    original = load_raft(test_data / "weights" / "raft-small.pth").state_dict()
    assert original.keys() == raft.state_dict().keys()
    for name, value in raft.state_dict().items():
        assert torch.equal(value, original[name]), name


def test_the_large_network_is_known_by_its_weights(tmp_path: Path) -> None:
    from torchvision.models.optical_flow import raft_large

    with torch.device("meta"):
        shapes = {name: value.shape for name, value in raft_large().state_dict().items()}
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "large.pth")
    assert load_raft(tmp_path / "large.pth").feature_encoder.conv.out_channels == 256


def test_a_file_that_is_no_raft_and_one_that_is_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth are missing; expected a checkpoint of torchvision's"):
        load_raft(tmp_path / "none.pth")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth does not hold RAFT's weights"):
        load_raft(tmp_path / "other.pth")
    (tmp_path / "picture.jpg").write_bytes(bytes.fromhex("ffd8ffe000104a464946") * 9)
    with pytest.raises(WeightsError, match=r"picture\.jpg does not hold RAFT's weights") as told:
        load_raft(tmp_path / "picture.jpg")
    assert "weights_only" not in str(told.value)
    with pytest.raises(WeightsError, match=r"annotators\.raft_motion\.weights names no file"):
        RaftMotionAnnotator(RaftMotionConfig()).load()


@pytest.mark.parametrize(("dx", "dy", "size"), [(7, 0, (184, 304)), (-12, 5, (227, 413))])
def test_a_picture_that_is_shifted_flows_by_as_much(
    raft: torch.nn.Module, photograph: NDArray, dx: int, dy: int, size: tuple[int, int]
) -> None:
    """Also where both sides must be padded."""
    height, width = size
    before, after = (photograph[y : y + height, x : x + width] for x, y in ((400, 300), (400 - dx, 300 - dy)))
    flow = raft_flow(raft, before, after)
    assert flow.shape == (height, width, 2)
    assert np.median(flow.reshape(-1, 2), axis=0) == pytest.approx([dx, dy], abs=0.25)


def test_the_flow_of_what_was_padded_is_that_of_the_picture(
    raft: torch.nn.Module, photograph: NDArray
) -> None:
    """Padded by hand at the same edges, the network sees the same: only the rim is cut off."""
    pair = [photograph[400:627, x : x + 413] for x in (300, 306)]
    wide = [np.pad(each, ((2, 3), (1, 2), (0, 0)), mode="edge") for each in pair]
    np.testing.assert_array_equal(raft_flow(raft, *pair), raft_flow(raft, *wide)[2:229, 1:414])


def test_pictures_keep_their_shape_and_get_the_area() -> None:
    assert fit_area(np.zeros((1080, 1920, 3), np.uint8)).shape == (450, 800, 3)
    assert fit_area(np.zeros((640, 362, 3), np.uint8)).shape == (798, 451, 3)
    assert fit_area(np.zeros((80, 112, 3), np.uint8)).shape == (507, 710, 3)


def annotate(weights: Path, *clips: list[NDArray]) -> list[Outcome]:
    annotator = RaftMotionAnnotator(RaftMotionConfig(str(weights), width=320, height=180))
    annotator.load()
    return annotator.annotate([clip_of(frames) for frames in clips])


def pan(photograph: NDArray, height: int, step: float) -> list[NDArray]:
    """Three views of 16:9 whose content moves to the left by `step` of the short side from each to the next."""
    views = [photograph[100:580, 40 + round(step * 480 * i) :][:, :853] for i in range(3)]
    return [cv2.resize(view, (height * 16 // 9, height), interpolation=cv2.INTER_AREA) for view in views]


def test_the_score_is_in_the_unit_of_farnebacks_whatever_the_size(weights: Path, photograph: NDArray) -> None:
    """5 % of the short side per half second are 0.8 px of 16."""
    for outcome in annotate(weights, *(pan(photograph, height, 0.05) for height in (144, 240, 480))):
        assert isinstance(outcome, Done)
        check_columns("raft_motion", outcome)
        assert outcome.columns["score"] == pytest.approx(0.8, rel=0.05)
        assert outcome.columns["dx"] == pytest.approx(-0.8, rel=0.05)
        assert outcome.columns["num_pairs"] == 2 and outcome.columns["network"] == "raft_small"


def test_opposite_motions_cancel_in_the_signed_means_alone(weights: Path, photograph: NDArray) -> None:
    there = pan(photograph, 240, 0.05)
    mirrored = [frame[:, ::-1] for frame in there]
    side_by_side = [np.hstack(pair) for pair in zip(there, mirrored, strict=True)]
    there_and_back = [*there, *there[-2::-1]]
    for outcome in annotate(weights, side_by_side, there_and_back):
        assert isinstance(outcome, Done)
        assert outcome.columns["score"] == pytest.approx(0.8, rel=0.1)
        assert abs(outcome.columns["dx"]) < 0.04


def test_frames_that_lie_further_apart_do_not_move_faster(weights: Path, photograph: NDArray) -> None:
    clip = clip_of(pan(photograph, 240, 0.05))
    slow = type(clip)(**{**vars(clip), "seconds_per_tick": 2 * clip.seconds_per_tick})
    annotator = RaftMotionAnnotator(RaftMotionConfig(str(weights), width=320, height=180))
    annotator.load()
    fast, halved = (outcome.columns["score"] for outcome in annotator.annotate([clip, slow]))
    assert halved == pytest.approx(fast / 2)


def test_a_clip_of_one_frame_is_skipped(weights: Path, photograph: NDArray) -> None:
    assert annotate(weights, [photograph]) == [Skipped("no_flow_pair")]


@pytest.mark.long
def test_raft_is_nearer_to_the_truth_than_farneback(test_data: Path, raft: torch.nn.Module) -> None:
    from curation.motion.flow import farneback

    ours, theirs = [], []
    for index in range(len(CHAIRS)):
        first, second, truth = chairs(test_data, index)
        greys = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (first, second))
        ours.append(endpoint_error(raft_flow(raft, first, second), truth))
        theirs.append(endpoint_error(farneback(*greys), truth))
    assert mean(ours) < mean(theirs) / 2
