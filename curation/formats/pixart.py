"""PixArt's feature files of pictures: text embeddings, and the autoencoder's posterior, from which it samples in training.

Under ``InternalData``: ``partition/data_info.json`` lists ``path, prompt, ratio, height, width``;
``caption_feature_wmask/<name>.npz`` holds ``caption_feature`` (1, tokens, width) in float32 and ``attention_mask``
(1, tokens); ``img_vae_features_<side>resolution/noflip/<name>.npy`` mean and standard deviation, one after the other
(2 channels, height, width), not scaled. The pictures lie under ``InternalImgs``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.footage.clip_frames import Bucket
from curation.formats.arrays import ArrayError, shape_of
from curation.formats.base import Clip, Entry, Format, Target, malformed
from curation.formats.kept import features_of
from warehouse.errors import FormatError

DATA, PICTURES = "InternalData", "InternalImgs"
LIST, TEXTS = "partition/data_info.json", "caption_feature_wmask"


def read(path: Path) -> Iterator[Entry]:
    """Entries of a ``data_info.json``, or of the one in a folder of features; features beside it are measured."""
    file = path / LIST if path.is_dir() else path
    try:
        items = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{file} cannot be read as a list of pictures: {error}") from error
    if not isinstance(items, list):
        raise FormatError(f"{file} holds a {type(items).__name__}, expected a list of pictures")
    data = file.parent.parent
    for number, item in enumerate(items):
        yield _entry(f"item {number}", item, data)


def _entry(where: str, item: Any, data: Path) -> Entry:
    if not isinstance(item, dict) or not isinstance(item.get("path"), str):
        return malformed(where, "bad_item", f"expected a mapping with a path, got {str(item)[:100]!r}")
    prompt = item.get("prompt")
    columns = {k: v for k, v in item.items() if k not in ("path", "prompt")}
    try:
        shapes = {f.parent.parent.name: list(shape_of(f)) for f in _features(item["path"], data)}
    except (ArrayError, OSError, ValueError) as error:
        return malformed(where, "bad_array", str(error), path=item["path"], columns=columns)
    columns |= {"features": shapes} if shapes else {}
    return Entry(
        where, item["path"], str(data.parent / PICTURES), (str(prompt),) if prompt else (), columns=columns
    )


def _features(path: str, data: Path) -> list[Path]:
    """Files of latents of a picture, by the name that PixArt makes of its path."""
    name = Path("_".join(path.rsplit("/", 1))).with_suffix(".npy")
    if name.is_absolute() or ".." in name.parts:
        return []
    found = (folder / "noflip" / name for folder in sorted(data.glob("img_vae_features_*resolution")))
    return [f for f in found if f.is_file()]


def write(clips: Sequence[Clip], target: Target) -> None:
    """Features of the clips' middle frames, at the side of the largest bucket that was encoded."""
    from models.autoencoder import load_autoencoder

    config = target.ledger.plan.config["encode"]
    subfolder = config.get("autoencoder_subfolder")
    autoencoder = load_autoencoder(config["autoencoder"], subfolder=subfolder)
    side = max(max(b.height, b.width) for b in map(Bucket.parse, config["buckets"]))
    data = target.folder / DATA
    latents = data / f"img_vae_features_{side}resolution" / "noflip"
    for folder in (latents, data / TEXTS, data / "partition"):
        folder.mkdir(parents=True)
    (target.folder / "clips").rename(target.folder / PICTURES)
    captions: dict[str, str] = {}
    for clip, _, text in features_of(clips, target.ledger):
        captions[clip.clip_id] = text.caption
        feature = {"caption_feature": text.values[None].astype(np.float32), "attention_mask": text.mask[None]}
        np.savez_compressed(data / TEXTS / f"{clip.clip_id}.npz", **feature)
        picture = _picture(target.folder / PICTURES / f"{clip.clip_id}.png", side)
        np.save(latents / f"{clip.clip_id}.npy", _posterior(autoencoder, picture))
    items = [_item(c, captions[c.clip_id]) for c in clips]
    (data / LIST).write_text(json.dumps(items, ensure_ascii=False, indent=1), encoding="utf-8")


def _item(clip: Clip, caption: str) -> dict[str, Any]:
    shape = {"ratio": clip.height / clip.width, "height": clip.height, "width": clip.width}
    return {"path": f"{clip.clip_id}.png", "prompt": caption, **shape}


def _picture(path: Path, side: int) -> NDArray[np.float32]:
    """(3, side, side) in [-1, 1]: scaled until it covers the square, cropped around the centre."""
    from PIL import Image

    with Image.open(path) as image:
        scale = side / min(image.size)
        size = tuple(max(side, round(length * scale)) for length in image.size)
        left, top = ((length - side) // 2 for length in size)
        square = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
        return np.asarray(square, np.float32).transpose(2, 0, 1) / 127.5 - 1


def _posterior(autoencoder: Any, x_CHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean and standard deviation, one after the other: (2 channels, height, width)."""
    import torch

    mean, std = autoencoder.moments(torch.from_numpy(x_CHW)[None])
    return torch.cat([mean, std], dim=1)[0].float().cpu().numpy()


PIXART = Format("pixart", read, write, ("picture",), encoded=True)
