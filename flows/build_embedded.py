"""Makes the embedded models from generated footage: `python -m flows.build_embedded [autoencoder] [coca]`.

Nothing is downloaded. Every number follows from the seeds below (to rounding: the order of sums depends on the number of
threads).
"""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curation.reel.shots import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Shot,
    appeal,
    random_shots,
    render_moments,
)
from warehouse.errors import SettingsError

log = logging.getLogger("cutroom.build_embedded")

SIDE_PX = 64
AUTOENCODER = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (16, 32, 64, 64),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": SIDE_PX,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,  # training ends by giving every channel a standard deviation of one
}
# Words that captions and their summaries use, read from one text so that their order is plain.
GRAMMAR = """
a an the on in with and of is no not text background shape frame scene shot video black static then while to it
slowly quickly camera nothing moves motion
"""
MOVEMENT = sorted({word for phrase in MOTIONS.values() for word in phrase.split()})
WORDS = [*GRAMMAR.split(), *COLOURS, *SHAPES, *BACKGROUNDS, *MOVEMENT]
WIDTH, CONTEXT = 128, 20
COCA = {
    "words": WORDS,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "network": {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": SIDE_PX,
            "patch_size": 8,
            "width": WIDTH,
            "layers": 4,
            "head_width": 32,
            "attentional_pool": True,
            "attn_pooler_queries": 17,
            "attn_pooler_heads": 4,
            "output_tokens": True,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(WORDS) + 4,
            "width": WIDTH,
            "heads": 4,
            "layers": 2,
            "embed_cls": True,
            "output_tokens": True,
        },
        "multimodal_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(WORDS) + 4,
            "width": WIDTH,
            "heads": 4,
            "layers": 2,
        },
    },
}
AESTHETICS = {"embedding": WIDTH, "hidden": 64}


def train_autoencoder(num_steps: int = 3600, batch: int = 16) -> None:
    """Squared and absolute error, a faint KL, and a pull towards latents of unit covariance between channels.

    Latents are decoded with noise, so that what a sampler gets slightly wrong does little harm; saturated pixels weigh
    more, because the shape is what a frame is about.
    """
    from diffusers import AutoencoderKL

    from models.embedded.store import store

    torch.manual_seed(0)
    network = AutoencoderKL(**AUTOENCODER).to(memory_format=torch.channels_last)
    pool = torch.cat([pictures(random_shots(6000, seed=1)), _crops(1200, seed=2), _leaves(2500, seed=3)])

    def loss() -> Tensor:
        x = _batch(pool, batch)[0].contiguous(memory_format=torch.channels_last)
        posterior = network.encode(x).latent_dist
        noise = 0.2 * torch.rand(batch, 1, 1, 1) * torch.randn_like(posterior.mean)
        error = network.decode(posterior.sample() + noise).sample - x
        weight = 1 + 0.75 * (x.amax(dim=1, keepdim=True) - x.amin(dim=1, keepdim=True))
        fidelity = (weight * (4 * error.square() + 0.5 * error.abs())).mean()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return fidelity + 5e-4 * kl + 0.02 * _unlike_white(posterior.mean)

    _fit(network, loss, num_steps, peak_lr=2e-3)
    _unit_latents(network, _normalised(pictures(random_shots(512, seed=4))))
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    store("autoencoder", network, {"_class_name": "AutoencoderKL", **config})


def train_coca(num_steps: int = 3000, batch: int = 64) -> None:
    """Contrast of images with captions, with and without motion; next words of the caption; and the frame's appeal.

    The appeal is learnt along because contrast alone makes the embedding forget sharpness and place.
    """
    from models.embedded.aesthetics import build_aesthetics
    from models.embedded.coca import build_coca
    from models.embedded.store import store

    torch.manual_seed(0)
    coca = build_coca(COCA)
    nn.init.normal_(
        coca.model.text_decoder.text_projection, std=WIDTH**-0.5
    )  # open_clip leaves it as memory was
    both = nn.ModuleList([coca.model, build_aesthetics(AESTHETICS)])
    shots = random_shots(16000, seed=11)
    pool, score = pictures(shots), _appeals(shots)
    still, moving = (
        coca.tokenizer(texts) for texts in zip(*((s.image_caption, s.caption) for s in shots), strict=True)
    )

    def loss() -> Tensor:
        model, head = both
        x, rows = _batch(pool, batch)
        out = model(x + 0.03 * torch.randn_like(x), still[rows])
        seen, said = out["image_features"], out["text_features"]
        same = (still[rows][:, None] == still[rows][None]).all(dim=-1).float()
        contrast = _contrast(seen, said, same, out["logit_scale"])
        contrast += _contrast(seen, model.encode_text(moving[rows]), same, out["logit_scale"])
        words = F.cross_entropy(out["logits"].flatten(0, 1), out["labels"].flatten(), ignore_index=0)
        return 0.5 * contrast + words + 0.2 * F.mse_loss(head(seen), score[rows])

    _fit(both, loss, num_steps, peak_lr=1e-3)
    store("coca", coca.model, COCA)
    store("aesthetics", both[1], AESTHETICS)


def pictures(shots: Sequence[Shot], side_px: int = SIDE_PX) -> Tensor:
    """One frame of each shot at the moment that `moment` draws: uint8 (len(shots), 3, side_px, side_px)."""
    frames = [render_moments(shot, side_px, np.array([moment(shot)]))[0] for shot in shots]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


def moment(shot: Shot) -> float:
    """The moment of a shot that is looked at: any, but always the same."""
    return float(np.random.default_rng(shot.seed + 1).random())


def _appeals(shots: Sequence[Shot]) -> Tensor:
    return torch.tensor([appeal(shot, moment(shot)) for shot in shots])


def _crops(n: int, seed: int) -> Tensor:
    """Corners and edges drawn large, so that the autoencoder is not tied to one size."""
    rng = np.random.default_rng(seed)
    large = pictures(random_shots(n, seed), 2 * SIDE_PX)
    corners = rng.integers(0, SIDE_PX + 1, (n, 2))
    return torch.stack(
        [x[:, i : i + SIDE_PX, j : j + SIDE_PX] for x, (i, j) in zip(large, corners, strict=True)]
    )


def _leaves(n: int, seed: int) -> Tensor:
    """Dead leaves: overlapping discs of many sizes share the edges and the spectrum of photographs."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([_dead_leaves(rng) for _ in range(n)])).permute(0, 3, 1, 2).contiguous()


def _dead_leaves(rng: np.random.Generator) -> np.ndarray:
    picture = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    picture[:] = rng.integers(0, 256, 3)
    for _ in range(int(rng.integers(8, 60))):
        radius = min(SIDE_PX * 0.04 / max(1e-3, rng.random()) ** 0.7, 0.6 * SIDE_PX)
        colour = rng.integers(0, 256, 3) * rng.uniform(0.3, 1)
        colour = colour.mean() + (colour - colour.mean()) * (0.4 if rng.random() < 0.6 else 1)
        centre = tuple(int(v) for v in rng.integers(0, SIDE_PX * 16, 2))
        axes = (int(radius * 16), int(radius * rng.uniform(0.3, 1) * 16))
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(picture, centre, axes, turn, 0, 360, colour.tolist(), -1, cv2.LINE_AA, 4)
    steps = np.linspace(-30, 30, SIDE_PX)
    shaded = picture + (steps[:, None] * rng.uniform(-1, 1) + steps * rng.uniform(-1, 1))[..., None]
    if rng.random() < 0.4:
        shaded = cv2.GaussianBlur(shaded, (0, 0), rng.uniform(0.5, 2.5))
    return np.clip(shaded, 0, 255).astype(np.uint8)


def _batch(pool: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pictures drawn from `pool` in [-1, 1], and their rows."""
    rows = torch.randint(len(pool), (size,))
    return _normalised(pool[rows]), rows


def _normalised(pictures_BCHW: Tensor) -> Tensor:
    return pictures_BCHW.float() / 127.5 - 1


def _contrast(seen_BD: Tensor, said_BD: Tensor, same_BB: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy both ways; pictures with one and the same caption share the target."""
    logits_BB = scale * seen_BD @ said_BD.T
    target_BB = same_BB / same_BB.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits_BB, target_BB) + F.cross_entropy(logits_BB.T, target_BB)) / 2


def _unlike_white(z_BCHW: Tensor) -> Tensor:
    """How far the covariance between channels is from the identity."""
    z_CN = z_BCHW.transpose(0, 1).flatten(1)
    return (torch.cov(z_CN) - torch.eye(len(z_CN))).square().mean()


@torch.no_grad()
def _unit_latents(network: nn.Module, x: Tensor) -> None:
    """Fold mean 0 and standard deviation 1 per channel over `x` into the 1x1 convolutions around the latents."""
    mean_BCHW = network.encode(x).latent_dist.mean
    channels = mean_BCHW.shape[1]
    mu, sd = mean_BCHW.mean((0, 2, 3)), mean_BCHW.std((0, 2, 3))
    into, out_of = network.quant_conv, network.post_quant_conv
    into.weight[:channels] /= sd[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mu) / sd
    into.bias[channels:] -= 2 * sd.log()
    out_of.bias += out_of.weight[:, :, 0, 0] @ mu
    out_of.weight *= sd[None, :, None, None]


def _fit(network: nn.Module, loss: Callable[[], Tensor], num_steps: int, peak_lr: float) -> None:
    """AdamW with warm-up and cosine decay; leaves the running average of the weights in `network`."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=peak_lr, weight_decay=0.01, betas=(0.9, 0.98))
    average = copy.deepcopy(network).requires_grad_(False)
    begun = time.monotonic()
    for step in range(num_steps):
        share = step / num_steps
        rate = peak_lr * min(1.0, (step + 1) / 150) * (0.02 + 0.98 * (1 + np.cos(np.pi * share)) / 2)
        for group in optimiser.param_groups:
            group["lr"] = rate
        value = loss()
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        keep = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - keep)
        if step % 50 == 0 or step == num_steps - 1:
            log.info(
                "step %d of %d: loss %.4f, %.0f s", step, num_steps, value.item(), time.monotonic() - begun
            )
    network.load_state_dict(average.state_dict())


MAKERS = {"autoencoder": train_autoencoder, "coca": train_coca}


def main(names: Sequence[str]) -> None:
    """Make the models named, or all; the aesthetics head is made along with coca, on whose embedding it sits."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    unknown = sorted(set(names) - set(MAKERS))
    if unknown:
        raise SettingsError(f"unknown models {', '.join(unknown)}: expected some of {', '.join(MAKERS)}")
    for name in names or MAKERS:
        MAKERS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
