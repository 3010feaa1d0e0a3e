"""Copied clips: of footage of every kind, each file has frames of its own scene alone, bit for bit as in the source."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import footage
import numpy as np
import pytest
from PIL import Image

from curation.footage.frames import Decoder
from curation.footage.media import MediaLimits, open_video, probe
from curation.formats import stream_copy
from curation.formats.base import Clip
from curation.formats.stream_copy import CAUSES, Copied, copy_clips
from warehouse.errors import MediaError

COUNT = 48
EDGES = (0, 7, 19, 20, 41, COUNT)
"""Scenes of the generated footage, at no keyframe but the first; the third is a single frame."""
GOP = {"g": "6", "keyint_min": "6", "sc_threshold": "0"}
H264 = {"codec": "libx264", "options": {**GOP, "bf": "3", "crf": "20"}}


def decode(path: Path) -> tuple[list[str], list[int]]:
    """Digest of every frame's pixels as decoded, and their pts with the end of the last."""
    with open_video(path) as media:
        decoder = Decoder(media)
        pixels = [hashlib.sha256(f.image.to_ndarray().tobytes()).hexdigest() for f in decoder]
        return pixels, [*decoder.pts.tolist(), decoder.end_pts]


def scenes(path: Path, pts: list[int], edges: tuple[int, ...]) -> list[Clip]:
    facts = probe(path)
    return [
        Clip(f"c{a}", "v", str(path), pts[a], pts[b], 0, 1, a, b - a, 25.0, *facts.display_size, {}, {})
        for a, b in pairwise(edges)
    ]


def check(path: Path, folder: Path, edges: tuple[int, ...] | None = None) -> dict[str, Copied | MediaError]:
    """Copies all scenes; every frame of every file is the source's, inside of its scene, none left out between."""
    pixels, pts = decode(path)
    count = len(pixels)
    clips = scenes(path, pts, edges or (0, count // 5, count // 2, 3 * count // 4, count))
    found = list(copy_clips(str(path), clips, MediaLimits(), lambda clip: folder / clip.clip_id))
    assert [clip for clip, _ in found] == clips
    for clip, copied in found:
        if isinstance(copied, MediaError):
            assert copied.cause in CAUSES
            continue
        written, _ = decode(copied.path)
        first = pts.index(copied.pts[0])
        assert clip.start_frame <= first < first + len(written) <= clip.end_frame
        assert written == pixels[first : first + len(written)]
        assert list(copied.pts) == pts[first : first + len(written)]
        before, after = probe(path), probe(copied.path)
        assert (after.display_size, after.rotation_deg) == (before.display_size, before.rotation_deg)
    return {clip.clip_id: copied for clip, copied in found}


def film(path: Path, **options: object) -> Path:
    """Frames that are all different."""
    pictures = [np.roll(footage.texture(1, 48, 80), 3 * n, axis=1) for n in range(COUNT)]
    return footage.write_video(path, pictures, **options)


def with_edit_list(path: Path) -> Path:
    """A film whose edit list begins at its ninth frame, in the midst of a group of pictures."""
    source = film(path.with_suffix(".whole.mp4"), **H264)
    with av.open(str(source)) as read, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(read.streams.video[0], opaque=True)
        ticks = round(8 / 25 / read.streams.video[0].time_base)
        for packet in read.demux(video=0):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - ticks, packet.dts - ticks, stream
                output.mux_one(packet)
    return path


VFR = (100 + np.cumsum(np.random.default_rng(0).integers(20, 90, COUNT))).tolist()
KINDS = {
    "b-frames": ("film.mp4", H264),
    "open gop": ("film.mp4", {**H264, "options": {**H264["options"], "x264-params": "open-gop=1"}}),
    "open gop, hevc": (
        "film.mkv",
        {"codec": "libx265", "options": {"x265-params": "log-level=0:keyint=6:min-keyint=6:scenecut=0:open-gop=1"}},
    ),
    "mpeg-2, open gop": ("film.ts", {"codec": "mpeg2video", "options": {**GOP, "bf": "2"}}),
    "transport stream": ("film.ts", H264),
    "vfr": ("film.mkv", {**H264, "pts": VFR, "time_base": footage.MILLISECOND}),
    "rotated": ("film.mov", {**H264, "rotation_deg": 90}),
    "wide pixels": ("film.mp4", {**H264, "pixel_aspect": Fraction(4, 3)}),
    "10 bits": ("film.mp4", {**H264, "pix_fmt": "yuv420p10le"}),
    "vp8": ("film.webm", {"codec": "libvpx", "options": {"g": "6", "auto-alt-ref": "1", "lag-in-frames": "6"}}),
    "all keyframes": ("film.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_generated_footage(tmp_path: Path, kind: str) -> None:
    name, options = KINDS[kind]
    found = check(film(tmp_path / name, **options), tmp_path, EDGES)
    written = [c for c in found.values() if isinstance(c, Copied)]
    assert len(written) >= 4
    assert sum(len(c.pts) for c in written) >= COUNT / 2


@pytest.mark.parametrize("profile", ["proxy", "4444"])
def test_prores_stays_of_its_flavour(tmp_path: Path, profile: str) -> None:
    """As HQ, which is what a container without a word on it says, 4444 has 10 bits a sample and not 12."""
    pix_fmt = "yuv444p10le" if profile == "4444" else "yuv422p10le"
    path = film(tmp_path / "film.mov", codec="prores_ks", pix_fmt=pix_fmt, options={"profile": profile})
    (clip,) = scenes(path, list(range(0, 512 * COUNT + 1, 512)), (0, COUNT))
    ((_, copied),) = copy_clips(str(path), [clip], MediaLimits(), lambda clip: tmp_path / clip.clip_id)
    before, after = _flavour(path), _flavour(copied.path)
    assert before == after and before[1] == ("yuv444p12le" if profile == "4444" else "yuv422p10le")


def _flavour(path: Path) -> tuple[str, str]:
    with open_video(path) as media:
        context = media.stream.codec_context
        next(iter(Decoder(media)))
        return context.codec_tag, context.pix_fmt


def test_an_edit_list_that_begins_between_keyframes(tmp_path: Path) -> None:
    path = with_edit_list(tmp_path / "film.mp4")
    assert len(decode(path)[0]) == COUNT - 8
    found = check(path, tmp_path, (0, 7, 19, COUNT - 8))
    assert found["c0"].pts[0] > 0, "its first frames hang on a keyframe that is not shown"
    assert found["c7"].pts and found["c19"].pts


def test_all_of_a_clip_is_kept_where_keyframes_allow(tmp_path: Path) -> None:
    found = check(film(tmp_path / "film.mov", codec="mjpeg", pix_fmt="yuvj420p"), tmp_path, EDGES)
    assert [len(c.pts) for c in found.values()] == [b - a for a, b in pairwise(EDGES)]
    found = check(film(tmp_path / "film.mp4", **H264), tmp_path, (0, 12, 30, COUNT))
    assert [len(c.pts) for c in found.values()] == [12, 18, 18]


def test_what_cannot_be_copied_says_why(tmp_path: Path) -> None:
    found = check(film(tmp_path / "film.mp4", **H264), tmp_path, EDGES)
    assert {i: c.cause for i, c in found.items() if isinstance(c, MediaError)} == {"c19": "no_keyframe"}
    raw = film(tmp_path / "film.h264", codec="libx264", options=GOP)
    assert {c.cause for c in check(raw, tmp_path, EDGES).values()} == {"no_times"}


def test_a_keyframe_that_is_none_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an index that calls every packet a keyframe; what is decoded tells."""
    read = stream_copy._read
    monkeypatch.setattr(stream_copy, "_read", lambda m: replace(p := read(m), starts=np.ones_like(p.starts)))
    path = film(tmp_path / "film.mp4", **H264)
    clips = scenes(path, decode(path)[1], EDGES)[1:2]
    ((_, found),) = copy_clips(str(path), clips, MediaLimits(), lambda clip: tmp_path / "copy")
    assert isinstance(found, MediaError) and found.cause == "unsound_copy"


@pytest.mark.parametrize(
    "name", ["edit_list_hevc10.mp4", "goldeneye_rotated90.mp4", "psd_counter.mp4", "bbb_square_vp9.webm"]
)
def test_real_footage(test_data: Path, tmp_path: Path, name: str) -> None:
    check(test_data / "videos" / name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "goldeneye_vfr_drop3.mp4", "dovi_hevc_10bit.mp4", "dovi_av1_10bit.mp4", "subs_bilingual.mp4",
        "bbb_vvc10.mp4", "bbb_h263.3gp", "bbb_720p_30s_vp8.webm", "cockatoo_444.mp4", "pancake.mkv",
    ],
)  # fmt: skip
def test_real_footage_of_other_kinds(test_data: Path, tmp_path: Path, name: str) -> None:
    check(test_data / "videos" / name, tmp_path)


def test_a_source_that_vanishes_once_it_was_read_ends_nothing(tmp_path: Path) -> None:
    path = footage.write_video(tmp_path / "a.mp4", [footage.texture(n, 48, 64) for n in range(12)], **H264)
    _, pts = decode(path)

    def place(clip: Clip) -> Path:
        path.unlink(missing_ok=True)
        return tmp_path / "copy"

    ((_, copied),) = copy_clips(str(path), scenes(path, pts, (0, 12)), MediaLimits(), place)
    assert isinstance(copied, Copied)
    assert len(copied.pts) == 12


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_picture_is_no_video_to_copy_from(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / name)
    clip = Clip("c", "v", str(tmp_path / name), 0, 40, 0, 0.04, 0, 1, 25.0, 64, 48, {}, {})
    ((of, refused),) = copy_clips(clip.uri, [clip], MediaLimits(), lambda clip: tmp_path / clip.clip_id)
    assert of is clip
    assert isinstance(refused, MediaError) and refused.cause == "picture"
    assert "mode exact" in refused.detail
    assert not (tmp_path / "c").exists()
