"""How diffusers' schedulers walk over the levels that ours walk, in the three coordinates that they keep x in.

A scheduler is built anew for each walk and made to visit the very levels that are asked for, and no others. All classes
here have the same four parts: `scheduler`; `level(t)`, the noise level at one of its times; `scale(sigma)`, by which data
plus sigma times noise is brought to its coordinates; and `output(noisy, clean, sigma)`, what a network would tell it that
denoises `noisy` to `clean`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, isclose
from typing import Any, Protocol

import torch
from torch import Tensor

from models.edm import EDM, Karras
from models.samplers import Denoiser, Level, Noise

VISITS_ALL = {
    "prediction_type": "epsilon",
    "timestep_spacing": "trailing",
    "final_sigmas_type": "zero",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "skip_prk_steps": True,
    "lower_order_final": True,
}
"""For whichever class knows them: visit every level, end without noise, and clip nothing."""


class Walk(Protocol):
    """A scheduler that is set to falling levels, the last of them 0; `settings` go to its constructor."""

    scheduler: Any

    def __init__(self, made: type, settings: dict[str, Any], sigmas: Tensor) -> None: ...

    def level(self, t: float) -> float: ...

    def scale(self, sigma: float) -> float: ...

    def output(self, noisy: Tensor, clean: Tensor, sigma: float) -> Tensor: ...


class Steps:
    """Classes that count the steps of a training schedule (`trained_betas`), which here consists of the levels."""

    def __init__(self, made: type, settings: dict[str, Any], sigmas: Tensor) -> None:
        self.levels = sigmas[:-1].flip(0).double()
        kept = 1 / (1 + self.levels.square())
        betas = 1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])
        fixed = known_settings(made, VISITS_ALL)
        self.scheduler = made(
            num_train_timesteps=len(kept), trained_betas=betas.tolist(), **{**fixed, **settings}
        )
        self.scheduler.alphas_cumprod = kept  # its own, in float32, loses the low levels
        if "timestep_spacing" in fixed:
            self.scheduler.set_timesteps(len(kept))
        else:  # of its own, DPMSolverSinglestep's leaves the lowest level out, and visits another one twice
            self.scheduler.set_timesteps(timesteps=list(range(len(kept)))[::-1])
        x = torch.ones(1)
        self._unit_variance = self.scheduler.scale_model_input(x, self.scheduler.timesteps[0]) is x

    def level(self, t: float) -> float:
        """Between two steps by the logarithm, as diffusers counts."""
        low = min(int(t), len(self.levels) - 2)
        return float(torch.lerp(self.levels[low].log(), self.levels[low + 1].log(), t - low).exp())

    def scale(self, sigma: float) -> float:
        return (1 + sigma**2) ** -0.5 if self._unit_variance else 1.0

    def output(self, noisy: Tensor, clean: Tensor, sigma: float) -> Tensor:
        return (noisy - clean) / sigma


class Preconditioned:
    """Classes with EDM's preconditioning inside them, which are told what EDM's network says."""

    def __init__(self, made: type, settings: dict[str, Any], sigmas: Tensor) -> None:
        self.scheduler = made(**{**known_settings(made, VISITS_ALL), **settings})
        self.scheduler.set_timesteps(len(sigmas) - 1)
        self.scheduler.sigmas = sigmas.double()
        self.scheduler.timesteps = EDM.c_noise(sigmas[:-1].double())
        self._form = Karras(sigma_data=self.scheduler.config.sigma_data, sign=1)

    def level(self, t: float) -> float:
        return float(torch.tensor(4 * t, dtype=torch.float64).exp())

    def scale(self, sigma: float) -> float:
        return 1.0

    def output(self, noisy: Tensor, clean: Tensor, sigma: float) -> Tensor:
        level = torch.tensor(sigma, dtype=torch.float64)
        return (clean - self._form.c_skip(level) * noisy) / self._form.c_out(level)


class Flows:
    """Classes of rectified flow: their sigma is its time, and x is (1 - t) data + t noise."""

    def __init__(self, made: type, settings: dict[str, Any], sigmas: Tensor) -> None:
        self.scheduler = made(**settings)
        self.scheduler.set_timesteps(len(sigmas) - 1)
        time = 1 / (1 + 1 / sigmas.double())
        twice = self.scheduler.order == 2
        inner = time[1:-1].repeat_interleave(2) if twice else time[1:-1]
        self.scheduler.sigmas = torch.cat([time[:1], inner, time[-1:]])
        self.scheduler.timesteps = 1000 * self.scheduler.sigmas[:-1]

    def level(self, t: float) -> float:
        return inf if t == 1000 else t / (1000 - t)

    def scale(self, sigma: float) -> float:
        return 1.0 if sigma == inf else 1 / (1 + sigma)

    def output(self, noisy: Tensor, clean: Tensor, sigma: float) -> Tensor:
        return (noisy if sigma == inf else (noisy - clean) / sigma) - clean


def walked(walk: Walk, denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """From x at the first of `sigmas` to the data. Its noise is keyed by what each sample draws, so batching changes no
    sample.
    """
    scheduler, options, levels = walk.scheduler, _options(walk.scheduler, noise, x), sigmas[:-1].tolist()
    x, step = x * walk.scale(levels[0]), levels[0]
    for t in scheduler.timesteps:
        sigma = _exactly(walk.level(float(t)), levels)
        if getattr(scheduler, "state_in_first_order", True):
            step = sigma
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)  # by this it learns at which step it is
        noisy = x / walk.scale(sigma)
        clean = denoise(noisy, Level(sigma, step))
        with tensors_as_arrays():
            x, *rest = scheduler.step(
                walk.output(noisy, clean, sigma), timestep=t, sample=x, return_dict=False, **options
            )
        if "old_pred_original_sample" in options:  # CogVideoX's remembers nothing itself
            options |= {"old_pred_original_sample": rest[0], "timestep_back": t}
    # Some classes end at the lowest level, and leave its noise.
    return clean if _ends_noisy(scheduler) else x


def _exactly(sigma: float, levels: list[float]) -> float:
    """The one of the levels that this is but for rounding; between two of them, as it is."""
    return next((level for level in levels if isclose(level, sigma, rel_tol=1e-6)), sigma)


def known_settings(made: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Those that the constructor knows."""
    known = inspect.signature(made.__init__).parameters
    return {name: value for name, value in settings.items() if name in known}


def _options(scheduler: Any, noise: Noise, x: Tensor) -> dict[str, Any]:
    """What else its steps are given: a generator for each sample where they add noise, and nothing of a step before."""
    known = inspect.signature(scheduler.step).parameters
    options = dict.fromkeys({"old_pred_original_sample", "timestep_back"} & set(known))
    if "generator" in known:
        seeds = (noise(x.flatten(1)[:, :1]).double().abs() * 2**40).long().flatten().tolist()
        options["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds]
    return options


@contextmanager
def tensors_as_arrays() -> Iterator[None]:
    """diffusers hands tensors to numpy in a way that numpy warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array_", DeprecationWarning)
        yield


def _ends_noisy(scheduler: Any) -> bool:
    sigmas = getattr(scheduler, "sigmas", None)
    return sigmas is not None and float(sigmas[-1]) > 0
