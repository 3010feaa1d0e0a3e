"""Still pictures as footage: their pixels as a viewer shows them, and every way in which they are refused."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from footage import texture
from PIL import Image

from curation.footage import pictures
from curation.footage.frames import Decoder
from curation.footage.media import MediaLimits, open_video, probe
from curation.scan import scan_video
from warehouse.errors import MediaError

PICTURE = texture(3, 40, 64)


def saved(path: Path, picture: Image.Image | None = None, **options: object) -> Path:
    (picture or Image.fromarray(PICTURE)).save(path, **options)
    return path


def decode(path: Path) -> tuple[list[np.ndarray], list[int]]:
    with open_video(path) as media:
        decoder = Decoder(media)
        return [f.image.to_ndarray(format="rgb24") for f in decoder], [*decoder.pts.tolist(), decoder.end_pts]


def seen(path: Path) -> np.ndarray:
    (frame,), times = decode(path)
    assert times == [0, 40]
    return frame


def distance(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".bmp", {}),
        (".tiff", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".webp", {"lossless": True}),
        (".jpg", {"quality": 97}),
    ],
)
def test_each_format_shows_its_pixels_and_says_what_it_is(
    tmp_path: Path, suffix: str, options: dict[str, object]
) -> None:
    path = saved(tmp_path / f"a{suffix}", **options)
    assert distance(seen(path), PICTURE) <= (2.5 if suffix == ".jpg" else 0)
    found = probe(path)
    assert found.container == found.codec in ("png", "bmp", "tiff", "webp", "jpeg")
    assert (found.display_size, found.bytes) == ((64, 40), path.stat().st_size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_exif(tmp_path: Path, orientation: int) -> None:
    """What is stored is turned and mirrored so that the mark that EXIF has undoes it (CIPA DC-008, 4.6.4)."""
    stored = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.swapaxes(0, 1),
        6: np.rot90(PICTURE),
        7: PICTURE[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(PICTURE, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored))
    assert distance(seen(saved(tmp_path / "a.png", picture, exif=exif)), PICTURE) == 0
    assert probe(saved(tmp_path / "a.jpg", picture, exif=exif)).display_size == (64, 40)
    assert distance(seen(saved(tmp_path / "a.tiff", picture, exif=exif)), PICTURE) == 0
    deep = Image.fromarray(np.ascontiguousarray(stored[..., 0]).astype(np.uint16) * 257)
    assert distance(seen(saved(tmp_path / "deep.png", deep, exif=exif))[..., 0], PICTURE[..., 0]) == 0


def test_other_kinds_of_pixels(tmp_path: Path) -> None:
    cmyk = saved(tmp_path / "cmyk.jpg", Image.fromarray(PICTURE).convert("CMYK"), quality=97)
    assert distance(seen(cmyk), PICTURE) < 2.5
    grey = PICTURE[..., 0]
    deep = saved(tmp_path / "deep.png", Image.fromarray(grey.astype(np.uint16) * 257))
    assert distance(seen(deep)[..., 0], grey) == 0
    palette = saved(tmp_path / "palette.png", Image.fromarray(PICTURE // 128 * 255).convert("P"))
    assert distance(seen(palette), PICTURE // 128 * 255) == 0
    alpha = np.dstack([PICTURE, np.where(np.arange(64) < 32, 255, 0)[None].repeat(40, 0)]).astype(np.uint8)
    shown = seen(saved(tmp_path / "alpha.png", Image.fromarray(alpha)))
    assert distance(shown[:, :32], PICTURE[:, :32]) == 0
    assert (shown[:, 32:] == 255).all()


def test_what_moves_is_a_film(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), (40 * n, 0, 0)) for n in range(6)]
    for suffix in (".webp", ".gif", ".png"):
        path = tmp_path / f"moving{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=120, lossless=True)
        pictures, times = decode(path)
        assert [round(p[0, 0, 0] / 40) for p in pictures] == [0, 1, 2, 3, 4, 5]
        result = scan_video(path)
        assert result.duration_s == pytest.approx(0.72)
        assert np.diff(times).tolist() == [times[1]] * 6


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
def test_truncated_pictures_fail(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(texture(1, 200, 300)))
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.7, 0.95):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(MediaError) as raised:
            decode(path)
        assert raised.value.cause in ("truncated", "corrupt", "invalid_data")
        assert path.name in raised.value.detail


def test_a_picture_larger_than_allowed_is_not_decoded() -> None:
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    for limits in (MediaLimits(), MediaLimits(max_width=40_000, max_height=40_000)):
        with pytest.raises(MediaError) as raised:
            probe(io.BytesIO(bomb.getvalue()), limits)
        assert raised.value.cause == "limit_size"


def test_what_pillow_warns_of_is_not_told_and_what_the_caller_warns_of_is(tmp_path: Path) -> None:
    """EXIF that ends before its first entry; warnings are errors here."""
    path = saved(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(path) as image:
        image.getexif()
    assert distance(seen(path), PICTURE) < 5
    with open_video(path), pytest.raises(UserWarning, match="a word of the caller"):
        warnings.warn("a word of the caller", stacklevel=1)


@pytest.mark.parametrize("ours", ["_upright_rgb", "_write"])
def test_a_defect_of_ours_is_not_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: str
) -> None:
    def defect(*_: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(pictures, ours, defect)
    with pytest.raises(TypeError, match="ours"):
        probe(saved(tmp_path / "a.png"))


def test_bits_are_those_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg")
    assert scan_video(path).stream_bytes == path.stat().st_size
