"""Opening footage: what a file says, and every way in which it is refused."""

from __future__ import annotations

import hashlib
import io
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from curation.footage import media
from curation.footage.media import CAUSES, MediaLimits, Probe, content_hash, open_video, probe
from tests.footage import MILLISECOND, numbered, texture, write_sound, write_video
from warehouse.errors import MediaError


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 96x64 at 25 fps, with sound."""
    pictures = [texture(i // 10, 64, 96) for i in range(50)]
    return write_video(tmp_path_factory.mktemp("media") / "video.mp4", pictures, sound=True)


def cause_of(source: Path | io.BytesIO, limits: MediaLimits | None = None) -> str:
    with pytest.raises(MediaError) as raised:
        probe(source, limits)
    assert raised.value.cause in CAUSES
    return raised.value.cause


def test_hash_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    path = tmp_path / "bytes"
    path.write_bytes(data)
    with path.open("rb") as moved:
        moved.seek(17)
        assert content_hash(path) == content_hash(moved) == hashlib.sha256(data).hexdigest()


def test_probe_says_what_was_written(video: Path) -> None:
    found = probe(video)
    assert (found.width, found.height, found.num_frames, found.fps) == (96, 64, 50, 25.0)
    assert (found.codec, found.pix_fmt, found.has_audio, found.rotation_deg) == ("mpeg4", "yuv420p", True, 0)
    assert found.duration_s == pytest.approx(2.0)
    assert found.start_pts == 0
    assert found.bytes == video.stat().st_size
    assert "mp4" in found.container


def test_a_file_object_is_probed_like_the_file(video: Path) -> None:
    assert probe(io.BytesIO(video.read_bytes())) == probe(video)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_display_size_is_upright_with_square_pixels(tmp_path: Path, degrees: int) -> None:
    path = write_video(
        tmp_path / "turned.mp4", numbered(5, 64, 96), rotation_deg=degrees, pixel_aspect=Fraction(4, 3)
    )
    found = probe(path)
    assert found.rotation_deg == degrees
    assert found.pixel_aspect == pytest.approx(4 / 3)
    assert found.display_size == ((128, 64) if degrees % 180 == 0 else (64, 128))


def test_known_facts_of_real_footage(test_data: Path) -> None:
    turned = probe(test_data / "videos" / "portrait_4k60.mp4")
    assert (turned.rotation_deg, turned.display_size) == (270, (2160, 3840))
    late = probe(test_data / "videos" / "psd_delayed_start.mp4")
    assert late.start_pts * late.time_base_num / late.time_base_den == pytest.approx(1.075, abs=1e-3)
    several = probe(test_data / "videos" / "nasa_13013.mp4")
    assert (several.stream_index, several.width, several.height) == (0, 320, 180)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"<html><body>404 Not Found</body></html>", "invalid_data"),
        (bytes(range(256)) * 40, "invalid_data"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nvideo.mp4\n#EXT-X-ENDLIST\n", "playlist"),
        (b"\xef\xbb\xbf  #EXTM3U\nhttp://localhost/a.ts\n", "playlist"),
        (b"ffconcat version 1.0\nfile video.mp4\n", "playlist"),
        (b"file 'video.mp4'\nfile 'video.mp4'\n", "playlist"),
        (b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>', "playlist"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n", "playlist"),
        (b"[playlist]\nFile1=video.mp4\n", "playlist"),
    ],
)
def test_what_is_no_footage_is_refused_by_its_bytes(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "looks_like.mp4"
    path.write_bytes(content)
    assert cause_of(path) == cause_of(io.BytesIO(content)) == cause


@pytest.mark.parametrize(
    "script",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
    ],
    ids=["hls", "concat"],
)
@pytest.mark.parametrize(
    "lock",
    [
        {"format_whitelist": media.CONTAINERS},
        {"protocol_whitelist": "none", "safe": "0", "allowed_extensions": "ALL"},
    ],
    ids=["formats", "protocols"],
)
def test_each_of_two_more_locks_holds_alone(
    tmp_path: Path, video: Path, script: str, lock: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the look at the bytes: the list of formats alone, and the list of protocols alone."""
    assert media._OPEN_OPTIONS.items() >= {k: v for k, v in lock.items() if "whitelist" in k}.items()
    monkeypatch.setattr(media, "_SCRIPTS", (b"\x00",))
    monkeypatch.setattr(media, "_OPEN_OPTIONS", lock)
    path = tmp_path / "list.mp4"
    path.write_text(script.format(video))
    assert cause_of(path) == cause_of(io.BytesIO(path.read_bytes())) == "invalid_data"


def test_without_any_lock_a_script_would_open_its_video(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The danger is real: this is what the test above would see if its locks did nothing."""
    monkeypatch.setattr(media, "_SCRIPTS", (b"\x00",))
    monkeypatch.setattr(media, "_OPEN_OPTIONS", {"safe": "0"})
    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile '{video}'\n")
    assert probe(path).width == 96


@pytest.mark.parametrize("make", ["missing", "folder", "fifo"])
def test_only_regular_files_are_read(tmp_path: Path, make: str) -> None:
    path = tmp_path / "source.mp4"
    if make == "folder":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    assert cause_of(path) == "unreadable"
    with pytest.raises(MediaError, match="unreadable"):
        content_hash(path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    assert cause_of(write_sound(tmp_path / "sound.mp4")) == "no_video_stream"


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as output:
        cover = output.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        output.mux(cover.encode(frame.reformat(format="yuvj420p")))
        output.mux(cover.encode(None))
    assert cause_of(path) == "no_video_stream"


def test_a_codec_that_nobody_knows(tmp_path: Path) -> None:
    path = write_video(tmp_path / "unknown.mp4", numbered(5), codec="libx264")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zq7!"))
    assert cause_of(path) == "no_decoder"


def test_a_stream_without_one_frame(tmp_path: Path, video: Path) -> None:
    data = video.read_bytes()
    start = data.index(b"mdat") + 4
    path = tmp_path / "holes.mp4"
    path.write_bytes(data[:start] + bytes(len(data) - start))
    assert cause_of(path) == "zero_frames"


def test_a_file_that_was_cut_off_before_its_index(tmp_path: Path, test_data: Path) -> None:
    data = (test_data / "videos" / "pancake.mkv").read_bytes()
    path = tmp_path / "short.mkv"
    path.write_bytes(data[:200])
    assert cause_of(path) in ("invalid_data", "zero_frames", "no_video_stream")


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        (MediaLimits(max_bytes=1000), "limit_bytes"),
        (MediaLimits(max_width=95), "limit_size"),
        (MediaLimits(max_height=63), "limit_size"),
        (MediaLimits(max_duration_s=1.9), "limit_duration"),
        (MediaLimits(max_frames=49), "limit_frames"),
    ],
)
def test_limits_hold_before_anything_is_decoded(
    video: Path, limits: MediaLimits, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation.footage.frames.Decoder.__iter__", lambda self: pytest.fail("decoded"))
    assert cause_of(video, limits) == cause


def test_what_lies_within_all_limits_is_opened(video: Path) -> None:
    size = video.stat().st_size
    exact = MediaLimits(max_bytes=size, max_width=96, max_height=64, max_duration_s=2.1, max_frames=50)
    assert isinstance(probe(video, exact), Probe)


def test_the_file_is_closed_and_a_given_object_is_not(video: Path) -> None:
    handle = io.BytesIO(video.read_bytes())
    with open_video(handle):
        pass
    assert not handle.closed
    before = _num_open_files()
    for _ in range(5):
        with open_video(video):
            pass
    assert _num_open_files() == before


def _num_open_files() -> int:
    table = Path("/proc/self/fd")
    return len(list(table.iterdir())) if table.exists() else 0


def test_a_message_says_what_was_found_and_what_is_allowed(video: Path) -> None:
    with pytest.raises(MediaError, match=r"video\.mp4 is 96x64, max_width x max_height is 10x8192"):
        probe(video, MediaLimits(max_width=10))


def test_variable_rate_is_written_as_asked(tmp_path: Path) -> None:
    """The writer of the other tests: its time stamps come back."""
    pts = [0, 40, 55, 300, 301]
    path = write_video(tmp_path / "vfr.mp4", numbered(5), pts, time_base=MILLISECOND)
    with av.open(str(path)) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx([p / 1000 for p in pts])
