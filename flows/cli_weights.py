"""Commands that exchange weights with other systems."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows import console
from flows.console import Json


class Layout(StrEnum):
    """Whose names weights get."""

    diffusers = "diffusers"
    original = "original"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A training run's folder, or its weights.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A new folder; for original a .safetensors file.")
    ],
    to: Annotated[Layout, typer.Option(help="Whose layout.")] = Layout.diffusers,
    autoencoder: Annotated[
        str | None,
        typer.Option(help="The autoencoder to go with it: embedded, a folder, a file or a hub name."),
    ] = None,
    image_encoder: Annotated[
        str | None,
        typer.Option(help="For a network that continues an image: CLIP's tower, folder or hub name."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a run's weights as diffusers or Stability have them."""
    from models.autoencoder import load_autoencoder
    from models.image_encoder import load_image_encoder
    from training.publish import export_diffusers, export_original

    pixels = load_autoencoder(autoencoder) if autoencoder else None
    if to is Layout.original:
        export_original(run, out, pixels)
        made = "safetensors"
    else:
        seen = load_image_encoder(image_encoder) if image_encoder else None
        made = export_diffusers(run, out, pixels, seen)
    console.emit({"path": str(out), "made": made}, json, lambda: print(f"{out}: {made}"))


def import_weights(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A folder of diffusers, or a file in its authors' layout."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, which then counts as a run.")],
    network: Annotated[
        str | None, typer.Option(help="Which network a file is of, as `cutroom networks` names them.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="What it was trained to say (edm, epsilon, v ...), if nothing else tells."),
    ] = None,
    json: Json = False,
) -> None:
    """Make weights of others a run that `train --init-from` and `sample --run` take."""
    from dataclasses import asdict

    from training.imported import import_weights as run_import

    made = run_import(source, out, network, objective)
    other = {
        "reshaped": list(made.report.reshaped),
        "passed_over": list(made.report.passed),
        "left": list(made.left),
    }
    result = {"path": str(out), "network": asdict(made.config), "layout": made.layout, **other}
    console.emit(result, json, lambda: _print_imported(out, made.config, made.layout, other))


_OTHER = {
    "reshaped": "held with axes of length 1 more or less, and reshaped",
    "passed_over": "computed here, or a copy, and passed over",
    "left": "of other networks in the file, and left there",
}


def _print_imported(out: Path, config: object, layout: str, other: dict[str, list[str]]) -> None:
    print(f"{out}: {config}, from {layout}")
    for kind, names in other.items():
        if names:
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            print(f"{len(names)} {_OTHER[kind]}: {some}")


COMMANDS = (export, import_weights)
