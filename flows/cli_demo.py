"""The command that shows everything at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console
from flows.console import Json, Profile, Set

if TYPE_CHECKING:
    from flows.demo import Demo


def demo(
    videos: Annotated[
        Path | None, typer.Option(help="Folder of your own videos; without it a sample reel is generated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for what is made; default: in cutroom-demo.")
    ] = None,
    profile: Profile = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Footage to report in a few minutes: curate, select, encode, pack, train three stages, sample."""
    from flows.demo import DemoParams
    from flows.demo import demo as run_demo
    from flows.server import serving
    from flows.settings import validate

    folder = output or (Path("cutroom-demo", videos.resolve().name) if videos else Path("cutroom-demo"))
    folder.mkdir(parents=True, exist_ok=True)
    given = {"output": str(folder), "profile": profile, "settings": console.flags_of(set_)}
    params = validate(DemoParams, given | {"videos": videos and str(videos)})
    with console.progress() as bars:
        bars.note("starting Prefect's server ...")
        with serving(folder / "prefect.log") as pages:
            bars.note(f"watch it at {pages} too, while it runs")
            made = run_demo(params)
    console.emit(_result(made), json, lambda: print(made.report))


def _result(made: Demo) -> dict[str, object]:
    return {
        "report": str(made.report),
        "warehouse": made.warehouse,
        "runs": [str(run) for run in made.runs],
        "samples": str(made.samples),
        "right_share": made.right_share,
    }


COMMANDS = (demo,)
