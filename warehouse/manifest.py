"""What a packed dataset is: its layout, its columns, and the manifest that says what is in it.

A packed dataset is a folder, or a prefix of an object store::

    dataset.json                         the manifest, written last: without it there is no dataset
    parts/<bucket>/train-00000.parquet   clips of one bucket and one split (train or heldout)

A bucket is a shape, named frames x height x width in pixels ("8x64x64"); all of its clips have latents of one
shape. Latents and text are plain binary columns, float16 in little-endian C-order, read back without a copy.
A dataset never changes once its manifest stands.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import pyarrow as pa

from warehouse.errors import DatasetError

FORMAT = 2
MANIFEST = "dataset.json"
TRAIN, HELD_OUT = "train", "heldout"

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("latents", pa.binary(), nullable=False, metadata={"layout": "float16 T,C,h,w"}),
        pa.field("text", pa.binary(), nullable=False, metadata={"layout": "float16 L,D"}),
        pa.field("text_mask", pa.binary(), nullable=False, metadata={"layout": "bool L, true = a token"}),
        pa.field("fps", pa.float32(), nullable=False, metadata={"unit": "sampled frames per second"}),
        pa.field("motion", pa.float32(), metadata={"unit": "score of the motion annotator"}),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("caption_method", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
BINARY_COLUMNS = ("latents", "text", "text_mask")


@dataclass(frozen=True)
class Part:
    """One file: path below the dataset, split of its clips, clips in each row group, size and sha256."""

    path: str
    split: str
    row_groups: tuple[int, ...]
    bytes: int
    sha256: str

    @property
    def num_clips(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True)
class Bucket:
    """Clips of one shape: `latent_shape` is (frames, channels, height, width) of their latents."""

    latent_shape: tuple[int, int, int, int]
    parts: tuple[Part, ...]

    def num_clips(self, split: str) -> int:
        return sum(part.num_clips for part in self.parts if part.split == split)


@dataclass(frozen=True)
class Manifest:
    """What a packed dataset holds and where it came from.

    `downsampling`: pixels a latent along height and width; `time_downsampling`: frames a latent, after the first
    one, which has a latent of its own. `text_shape`: (tokens, channels). `encoders`: names of the autoencoder and
    the text encoder, and digests of their weights, by which others of that name are told apart. `encoding`: the
    settings that clips and captions were encoded with, which whoever samples from what was trained on them needs
    too. `latent_scaling`: `scale` and `shift`, numbers or one per channel, with which latents / scale + shift are
    the autoencoder's own; empty where the plan did not tell. `selection`: the one that chose the clips. `digest`:
    of all the rest. The writer fills in the last three fields.
    """

    name: str
    selection: str
    latent_channels: int
    downsampling: int
    text_shape: tuple[int, int]
    encoders: dict[str, str]
    time_downsampling: int = 1
    encoding: dict[str, Any] = field(default_factory=dict)
    latent_scaling: dict[str, Any] = field(default_factory=dict)
    buckets: dict[str, Bucket] = field(default_factory=dict)
    format: int = FORMAT
    digest: str = ""

    def num_clips(self, split: str) -> int:
        return sum(bucket.num_clips(split) for bucket in self.buckets.values())

    def computed_digest(self) -> str:
        told = asdict(replace(self, digest=""))
        for name in ("encoding", "latent_scaling"):
            if not told[name]:  # datasets from before there was such a field keep their digest
                del told[name]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def latent_shape(self, bucket: str) -> tuple[int, int, int, int]:
        """(frames, channels, height, width) of a bucket's latents, from its name."""
        try:
            num_frames, height_px, width_px = (int(number) for number in bucket.split("x"))
        except ValueError:
            raise DatasetError(
                f"bucket {bucket!r} is not named frames x height x width, as 8x64x64 is"
            ) from None
        if height_px % self.downsampling or width_px % self.downsampling:
            raise DatasetError(f"bucket {bucket} is not divisible by the downsampling of {self.downsampling}")
        if (num_frames - 1) % self.time_downsampling:
            raise DatasetError(
                f"bucket {bucket}: frames are not one and a multiple of the downsampling in time, {self.time_downsampling}"
            )
        latent_frames = 1 + (num_frames - 1) // self.time_downsampling
        side = self.downsampling
        return latent_frames, self.latent_channels, height_px // side, width_px // side

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def parse_manifest(text: str, where: str) -> Manifest:
    """The manifest in a file. Raises DatasetError if it is cut short, of another format, or was edited."""
    try:
        plain: dict[str, Any] = json.loads(text)
        if plain["format"] != FORMAT:
            raise DatasetError(f"{where} has format {plain['format']}, expected {FORMAT}: pack it again")
        buckets = {name: _bucket(bucket) for name, bucket in plain.pop("buckets").items()}
        plain["text_shape"] = tuple(plain["text_shape"])
        manifest = Manifest(**plain, buckets=buckets)
    except (ValueError, KeyError, TypeError) as error:
        expected = ", ".join(each.name for each in fields(Manifest))
        raise DatasetError(
            f"{where} is no whole manifest ({error!r}); expected {expected}: pack it again"
        ) from error
    if manifest.computed_digest() != manifest.digest:
        raise DatasetError(
            f"{where} does not match its own digest: got {manifest.computed_digest()[:16]}, "
            f"expected {manifest.digest[:16]}; it was changed after packing: pack it again"
        )
    return manifest


def _bucket(plain: dict[str, Any]) -> Bucket:
    parts = (Part(**{**part, "row_groups": tuple(part["row_groups"])}) for part in plain["parts"])
    return Bucket(latent_shape=tuple(plain["latent_shape"]), parts=tuple(parts))
