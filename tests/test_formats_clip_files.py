"""Clips as files: of odd footage too, each frame is that of the source, at its time and in its colours."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import footage
import numpy as np
import pytest
from numpy.typing import NDArray

from curation.footage.frames import Decoder
from curation.footage.media import MediaLimits, open_video, probe
from curation.formats.base import Clip
from curation.formats.clip_files import VideoFile, write_clips


def decode(path: Path) -> tuple[list[NDArray[np.float64]], list[int], Fraction]:
    """Frames as small RGB pictures, their pts with the end of the last, and the time base."""
    with open_video(path) as media:
        decoder = Decoder(media)
        pictures = [
            f.image.reformat(64, 64, format="rgb24", interpolation="AREA").to_ndarray().astype(np.float64)
            for f in decoder
        ]
        return pictures, [*decoder.pts.tolist(), decoder.end_pts], decoder.time_base


def quarters(path: Path, pts: list[int]) -> list[Clip]:
    """The second and the last quarter of a video; what lies between is in no clip."""
    count = len(pts) - 1
    facts = probe(path)
    width, height = facts.display_size
    edges = [0, count // 4, count // 2, 3 * count // 4, count]
    return [
        Clip(
            f"c{a}", "v", str(path), pts[a], pts[b], 0.0, 1.0, a, b - a, facts.fps or 25.0, width, height, {}, {}
        )
        for a, b in list(pairwise(edges))[1::2]
    ]  # fmt: skip


def colours(path: Path) -> list[int]:
    """How a video's numbers are meant; where nothing is said, their range is the limited one."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return [frame.color_range or 1, frame.color_primaries, frame.color_trc, frame.colorspace]


def check(path: Path, folder: Path, worst_db: float) -> None:
    source, pts, time_base = decode(path)
    clips = quarters(path, pts)
    outcomes = write_clips(
        str(path), clips, MediaLimits(), lambda clip, s: VideoFile(folder / f"{clip.clip_id}.mp4", clip, s)
    )
    assert [error for _, error in outcomes] == [None, None]
    for clip in clips:
        written, times, base = decode(folder / f"{clip.clip_id}.mp4")
        assert len(written) == clip.num_frames
        expected = [(p - clip.start_pts) * time_base for p in pts[clip.start_frame : clip.end_frame]]
        assert [t * base for t in times[:-1]] == expected
        for index, picture in enumerate(written):
            squares = float(((picture - source[clip.start_frame + index]) ** 2).mean())
            assert 10 * np.log10(255**2 / max(squares, 1e-9)) > worst_db
        assert colours(folder / f"{clip.clip_id}.mp4") == colours(path)
        before, after = probe(path), probe(folder / f"{clip.clip_id}.mp4")
        assert (after.display_size, after.rotation_deg) == (before.display_size, before.rotation_deg)
        assert after.pixel_aspect == pytest.approx(before.pixel_aspect)


@pytest.mark.parametrize("name", ["awesome_movie_softsubs.m4v", "bbb_h263.3gp", "bbb_square_vp9.webm"])
def test_real_footage(test_data: Path, tmp_path: Path, name: str) -> None:
    check(test_data / "videos" / name, tmp_path, 38)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["edit_list_hevc10.mp4", "dovi_av1_10bit.mp4", "portrait_4k60.mp4", "cockatoo_444.mp4"]
)
def test_real_footage_of_other_kinds(test_data: Path, tmp_path: Path, name: str) -> None:
    check(test_data / "videos" / name, tmp_path, 38)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((48, 80), {"rotation_deg": 90}),
        ((48, 80), {"pixel_aspect": Fraction(4, 3)}),
        ((49, 81), {"codec": "libx264", "pix_fmt": "yuv444p", "options": {"crf": "4"}}),
        ((48, 80), {"codec": "libx264", "pix_fmt": "yuv420p10le", "options": {"crf": "4"}}),
        ((48, 80), {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ((48, 80), {"sound": True}),
    ],
    ids=["rotated", "wide pixels", "odd sides", "10 bits", "full range", "sound"],
)
def test_generated_footage(tmp_path: Path, size: tuple[int, int], options: dict) -> None:
    pictures = [np.roll(footage.texture(1, *size), 5 * n, axis=1) for n in range(18)]
    check(footage.write_video(tmp_path / "film.mov", pictures, **options), tmp_path, 30)


def test_a_frame_too_many_or_too_few_is_seen(tmp_path: Path) -> None:
    film = footage.write_video(tmp_path / "film.mp4", footage.numbered(18))
    _, pts, _ = decode(film)
    clip = quarters(film, pts)[0]
    for change in ({"num_frames": clip.num_frames - 1}, {"num_frames": clip.num_frames + 1}):
        odd = Clip(**{**vars(clip), **change})
        ((_, error),) = write_clips(
            str(film), [odd], MediaLimits(), lambda c, s: VideoFile(tmp_path / "odd.mp4", c, s)
        )
        assert (error.cause, f"{clip.num_frames} of {odd.num_frames} frames" in error.detail) == (
            "changed",
            True,
        )
