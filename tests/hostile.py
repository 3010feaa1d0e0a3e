"""Files that are broken or mean harm, each made in a folder of its own."""

from __future__ import annotations

import io
import os
import socket
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import footage
import numpy as np
from av.stream import Disposition
from PIL import Image

Maker = Callable[[Path], Path]
COUNT = 60
H264 = {"codec": "libx264", "options": {"g": "12", "bf": "2", "crf": "23"}}


def film(path: Path, count: int = COUNT, height: int = 48, width: int = 64, **options: object) -> Path:
    """A film like no other: what it shows follows from its path."""
    texture = footage.texture(zlib.crc32(os.fsencode(path)), height, width)
    pictures = [np.roll(texture, 3 * n, axis=1) for n in range(count)]
    return footage.write_video(path, pictures, **{**H264, **options})


def _bytes(name: str, content: bytes) -> Maker:
    def make(folder: Path) -> Path:
        (path := folder / name).write_bytes(content)
        return path

    return make


def _changed(name: str, change: Callable[[bytes], bytes], **options: object) -> Maker:
    def make(folder: Path) -> Path:
        path = film(folder / name, **options)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def _named(name: str) -> Maker:
    def make(folder: Path) -> Path:
        return film(folder / "a.mp4").rename(folder / name)

    return make


def _script(name: str, text: str) -> Maker:
    """A script that points to a video beside it, and to an address of this machine."""

    def make(folder: Path) -> Path:
        film(folder / "beside.mp4")
        path = folder / name
        path.write_text(text.replace("FILE", str(folder / "beside.mp4")))
        return path

    return make


def _header(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """Bytes of an MP4 box overwritten, so many bytes after its name."""
    start = data.index(box) + 4 + offset
    return data[:start] + value + data[start + len(value) :]


def _ruined_middle(data: bytes) -> bytes:
    start, size = data.index(b"mdat") + 4, len(data) - data.index(b"mdat") - 4
    return data[: start + size // 3] + bytes(size // 4) + data[start + size // 3 + size // 4 :]


def _big_gif(folder: Path) -> Path:
    Image.new("P", (16, 16)).save(path := folder / "bomb.gif")
    data = path.read_bytes()
    data = data[:6] + b"\xff\xff\xff\xff" + data[10:]
    start = data.index(b",", 13)
    path.write_bytes(data[: start + 5] + b"\xff\xff\xff\xff" + data[start + 9 :])
    return path


def _long_gif(folder: Path) -> Path:
    frames = [Image.new("L", (2, 2), n % 2 * 255) for n in range(700)]
    frames[0].save(path := folder / "long.gif", save_all=True, append_images=frames[1:], duration=20)
    return path


def _big_png(folder: Path) -> Path:
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "PNG")
    data = buffer.getvalue()
    header = data[12:16] + b"\x00\x01\x00\x00" * 2 + data[24:29]
    (path := folder / "big.png").write_bytes(
        data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
    )
    return path


def _link(folder: Path, name: str, target: str) -> Path:
    (path := folder / name).symlink_to(target)
    return path


def _loop(folder: Path) -> Path:
    _link(folder, "b.mp4", "a.mp4")
    return _link(folder, "a.mp4", "b.mp4")


def _fifo(folder: Path) -> Path:
    os.mkfifo(path := folder / "fifo.mp4")
    return path


def _socket(folder: Path) -> Path:
    here = Path.cwd()
    os.chdir(folder)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("socket.mp4")
    finally:
        os.chdir(here)
    return folder / "socket.mp4"


def _folder(folder: Path) -> Path:
    (path := folder / "folder.mp4").mkdir()
    film(path / "inside.mp4")
    return path


def _denied(folder: Path) -> Path:
    (path := film(folder / "denied.mp4")).chmod(0)
    return path


def _two_sizes(folder: Path) -> Path:
    a, b = film(folder / "a.h264", 30), film(folder / "b.h264", 30, 96, 128)
    (path := folder / "sizes.h264").write_bytes(a.read_bytes() + b.read_bytes())
    return path


def _no_first_keyframe(folder: Path) -> Path:
    path = folder / "late.ts"
    with av.open(str(film(folder / "a.ts"))) as read, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(read.streams.video[0], opaque=True)
        for number, packet in enumerate(read.demux(video=0)):
            if packet.size and number >= 4:
                packet.stream = stream
                output.mux_one(packet)
    return path


def _retimed(name: str, pts_of: Callable[[int, int], int]) -> Maker:
    """Packets without reordering whose pts are changed; dts increase."""

    def make(folder: Path) -> Path:
        path = folder / name
        source = film(folder / "source.mkv", options={"g": "1", "bf": "0"})
        with av.open(str(source)) as read, av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(read.streams.video[0], opaque=True)
            for number, packet in enumerate(read.demux(video=0)):
                if packet.size:
                    packet.dts = -2000 + number
                    packet.pts, packet.stream = pts_of(number, packet.pts), stream
                    output.mux_one(packet)
        source.unlink()
        return path

    return make


def _sound(folder: Path) -> Path:
    return footage.write_sound(folder / "sound.mp4")


def _cover(folder: Path) -> Path:
    path = folder / "cover.mp4"
    with av.open(str(path), "w") as output:
        track = output.add_stream("aac", rate=48_000)
        cover = output.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        output.mux(cover.encode(frame.reformat(format="yuvj420p")))
        output.mux(cover.encode(None))
        output.mux(track.encode(None))
    return path


def _two_streams(folder: Path) -> Path:
    path = folder / "two.mkv"
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("mpeg4", rate=25) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width = stream.height = 64 * (number + 1)
            stream.pix_fmt = "yuv420p"
        for n in range(COUNT):
            for stream in streams:
                side = stream.width
                frame = av.VideoFrame.from_ndarray(footage.texture(n // 6, side, side), format="rgb24")
                frame.pts, frame.time_base = n, Fraction(1, 25)
                output.mux(stream.encode(frame.reformat(format="yuv420p")))
        for stream in streams:
            output.mux(stream.encode(None))
    return path


M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"
MPD = (
    '<?xml version="1.0"?><MPD><Period><AdaptationSet><BaseURL>FILE</BaseURL></AdaptationSet></Period></MPD>'
)
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n"
REMOTE = "http://127.0.0.1:PORT/a.ts"

MAKERS: dict[str, Maker] = {
    "truncated, index first": _changed("a.mp4", lambda d: d[: len(d) * 6 // 10]),
    "no index": _changed("a.m4v", lambda d: d[: d.index(b"moov") - 4]),
    "index cut off": _changed("a.m4v", lambda d: d[: (d.index(b"moov") + len(d)) // 2]),
    "wrong extension": lambda f: film(f / "a.mkv").rename(f / "a.avi"),
    "zero bytes": _bytes("a.mp4", b""),
    "text": _bytes("a.mp4", b"The quick brown fox jumps over the lazy dog.\n" * 50),
    "random": _bytes("a.mp4", np.random.default_rng(0).bytes(20_000)),
    "huge y4m": _bytes("a.y4m", b"YUV4MPEG2 W60000 H60000 F25:1 C420\nFRAME\n" + bytes(4096)),
    "huge png": _big_png,
    "gif bomb": _big_gif,
    "gif of many frames": _long_gif,
    "m3u8, local": _script("a.m3u8", M3U8.format("FILE")),
    "m3u8, remote, named mp4": _script("a.mp4", M3U8.format(REMOTE)),
    "ffconcat": _script("a.ffconcat", "ffconcat version 1.0\nfile 'FILE'\n"),
    "concat": _script("a.mp4", "# comment\nfile 'FILE'\n"),
    "sdp": _bytes("a.sdp", SDP.encode()),
    "mpd": _script("a.mpd", MPD),
    "symlink loop": _loop,
    "dangling link": lambda f: _link(f, "a.mp4", "nowhere.mp4"),
    "fifo": _fifo,
    "device": lambda f: _link(f, "a.mp4", "/dev/zero"),
    "socket": _socket,
    "folder": _folder,
    "newline in the name": _named("a\nb\r.mp4"),
    "emoji in the name": _named("🎬 é.mp4"),
    "leading dash": _named("-i -rf.mp4"),
    "percent in the name": _named("100%20%s.mp4"),
    "name that is no UTF-8": _named(os.fsdecode(b"caf\xe9\xff.mp4")),
    "address in the name": _named("http:127.0.0.1.mp4"),
    "permission denied": _denied,
    "duration too long": _changed("a.mp4", lambda d: _header(d, b"mdhd", 16, b"\x00\x10\x00\x00")),
    "endless duration": _changed("a.mp4", lambda d: _header(d, b"mdhd", 16, b"\x7f\xff\xff\xff")),
    "matroska, too long": _changed("a.mkv", lambda d: d.replace(b"00:00:02.", b"03:00:02.")),
    "matroska, endless": _changed("a.mkv", lambda d: d.replace(b"00:00:02.", b"99:00:02.")),
    "no time scale": _changed("a.mp4", lambda d: _header(d, b"mdhd", 12, bytes(4))),
    "size changes": _two_sizes,
    "no keyframe at the start": _no_first_keyframe,
    "no pts": lambda f: film(f / "a.h264"),
    "negative pts": _retimed("a.mkv", lambda n, p: p - 1000),
    "backward pts": _retimed("a.nut", lambda n, p: 100_000 - 40 * n),
    "a leap of days": _retimed("a.mkv", lambda n, p: p + (10**9 if n > 30 else 0)),
    "sound alone": _sound,
    "cover alone": _cover,
    "two video streams": _two_streams,
    "empty edit list": _changed("a.mp4", lambda d: _header(d, b"elst", 8, bytes(4))),
    "1x1": lambda f: film(f / "a.mov", 60, 1, 1, codec="png", pix_fmt="rgb24", options={}),
    "odd sides": lambda f: film(f / "a.mp4", 60, 33, 17, pix_fmt="yuv444p"),
    "single frame": lambda f: film(f / "a.mp4", 1),
    "broken in the middle": _changed("a.mp4", _ruined_middle),
    "unknown codec": _changed("a.mp4", lambda d: d.replace(b"avc1", b"zq7!")),
    "encrypted": _changed("a.mp4", lambda d: d.replace(b"avc1", b"encv")),
    "all zeros": _changed("a.mp4", lambda d: d[: d.index(b"mdat") + 4] + bytes(len(d) - d.index(b"mdat") - 4)),
    "changes": lambda f: film(f / "changes.mp4"),
    "vanishes": lambda f: film(f / "vanishes.mp4"),
    "vanishes early": lambda f: film(f / "early.mp4"),
}  # fmt: skip
