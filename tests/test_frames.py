"""Time and damage: every frame gets the pts that was written, and what breaks in the middle is told apart."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation.footage.frames import Decoder, Frame, Scaler, Sizes, TimeGrid, fit
from curation.footage.media import MediaLimits, open_video
from tests.footage import MILLISECOND, numbered, read_number, texture, write_video
from warehouse.errors import MediaError


def decode(source: Path | io.BytesIO, limits: MediaLimits | None = None, threads: int = 1) -> Decoder:
    with open_video(source, limits) as media:
        decoder = Decoder(media, threads)
        decoder.frames = list(decoder)
        return decoder


def cause_of(source: Path | io.BytesIO, limits: MediaLimits | None = None) -> str:
    with pytest.raises(MediaError) as raised:
        decode(source, limits)
    return raised.value.cause


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("name", ["video.mp4", "video.mkv"])
def test_pts_and_pictures_come_in_presentation_order(tmp_path: Path, codec: str, name: str) -> None:
    """H.264 with B-frames is stored in another order than shown; the times are those of a variable rate."""
    pts = np.cumsum([0, *np.random.default_rng(3).integers(15, 90, 19)]).tolist()
    path = write_video(tmp_path / name, numbered(20), pts, time_base=MILLISECOND, codec=codec)
    found = decode(path)
    seconds = [float((p - found.pts[0]) * found.time_base) for p in found.pts]
    assert seconds == pytest.approx([p / 1000 for p in pts], abs=1e-3)
    shown = [read_number(f.image.to_ndarray(format="rgb24"), 20) for f in found.frames]
    assert shown == list(range(20))
    assert [f.index for f in found.frames] == list(range(20))
    assert (found.num_refused, found.num_moved) == (0, 0)


def test_a_first_frame_need_not_be_at_zero(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.mkv", numbered(3), [500, 540, 580], time_base=MILLISECOND)
    assert decode(path).pts.tolist() == [500, 540, 580]


def test_the_end_is_where_the_last_frame_ends(tmp_path: Path) -> None:
    constant = decode(write_video(tmp_path / "constant.mp4", numbered(10)))
    assert (constant.end_pts - constant.pts[0]) * constant.time_base == Fraction(10, 25)
    varying = write_video(tmp_path / "varying.mkv", numbered(4), [0, 40, 80, 160], time_base=MILLISECOND)
    assert decode(varying).end_pts == 160 + 40


def test_frames_without_times_come_at_the_nominal_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "raw.h264", numbered(30), codec="libx264")
    found = decode(path)
    assert found.num_moved == 0
    steps = np.diff(found.pts) * float(found.time_base)
    assert steps == pytest.approx(np.full(29, 1 / 25))


class _Image:
    """Stands where a decoded picture would, with the time stamp of a broken file."""

    def __init__(self, pts: int | None) -> None:
        self.pts, self.duration = pts, 0


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-1000, 1000)), min_size=1, max_size=50))
def test_whatever_the_time_stamps_they_increase(stamps: list[int | None]) -> None:
    video = _constant_video()
    with open_video(video) as media:
        decoder = Decoder(media)
        placed = [decoder._place(_Image(pts)) for pts in stamps]
    assert all(np.diff(placed) > 0)
    increasing = [s is not None and all(s > p for p in placed[:i]) for i, s in enumerate(stamps)]
    assert all(p == s for p, s, kept in zip(placed, stamps, increasing, strict=True) if kept)
    assert decoder.num_moved == sum(s is not None for s in stamps) - sum(increasing)


_VIDEO: list[bytes] = []


def _constant_video() -> io.BytesIO:
    if not _VIDEO:
        with tempfile.TemporaryDirectory() as folder:
            _VIDEO.append(write_video(Path(folder) / "v.mp4", numbered(3)).read_bytes())
    return io.BytesIO(_VIDEO[0])


def test_too_many_bad_time_stamps_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "video.mp4", numbered(20))
    real = Decoder._images

    def going_back(self: Decoder) -> Iterator[av.VideoFrame]:
        for index, image in enumerate(real(self)):
            image.pts -= 2 * (index % 4 == 3)
            yield image

    monkeypatch.setattr(Decoder, "_images", going_back)
    assert cause_of(path) == "bad_timestamps"
    assert decode(path, MediaLimits(max_refused_share=0.5)).num_moved == 5


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv", "video.avi"])
def test_a_file_that_ends_early_is_truncated(tmp_path: Path, name: str) -> None:
    pictures = [texture(i, 64, 96) for i in range(60)]
    data = write_video(tmp_path / name, pictures).read_bytes()
    assert len(decode(io.BytesIO(data)).pts) == 60
    assert cause_of(io.BytesIO(data[: int(len(data) * 0.6)])) == "truncated"


@pytest.mark.parametrize("name", ["video.mkv", "video.wmv", "video.nut", "video.mp4", "video.ts"])
@pytest.mark.parametrize("start_s", [2, 40_000])
def test_a_clock_that_begins_late_is_no_missing_footage(tmp_path: Path, name: str, start_s: int) -> None:
    """Copied out of a longer film without a new clock, as `ffmpeg -ss 2 -c copy` does for Matroska."""
    ticks = (1000 * start_s + 40 * np.arange(60)).tolist()
    pictures = [texture(i, 64, 96) for i in range(60)]
    data = write_video(tmp_path / name, pictures, ticks, time_base=MILLISECOND).read_bytes()
    decoder = decode(io.BytesIO(data))
    assert decoder.num_moved == 0
    assert (np.diff(decoder.pts) * decoder.time_base).tolist() == pytest.approx([0.04] * 59, abs=1e-3)
    if name == "video.mkv":
        assert cause_of(io.BytesIO(data[: int(len(data) * 0.6)])) == "truncated"


def _packets(data: bytes) -> list[tuple[int, int]]:
    with open_video(io.BytesIO(data)) as media:
        return [(p.pos, p.size) for p in media.container.demux(media.stream) if p.size]


def _ruin(data: bytes, every: int) -> bytes:
    """The file with the headers of every n-th H.264 packet replaced by noise."""
    broken = bytearray(data)
    for position, size in _packets(data)[every // 2 :: every]:
        broken[position + 4 : position + size] = bytes([255]) * (size - 4)
    return bytes(broken)


def test_single_packets_that_break_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "video.mp4", [texture(i, 64, 96) for i in range(50)], codec="libx264", options={"g": "1"}
    )
    found = decode(io.BytesIO(_ruin(path.read_bytes(), 25)))
    assert found.num_refused == 2
    assert len(found.pts) == 48
    assert np.all(np.diff(found.pts) > 0)


def test_many_packets_that_break_fail(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "video.mp4", [texture(i, 64, 96) for i in range(50)], codec="libx264", options={"g": "1"}
    )
    assert cause_of(io.BytesIO(_ruin(path.read_bytes(), 5))) == "corrupt"


def test_damaged_frames_are_kept_and_marked(test_data: Path) -> None:
    found = decode(test_data / "broken" / "bitflips.mp4")
    assert len(found.pts) == 377
    assert 0 < sum(f.damaged for f in found.frames) < 377


@pytest.mark.parametrize(
    ("limits", "cause"),
    [(MediaLimits(max_frames=7), "limit_frames"), (MediaLimits(max_duration_s=0.2), "limit_duration")],
)
def test_limits_hold_while_decoding_where_the_header_says_nothing(
    tmp_path: Path, limits: MediaLimits, cause: str
) -> None:
    path = write_video(tmp_path / "raw.h264", numbered(10), codec="libx264")
    assert cause_of(path, limits) == cause


def test_a_size_that_grows_in_mid_stream_is_limited_and_scaled_alike(tmp_path: Path) -> None:
    small = write_video(tmp_path / "small.h264", numbered(5, 64, 96), codec="libx264").read_bytes()
    large = write_video(tmp_path / "large.h264", numbered(5, 96, 160), codec="libx264").read_bytes()
    found = decode(io.BytesIO(small + large))
    assert [f.image.width for f in found.frames] == [96] * 5 + [160] * 5
    sizes, scaler = Sizes((48, 32), (48, 32), (24, 16), 0), Scaler()
    copies = [Frame(f, sizes, scaler) for f in found.frames]
    assert {c.small_hsv.shape for c in copies} == {c.grid_bgr.shape for c in copies} == {(32, 48, 3)}
    assert cause_of(io.BytesIO(small + large), MediaLimits(max_width=159)) == "limit_size"


def test_threads_change_nothing(test_data: Path) -> None:
    path = test_data / "videos" / "bikes.mp4"
    one, two = decode(path), decode(path, threads=2)
    assert one.pts.tolist() == two.pts.tolist()
    assert all(
        np.array_equal(a.image.to_ndarray(), b.image.to_ndarray())
        for a, b in zip(one.frames[::25], two.frames[::25], strict=True)
    )


@given(
    st.lists(st.integers(1, 2000), max_size=60),
    st.sampled_from([0.5, 2.0, 8.0, 29.97]),
    st.integers(-(10**6), 10**6),
)
@example([498, 500], 2.0, 0)
def test_the_grid_takes_the_first_frame_of_every_period(steps: list[int], fps: float, start: int) -> None:
    """Against the definition: frame i is taken if a multiple of 1/fps lies in (time before, its own time]."""
    grid, slack = TimeGrid(fps, MILLISECOND), Fraction(1, 500)
    pts = np.cumsum([start, *steps]).tolist()
    period = 1 / Fraction(fps).limit_denominator(1000)
    periods = [((p - start) * MILLISECOND + slack) // period for p in pts]
    wanted = [i == 0 or periods[i] > periods[i - 1] for i in range(len(pts))]
    assert [grid.takes(p) for p in pts] == wanted


@pytest.mark.parametrize("fps", [24, 25, 30, Fraction(30000, 1001), 60])
@pytest.mark.parametrize("jitter_ms", [0, 1])
def test_the_grid_of_a_steady_rate_is_even_in_spite_of_rounded_times(
    fps: int | Fraction, jitter_ms: int
) -> None:
    """Half a second must be the same number of frames each time, though clocks and containers are off by a little."""
    grid, jitter = TimeGrid(2.0, MILLISECOND), np.random.default_rng(0).integers(-jitter_ms, 1, 200)
    taken = [i for i in range(200) if grid.takes(round(i * 1000 / Fraction(fps)) + int(jitter[i]) * (i > 0))]
    frames_s = [i / Fraction(fps) for i in range(200)]
    wanted = [
        min(i for i, t in enumerate(frames_s) if t >= Fraction(k, 2))
        for k in range(int(frames_s[-1] * 2) + 1)
    ]
    assert taken == wanted


@given(st.integers(16, 9000), st.integers(16, 9000), st.sampled_from([16, 96, 480]))
def test_fit_keeps_the_aspect_and_never_enlarges(width: int, height: int, short_px: int) -> None:
    w, h = fit(width, height, short_px=short_px)
    assert w % 2 == h % 2 == 0
    assert w <= width + 1 and h <= height + 1
    assert abs(min(w, h) - min(short_px, width, height)) <= 1
    assert abs(w / h - width / height) <= (width / height) * (1 / w + 1 / h) * 1.2


def _frame_of(path: Path, sizes: Sizes) -> Frame:
    with open_video(path) as media:
        return Frame(next(iter(Decoder(media))), sizes, Scaler())


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_copies_for_people_are_upright_and_copies_for_detectors_as_stored(
    tmp_path: Path, degrees: int
) -> None:
    """A picture whose top left quarter is red, turned as the file says."""
    picture = np.full((64, 96, 3), 40, np.uint8)
    picture[:32, :48] = (220, 30, 30)
    path = write_video(tmp_path / "turned.mp4", [picture], rotation_deg=degrees)
    frame = _frame_of(path, Sizes((96, 64), (48, 32), (24, 16), degrees))
    assert frame.small_bgr.shape == (64, 96, 3)
    assert frame.small_bgr[16, 24, 2] > 180
    shown = np.rot90(picture, degrees // 90)[::2, ::2, ::-1]
    assert frame.grid_bgr.shape == shown.shape
    assert np.abs(frame.grid_bgr.astype(int) - shown).mean() < 12
    assert frame.flow_gray.shape == ((16, 24) if degrees % 180 == 0 else (24, 16))


def test_copies_are_made_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", [texture(1, 64, 96)])
    frame = _frame_of(path, Sizes((96, 64), (48, 32), (24, 16), 0))
    assert frame.small_hsv is frame.small_hsv
    assert frame.grid_bgr is frame.grid_bgr


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le", "gray", "rgb24", "pal8"])
def test_every_pixel_format_gives_its_colours(pix_fmt: str) -> None:
    picture = texture(4, 64, 96, grain=32)
    image = av.VideoFrame.from_ndarray(picture, format="rgb24")
    if pix_fmt == "pal8":
        greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, 1)
        image = av.VideoFrame.from_ndarray((np.ascontiguousarray(picture[..., 0]), greys), format="pal8")
    elif pix_fmt != "rgb24":
        image = image.reformat(format=pix_fmt)
    found = Scaler().bgr(image, (48, 32), "AREA")
    wanted = picture[::2, ::2, ::-1].astype(int)
    if pix_fmt in ("gray", "pal8"):
        assert np.ptp(found, axis=2).max() == 0
        return
    assert np.abs(found - wanted).mean() < 12
