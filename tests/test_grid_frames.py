"""The grid's pictures: their times, what they show, and which of them stand for a clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.footage.grid_frames import GridFrame, decode_jpeg, encode_jpeg, pick
from curation.scan import ScanConfig, scan_video
from tests.footage import MILLISECOND, numbered, read_number, texture, write_video


def spooled(video: Path, config: ScanConfig | None = None) -> tuple[list[GridFrame], list[int]]:
    frames: list[GridFrame] = []
    result = scan_video(video, config, frames.append)
    assert [f.pts for f in frames] == result.grid_pts.tolist()
    return frames, result.signals.pts.tolist()


def test_pictures_are_those_of_their_times(tmp_path: Path) -> None:
    """Variable rate: the picture stored for a time shows the number of the frame with that time."""
    pts = np.cumsum([0, *np.random.default_rng(5).integers(20, 200, 39)]).tolist()
    video = write_video(tmp_path / "vfr.mkv", numbered(40), pts, time_base=MILLISECOND, codec="libx264")
    frames, found_pts = spooled(video)
    assert len(frames) > 5
    for frame in frames:
        assert read_number(decode_jpeg(frame.jpeg), 40) == found_pts.index(frame.pts)


def test_two_a_second_by_default(tmp_path: Path) -> None:
    frames, _ = spooled(write_video(tmp_path / "video.mp4", numbered(100)))
    assert len(frames) == 8
    assert np.all(np.diff([f.pts for f in frames]) == np.array([13, 12] * 4)[:7])


@pytest.mark.parametrize(
    ("height", "width", "short_px", "expected"),
    [(96, 160, 48, (80, 48)), (96, 160, 480, (160, 96)), (160, 96, 48, (48, 80)), (64, 64, 48, (48, 48))],
)
def test_size(tmp_path: Path, height: int, width: int, short_px: int, expected: tuple[int, int]) -> None:
    video = write_video(tmp_path / "video.mp4", [texture(0, height, width)] * 3)
    frames, _ = spooled(video, ScanConfig(grid_short_px=short_px))
    assert (frames[0].width, frames[0].height) == expected
    assert decode_jpeg(frames[0].jpeg).shape == (expected[1], expected[0], 3)


def test_colours_survive(tmp_path: Path) -> None:
    picture = texture(3, 96, 160, grain=32)
    frames, _ = spooled(write_video(tmp_path / "video.mp4", [picture] * 3))
    assert np.abs(decode_jpeg(frames[0].jpeg).astype(int) - picture).mean() < 8


def test_jpeg_there_and_back() -> None:
    picture = texture(9, 64, 80)
    back = decode_jpeg(encode_jpeg(picture[..., ::-1], 95))
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - picture).mean() < 6
    assert len(encode_jpeg(picture, 30)) < len(encode_jpeg(picture, 95))


@pytest.mark.parametrize("data", [b"", b"not a picture", encode_jpeg(np.zeros((8, 8, 3), np.uint8))[:20]])
def test_what_is_no_jpeg_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a JPEG"):
        decode_jpeg(data)


@given(
    st.lists(st.integers(1, 900), max_size=40),
    st.integers(-500, 9000),
    st.integers(0, 9000),
    st.integers(1, 9),
)
def test_picked_frames_lie_inside_are_distinct_and_spread_from_end_to_end(
    steps: list[int], start: int, length: int, count: int
) -> None:
    grid, end = np.cumsum([0, *steps]), start + length
    inside = [i for i, p in enumerate(grid) if start <= p < end]
    found = pick(grid, start, end, count)
    assert len(found) == min(count, len(inside))
    assert set(found) <= set(inside)
    assert found == sorted(set(found))
    if len(found) > 1:
        assert (found[0], found[-1]) == (inside[0], inside[-1])
        assert np.ptp(np.diff(found)) <= 1


def test_first_middle_last() -> None:
    assert pick(range(0, 1000, 100), 200, 900, 3) == [2, 5, 8]
    assert pick(range(0, 1000, 100), 200, 900, 1) == [5]
    assert pick([], 0, 100, 3) == []
    with pytest.raises(ValueError, match="count is 0"):
        pick([0], 0, 1, 0)
