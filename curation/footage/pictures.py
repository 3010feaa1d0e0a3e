"""Still pictures as footage: a picture is a film of one frame, upright, in 8-bit RGB, for which Pillow answers.

So that everything behind `curation.footage.media.open_video` sees one kind of thing, a picture is brought into a small
film in a temporary file. Orientation (EXIF, mirrored ones too) is applied, transparency is laid on white, CMYK and 16 bits
are converted; of a TIFF the first page counts. Moving WebP becomes a film of all its frames; GIF and moving PNG are
FFmpeg's. A picture that ends too early fails: what Pillow would leave grey is no picture to learn from.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, BinaryIO

import av
import numpy as np

from warehouse.errors import MediaError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
"""Names by which files in folders are taken for pictures."""

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_MILLISECOND = Fraction(1, 1000)
_STILL_MS = 40
"""How long a still picture is shown: one frame at 25 a second, as FFmpeg has it."""
_MUXING = {"fflags": "+bitexact", "video_track_timescale": "1000"}
_SPOOL_BYTES = 64 << 20
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What undoes each orientation of EXIF (CIPA DC-008, 4.6.4), in Pillow's words."""
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AttributeError,
)
"""What Pillow's readers raise on bytes that are not what they should be."""


def kind_of(head: bytes) -> str | None:
    """Pillow's name of the format of a picture that begins so; None where it is none, or FFmpeg's matter."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    kind = next((kind for magic, kind in _SIGNATURES.items() if head.startswith(magic)), None)
    return None if kind == "PNG" and b"acTL" in head else kind


@contextmanager
def as_film(
    handle: BinaryIO, kind: str, name: str, max_size: tuple[int, int], max_frames: int
) -> Iterator[BinaryIO]:
    """A film of the picture, in a temporary file.

    Raises:
        MediaError: truncated, corrupt, invalid_data, no_decoder or a limit.
    """
    from PIL import Image

    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as film:
        with _reading(name, kind):
            image = Image.open(handle, formats=(kind,))
        with image:
            if image.width > max_size[0] or image.height > max_size[1]:
                allowed = "x".join(map(str, max_size))
                detail = f"{name} is {image.width}x{image.height}, max_width x max_height is {allowed}"
                raise MediaError("limit_size", detail)
            _write(film, _frames(image, name, max_frames))
        film.seek(0)
        yield film


@contextmanager
def _reading(name: str, kind: str) -> Iterator[None]:
    """Around Pillow's readers alone: their errors are the file's; so is what they warn of, odd metadata or size."""
    from PIL import Image

    with warnings.catch_warnings():
        for category in (UserWarning, Image.DecompressionBombWarning):  # what is too large has an error here
            warnings.simplefilter("ignore", category)
        try:
            yield
        except Image.DecompressionBombError as error:
            raise MediaError("limit_size", f"{name}: {error}") from error
        except Image.UnidentifiedImageError as error:
            raise MediaError("invalid_data", f"{name} begins as {kind} and is none") from error
        except _BROKEN as error:
            cause = "truncated" if "truncated" in str(error) or isinstance(error, EOFError) else "corrupt"
            raise MediaError(cause, f"{name} cannot be read as {kind}: {error}") from error


def _frames(image: Image.Image, name: str, max_frames: int) -> Iterator[tuple[Image.Image, int]]:
    """Pictures, and how many milliseconds each is shown."""
    from PIL.ExifTags import Base

    count = getattr(image, "n_frames", 1) if image.format == "WEBP" else 1
    if count > max_frames:
        raise MediaError("limit_frames", f"{name} has {count} frames, max_frames is {max_frames}")
    for number in range(count):
        with _reading(name, str(image.format)):
            if count > 1:
                image.seek(number)
            image.load()
            orientation = image.getexif().get(Base.Orientation)
        duration = int(image.info.get("duration") or _STILL_MS)
        yield _upright_rgb(image, orientation, name), max(1, duration)


def _upright_rgb(image: Image.Image, orientation: int | None, name: str) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise MediaError("no_decoder", f"{name}: pixels of kind {image.mode} have no range to be shown in")
    if orientation in _UPRIGHT:
        image = image.transpose(Image.Transpose[_UPRIGHT[orientation]])
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _write(film: BinaryIO, frames: Iterator[tuple[Image.Image, int]]) -> None:
    """Packs frames without loss; the first one says their size."""
    with av.open(film, "w", format="mov", options=_MUXING) as output:
        stream = output.add_stream("png", rate=25, options={"compression_level": "1"})
        stream.pix_fmt = "rgb24"
        stream.codec_context.time_base = stream.time_base = _MILLISECOND
        pts = 0
        for picture, duration in frames:
            if pts == 0:
                stream.width, stream.height = picture.size
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            frame.pts, frame.time_base = pts, _MILLISECOND
            for packet in stream.encode(frame):  # one, at once: the encoder holds nothing back
                packet.duration = duration
                output.mux_one(packet)
            pts += duration
