"""Sampling from a trained stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flows.plans import current_settings
from flows.settings import TrainSettings, load_settings, validate
from flows.train import runs_folder
from tasks.encoding import EncodeConfig
from tasks.sampling import PLAIN, EveryVideo, Sampled, sample_run
from training.checkpoints import read_origin
from training.sample_settings import Sampling
from warehouse.errors import SettingsError
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.run_folder import DONE, SAMPLES
from warehouse.store import Store


def sample(
    flags: Mapping[str, Any],
    toml: Path | None = None,
    *,
    prompts: Sequence[str] = (),
    count: int = 16,
    run: Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    every: EveryVideo = PLAIN,
) -> Sampled:
    """Samples videos from a finished run, by default the newest, into its folder `samples`.

    Sizes, encoders and the cleaning of prompts are those that the run was trained with, as it says itself, but for
    settings `encode` among the flags. Without prompts, captions of `count` clips of the warehouse are asked for again,
    chosen by their ids; with both prompts and a run, no warehouse is needed.
    """
    settings = load_settings(flags, toml=toml)
    run = run or newest_run(runs_folder(settings))
    encode = encode_of(run, flags, toml)
    if not prompts:
        store = Store(settings.warehouse)
        prompts = captions(store, Plan.load(store), count)
    folder = out or run / SAMPLES
    return sample_run(
        run, list(prompts), encode, folder, seed=seed, sampling=sampling or Sampling(), every=every
    )


def encode_of(run: Path, flags: Mapping[str, Any], toml: Path | None = None) -> EncodeConfig:
    """How frames and captions were encoded that a run was trained on. Where it does not say, as one of imported weights,
    the warehouse's settings, or with no warehouse what is set besides. How many frames are decoded together is a matter
    of this machine, and never the run's.
    """
    trained_with = read_origin(run).get("encoding")
    if not trained_with:
        settings = load_settings(flags, toml=toml)
        there = Plan.current(Store(settings.warehouse)) is not None
        return current_settings(flags, toml)[0].encode if there else settings.encode
    here = {"decode_frames": load_settings(flags, toml=toml).encode.decode_frames}
    return validate(TrainSettings, {"encode": {**trained_with, **here, **flags.get("encode", {})}}).encode


def newest_run(runs: Path) -> Path:
    """The finished run that ended last. Raises SettingsError if there is none."""
    finished = sorted(runs.glob(f"*/{DONE}"), key=lambda path: path.stat().st_mtime)
    if not finished:
        raise SettingsError(
            f"{runs} holds no finished run; run `cutroom train` first, or name one with --run"
        )
    return finished[-1].parent


def captions(store: Store, plan: Plan, count: int) -> list[str]:
    """Captions that clips of the warehouse were encoded with, in the order of the clips' ids, repeated up to `count`."""
    rows = Ledger(store, plan).read_all("text_embeddings", ["clip_id", "caption", "state"])
    found = rows.filter(pl.col("state") == "done").sort("clip_id")["caption"].to_list()
    if not found:
        raise SettingsError("the warehouse holds no encoded caption to sample from; name prompts")
    return [found[i % len(found)] for i in range(count)]
