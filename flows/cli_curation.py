"""Commands that curate: footage to clips, clips to a selection."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import console
from flows.console import Config, Json, Profile, RetryFailed, Set, Warehouse, WarehouseArgument, Workers

if TYPE_CHECKING:
    from curation.captions.fit import CaptionFit
    from curation.selection.verdicts import Selected
    from flows.curate import Curated


def curate(
    footage: Annotated[
        list[str] | None,
        typer.Argument(
            help="Videos, folders (searched recursively) or prefixes; none: what the warehouse was given before."
        ),
    ] = None,
    warehouse: Warehouse = None,
    profile: Profile = None,
    workers: Workers = None,
    retry_failed: RetryFailed = False,
    config: Config = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Turn footage into scored and selected clips. The same command again does no work, or goes on."""
    from flows.curate import curate_lvd
    from flows.settings import CurateParams, load_settings
    from warehouse.store import Store

    flags = console.flags_of(
        set_,
        footage=footage,
        warehouse=warehouse,
        profile=profile,
        workers=workers,
        retry_failed=retry_failed or None,
    )
    settings = load_settings(flags, toml=config)
    console.require(settings, "warehouse", "use --warehouse")
    if "footage" not in settings.model_fields_set and Store(settings.warehouse).folders("given"):
        settings = settings.model_copy(update={"footage": ()})
    console.require(settings, "footage", "name videos or folders")
    params = CurateParams.of(settings, config)
    with console.progress():
        curated = console.as_flow(curate_lvd)(params)
    console.emit(_curated(curated), json, lambda: _show_curated(curated))


def annotate(
    warehouse: WarehouseArgument,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="An annotator, which is the name of its table.")
    ],
    workers: Workers = None,
    retry_failed: RetryFailed = False,
    config: Config = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Score the clips of a warehouse with one annotator, new or with other settings; nothing else is done again."""
    from flows.curate import annotate as run_annotate

    flags = console.flags_on(
        config, set_, warehouse=warehouse, workers=workers, retry_failed=retry_failed or None
    )
    with console.progress():
        curated = run_annotate(name, flags, config)
    console.emit(_curated(curated), json, lambda: _show_curated(curated))


def cuts(
    video: Annotated[Path, typer.Argument(help="A video file.")],
    config: Config = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Find the cuts of one video."""
    from curation.cuts.boundaries import merge_cuts, seconding_only
    from curation.scan import scan_video
    from flows.settings import load_settings

    settings = load_settings(console.flags_of(set_), toml=config)
    if warning := seconding_only(settings.cuts, settings.scan.evidence):
        console.warn(warning)
    result = scan_video(video, settings.scan, limits=settings.limits)
    found = [
        {"frame": c.frame, "time_s": c.time_s, "type": c.type, "confidence": c.confidence}
        for c in merge_cuts(result.signals, settings.cuts)
    ]
    title = f"{len(found)} cuts in {result.num_frames} frames, {result.duration_s:.2f} s"
    console.emit({"cuts": found}, json, lambda: console.table(title, found))


def select(
    warehouse: Warehouse = None,
    name: Annotated[str | None, typer.Option(help="Name of the selection.")] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="SCORE=VALUE",
            help="motion=25% drops the worst quarter, text_area=0.07 all beyond a value; replaces the filters.",
        ),
    ] = None,
    profile: Profile = None,
    config: Config = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Freeze thresholds and judge every clip: kept, or rejected with its reason."""
    from flows.select import select_again

    chosen = {"name": name} if name else {}
    if filter_:
        chosen["filters"] = [_filter(text) for text in filter_]
    flags = console.flags_on(config, set_, warehouse=warehouse, profile=profile, selection=chosen or None)
    selected = select_again(flags, config)
    console.emit(_selection(selected), json, lambda: _show_selected(selected))


def _filter(text: str) -> dict[str, Any]:
    """``motion=25%`` as a share to drop, ``text_area=0.07`` as a limit."""
    from warehouse.errors import SettingsError

    score, _, value = text.partition("=")
    try:
        if value.endswith("%"):
            return {"score": score, "drop": float(value[:-1]) / 100}
        return {"score": score, "limit": float(value)}
    except ValueError as error:
        raise SettingsError(f"filter {text!r} is neither SCORE=25% nor SCORE=0.07") from error


def _curated(curated: Curated) -> dict[str, Any]:
    return {
        "warehouse": curated.warehouse,
        "new_rows": dict(curated.new_rows),
        "states": {t: dict(c) for t, c in curated.states.items()},
        "selection": curated.selected and _selection(curated.selected),
        "spent": curated.spent and curated.spent.as_json(),
        "captions": curated.captions and [_fit(fit) for fit in curated.captions],
        "problems": [dict(problem) for problem in curated.problems],
        "pictures_left_out": curated.pictures_left_out,
    }


def _fit(fit: CaptionFit) -> dict[str, Any]:
    return asdict(fit) | {"fits": None if fit.unchecked() else fit.fits()}


def _selection(selected: Selected) -> dict[str, Any]:
    return {
        "name": selected.name,
        "path": selected.path,
        "in": selected.num_clips,
        "kept": selected.num_kept,
        "thresholds": [asdict(t) for t in selected.thresholds],
        "funnel": [dict(row) for row in selected.funnel],
    }


def _show_curated(curated: Curated) -> None:
    console.states(curated.warehouse, curated.states, curated.new_rows)
    if curated.captions:
        from curation.captions.fit import in_words

        print(in_words(curated.captions))
    if curated.spent:
        print(f"summaries: {curated.spent}")
    if curated.selected:
        _show_selected(curated.selected)


def _show_selected(selected: Selected) -> None:
    columns = ("score", "better", "value", "in", "rejected", "kept", "rejects_alone")
    rows = [{name: row[name] for name in columns} for row in selected.funnel]
    console.table(f"selection {selected.name}: {selected.num_kept} of {selected.num_clips} clips kept", rows)


COMMANDS = (curate, annotate, cuts, select)
