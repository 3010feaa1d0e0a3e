"""Trains one stage: `python -m training --recipe images --dataset PATH --out DIR`.

Prints one JSON line an event. Exit codes: 0 done (also if it was done before), 1 failed, 2 a setting or
an input is wrong, 75 stopped by SIGTERM after saving a checkpoint; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from training.job import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_WRONG_SETTING, Job
from training.recipe import Recipe, parse_setting, read_settings, with_settings
from training.recipes import recipe_from
from training.stop import StopRequest
from training.tether import die_with_parent
from warehouse.errors import CutroomError, DatasetError, SettingsError, WeightsError


def parser() -> argparse.ArgumentParser:
    """The words of the command line."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train one stage.")
    parser.add_argument(
        "--recipe",
        required=True,
        metavar="NAME",
        help="images, video, high_quality, image_to_video, interpolation, or a JSON file of all settings",
    )
    parser.add_argument("--dataset", required=True, metavar="PATH", help="packed dataset: a folder or a URI")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of this run")
    parser.add_argument(
        "--init-from", metavar="PATH", help="weights file, or folder of an earlier stage's run"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="JSON file of settings to change in the recipe"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting")
    return parser


def chosen_recipe(recipe: str, config: Path | None, settings: list[str]) -> Recipe:
    """The recipe with the changes of a file and then of the command line."""
    chosen = recipe_from(recipe)
    if config is not None:
        chosen = with_settings(chosen, read_settings(config))
    return with_settings(chosen, dict(parse_setting(text) for text in settings))


def show(event: dict[str, Any]) -> None:
    """Writes an event to standard output as one line of JSON, at once: whoever launched this reads along."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main(arguments: list[str], stop: StopRequest) -> int:
    """Trains what the command line says and returns the exit code (module docstring); errors go to standard error.

    `stop`: asks for an end in between.
    """
    options = parser().parse_args(arguments)
    try:
        recipe = chosen_recipe(options.recipe, options.config, options.set)
        from training.stage import run_stage

        report = run_stage(Job(recipe, options.dataset, options.init_from), options.out, show, stop)
    except (SettingsError, DatasetError, WeightsError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return EXIT_WRONG_SETTING
    except CutroomError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return EXIT_FAILED
    return EXIT_STOPPED if report is None else EXIT_DONE


if __name__ == "__main__":
    stop = StopRequest()
    stop.listen()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent(os.getppid())
    sys.exit(main(sys.argv[1:], stop))
