"""The whole scan: one decode, every observer right, bounded memory, and no file that crashes or hangs it."""

from __future__ import annotations

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from curation.footage.frames import Decoder, SmallFrame
from curation.footage.grid_frames import GridFrame
from curation.footage.media import CAUSES, MediaLimits
from curation.scan import Handfuls, ScanConfig, ScanResult, scan_video
from tests.footage import MILLISECOND, frames_of, numbered, texture, write_video
from warehouse.errors import MediaError


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of 1.6 s, 25 fps."""
    pictures = [np.roll(texture(i // 40, 96, 160), i, axis=1) for i in range(120)]
    return write_video(tmp_path_factory.mktemp("scan") / "video.mp4", pictures)


def same(a: ScanResult, b: ScanResult) -> bool:
    arrays = [
        [r.signals.pts, r.signals.brightness, r.signals.damaged, r.grid_pts, *vars(r.flow).values()]
        + [column for level in r.signals.levels for column in (level.frame, level.pts, level.score)]
        for r in (a, b)
    ]
    facts = [(r.probe, r.signals.end_pts, r.decode_errors, r.moved_pts) for r in (a, b)]
    return facts[0] == facts[1] and all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(*arrays, strict=True)
    )


def test_every_frame_is_decoded_once(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    real = Decoder._place
    monkeypatch.setattr(Decoder, "_place", lambda self, image: decoded.append(image.pts) or real(self, image))
    result = scan_video(video)
    assert len(decoded) == len(set(decoded)) == result.num_frames == 120


def test_a_result_says_how_long_the_video_is(video: Path) -> None:
    result = scan_video(video)
    assert result.duration_s == pytest.approx(4.8)
    assert (result.probe.width, result.probe.height) == (160, 96)
    assert (result.decode_errors, result.moved_pts, len(result.signals.damaged)) == (0, 0, 0)


def test_the_levels_look_at_their_rates(video: Path) -> None:
    levels = {level.fps: level for level in scan_video(video).signals.levels}
    assert len(levels[None].score) == 120
    assert len(levels[8.0].score) == 39
    assert len(levels[2.0].score) == 10
    for level in levels.values():
        assert level.pts.tolist() == [
            p for i, p in enumerate(levels[None].pts) if i in set(level.frame.tolist())
        ]
        assert level.score[0] == 0
    cuts = levels[None].frame[levels[None].score > 27]
    assert cuts.tolist() == [40, 80]


def test_brightness_is_the_mean_value_of_each_frame(tmp_path: Path) -> None:
    video = write_video(tmp_path / "grey.mp4", numbered(30))
    assert scan_video(video).signals.brightness == pytest.approx(np.linspace(32, 224, 30), abs=4)


def test_a_second_scan_threads_and_a_file_object_give_the_same(video: Path) -> None:
    first = scan_video(video)
    assert same(first, scan_video(video))
    assert same(first, scan_video(video, ScanConfig(decode_threads=2)))
    assert same(first, scan_video(io.BytesIO(video.read_bytes())))


def test_smallest_videos(tmp_path: Path) -> None:
    one = scan_video(write_video(tmp_path / "one.mp4", numbered(1)))
    assert (one.num_frames, len(one.grid_pts), len(one.flow.magnitude)) == (1, 1, 0)
    assert one.duration_s > 0
    tiny = scan_video(write_video(tmp_path / "tiny.mkv", [texture(0, 2, 2)] * 30, codec="ffv1"))
    assert tiny.num_frames == 30


def test_a_limit_ends_the_scan(video: Path) -> None:
    with pytest.raises(MediaError, match="limit_frames"):
        scan_video(video, limits=MediaLimits(max_frames=50))


BROKEN = {
    "audio_only.mp4": "no_video_stream",
    "bitflips.mp4": None,
    "corrupted_h264.mp4": None,
    "glitch_armwrestling.mp4": None,
    "html_error_page.mp4": "invalid_data",
    "invalid_nalu.mp4": None,
    "missing_stsd.mp4": None,
    "no_timescale_green.mp4": None,
    "res_change.h264": None,
    "resolution_switch_errors.264": None,
    "truncated_moov_first.mp4": "truncated",
    "truncated_moov_lost.mp4": "invalid_data",
    "zero_bytes.webm": "empty",
}


def outcome(path: Path) -> str | None:
    """None when done, else the cause."""
    try:
        scan_video(path)
    except MediaError as error:
        return error.cause
    return None


@pytest.mark.parametrize("name", BROKEN)
def test_broken_footage_ends_done_or_with_its_cause(test_data: Path, name: str) -> None:
    assert outcome(test_data / "broken" / name) == BROKEN[name]


def test_all_broken_footage_is_covered(test_data: Path) -> None:
    assert {p.name for p in (test_data / "broken").iterdir()} == set(BROKEN)


@pytest.mark.long
def test_all_real_footage_is_scanned(test_data: Path) -> None:
    files = [p for p in sorted((test_data / "videos").iterdir()) if p.suffix != ".srt"]
    assert {p.name: outcome(p) for p in files} == {p.name: None for p in files}


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    """Noise written over a file at random: the scan ends, and what it raises has a cause."""
    codecs = {"video.mp4": "libx264", "video.mkv": "libx264", "video.avi": "mpeg4", "video.webm": "libvpx"}
    seen = set()
    for name, codec in codecs.items():
        pictures = [texture(i // 5, 64, 96) for i in range(25)]
        data = write_video(tmp_path / name, pictures, codec=codec).read_bytes()
        for seed in range(12):
            generator, broken = np.random.default_rng(seed), bytearray(data)
            for _ in range(4):
                start = int(generator.integers(0, len(data) - 40))
                broken[start : start + 40] = generator.bytes(40)
            try:
                scan_video(io.BytesIO(bytes(broken)))
                seen.add(None)
            except MediaError as error:
                seen.add(error.cause)
    assert None in seen
    assert len(seen) > 1
    assert seen - {None} <= set(CAUSES)


MEMORY = """
import re, sys
from pathlib import Path
from curation.scan import scan_video
frames = scan_video(Path(sys.argv[1])).num_frames
print(frames, 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]))
"""
"""Prints frames and peak memory in bytes. Not `ru_maxrss`: a process begins with its parent's, here pytest's."""


def _repeat(source: Path, target: Path, times: int) -> None:
    """The same packets again and again, each time later."""
    with av.open(str(source)) as given:
        stream = given.streams.video[0]
        packets = [(bytes(p), p.is_keyframe) for p in given.demux(stream) if p.size]
        with av.open(str(target), "w") as output:
            copy = output.add_stream_from_template(stream)
            for index in range(len(packets) * times):
                data, key = packets[index % len(packets)]
                packet = av.Packet(data)
                packet.stream, packet.time_base = copy, Fraction(1, 25)
                packet.pts = packet.dts = index
                packet.is_keyframe = key
                output.mux(packet)


def frames_and_peak(path: Path) -> tuple[int, int]:
    """Frames that a process of its own scans, and the most bytes that it holds."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], check=True, capture_output=True, text=True
    )
    frames, peak = done.stdout.split()
    return int(frames), int(peak)


def test_a_long_film_needs_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    """Thirty times the length: no more than a hundred bytes for each frame come on top."""
    short = write_video(tmp_path / "short.mkv", [texture(i // 30, 64, 96) for i in range(200)], codec="mpeg4")
    long = tmp_path / "long.mkv"
    _repeat(short, long, 30)
    (few, small), (many, large) = frames_and_peak(short), frames_and_peak(long)
    assert (few, many) == (200, 6_000)
    assert large - small < 8_000_000 + 100 * (many - few)


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_a_film_of_two_hours_is_scanned_in_the_memory_of_one_of_two_minutes(tmp_path: Path) -> None:
    """At 720p and 25 frames a second, under a gigabyte."""
    pictures = (np.roll(texture(i // 75, 720, 1280), 4 * i, axis=1) for i in range(3000))
    short = write_video(tmp_path / "short.mkv", pictures, codec="mpeg4")
    long = tmp_path / "long.mkv"
    _repeat(short, long, 60)
    (few, small), (many, large) = frames_and_peak(short), frames_and_peak(long)
    assert (few, many) == (3000, 180_000)
    assert large - small < 100_000_000, f"{small} and {large} bytes"
    assert large < 1_000_000_000


class Seen:
    """Keeps what it was shown."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, int, float]] = []

    def observe(self, frame: SmallFrame) -> None:
        assert not hasattr(frame, "flow_gray"), "a frame that waits holds a full picture"
        self.frames.append((frame.index, frame.pts, float(frame.small_bgr.mean())))

    def finish(self) -> list[tuple[int, int, float]]:
        return self.frames


@pytest.mark.parametrize("count", [0, 1, Handfuls.SIZE - 1, Handfuls.SIZE, 3 * Handfuls.SIZE + 1])
def test_handfuls_pass_every_frame_on_once_and_in_order(count: int) -> None:
    frames = list(frames_of(numbered(count)))
    handfuls = Handfuls({"a": Seen(), "b": Seen()})
    for frame in frames:
        handfuls.observe(frame)
    expected = [(frame.index, frame.pts, float(frame.small_bgr.mean())) for frame in frames]
    assert handfuls.finish() == {"a": expected, "b": expected}


def test_flow_of_a_long_video_has_every_pair_of_the_grid_in_order(tmp_path: Path) -> None:
    """A camera that gets faster: 25 pairs, more than are measured at once."""
    field = texture(5, 96, 160 + 80, grain=10)
    places = np.cumsum([0, *(i / 5 for i in range(25))]).round().astype(int)
    pictures = [field[:, place : place + 160] for place in places]
    pts = [500 * i for i in range(26)]
    video = write_video(tmp_path / "faster.mkv", pictures, pts, time_base=MILLISECOND, codec="ffv1")
    flow = scan_video(video).flow
    assert (flow.pts0.tolist(), flow.pts1.tolist()) == (pts[:-1], pts[1:])
    assert flow.dx == pytest.approx(-np.diff(places) / 6, abs=0.05)


def test_a_spool_that_fails_ends_the_scan(video: Path) -> None:
    def full(frame: GridFrame) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        scan_video(video, spool=full)


def test_times_are_those_of_the_stream_not_of_a_rate(tmp_path: Path) -> None:
    """Ten frames in the first second, one each in the next ten: the grid follows the clock."""
    pts = [*range(0, 1000, 100), *range(1000, 11_000, 1000)]
    result = scan_video(write_video(tmp_path / "vfr.mkv", numbered(20), pts, time_base=MILLISECOND))
    assert result.signals.pts.tolist() == pts
    assert result.grid_pts.tolist() == [0, 500, *range(1000, 11_000, 1000)]
