"""Schedulers of diffusers as samplers over the levels that ours walk.

A scheduler is built anew for each walk, on a training schedule that consists of the very levels that are asked for,
so that it visits them and no others. It sees a network that predicts the noise.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from models.samplers import SAMPLERS, Denoiser, Noise, Sampler
from warehouse.errors import SettingsError

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pndm": ("PNDMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "dpm_solver_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpm_solver_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
}
"""Samplers that are diffusers': the class and its settings."""
_SETTINGS = {
    "prediction_type": "epsilon",
    "timestep_spacing": "trailing",
    "final_sigmas_type": "zero",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "skip_prk_steps": True,
}
"""For whichever class knows them: visit every level, end without noise, and clip nothing."""


def sampler_named(name: str) -> Sampler:
    """One of ours, or one of `SCHEDULERS`. Raises SettingsError for a name that is not known."""
    if name in SAMPLERS:
        return SAMPLERS[name]
    if name not in SCHEDULERS:
        known = ", ".join([*SAMPLERS, *SCHEDULERS])
        raise SettingsError(f"sampler is {name!r}, expected one of {known}")
    class_name, settings = SCHEDULERS[name]
    return diffusers_sampler(class_name, **settings)


def diffusers_sampler(class_name: str, **settings: Any) -> Sampler:
    """A sampler that walks as this class of diffusers does, with settings of its constructor.

    The class keeps x at unit variance or as data plus noise, and has the settings `trained_betas` and
    `timestep_spacing`. Its noise is keyed by what each sample draws, so batching changes no sample.
    """

    def sample(denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
        levels = sigmas[:-1].flip(0).double()
        with _tensors_as_arrays():
            scheduler = _scheduler(class_name, settings, levels)
        unit_variance = scheduler.scale_model_input(x, scheduler.timesteps[0]) is x
        options = _options(scheduler, noise, x)
        if unit_variance:
            x = x / (1 + levels[-1].item() ** 2) ** 0.5
        for t in scheduler.timesteps:
            sigma = _level_at(levels, float(t))
            scheduler.scale_model_input(x, t)  # by this it learns at which step it is
            noisy = x * (1 + sigma**2) ** 0.5 if unit_variance else x
            clean = denoise(noisy, sigma)
            with _tensors_as_arrays():
                x = scheduler.step((noisy - clean) / sigma, t, x, return_dict=False, **options)[0]
        # Some classes end at the lowest level, and leave its noise.
        return clean if _ends_noisy(scheduler) else x

    return sample


def _scheduler(class_name: str, settings: dict[str, Any], levels: Tensor) -> Any:
    """A scheduler whose training steps are the rising `levels`, set to visit all of them."""
    import diffusers

    made = getattr(diffusers, class_name)
    kept = 1 / (1 + levels.square())
    betas = 1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])
    known = inspect.signature(made.__init__).parameters
    wanted = {name: value for name, value in _SETTINGS.items() if name in known} | settings
    scheduler = made(num_train_timesteps=len(levels), trained_betas=betas.tolist(), **wanted)
    scheduler.alphas_cumprod = kept  # its own, in float32, loses the low levels
    scheduler.set_timesteps(len(levels))
    return scheduler


def _level_at(levels: Tensor, t: float) -> float:
    """The level at a step of the training schedule, between two by the logarithm, as diffusers counts."""
    low = min(int(t), len(levels) - 2)
    return float(torch.lerp(levels[low].log(), levels[low + 1].log(), t - low).exp())


def _options(scheduler: Any, noise: Noise, x: Tensor) -> dict[str, Any]:
    """A generator for each sample, where steps add noise."""
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    seeds = (noise(x.flatten(1)[:, :1]).double().abs() * 2**40).long().flatten().tolist()
    return {"generator": [torch.Generator().manual_seed(seed) for seed in seeds]}


@contextmanager
def _tensors_as_arrays() -> Iterator[None]:
    """diffusers hands tensors to numpy in a way that numpy warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array_", DeprecationWarning)
        yield


def _ends_noisy(scheduler: Any) -> bool:
    sigmas = getattr(scheduler, "sigmas", None)
    return sigmas is not None and float(sigmas[-1]) > 0
