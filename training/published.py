"""How others trained the networks that are imported, and sample them: by a network's name, or diffusers' scheduler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from models.networks import NetworkConfig
from models.video_unet import VideoUNetConfig
from training.objective import Betas, Name, Objective
from training.trained import Levels, Spacing, Trained
from warehouse.errors import WeightsError

_SVD = Trained(Objective(), Levels("karras", 25, 0.002, 700.0), fps_less=1.0)
"""Its frame rates are counted from 1 on: 7 frames a second are told as 6 (SVD's sampling code)."""


def _with_steps(objective: Objective, spacing: Spacing, num_steps: int, offset: int = 0) -> Trained:
    ends = Levels.of(objective)
    levels = replace(ends, spacing=spacing, num_steps=num_steps, steps_offset=offset)
    return Trained(objective, levels, empty_text=True)


_BY_NAME: dict[str, Trained] = {
    "svd": _SVD,
    "sd21": _with_steps(Objective("v", "scaled_linear"), "leading", 50, 1),
    "sd15": _with_steps(Objective("epsilon", "scaled_linear"), "leading", 50, 1),
    "pseudo3d": _with_steps(Objective("epsilon", "scaled_linear"), "leading", 50, 1),
    "dit": _with_steps(Objective("iddpm"), "linspace", 250),
    "latte": _with_steps(Objective("iddpm"), "linspace", 250),
    "latte-t2v": _with_steps(Objective("iddpm"), "linspace", 50),
    "pixart": _with_steps(Objective("iddpm"), "linspace", 100),
    "stdit": _with_steps(Objective("iddpm"), "linspace", 100),
    "stdit3": Trained(Objective("flow", size_shift=True), Levels("times", 30), empty_text=True),
    "open-sora-plan": _with_steps(Objective("v", zero_terminal_snr=True), "trailing", 100),
}
"""By how a name of `models.networks` begins; the longest beginning counts. `sd21` is the v network of 768 pixels."""
_THEIR_BETAS: dict[str, tuple[Betas, float, float]] = {
    "linear": ("linear", 1e-4, 0.02),
    "scaled_linear": ("scaled_linear", 0.00085, 0.012),
    "squaredcos_cap_v2": ("cosine", 1e-4, 0.02),
}
_THEIR_PREDICTIONS: dict[str, Name] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
_LEADING = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
"""Schedulers whose spacing, where it is not said, is this one; that of others is "linspace"."""


def trained_as(
    source: Path, config: NetworkConfig, network: str | None = None, objective: str | None = None
) -> Trained:
    """What is known of weights at `source`.

    An `objective` that is named comes first, with Stable Diffusion's betas for a UNet and DDPM's for a transformer; then
    a pipeline's own scheduler; then the name of the network. A video UNet is SVD's, and a transformer that says a
    variance IDDPM's.

    Raises:
        WeightsError: none of these says it, or the scheduler says what no objective here is.
    """
    found = _named(objective, config) if objective else _of_folder(source, config)
    if found is None and network is not None:
        found = _BY_NAME[max((name for name in _BY_NAME if network.startswith(name)), key=len)]
    if found is None and isinstance(config, VideoUNetConfig) and config.temporal:
        found = _SVD
    if found is None and config.says_variance:
        found = _BY_NAME["pixart" if config.text_dim is not None else "dit"]
    if found is None:
        raise WeightsError(
            f"{source} does not tell what its network says of a noisy clip: name it (--objective, one of "
            f"{', '.join(get_args(Name))}), or a pipeline's folder, which has a scheduler"
        )
    own_null = getattr(config, "null_tokens", 0) > 0  # a caption that stands for none, in the network itself
    return replace(found, single_frames=_of_images(config), empty_text=found.empty_text and not own_null)


def _named(objective: str, config: NetworkConfig) -> Trained:
    if objective not in get_args(Name):
        raise WeightsError(f"objective is {objective!r}, expected one of {', '.join(get_args(Name))}")
    if objective == "edm":
        return _SVD if _is_video_unet(config) else Trained()
    if objective == "flow":
        return _BY_NAME["stdit3"]
    betas: Betas = "scaled_linear" if isinstance(config, VideoUNetConfig) else "linear"
    return _with_steps(Objective(objective, betas), "leading", 50, 1)  # type: ignore[arg-type]


def _of_folder(source: Path, config: NetworkConfig) -> Trained | None:
    """By the scheduler of a pipeline's folder, or of the pipeline that a network's folder lies in."""
    for folder in (source, source.parent):
        path = folder / "scheduler" / "scheduler_config.json"
        if source.is_dir() and path.exists():
            try:
                return of_scheduler(json.loads(path.read_text()), config)
            except ValueError as error:
                raise WeightsError(f"{path} cannot be read as JSON: {error}") from error
    return None


def of_scheduler(settings: Mapping[str, Any], config: NetworkConfig) -> Trained:
    """By a scheduler_config.json of diffusers. Raises WeightsError where it says what no objective here is."""
    said = settings.get("prediction_type", "epsilon")
    if settings.get("timestep_type") == "continuous" and said == "v_prediction":
        ends = {name: settings.get(name) or getattr(_SVD.levels, name) for name in ("sigma_min", "sigma_max")}
        fps_less = _SVD.fps_less if _is_video_unet(config) else 0.0
        return replace(_SVD, levels=replace(_SVD.levels, **ends), fps_less=fps_less)
    betas, *ends = _THEIR_BETAS.get(settings.get("beta_schedule", "linear"), ("", 0.0, 0.0))
    found = [settings.get("beta_start", 1e-4), settings.get("beta_end", 0.02)]
    spacing = settings.get("timestep_spacing") or _default_spacing(settings)
    wrong = {
        "_class_name": str(settings.get("_class_name")).startswith(("FlowMatch", "EDM")),
        "timestep_spacing": spacing not in ("leading", "trailing", "linspace"),
        "prediction_type": said not in _THEIR_PREDICTIONS,
        "beta_schedule": not betas,
        "beta_start, beta_end": betas in ("linear", "scaled_linear") and found != ends,
        "trained_betas": settings.get("trained_betas") is not None,
        "num_train_timesteps": settings.get("num_train_timesteps", 1000) != 1000,
    }
    if any(wrong.values()):
        told = ", ".join(
            f"{n} {settings.get(n)}" for names, bad in wrong.items() if bad for n in names.split(", ")
        )
        raise WeightsError(
            f"the scheduler, a {settings.get('_class_name')}, has {told}: expected one of {', '.join(_THEIR_PREDICTIONS)} "
            f"on 1000 steps with betas of Stable Diffusion, DDPM or the cosine schedule; name the objective if it is "
            f"not the one that the network was trained with (--objective)"
        )
    name = _THEIR_PREDICTIONS[said]
    name = "iddpm" if name == "epsilon" and config.says_variance else name
    spacing = "karras" if settings.get("use_karras_sigmas") else spacing
    objective = Objective(name, betas, bool(settings.get("rescale_betas_zero_snr", False)))
    num_steps = 25 if _is_video_unet(config) else 50
    trained = _with_steps(objective, spacing, num_steps, settings.get("steps_offset", 0))
    return replace(trained, empty_text=not _is_video_unet(config))


def to_scheduler(trained: Trained) -> dict[str, Any]:
    """Settings of diffusers' EulerDiscreteScheduler for weights; `of_scheduler` reads them back.

    Raises WeightsError where it has no such objective.
    """
    objective, levels = trained.objective, trained.levels
    if objective.name == "edm":
        told = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
        ends = {"sigma_min": levels.sigma_min, "sigma_max": levels.sigma_max}
        return {
            **told,
            **ends,
            "prediction_type": "v_prediction",
            "timestep_type": "continuous",
            "timestep_spacing": "leading",
            "use_karras_sigmas": True,
        }
    predictions = {ours: theirs for theirs, ours in _THEIR_PREDICTIONS.items()}
    if objective.name not in predictions:
        raise WeightsError(
            f"the network was trained with objective {objective.name}, for which diffusers' "
            f"EulerDiscreteScheduler is not: expected edm, epsilon, v or sample"
        )
    schedule = next(name for name, (betas, *_) in _THEIR_BETAS.items() if betas == objective.betas)
    return {
        "beta_schedule": schedule,
        "beta_start": _THEIR_BETAS[schedule][1],
        "beta_end": _THEIR_BETAS[schedule][2],
        "prediction_type": predictions[objective.name],
        "rescale_betas_zero_snr": objective.zero_terminal_snr,
        "timestep_spacing": "trailing" if levels.spacing == "karras" else levels.spacing,
        "steps_offset": levels.steps_offset,
        "use_karras_sigmas": levels.spacing == "karras",
    }


def _default_spacing(settings: Mapping[str, Any]) -> Spacing:
    return "leading" if settings.get("_class_name") in _LEADING else "linspace"


def _is_video_unet(config: NetworkConfig) -> bool:
    return isinstance(config, VideoUNetConfig) and config.temporal


def _of_images(config: NetworkConfig) -> bool:
    """Whether nothing in a network is for frames: published ones whose tokens all meet were trained on images."""
    if isinstance(config, VideoUNetConfig):
        return not config.temporal
    return config.temporal == "none" and set(config.attention) in ({"space"}, {"full"})
