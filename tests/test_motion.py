"""Motion against closed forms: textures that move by a known distance, and published flow of real pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from curation.motion import flow
from curation.motion.camera import CameraMotion
from curation.motion.flow import FlowPairs, Motion, clip_motion, farneback, flow_means, pair_means
from curation.scan import ScanConfig, scan_video
from tests.footage import MILLISECOND, texture, write_video

FIELDS = {grain: texture(7, 900, 1400, grain) for grain in (10, 24, 48)}
"""By the size of their blobs: a tenth of the height of the views that are cut from them."""


def window(x: int, y: int, height: int, width: int) -> NDArray[np.uint8]:
    """A view of a larger picture; a view further right shows its content moving left."""
    return np.ascontiguousarray(FIELDS[round(height / 10)][y : y + height, x : x + width])


def gray(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def test_a_part_that_the_camera_has_not_is_an_error_not_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = gray(window(200, 200, 96, 160)), gray(window(196, 200, 96, 160))
    assert np.isfinite(pair_means(*pair, farneback(*pair))).all()
    noise = np.random.default_rng(0).integers(0, 255, (2, 96, 160)).astype(np.uint8)
    assert np.isnan(pair_means(*noise, farneback(*noise))[3:]).all(), "no camera explains noise"
    monkeypatch.setattr(flow, "PARTS", ("camera_tilt",))
    with pytest.raises(AttributeError, match="camera_tilt"):
        pair_means(*pair, farneback(*pair))


@pytest.mark.parametrize(("dx", "dy"), [(4, 0), (-4, 0), (0, 3), (0, -3), (3, -2)])
def test_a_translation_is_measured_with_its_direction(dx: int, dy: int) -> None:
    """16 px is the unit's short side, so d pixels at a short side of 96 are d / 6."""
    before, after = window(200, 200, 96, 160), window(200 - dx, 200 - dy, 96, 160)
    length, mean_dx, mean_dy = flow_means(gray(before), gray(after))
    assert length == pytest.approx(np.hypot(dx, dy) / 6, rel=0.08)
    assert mean_dx == pytest.approx(dx / 6, abs=0.05)
    assert mean_dy == pytest.approx(dy / 6, abs=0.05)


def test_nothing_moves_in_a_still() -> None:
    still = gray(window(0, 0, 96, 160))
    assert flow_means(still, still) == pytest.approx([0, 0, 0], abs=1e-3)


def test_opposite_motions_cancel_in_the_signed_means_alone() -> None:
    left, right = window(200, 200, 96, 80), window(600, 200, 96, 80)
    before = gray(np.hstack([left, right]))
    after = gray(np.hstack([window(204, 200, 96, 80), window(596, 200, 96, 80)]))
    length, dx, _ = flow_means(before, after)
    assert length > 0.4
    assert abs(dx) < 0.1 * length


def _pan(
    folder: Path, height: int, width: int, step: float, name: str = "pan.mp4", **options: object
) -> Path:
    """25 fps; content moves `step` source pixels to the left in each frame."""
    pictures = [window(round(i * step), 40, height, width) for i in range(51)]
    return write_video(folder / name, pictures, **options)


@pytest.mark.parametrize(("height", "width"), [(96, 160), (240, 400), (480, 800)])
def test_the_unit_does_not_depend_on_the_size_of_the_footage(tmp_path: Path, height: int, width: int) -> None:
    """A pan by 3.2 % of the short side each half second."""
    video = _pan(tmp_path, height, width, step=0.032 * height / 12.5)
    flow = scan_video(video).flow
    assert len(flow.magnitude) == 4
    assert flow.magnitude == pytest.approx(np.full(4, 0.032 * 16), rel=0.2)
    assert flow.dx == pytest.approx(np.full(4, -0.032 * 16), rel=0.2)


@pytest.mark.parametrize("short_px", [64, 96, 128, 192])
def test_the_unit_does_not_depend_on_the_size_that_flow_is_measured_at(tmp_path: Path, short_px: int) -> None:
    video = _pan(tmp_path, 240, 400, step=0.6)
    flow = scan_video(video, ScanConfig(flow_short_px=short_px)).flow
    assert flow.magnitude.mean() == pytest.approx(0.6 * 12.5 / 240 * 16, rel=0.2)


@pytest.mark.parametrize(("degrees", "dx", "dy"), [(0, -1, 0), (90, 0, 1), (180, 1, 0), (270, 0, -1)])
def test_directions_are_those_of_the_displayed_picture(
    tmp_path: Path, degrees: int, dx: int, dy: int
) -> None:
    flow = scan_video(_pan(tmp_path, 240, 400, step=0.6, rotation_deg=degrees)).flow
    expected = 0.6 * 12.5 / 240 * 16
    assert flow.dx.mean() == pytest.approx(dx * expected, abs=0.1)
    assert flow.dy.mean() == pytest.approx(dy * expected, abs=0.1)


def test_a_variable_rate_changes_neither_pairs_nor_score(tmp_path: Path) -> None:
    """Content at constant speed, pictures taken at uneven times: pairs lie unevenly, the speed is the same."""
    pts = np.cumsum([0, *np.random.default_rng(1).integers(20, 1500, 30)]).tolist()
    pictures = [window(round(p * 0.008), 40, 240, 400) for p in pts]
    video = write_video(tmp_path / "vfr.mkv", pictures, pts, time_base=MILLISECOND)
    flow = scan_video(video).flow
    assert np.all(flow.pts1 > flow.pts0)
    assert flow.pts0[1:].tolist() == flow.pts1[:-1].tolist()
    assert set(flow.pts0.tolist()) <= set(pts)
    assert np.median(flow.magnitude) == pytest.approx(0.008 * 500 / 240 * 16, rel=0.1)


def _random_flow(rows: int) -> FlowPairs:
    pts = np.arange(rows + 1) * 500
    values = np.random.default_rng(rows).normal(size=(9, rows)).astype(np.float32)
    values[3:, ::3] = np.nan
    return FlowPairs(pts[:-1], pts[1:], np.abs(values[0]), *values[1:])


@given(st.integers(0, 12), st.integers(-600, 6000), st.integers(0, 4000))
def test_only_pairs_wholly_inside_count(rows: int, start: int, length: int) -> None:
    flow, end = _random_flow(rows), start + length
    inside = [i for i in range(rows) if start <= flow.pts0[i] and flow.pts1[i] < end]
    found = clip_motion(flow, start, end)
    if not inside:
        assert found is None
        return
    assert found.num_pairs == len(inside)
    assert found.magnitude == pytest.approx(np.mean([flow.magnitude[i] for i in inside], dtype=float))
    assert found.dx == pytest.approx(np.mean([flow.dx[i] for i in inside], dtype=float))
    assert found.dy == pytest.approx(np.mean([flow.dy[i] for i in inside], dtype=float))
    known = [i for i in inside if i % 3]
    assert found.num_camera_pairs == len(known)
    assert (found.camera is None) == (not known)
    if known:
        zooms = [flow.camera_zoom[i] for i in known]
        assert found.camera.camera_zoom == pytest.approx(np.mean(zooms, dtype=float))


def test_a_pair_across_a_cut_would_spoil_a_still_and_is_dropped(tmp_path: Path) -> None:
    """Two stills of 1.5 s: the flow across the cut is large, of either clip it is none."""
    pictures = [texture(1, 120, 200)] * 38 + [texture(2, 120, 200)] * 38
    result = scan_video(write_video(tmp_path / "stills.mp4", pictures))
    flow, pts = result.flow, result.signals.pts
    assert flow.magnitude.max() > 0.2
    for start, end in ((pts[0], pts[38]), (pts[38], result.signals.end_pts)):
        assert clip_motion(flow, int(start), int(end)).magnitude < 0.02


def test_real_flow_is_near_its_ground_truth(test_data: Path) -> None:
    """Synthetic chairs that fly over real pictures, by up to tens of pixels: right to within a third on average."""
    ratios = []
    for index in range(6):
        stem = test_data / "flow" / f"chairs{index}_"
        before, after = (cv2.imread(f"{stem}img{i}.ppm", cv2.IMREAD_GRAYSCALE) for i in (0, 1))
        truth = np.fromfile(f"{stem}gt.flo", np.float32, offset=12).reshape(*before.shape, 2)
        expected = np.linalg.norm(truth, axis=2).mean() * 16 / min(before.shape)
        small = (cv2.resize(image, (128, 96), interpolation=cv2.INTER_AREA) for image in (before, after))
        ratios.append(flow_means(*small)[0] / expected)
    assert np.mean(ratios) == pytest.approx(1, abs=0.33)


def test_motion_is_a_plain_record() -> None:
    values = (0, 500, 2.0, -1.0, 0.5, 1.0, 0.25, -0.75, 0.5, 0.125, -0.125)
    flow = FlowPairs(*(np.array([v]) for v in values))
    camera = CameraMotion(1.0, 0.25, -0.75, 0.5, 0.125, -0.125)
    assert clip_motion(flow, 0, 501) == Motion(2.0, -1.0, 0.5, 1, camera=camera, num_camera_pairs=1)
    assert clip_motion(flow, 0, 500) is None
