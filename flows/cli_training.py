"""Commands that make a dataset, train on it, and sample from what was trained."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from json import loads
from pathlib import Path
from typing import Annotated

import typer

from flows import console
from flows.console import Config, Json, RetryFailed, Set, Warehouse, Workers
from warehouse.run_folder import DONE

RecipeSet = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the recipe, as lr=1e-4; repeatable."),
]


class Spacing(StrEnum):
    """How noise levels are spaced (`training.trained.Levels`)."""

    karras = "karras"
    leading = "leading"
    trailing = "trailing"
    linspace = "linspace"
    times = "times"


def encode(
    warehouse: Warehouse = None,
    workers: Workers = None,
    retry_failed: RetryFailed = False,
    config: Config = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Encode the kept clips into latents and text embeddings, once for all selections."""
    from flows.prepare import encode as run_encode

    flags = console.flags_on(
        config, set_, warehouse=warehouse, workers=workers, retry_failed=retry_failed or None
    )
    with console.progress():
        done = run_encode(flags, config)
    result = {"warehouse": done.warehouse, "new_rows": dict(done.new_rows)}
    result["states"] = {t: dict(c) for t, c in done.states.items()}
    result["cut_captions"] = done.cut_captions

    def show() -> None:
        console.states(done.warehouse, done.states, done.new_rows)
        if done.cut_captions:
            print(
                f"{done.cut_captions} captions are longer than the text encoder takes, and cut (encode.max_length)"
            )

    console.emit(result, json, show)


def pack(
    warehouse: Warehouse = None,
    config: Config = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Pack the kept and encoded clips into a dataset for the trainer."""
    from flows.plans import current_settings
    from flows.prepare import pack_kept

    packed = pack_kept(*current_settings(console.flags_on(config, set_, warehouse=warehouse), config))
    manifest = packed.manifest
    clips = {"kept": packed.kept, "packed": packed.packed}
    clips |= {split: manifest.num_clips(split) for split in ("train", "heldout")}
    result = {"path": packed.path, "digest": manifest.digest, "clips": clips, "buckets": [*manifest.buckets]}
    console.emit(result, json, lambda: console.table(packed.path, [clips]))


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="images, video, high_quality, image_to_video, interpolation, or a JSON file of all settings."
        ),
    ],
    warehouse: Warehouse = None,
    dataset: Annotated[str | None, typer.Option(help="A packed dataset; default: the warehouse's.")] = None,
    runs: Annotated[str | None, typer.Option(help="Folder of runs; default: runs in the warehouse.")] = None,
    init_from: Annotated[
        str | None, typer.Option(help="Weights or run to start from; default: the stage before.")
    ] = None,
    processes: Annotated[int | None, typer.Option(help="Processes of the training, one per GPU.")] = None,
    config: Config = None,
    set_: RecipeSet = None,
    json: Json = False,
) -> None:
    """Train a stage, and before it whatever it builds on that is not there yet."""
    from flows.settings import TrainParams, load_settings
    from flows.train import FLOWS, train_to
    from training.recipe import parse_setting
    from training.recipes import recipe_from

    changes = {recipe_from(recipe).stage: dict(map(parse_setting, set_))} if set_ else None
    flags = console.flags_of(
        None, warehouse=warehouse, dataset=dataset, runs=runs, processes=processes, recipes=changes
    )
    settings = load_settings(flags, toml=config)
    if not (settings.dataset and settings.runs):
        console.require(settings, "warehouse", "use --warehouse, or --dataset and --runs")
    with console.progress():
        if recipe in FLOWS and init_from is None:
            params = TrainParams.of(settings, config)
            folder = Path(console.as_flow(FLOWS[recipe])(params))
        else:
            folder = train_to(recipe, flags, config, init_from)
    report = loads((folder / DONE).read_text())
    result = {"run": str(folder)} | {name: report[name] for name in ("stage", "samples", "held_out")}
    console.emit(result, json, lambda: console.table(str(folder), report["held_out"]))


def sample(
    prompt: Annotated[list[str] | None, typer.Argument(help="What to show; default: captions.")] = None,
    warehouse: Warehouse = None,
    run: Annotated[
        Path | None, typer.Option(help="A run's folder; default: the newest finished one.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many, without prompts.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the noise; the same seed gives the same videos.")] = 0,
    guidance: Annotated[float, typer.Option(min=0, help="How closely to follow the prompts.")] = 3.0,
    guidance_end: Annotated[
        float | None, typer.Option(min=0, help="The same at the last frame; with triangle, in the middle.")
    ] = None,
    guidance_shape: Annotated[str, typer.Option(help="Between the frames: linear or triangle.")] = "linear",
    frames_guidance: Annotated[
        float | None,
        typer.Option(min=0, help="The same for frames that join the input, apart from the text."),
    ] = None,
    guided_channels: Annotated[
        int | None, typer.Option(min=1, help="How many of the first channels are guided; default: all.")
    ] = None,
    oscillating: Annotated[bool, typer.Option(help="Every second step after ten without guidance.")] = False,
    steps: Annotated[
        int | None, typer.Option(min=2, help="Noise levels; default: as the weights say, or 25.")
    ] = None,
    spacing: Annotated[
        Spacing | None, typer.Option(help="Of the noise levels; default: as the weights say.")
    ] = None,
    sigma_min: Annotated[float | None, typer.Option(help="Lowest noise level, with karras.")] = None,
    sigma_max: Annotated[float | None, typer.Option(help="Highest noise level, with karras.")] = None,
    shift: Annotated[float | None, typer.Option(help="Of a flow's times, towards noise.")] = None,
    sampler: Annotated[
        str, typer.Option(help="As euler, heun, dpm_solver_2m, unipc, pndm, deis, rectified_flow, iddpm.")
    ] = "euler",
    frames: Annotated[
        int | None, typer.Option(min=1, help="Of a video, or piece; default: as trained.")
    ] = None,
    overlap: Annotated[int, typer.Option(min=0, help="Latent frames that windows share; 0: half.")] = 0,
    seamless: Annotated[bool, typer.Option(help="Let the last frame go on at the first.")] = False,
    reference: Annotated[str, typer.Option(help="Files to start from, with ';' between them.")] = "",
    mask_strategy: Annotated[
        str,
        typer.Option(
            help="loop,file,start there,start here,length,edit ratio; with ';' between such tuples."
        ),
    ] = "",
    augmentation: Annotated[
        float | None, typer.Option(help="Noise on frames that the network is shown; default: 0.02.")
    ] = None,
    image_encoder: Annotated[
        str | None, typer.Option(help="Folder of the CLIP image encoder of SVD's own weights.")
    ] = None,
    motion_bucket: Annotated[float, typer.Option(min=0, max=255, help="How much moves: 0 to 255.")] = 127.0,
    elevation: Annotated[
        float | None, typer.Option(help="Of the camera, in degrees, for orbits around a thing.")
    ] = None,
    loops: Annotated[int, typer.Option(min=1, help="Pieces that a video is made in.")] = 1,
    carry: Annotated[int, typer.Option(min=1, help="Latent frames given to a piece of the one before.")] = 1,
    repeats: Annotated[
        int, typer.Option(min=1, help="Of each step, if the run was not trained with given frames.")
    ] = 1,
    aesthetics: Annotated[float | None, typer.Option(help="Score to ask for, as captions told it.")] = None,
    motion: Annotated[float | None, typer.Option(help="The same for how much moves.")] = None,
    camera: Annotated[str | None, typer.Option(help="The same for the camera, as 'pan right'.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder; default: samples in the run's.")] = None,
    config: Config = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Sample videos from a trained stage, as mp4 files and a contact sheet."""
    from curation.captions.score_words import AskedScores
    from flows.sample import sample as run_sample
    from tasks.sampling import EveryVideo, StartFrom
    from training.sample_settings import Numbers, Sampling

    alone = prompt and run  # then nothing of a warehouse is needed
    flags_of = console.flags_of if alone else partial(console.flags_on, config)
    flags = flags_of(set_, warehouse=warehouse)
    every = EveryVideo(
        frames=frames,
        start=StartFrom(reference, mask_strategy, image_encoder),
        numbers=Numbers(motion_bucket, augmentation, elevation),
        scores=AskedScores(aesthetics, motion, camera),
    )
    sampling = Sampling(
        num_steps=steps,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        sampler=sampler,
        spacing=spacing and spacing.value,
        shift=shift,
        guidance=(guidance, guidance if guidance_end is None else guidance_end),
        guidance_shape=guidance_shape,
        frames_guidance=frames_guidance,
        guided_channels=guided_channels,
        oscillating=oscillating,
        overlap=overlap,
        seamless=seamless,
        repeats=repeats,
        loops=loops,
        carry=carry,
    )
    with console.progress():
        sampled = run_sample(
            flags,
            config,
            prompts=prompt or (),
            count=count,
            run=run,
            out=output,
            seed=seed,
            sampling=sampling,
            every=every,
        )
    videos = [str(path) for path in sorted(sampled.folder.glob("*.mp4"))]
    result = {"folder": str(sampled.folder), "videos": videos, "prompts": list(sampled.prompts)}
    console.emit(result, json, lambda: print(f"{len(videos)} videos in {sampled.folder}"))


COMMANDS = (encode, pack, train, sample)
