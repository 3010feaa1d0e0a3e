"""Sampling videos from a trained stage, as a step of a flow."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from curation.captions.score_words import AskedScores, asking_for
from models.devices import best_device
from models.image_encoder import ImageEncoder, load_image_encoder
from tasks import artifacts
from tasks.encoding import EncodeConfig, as_caption, load_image_side, load_text_side
from tasks.progress import Progress
from tasks.tracking import step
from training.checkpoints import read_origin
from training.encoders import Autoencoder, Encoders
from training.pictures import contact_sheet, write_image, write_video
from training.prompts import Request, read_prompt
from training.sample import sample_videos
from training.sample_settings import Numbers, Sampling, VideoShape
from training.trained import Trained
from warehouse.errors import InputError, SettingsError
from warehouse.run_folder import PROMPTS

SHEET = "sheet.png"
_OURS = re.compile(r"(\d{3,}\.mp4|sheet\.png)(\.tmp)?|prompts\.json")


@dataclass(frozen=True)
class Sampled:
    """Videos that were sampled: their folder, and their frames in the order of the prompts."""

    folder: Path
    prompts: tuple[str, ...]
    frames_BTHWC: np.ndarray


@dataclass(frozen=True)
class StartFrom:
    """Footage that every video starts from, as `training.prompts` reads it; a prompt's own goes before it."""

    reference_path: str = ""
    mask_strategy: str = ""
    image_encoder: str | None = None
    """Of a network that hears a picture in place of text: a folder or a hub name, in transformers' layout."""


@dataclass(frozen=True)
class EveryVideo:
    """What is asked for every video, whatever its prompt."""

    frames: int | None = None
    """Of a video, or of a piece; None takes those of the first bucket that clips are encoded in."""
    start: StartFrom = field(default_factory=StartFrom)
    numbers: Numbers = field(default_factory=Numbers)
    scores: AskedScores = field(default_factory=AskedScores)
    """What is added to the prompts."""


PLAIN = EveryVideo()

log = logging.getLogger(__name__)


@step(name="sample", run_name="sample {run.name}")
def sample_run(
    run: Path,
    prompts: Sequence[str],
    encode: EncodeConfig,
    out: Path,
    *,
    seed: int,
    sampling: Sampling,
    every: EveryVideo = PLAIN,
) -> Sampled:
    """Samples one video for each prompt from a run's averaged weights into the folder `out`.

    The folder holds numbered mp4 files, the prompts in their order, and a contact sheet of the middle frames; earlier
    samples in it are replaced. Size and rate are those of the first bucket that clips are encoded in; a network of images
    makes one frame. Prompts are cleaned as captions were, and shown as they came. Raises SettingsError where anything but
    earlier samples is in the folder, the autoencoder does not take so many frames, or captions told no such scores.
    """
    _earlier(out)
    num_frames, height, width = (int(n) for n in encode.buckets[0].split("x"))
    trained_frames = 1 if Trained.of(read_origin(run)).single_frames else num_frames
    video = VideoShape(every.frames or trained_frames, height, width, encode.fps)
    requests = [_request(prompt, every, encode) for prompt in prompts]
    autoencoder = load_image_side(encode)
    sampling = _in_windows(sampling, every, trained_frames, autoencoder)
    encoders = Encoders(autoencoder, load_text_side(encode), _load_image_encoder(every.start))
    _warn_of_cut(requests, encoders.text)
    progress = Progress("sample")
    frames_BTHWC = sample_videos(
        run,
        requests,
        encoders,
        video=video,
        numbers=every.numbers,
        sampling=sampling,
        seed=seed,
        device=best_device(),
        progress=progress,
    )
    progress.finish()
    _write(out, prompts, frames_BTHWC, encode.fps)
    artifacts.show_picture(out / SHEET, "contact-sheet", "Middle frames of all samples")
    return Sampled(out, tuple(prompts), frames_BTHWC)


def _load_image_encoder(start: StartFrom) -> ImageEncoder | None:
    return load_image_encoder(start.image_encoder).to(best_device()) if start.image_encoder else None


def _in_windows(
    sampling: Sampling, every: EveryVideo, trained_frames: int, autoencoder: Autoencoder
) -> Sampling:
    """With windows where more frames are asked for than the network was trained on."""
    wanted = _latent_frames(autoencoder, every.frames, "frames") if every.frames else None
    trained = _latent_frames(autoencoder, trained_frames, "encode.buckets")
    return sampling.over(wanted or trained, trained)


def _warn_of_cut(requests: Sequence[Request], text_encoder: Any) -> None:
    for text in {text for request in requests for _, text in request.texts}:
        (whole,) = text_encoder.num_tokens([text])
        if whole > text_encoder.max_length:
            log.warning("prompt of %d tokens is cut to %d: %.60s ...", whole, text_encoder.max_length, text)


def _latent_frames(autoencoder: Autoencoder, num_frames: int, setting: str) -> int:
    """Frames of the latents; an error names the setting that the number came from."""
    try:
        return autoencoder.latent_frames(num_frames)
    except InputError as error:
        raise SettingsError(f"{setting}: {error}") from error


def _request(prompt: str, every: EveryVideo, encode: EncodeConfig) -> Request:
    read = read_prompt(prompt, every.start.reference_path, every.start.mask_strategy)
    texts = ((first, asking_for(text, every.scores, encode.score_words)) for first, text in read.texts)
    return replace(read, texts=tuple((first, as_caption(text, encode)) for first, text in texts))


def _earlier(out: Path) -> list[Path]:
    """The files of earlier samples in a folder; raises SettingsError where anything else is, or where it is a file."""
    if not out.exists():
        return []
    files = sorted(out.iterdir()) if out.is_dir() else []
    ours = [path for path in files if _OURS.fullmatch(path.name)]
    if not out.is_dir() or ours != files or (files and out / PROMPTS not in files):
        raise SettingsError(
            f"{out} is there and holds no earlier samples, or more than these; name another folder"
        )
    return ours


def _write(out: Path, prompts: Sequence[str], frames_BTHWC: np.ndarray, fps: float) -> None:
    for path in _earlier(out):
        path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    (out / PROMPTS).write_text(json.dumps(list(prompts), indent=1), encoding="utf-8")
    for number, frames in enumerate(frames_BTHWC):
        write_video(out / f"{number:03d}.mp4", frames, fps)
    write_image(out / SHEET, contact_sheet(frames_BTHWC, scale=2))
