"""The frames that a clip is encoded from: spacing by arithmetic, pixels against footage whose frames say their number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.footage.clip_frames import Bucket, Sampled, read_clips, sample
from curation.footage.media import MediaLimits
from warehouse.errors import MediaError, SettingsError

TICK = Fraction(1, 1000)
SQUARE = [Bucket(8, 64, 64)]


@given(
    st.lists(st.integers(10, 60), min_size=1, max_size=200),
    st.sampled_from([4.0, 8.0, 12.0, 23.976]),
    st.integers(2, 12),
)
def test_chosen_frames_are_real_distinct_in_order_and_evenly_spread(
    steps: list[int], fps: float, count: int
) -> None:
    pts = np.cumsum([500, *steps])
    found = sample(pts, TICK, fps, 1.0, [Bucket(count, 64, 64)])
    needed_s, span_s = (count - 1) / fps, float((pts[-1] - pts[0]) * TICK)
    if found is None:
        assert span_s < needed_s or max(steps) / 1000 * 2 > 1 / fps
        return
    assert set(found.pts) <= set(pts.tolist())
    assert list(found.pts) == sorted(set(found.pts))
    gaps = np.diff(found.pts) / 1000
    assert np.abs(gaps - 1 / fps).max() <= max(*steps, 0 if span_s >= needed_s else 1000 / fps) / 1000 + 1e-9
    assert found.fps == pytest.approx((count - 1) / ((found.pts[-1] - found.pts[0]) / 1000))


def test_the_window_lies_in_the_middle() -> None:
    pts = np.arange(0, 10_000, 40)
    found = sample(pts, TICK, 8.0, 1.0, SQUARE)
    middle = (found.pts[0] + found.pts[-1]) / 2
    assert abs(middle - pts[-1] / 2) <= 40


def test_the_longest_bucket_that_fits_in_the_nearest_shape() -> None:
    buckets = [Bucket.parse(n) for n in ("1x64x64", "8x64x64", "8x48x80", "8x80x48", "32x64x64")]
    pts = np.arange(0, 3000, 40)
    assert str(sample(pts, TICK, 8.0, 16 / 9, buckets).bucket) == "8x48x80"
    assert str(sample(pts, TICK, 8.0, 9 / 16, buckets).bucket) == "8x80x48"
    assert str(sample(pts[:5], TICK, 8.0, 1.0, buckets).bucket) == "1x64x64"


@pytest.mark.parametrize("name", ["8x64", "axbxc", "64"])
def test_a_wrong_bucket_name_says_what_is_expected(name: str) -> None:
    with pytest.raises(SettingsError, match="8x64x64"):
        Bucket.parse(name)


def _numbered(path: Path, *, frames: int, width: int, height: int, codec: str, b_frames: int) -> list[int]:
    """A video whose frame n has four patches that spell n in base 4; returns the pts of its frames."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, 25, options={"bf": str(b_frames), "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for n in range(frames):
            patches = np.array([[n // 64 % 4, n // 16 % 4], [n // 4 % 4, n % 4]]) * 80
            picture = np.kron(patches, np.ones((height // 2, width // 2))).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.repeat(picture[..., None], 3, -1), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(path) as container:
        return [f.pts for f in container.decode(video=0)]


def _number(picture: np.ndarray) -> int:
    height, width = picture.shape[:2]
    digits = [
        round(float(picture[y * height // 2 + height // 8 : (y + 1) * height // 2 - height // 8,
                            x * width // 2 + width // 8 : (x + 1) * width // 2 - width // 8].mean()) / 80)
        for y in (0, 1) for x in (0, 1)
    ]  # fmt: skip
    return int(np.dot(digits, [64, 16, 4, 1]))


@pytest.mark.parametrize(("codec", "b_frames"), [("libx264", 0), ("libx264", 3), ("mpeg4", 2)])
def test_every_frame_is_the_one_asked_for(tmp_path: Path, codec: str, b_frames: int) -> None:
    path = tmp_path / "numbered.mp4"
    pts = _numbered(path, frames=120, width=128, height=128, codec=codec, b_frames=b_frames)
    asked = {"early": [3, 4, 5, 9], "late": [40, 77, 78, 119], "overlapping": [4, 41, 77, 100]}
    wanted = {
        c: Sampled(Bucket(4, 64, 64), tuple(pts[n] for n in numbers), 25.0) for c, numbers in asked.items()
    }
    found = read_clips(path, wanted, (128, 128), MediaLimits())
    assert {c: [_number(p) for p in pictures] for c, pictures in found.items()} == asked
    assert all(p.shape == (4, 64, 64, 3) for p in found.values())


def test_a_wide_picture_is_cropped_around_its_middle(tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    pts = _numbered(path, frames=28, width=256, height=64, codec="libx264", b_frames=0)
    found = read_clips(path, {"c": Sampled(Bucket(1, 64, 64), (pts[27],), 25.0)}, (256, 64), MediaLimits())
    assert _number(found["c"][0]) == 27  # the four patches meet in the middle of the picture


def test_a_frame_that_is_gone_is_an_error_not_another_frame(tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    pts = _numbered(path, frames=10, width=64, height=64, codec="libx264", b_frames=0)
    with pytest.raises(MediaError, match="changed"):
        read_clips(path, {"c": Sampled(Bucket(1, 64, 64), (pts[-1] + 1,), 25.0)}, (64, 64), MediaLimits())


@pytest.mark.parametrize("name", ["dog_ebook_rot270.mp4", "goldeneye_rotated90.mp4", "edit_list_hevc10.mp4"])
def test_rotated_footage_comes_out_upright(test_data: Path, name: str) -> None:
    from curation.footage.grid_frames import decode_jpeg
    from curation.scan import scan_video

    spooled = []
    result = scan_video(test_data / "videos" / name, spool=spooled.append)
    width, height = result.probe.display_size
    bucket = Bucket(1, 64, 64)
    wanted = {"c": Sampled(bucket, (int(result.grid_pts[1]),), 1.0)}
    mine = read_clips(test_data / "videos" / name, wanted, (width, height), MediaLimits())["c"][0].astype(
        float
    )
    upright = decode_jpeg(spooled[1].jpeg)
    side = min(upright.shape[:2])
    top, left = (upright.shape[0] - side) // 2, (upright.shape[1] - side) // 2
    import cv2

    square = cv2.resize(upright[top : top + side, left : left + side], (64, 64), interpolation=cv2.INTER_AREA)
    distance = {k: np.abs(np.rot90(square, k).astype(float) - mine).mean() for k in range(4)}
    assert min(distance, key=distance.get) == 0
    assert distance[0] < 8
