"""The stages' recipes by name; each is a function that returns one frozen config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from training.recipe import Recipe, read_settings, with_settings
from training.recipes.high_quality import high_quality
from training.recipes.image_to_video import image_to_video
from training.recipes.images import images
from training.recipes.interpolation import interpolation
from training.recipes.video import video
from warehouse.errors import SettingsError

RECIPES: dict[str, Callable[[], Recipe]] = {
    "images": images,
    "video": video,
    "high_quality": high_quality,
    "image_to_video": image_to_video,
    "interpolation": interpolation,
}


def recipe_from(name: str) -> Recipe:
    """The recipe of a name, or the one in a JSON file, which must hold every setting. Raises SettingsError."""
    if name in RECIPES:
        return RECIPES[name]()
    if not name.endswith(".json"):
        raise SettingsError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}, or a JSON file")
    settings = read_settings(Path(name))
    if missing := {field.name for field in fields(Recipe)} - set(settings):
        raise SettingsError(f"{name} lacks {', '.join(sorted(missing))}; expected every setting of a recipe")
    return with_settings(images(), settings)
