"""Measures the embedded models on shots that they never saw: `python -m flows.embedded_figures [FOLDER OF VIDEOS]`.

Prints one JSON object. With a folder, the autoencoder is also measured on real footage, for which it was not made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from curation.ingest import VIDEO_SUFFIXES
from curation.reel.oracle import read_shape_and_colour
from curation.reel.shots import COLOURS, SHAPES, Shot, appeal, random_shots, render_moments

SEED = 70_001  # far from the seeds of training


def autoencoder_figures(num_shots: int) -> dict[str, float]:
    """PSNR in dB, the oracle's agreement with the truth on reconstructions, and the latents' deviation by channel."""
    from models.autoencoder import load_autoencoder

    autoencoder = load_autoencoder()
    shots, x_BCHW = _unseen(num_shots)
    z_BTCHW = autoencoder.encode(x_BCHW[:, None])
    decoded_BCHW = autoencoder.decode(z_BTCHW)[:, 0].clamp(-1, 1)
    psnr_B = _psnr_db(decoded_BCHW, x_BCHW)
    clean = [row for row, shot in enumerate(shots) if shot.text is None and shot.blur == 0]
    pictures = ((decoded_BCHW + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    right = [read_shape_and_colour(pictures[row]) == (shots[row].shape, shots[row].colour) for row in clean]
    figures = {
        "psnr_db": psnr_B.mean().item(),
        "psnr_db_worst_twentieth": psnr_B.quantile(0.05).item(),
        "oracle_right_on_clean_reconstructions": float(np.mean(right)),
    }
    return figures | {f"latent_std_{c}": std for c, std in enumerate(z_BTCHW.std((0, 1, 3, 4)).tolist())}


def footage_figures(folder: Path, side_px: int = 64) -> dict[str, float]:
    """PSNR in dB over the frames of the videos in `folder`, one frame in two seconds, scaled to `side_px` squared."""
    from models.autoencoder import load_autoencoder

    videos = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES]
    frames = [frame for path in videos for frame in _sparse_frames(path, side_px)]
    x_BCHW = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 127.5 - 1
    autoencoder = load_autoencoder()
    decoded_BCHW = autoencoder.decode(autoencoder.encode(x_BCHW[:, None]))[:, 0].clamp(-1, 1)
    return {
        f"footage_psnr_db_{side_px}px": _psnr_db(decoded_BCHW, x_BCHW).mean().item(),
        "frames": len(frames),
    }


def coca_figures(num_shots: int) -> dict[str, float]:
    """How often the caption names things right, and how often the right caption is the most similar of 16."""
    from models.embedded import greedy_caption, load_coca

    coca = load_coca()
    shots, x_BCHW = _unseen(num_shots)
    captions = [c for chunk in x_BCHW.split(64) for c in greedy_caption(coca.model, chunk, coca.tokenizer)]
    said = [(_named(c, SHAPES), _named(c, COLOURS)) for c in captions]
    return {
        "caption_shape_and_colour": _share(said, [(s.shape, s.colour) for s in shots]),
        "caption_background": _share([s.background in c for s, c in zip(shots, captions, strict=True)]),
        "caption_text": _share(["with text" in c for c in captions], [s.text is not None for s in shots]),
        "caption_whole": _share(captions, [s.image_caption for s in shots]),
        "right_of_16": _right_of_16(coca, shots, x_BCHW),
    }


@torch.no_grad()
def aesthetics_figures(num_shots: int) -> dict[str, float]:
    """Rank correlation of the score with the truth, and the mean absolute error in points."""
    from models.embedded import load_aesthetics, load_coca

    shots, x_BCHW = _unseen(num_shots)
    model = load_coca().model
    score_B = load_aesthetics()(torch.cat([model.encode_image(chunk) for chunk in x_BCHW.split(64)])).numpy()
    truth_B = np.array([appeal(shot, 0.5) for shot in shots])
    ranks = np.argsort(np.argsort(np.stack([score_B, truth_B]), axis=1), axis=1)
    return {
        "aesthetics_rank_correlation": float(np.corrcoef(ranks)[0, 1]),
        "aesthetics_mean_error": float(np.abs(score_B - truth_B).mean()),
    }


@torch.no_grad()
def _right_of_16(coca: object, shots: Sequence[Shot], x_BCHW: Tensor) -> float:
    """Share of pictures whose caption is the nearest among its own and 15 others that say something else."""
    captions = [shot.image_caption for shot in shots]
    seen_BD = torch.cat([coca.model.encode_image(chunk) for chunk in x_BCHW.split(64)])
    said_BD = coca.model.encode_text(coca.tokenizer(captions))
    rng = np.random.default_rng(SEED)
    right = []
    for row, caption in enumerate(captions):
        others = [other for other, text in enumerate(captions) if text != caption]
        candidates = [row, *rng.choice(others, 15, replace=False)]
        right.append(int((said_BD[candidates] @ seen_BD[row]).argmax()) == 0)
    return float(np.mean(right))


def _unseen(num_shots: int) -> tuple[list[Shot], Tensor]:
    """Shots and their middle frames in [-1, 1], which is also what the embedded CoCa's normalisation gives."""
    shots = random_shots(num_shots, SEED)
    frames = np.stack([render_moments(shot, 64, np.array([0.5]))[0] for shot in shots])
    return shots, torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1


def _named(caption: str, names: Sequence[str]) -> str | None:
    found = [name for name in names if name in caption.split()]
    return found[0] if len(found) == 1 else None


def _share(said: Sequence[object], truth: Sequence[object] | None = None) -> float:
    return float(np.mean(said if truth is None else [a == b for a, b in zip(said, truth, strict=True)]))


def _psnr_db(decoded_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    return 10 * torch.log10(4 / (decoded_BCHW - x_BCHW).square().mean((1, 2, 3)))


def _sparse_frames(path: Path, side_px: int) -> list[np.ndarray]:
    import av
    import cv2

    frames, due_s = [], 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= due_s:
                picture = frame.to_ndarray(format="rgb24")
                frames.append(cv2.resize(picture, (side_px, side_px), interpolation=cv2.INTER_AREA))
                due_s = frame.time + 2
    return frames


def all_figures(footage: Path | None = None, num_shots: int = 1000) -> dict[str, float]:
    """Every figure of the embedded models."""
    figures = autoencoder_figures(num_shots) | coca_figures(num_shots) | aesthetics_figures(num_shots)
    return figures if footage is None else figures | footage_figures(footage)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    rounded = {name: round(value, 4) for name, value in all_figures(folder).items()}
    print(json.dumps(rounded, indent=1))
