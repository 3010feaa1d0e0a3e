"""Samplers by name: ours, and schedulers of diffusers over the levels that ours walk (`models.diffusers_walks`).

Listed are the classes that sample normal data as the closed form has it over Karras's levels, the steps of a schedule
(with zero terminal SNR too) and the times of a flow. All others are refused, those that one might look for with the
reason. A walk from an infinite level begins with Euler's step, as with ours; a class for flows does that itself.
"""

from __future__ import annotations

from math import inf
from typing import Any

from torch import Tensor

from models.diffusers_walks import Flows, Preconditioned, Steps, Walk, tensors_as_arrays, walked
from models.learned_variance import ancestral
from models.samplers import SAMPLERS, Denoiser, Noise, Sampler, euler
from warehouse.errors import SettingsError

WALKS: dict[str, type[Walk]] = {
    "CogVideoXDDIMScheduler": Steps,
    "CogVideoXDPMScheduler": Steps,
    "DDIMScheduler": Steps,
    "DDPMScheduler": Steps,
    "DEISMultistepScheduler": Steps,
    "DPMSolverMultistepScheduler": Steps,
    "DPMSolverSinglestepScheduler": Steps,
    "EDMDPMSolverMultistepScheduler": Preconditioned,
    "EDMEulerScheduler": Preconditioned,
    "EulerAncestralDiscreteScheduler": Steps,
    "EulerDiscreteScheduler": Steps,
    "FlowMatchEulerDiscreteScheduler": Flows,
    "FlowMatchHeunDiscreteScheduler": Flows,
    "HeunDiscreteScheduler": Steps,
    "KDPM2AncestralDiscreteScheduler": Steps,
    "KDPM2DiscreteScheduler": Steps,
    "LMSDiscreteScheduler": Steps,
    "PNDMScheduler": Steps,
    "UniPCMultistepScheduler": Steps,
}
"""Classes of diffusers that can be used, and how each walks."""
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pndm": ("PNDMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "dpm_solver_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpm_solver_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "cogvideox_dpm": ("CogVideoXDPMScheduler", {}),
    "flow_match_heun": ("FlowMatchHeunDiscreteScheduler", {}),
}
"""Short names of samplers that are diffusers' alone: the class and its settings. The others go by the class's name."""
_CONSISTENCY = (
    "it is for networks that were distilled to say the data in a few steps; of others it loses the spread"
)
REFUSED: dict[str, str] = {
    "CMStochasticIterativeScheduler": _CONSISTENCY,
    "CosineDPMSolverMultistepScheduler": "it needs torchsde, which is not installed with us",
    "DDIMInverseScheduler": "it walks towards noise",
    "DPMSolverMultistepInverseScheduler": "it walks towards noise",
    "DPMSolverSDEScheduler": "it needs torchsde, which is not installed with us",
    "FlowMatchLCMScheduler": _CONSISTENCY,
    "IPNDMScheduler": "its schedule is its own, and levels cannot be put into it",
    "LCMScheduler": _CONSISTENCY,
    "RePaintScheduler": "it paints what a mask says: give frames instead",
    "SASolverScheduler": "it adds noise by the index of the training step, and none at all over fewer levels",
    "SCMScheduler": _CONSISTENCY,
    "TCDScheduler": _CONSISTENCY,
}
"""Classes that walk elsewhere, and why."""


def sampler_named(name: str) -> Sampler:
    """One of ours, one of `SCHEDULERS`, or a class of `WALKS`; "iddpm" takes a denoiser that says variances too.

    Raises SettingsError for any other name.
    """
    if name in SAMPLERS:
        return SAMPLERS[name]
    if name == "iddpm":
        return ancestral
    class_name, settings = SCHEDULERS.get(name, (name, {}))
    return diffusers_sampler(class_name, **settings)


def diffusers_sampler(class_name: str, **settings: Any) -> Sampler:
    """A sampler that walks as this class of diffusers does. `settings`: none, or those of one of `SCHEDULERS`.

    Its noise is keyed by what each sample draws, so batching changes no sample. Raises SettingsError for another class
    or other settings, and the sampler for fewer than two finite levels above 0.
    """
    _check(class_name, settings)
    walk_of = WALKS[class_name]

    def sample(denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
        import diffusers

        if sigmas[0] == inf and walk_of is not Flows:
            x, sigmas = euler(denoise, x, sigmas[:2]), sigmas[1:]
        if len(sigmas) < 3:
            raise SettingsError(
                f"{class_name} has {len(sigmas) - 1} levels above 0, expected 2 or more steps"
            )
        with tensors_as_arrays():
            walk = walk_of(getattr(diffusers, class_name), settings, sigmas)
        return walked(walk, denoise, x, sigmas, noise)

    return sample


def _check(class_name: str, settings: dict[str, Any]) -> None:
    usable = ", ".join([*SAMPLERS, "iddpm", *SCHEDULERS, *WALKS])
    if class_name not in WALKS:
        reason = f" ({REFUSED[class_name]})" if class_name in REFUSED else ""
        raise SettingsError(f"sampler is {class_name!r}{reason}, expected one of {usable}")
    if settings and (class_name, settings) not in SCHEDULERS.values():
        raise SettingsError(
            f"settings of {class_name} are {settings}, expected none or those of one of {', '.join(SCHEDULERS)}"
        )
