"""The flows `train-stage-1` to `-3`: each makes sure of what it starts from, then trains.

Stage 2 without a trained stage 1 trains that first, and stage 1 without a dataset encodes and packs what the
warehouse's selection kept; what is there already is found at once, so each flow can be run again and again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow

from flows.plans import current_settings
from flows.prepare import encode_kept, pack_kept
from flows.settings import Settings, TrainParams, load_settings
from models.conditioning import NUMBERS
from models.networks import NetworkConfig
from models.video_unet import VideoUNetConfig
from tasks.progress import note
from tasks.training import train_stage
from training.job import Job
from training.recipe import Recipe, with_settings
from training.recipes import recipe_from
from warehouse.errors import SettingsError
from warehouse.plan import Plan
from warehouse.store import Store, check_folder

STAGES = ("images", "video", "high_quality")
"""Recipes in the order in which one stage's weights go into the next."""

SHOWN = ("image_to_video", "interpolation")
"""Recipes whose networks are shown frames; each starts from the stage `video`."""


@flow(name="train-stage-1", flow_run_name="train-images", persist_result=False)
def train_stage_1(params: TrainParams = TrainParams()) -> str:  # noqa: B008 (frozen)
    """Trains an image network on single frames; parameters that are not given come from cutroom.toml."""
    return str(train_to("images", params.flags, params.config))


@flow(name="train-stage-2", flow_run_name="train-video", persist_result=False)
def train_stage_2(params: TrainParams = TrainParams()) -> str:  # noqa: B008 (frozen)
    """Trains a video network from stage 1's weights; parameters that are not given come from cutroom.toml."""
    return str(train_to("video", params.flags, params.config))


@flow(name="train-stage-3", flow_run_name="train-high-quality", persist_result=False)
def train_stage_3(params: TrainParams = TrainParams()) -> str:  # noqa: B008 (frozen)
    """Finetunes stage 2's network on the best clips; parameters that are not given come from cutroom.toml."""
    return str(train_to("high_quality", params.flags, params.config))


FLOWS = dict(zip(STAGES, (train_stage_1, train_stage_2, train_stage_3), strict=True))


def train_to(
    stage: str, flags: Mapping[str, Any], toml: str | Path | None = None, init_from: str | None = None
) -> Path:
    """Trains a stage, and before it the stages that it builds on; returns the folder of its run.

    Args:
        stage: one of `STAGES` or `SHOWN`, or a JSON file with a recipe of one's own, which starts from `init_from` alone.
        init_from: weights to start from instead of the stage before.
    """
    before = STAGES[:2] if stage in SHOWN else STAGES[: STAGES.index(stage)] if stage in STAGES else ()
    chain = [stage] if init_from is not None else [*before, stage]
    return train_chain(chain, flags, toml, init_from)[-1]


def train_chain(
    stages: Sequence[str],
    flags: Mapping[str, Any],
    toml: str | Path | None = None,
    init_from: str | None = None,
) -> list[Path]:
    """Trains stages one after the other, each from the weights of the one before; returns the folders of their runs."""
    settings = load_settings(flags, toml=toml)
    recipes = recipes_of(stages, settings)
    dataset = settings.dataset or _dataset(*current_settings(flags, toml))
    root = runs_folder(settings)
    folders: list[Path] = []
    for recipe in recipes:
        job = Job(recipe, dataset, str(folders[-1]) if folders else init_from)
        folders.append(train_stage(recipe.stage, job, root, settings.processes))
    return folders


def recipe_of(name: str, settings: Settings) -> Recipe:
    """A recipe with the changes that the settings make to it."""
    recipe = recipe_from(name)
    return with_settings(recipe, settings.recipes.get(recipe.stage, {}), f"recipes.{recipe.stage}")


def recipes_of(stages: Sequence[str], settings: Settings) -> list[Recipe]:
    """The recipes of a chain. Weights are handed on, so the network, and the objective, that the settings give the last
    stage of those that they give one hold for all stages that they give none.
    """
    recipes = [recipe_of(name, settings) for name in stages]
    for part in ("network", "objective"):
        own = [_names(settings.recipes.get(recipe.stage, {}), part) for recipe in recipes]
        leader = next((r for r, o in zip(recipes[::-1], own[::-1], strict=True) if o), recipes[-1])
        recipes = [r if o else _following(r, leader, part) for r, o in zip(recipes, own, strict=True)]
    for recipe in recipes:
        _check_shown(recipe)
    return recipes


def _check_shown(recipe: Recipe) -> None:
    network = recipe.network
    shown = isinstance(network, VideoUNetConfig) and network.condition_channels > 0
    if recipe.stage in SHOWN and not shown:
        raise SettingsError(
            f"stage {recipe.stage} trains a network that is shown frames, but recipes.{recipe.stage}.network is "
            f"shown none: take a UNet, and set network.condition_channels to its network.latent_channels"
        )


def _names(changes: Mapping[str, Any], part: str) -> bool:
    return any(name.partition(".")[0] == part for name in changes)


def _following(recipe: Recipe, leader: Recipe, part: str) -> Recipe:
    """A recipe with a part of another one's; a UNet without temporal layers where it trains on single frames, and shown
    the frames that the recipe itself says.
    """
    value = getattr(leader, part)
    if isinstance(value, VideoUNetConfig):
        value = _shown_as(replace(value, temporal=not recipe.single_frames), recipe.network)
    return replace(recipe, **{part: value})


def _shown_as(network: VideoUNetConfig, own: NetworkConfig) -> VideoUNetConfig:
    """A network that is shown no frames, or those that another one is shown."""
    if not isinstance(own, VideoUNetConfig) or not own.condition_channels:
        numbers = min(network.num_numbers, len(NUMBERS))
        return replace(network, condition_channels=0, missing_size=(), num_numbers=numbers)
    shown = {"missing_size": own.missing_size, "num_numbers": own.num_numbers}
    return replace(network, condition_channels=network.latent_channels, **shown)


def runs_folder(settings: Settings) -> Path:
    """Where training runs lie.

    Raises:
        SettingsError: a file lies there, or the warehouse is no local folder and none is set.
    """
    if settings.runs:
        check_folder(Path(settings.runs).absolute())
        return Path(settings.runs)
    store = Store(settings.warehouse)
    if not store.is_local:
        raise SettingsError(
            f"{settings.warehouse} is no local folder, and runs write checkpoints to one; set `runs` to a folder"
        )
    return Path(store.root) / "runs"


def _dataset(settings: Settings, store: Store, current: Plan) -> str:
    """The dataset of the warehouse's selection, as the trainer opens it."""
    encode_kept(settings, store, current)
    packed = pack_kept(settings, store, Plan.load(store))
    note(f"{packed.packed} of {packed.kept} kept clips are in {packed.path}")
    return store.path(packed.path) if store.is_local else f"{store.uri.rstrip('/')}/{packed.path}"
