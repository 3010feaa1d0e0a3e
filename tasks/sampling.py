"""Sampling videos from a trained stage, as a step of a flow."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from curation.captions.score_words import AskedScores, asking_for
from tasks import artifacts
from tasks.encoding import EncodeConfig, as_caption, load_image_side, load_text_side
from tasks.progress import Progress
from tasks.tracking import step
from training.checkpoints import read_origin
from training.pictures import contact_sheet, write_image, write_video
from training.prompts import Request, read_prompt
from training.sample import Autoencoder, Sampling, sample_videos
from training.trained import Trained
from warehouse.errors import InputError, SettingsError

SHEET, PROMPTS = "sheet.png", "prompts.json"
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
    augmentation: float | None = None
    """Noise on frames that a network is shown; none takes 0.02."""
    image_encoder: str | None = None
    """Of a network that hears a picture in place of text: a folder or a hub name, in transformers' layout."""


NOTHING = StartFrom()
NO_SCORES = AskedScores()

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """Numbers that a network is told of every video."""

    motion_bucket: float = 127.0
    """0 (still) to 255."""
    elevation: float | None = None
    """Of the camera, in degrees, where the network asks for it."""


@step(name="sample", run_name="sample {run.name}")
def sample_run(
    run: Path,
    prompts: Sequence[str],
    encode: EncodeConfig,
    out: Path,
    seed: int,
    sampling: Sampling,
    start: StartFrom = NOTHING,
    frames: int | None = None,
    asked: AskedScores = NO_SCORES,
    told: Told = Told(),
) -> Sampled:
    """Samples one video for each prompt from a run's averaged weights into the folder `out`.

    The folder holds numbered mp4 files, the prompts in their order, and a contact sheet of the middle frames; earlier
    samples in it are replaced. Size and rate are those of the first bucket that clips are encoded in, and so is the
    number of frames (of a piece) where `frames` does not say otherwise; a network of images makes one. Prompts are
    cleaned as captions were, and shown as they came; `asked` adds scores to what is asked of each. Raises
    SettingsError where anything but earlier samples is in the folder, the autoencoder does not take so many frames,
    or captions told no such scores.
    """
    from models.image_encoder import load_image_encoder

    _earlier(out)
    trained, height, width = (int(n) for n in encode.buckets[0].split("x"))
    trained = 1 if Trained.of(read_origin(run)).single_frames else trained
    num_frames = frames or trained
    requests = [_request(prompt, start, encode, asked) for prompt in prompts]
    autoencoder = load_image_side(encode)
    wanted = _latent_frames(autoencoder, num_frames, "frames" if frames else "encode.buckets")
    sampling = sampling.over(wanted, _latent_frames(autoencoder, trained, "encode.buckets"))
    text_encoder = load_text_side(encode)
    _warn_of_cut(requests, text_encoder)
    progress = Progress("sample")
    frames_BTHWC = sample_videos(
        run,
        requests,
        autoencoder,
        text_encoder,
        seed=seed,
        num_frames=num_frames,
        height_px=height,
        width_px=width,
        fps=encode.fps,
        motion_bucket=told.motion_bucket,
        sampling=sampling,
        image_encoder=start.image_encoder and load_image_encoder(start.image_encoder),
        augmentation=start.augmentation,
        elevation=told.elevation,
        progress=progress,
    )
    progress.finish()
    _write(out, prompts, frames_BTHWC, encode.fps)
    artifacts.show_picture(out / SHEET, "contact-sheet", "Middle frames of all samples")
    return Sampled(out, tuple(prompts), frames_BTHWC)


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


def _request(prompt: str, start: StartFrom, encode: EncodeConfig, asked: AskedScores) -> Request:
    read = read_prompt(prompt, start.reference_path, start.mask_strategy)
    texts = ((first, asking_for(text, asked, encode.score_words)) for first, text in read.texts)
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
