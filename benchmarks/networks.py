"""What a forward and backward pass costs, in our networks and in diffusers', with the same weights in one run.

    python benchmarks/networks.py [--device cpu|cuda] [--compile] [--bf16] [--full] [--repeats 5] [NETWORK ...] [--json]

Each network of ours is built beside diffusers' class of the same, the weights are copied, and both go through the same
batch. Passes are interleaved (ours, theirs, theirs, ours, ...) after one that warms up, and the medians are compared:
CPU seconds of one thread on a CPU, seconds between events on a GPU, where the peak of allocated memory is told too.
`difference` is the largest between both outputs over the largest output. Without `--full` networks have the published
shape at a quarter of the width or depth, so that a CPU takes seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from models import layouts
from models.conditioning import Conditioning
from models.networks import NETWORKS
from models.transformers import DiffusionTransformer, TransformerConfig
from models.unet_config import to_diffusers
from models.video_unet import VideoUNet
from models.weight_names import read_weights

TOKENS = 77


@dataclass(frozen=True)
class Pair:
    """A network of ours and diffusers' own with its weights, and how each is called on one batch."""

    ours: nn.Module
    theirs: nn.Module
    run_ours: Callable[[], Tensor]
    run_theirs: Callable[[], Tensor]


def unet(name: str, full: bool, device: str, dtype: torch.dtype) -> Pair:
    """A UNet of images or of video."""
    config = NETWORKS[name].config
    if not full:
        config = replace(config, width=96, group_channels=3, head_dim=32, text_dim=256)
    kind, settings = to_diffusers(config)
    with torch.device(device):
        ours, theirs = _in(dtype, VideoUNet(config)), _in(dtype, getattr(diffusers, kind)(**settings))
    _alike(ours, theirs, layouts.unet_diffusers(config))
    for part, module in theirs.named_modules():
        if isinstance(module, nn.GroupNorm) and "res_block" in part:
            module.eps = 1e-5  # as the authors and we have it
    frames, height, width = (
        NETWORKS[name].latent if full else ((4, 24, 24) if config.temporal else (1, 32, 32))
    )
    x_BCTHW = _normal(2, 4, frames, height, width, device=device, dtype=dtype)
    text_BLD = _normal(
        2, TOKENS if not config.condition_channels else 1, config.text_dim, device=device, dtype=dtype
    )
    numbers_BN = torch.tensor([[6.0, 127.0, 0.02]] * 2, device=device)[:, : config.num_numbers]
    given = (
        _normal(2, 4, frames, height, width, device=device, dtype=dtype)
        if config.condition_channels
        else None
    )
    mask_BL = torch.ones(text_BLD.shape[:2], dtype=torch.bool, device=device)
    told = Conditioning(text_BLD, mask_BL, numbers_BN, frames_BCTHW=given)
    time_B = torch.tensor([0.3, 1.2], device=device)
    joined = x_BCTHW if given is None else torch.cat([x_BCTHW, given], 1)

    def run_theirs() -> Tensor:
        if config.temporal:
            out = theirs(joined.movedim(1, 2), time_B, text_BLD, numbers_BN, return_dict=False)[0]
            return out.movedim(1, 2)
        return theirs(joined[:, :, 0], time_B, text_BLD, return_dict=False)[0][:, :, None]

    return Pair(ours, theirs, lambda: ours(x_BCTHW, time_B, told), run_theirs)


def transformer(name: str, full: bool, device: str, dtype: torch.dtype) -> Pair:
    """DiT, PixArt or LatteT2V."""
    config = NETWORKS[name].config
    if not full:
        config = replace(config, depth=config.depth // 4 // 2 * 2)
    frames, height, width = (
        NETWORKS[name].latent if full else ((4, 16, 16) if name == "latte-t2v" else (1, 32, 32))
    )
    # diffusers' PixArt has no null caption.
    config = replace(config, position_base=height // 2, null_tokens=0)
    with torch.device(device):
        theirs, layout = _their_transformer(name, config, frames, height)
        ours = DiffusionTransformer(config)
    ours, theirs = _in(dtype, ours), _in(dtype, theirs)
    _alike(ours, theirs, layout)
    x_BCTHW = _normal(2, 4, frames, height, width, device=device, dtype=dtype)
    text_BLD = _normal(2, TOKENS, config.text_dim or 1, device=device, dtype=dtype)
    mask_BL = torch.ones(2, TOKENS, dtype=torch.bool, device=device)
    label_B = torch.tensor([3, 7], device=device)
    time_B = torch.tensor([7.0, 523.0], device=device)
    told = Conditioning(text_BLD, mask_BL, torch.zeros(2, 2, device=device), label_B.float())

    def run_theirs() -> Tensor:
        if name == "latte-t2v":
            return theirs(x_BCTHW, time_B, text_BLD, return_dict=False)[0]
        if name.startswith("pixart"):
            none = {"resolution": None, "aspect_ratio": None}
            return theirs(x_BCTHW[:, :, 0], text_BLD, time_B, none, return_dict=False)[0][:, :, None]
        return theirs(x_BCTHW[:, :, 0], time_B, label_B, return_dict=False)[0][:, :, None]

    return Pair(ours, theirs, lambda: ours(x_BCTHW, time_B, told), run_theirs)


def _their_transformer(
    name: str, config: TransformerConfig, frames: int, side: int
) -> tuple[nn.Module, layouts.Layout]:
    """diffusers' class of the same, for latents of this side, and its layout."""
    settings: dict[str, Any] = {
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_dim,
        "sample_size": side,
        "in_channels": 4,
        "out_channels": 8,
    }
    text = {"cross_attention_dim": config.width, "caption_channels": config.text_dim}
    if name == "latte-t2v":
        norms = {"norm_type": "ada_norm_single", "norm_elementwise_affine": False, "norm_eps": 1e-6}
        theirs = diffusers.LatteTransformer3DModel(
            **settings, **text, **norms, num_layers=config.depth // 2, patch_size=2, attention_bias=True,
            activation_fn="gelu-approximate", num_embeds_ada_norm=1000, video_length=frames,
        )  # fmt: skip
        return theirs, layouts.latte_t2v_diffusers(config)
    if name.startswith("pixart"):
        theirs = diffusers.PixArtTransformer2DModel(
            **settings, **text, num_layers=config.depth, interpolation_scale=config.position_scale,
            use_additional_conditions=False,
        )  # fmt: skip
        return theirs, layouts.pixart_diffusers(config)
    theirs = diffusers.DiTTransformer2DModel(**settings, num_layers=config.depth, norm_eps=1e-6)
    return theirs, layouts.dit_diffusers(config)


MAKERS: dict[str, Callable[[str, bool, str, torch.dtype], Pair]] = {
    "sd21": unet,
    "svd-i2v": unet,
    "dit-xl-2": transformer,
    "pixart-xl-2": transformer,
    "latte-t2v": transformer,
}


def _in(dtype: torch.dtype, network: nn.Module) -> nn.Module:
    return network if dtype is torch.float32 else nn.Module.to(network, dtype)


def _normal(*shape: int, device: str, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(device, dtype)


@torch.no_grad()
def _alike(ours: nn.Module, theirs: nn.Module, layout: layouts.Layout) -> None:
    """Random weights for theirs, zero-initialised ones included, and the same ones for ours."""
    for parameter in theirs.parameters():
        spread = 0.02 if parameter.ndim < 2 else 0.5 * parameter[0].numel() ** -0.5
        parameter.add_(torch.randn_like(parameter) * spread)
    theirs.eval()  # in training DiT drops classes at random
    for block in getattr(theirs, "transformer_blocks", ()):
        if hasattr(
            block.norm1, "emb"
        ):  # DiT has one embedding, of which diffusers keeps a copy in every block
            block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
            block.norm1.emb.time_proj.downscale_freq_shift = 0
    read_weights(ours, theirs.state_dict(), layout)


def passes(run: Callable[[], Tensor], network: nn.Module) -> None:
    """One forward and one backward pass."""
    run().float().square().mean().backward()
    for parameter in network.parameters():
        parameter.grad = None


def cost(run: Callable[[], Tensor], network: nn.Module, device: str) -> tuple[float, int]:
    """Seconds of one pass (CPU seconds on a CPU) and, on a GPU, the peak of memory above the weights in bytes."""
    if device == "cpu":
        start = time.process_time()
        passes(run, network)
        return time.process_time() - start, 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    passes(run, network)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000, torch.cuda.max_memory_allocated() - held


def compare(pair: Pair, device: str, repeats: int) -> dict[str, float]:
    """Medians of interleaved passes."""
    with torch.no_grad():
        mine, its = pair.run_ours(), pair.run_theirs()
    difference = float((mine - its).abs().max() / its.abs().max())
    contenders = {"ours": (pair.run_ours, pair.ours), "theirs": (pair.run_theirs, pair.theirs)}
    costs: dict[str, list[tuple[float, int]]] = {name: [] for name in contenders}
    for contender in contenders.values():
        cost(*contender, device)
    for number in range(repeats):
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            costs[name].append(cost(*contenders[name], device))
    seconds = {name: median(s for s, _ in each) for name, each in costs.items()}
    result = {f"{name}_s": value for name, value in seconds.items()} | {"difference": difference}
    result["time_ratio"] = seconds["ours"] / seconds["theirs"]
    if device != "cpu":
        peaks = {name: max(held for _, held in each) for name, each in costs.items()}
        result |= {f"{name}_bytes": value for name, value in peaks.items()}
        result["memory_ratio"] = peaks["ours"] / peaks["theirs"]
    return result


def main() -> None:
    """Compares the networks that the command line names and prints a line each, or one JSON object (module docstring)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", nargs="*", choices=[*MAKERS, []], help="default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--full", action="store_true", help="published sizes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    results = {}
    for name in given.network or MAKERS:
        torch.manual_seed(0)
        pair = MAKERS[name](name, given.full, given.device, torch.bfloat16 if given.bf16 else torch.float32)
        if given.compile:
            pair.ours.compile()
            pair.theirs.compile()
        results[name] = compare(pair, given.device, given.repeats)
        if not given.json:
            print(name, {key: round(value, 4) for key, value in results[name].items()}, flush=True)
    if given.json:
        print(json.dumps({"torch": torch.__version__, "device": given.device, "networks": results}))


if __name__ == "__main__":
    main()
