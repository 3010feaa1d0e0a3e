"""Networks that are shown frames: what they are shown in training, what they learn from it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import packed
import pytest
import tiny_stage
import torch

from flows.settings import Settings
from flows.train import SHOWN, STAGES, recipes_of
from models.autoencoder import load_autoencoder
from models.conditioning import without_frames, without_text
from models.joined_frames import Joining, Scaling
from training.checkpoints import load_weights
from training.data import Batch, TrainingClips, held_out_batches
from training.evaluate import held_out_losses
from training.job import Job
from training.joined import Joiner
from training.recipe import Recipe, with_settings
from training.recipes import RECIPES
from training.stage import run_stage
from training.stop import StopRequest
from warehouse.errors import SettingsError
from warehouse.reader import PackedDataset

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning", "ignore:.*LeafSpec.*")

NETWORK = replace(tiny_stage.NETWORK, condition_channels=4, num_numbers=3)
FIRST = replace(tiny_stage.VIDEO, network=NETWORK, joining=Joining(dropout=0.1, dropout_with_text=0.2))
ENDS = replace(FIRST, network=replace(NETWORK, missing_size=(2, 2)))
KINDS = pytest.mark.parametrize("recipe", [FIRST, ENDS], ids=["first", "ends"])


def films(num_clips: int, num_frames: int = 4) -> torch.Tensor:
    """Coloured grounds with a coloured bar that moves by a pixel a frame: (B, T, 3, 16, 16) in [-1, 1]."""
    rng = np.random.default_rng(0)
    frames = np.empty((num_clips, num_frames, 3, 16, 16), np.float32)
    frames[:] = rng.uniform(-1, 1, (num_clips, 1, 3, 1, 1))
    for clip, (start, colour) in enumerate(
        zip(rng.integers(0, 8, num_clips), rng.uniform(-1, 1, (num_clips, 3, 1, 1)), strict=True)
    ):
        for t in range(num_frames):
            frames[clip, t, :, :, start + t : start + t + 4] = colour
    return torch.from_numpy(frames)


@pytest.fixture(scope="module")
def filmed(tmp_path_factory) -> PackedDataset:
    """Generated films in the embedded autoencoder's latents, of which the texts tell nothing."""
    latents = load_autoencoder("embedded").encode(films(240)).numpy().astype(np.float16)

    def arrays(clip_id: str, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return latents[int(clip_id[-4:])], *packed.arrays_of(clip_id, num_frames)[1:]

    folder = tmp_path_factory.mktemp("filmed") / "dataset"
    packed.write(folder, packed.rows(240, arrays=arrays), group_clips=16)
    return PackedDataset.open(folder)


def batches(
    dataset: PackedDataset, recipe: Recipe, num: int, rank: int = 0, num_ranks: int = 1
) -> list[Batch]:
    stream = iter(TrainingClips(dataset, recipe, 0, rank, num_ranks))
    return [next(stream) for _ in range(num)]


def told_of(batch: Batch):
    return batch.conditioning(torch.zeros(255))


@KINDS
def test_frames_come_unscaled_with_the_noise_that_is_told(filmed, recipe) -> None:
    """Off by the noise alone, in the autoencoder's own scale: z / scale + shift of `packed.MANIFEST`."""
    recipe = replace(recipe, batch_size=48, joining=Joining(p_mean=-1.0, p_std=0.7, dropout_with_text=0.0))
    scale, shift = (torch.tensor(v)[:, None, None] for v in ((0.5, 0.5, 0.5, 0.25), (0.0, 0.0, 0.0, 1.0)))
    levels, errors = [], []
    for batch in batches(filmed, recipe, 12):
        told = told_of(batch)
        own = batch.latents_BCTHW.movedim(2, 1) / scale + shift
        frames = told.frames_BCTHW.movedim(2, 1)
        off = (frames - own)[:, [0, 3]] * scale
        if recipe.network.missing_size:
            assert told.shown_BT.tolist() == [[True, False, False, True]] * 48
            assert (off[:, 0] != off[:, 1]).all(), "each end has noise of its own"
        else:
            assert told.shown_BT is None and (frames == frames[:, :1]).all(), "one frame is repeated over all"
        levels.append(told.numbers_BN[:, 2])
        errors.append(off[:, 0].flatten(1).square().mean(1).sqrt() / told.numbers_BN[:, 2])
    logs = torch.cat(levels).log()
    assert float(logs.mean()) == pytest.approx(-1.0, abs=0.05)
    assert float(logs.std()) == pytest.approx(0.7, abs=0.05)
    assert float(torch.cat(errors).square().mean()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("scale", [0.5, torch.tensor([1.0, 2.0, 3.0, 0.5])[:, None, None]])
def test_what_scaled_latents_is_undone_to_what_the_network_said(scale) -> None:
    autoencoder = load_autoencoder("embedded")
    autoencoder.scale_factor, autoencoder.shift = scale, torch.tensor([0.0, 1.0, 0.0, -3.0])[:, None, None]
    pictures = films(3)
    own = Scaling.of(autoencoder).undone(autoencoder.encode(pictures).movedim(1, 2))
    torch.testing.assert_close(
        own.movedim(1, 2).flatten(0, 1), autoencoder.moments(pictures.flatten(0, 1))[0]
    )


def test_frames_are_dropped_alone_or_with_the_text_and_numbers_stay(filmed) -> None:
    recipe = replace(FIRST, batch_size=48)
    silent = alone = whole = 0
    for batch in batches(filmed, recipe, 30):
        told, bare = told_of(batch), told_of(replace(batch, silent_B=torch.zeros(48, dtype=torch.bool)))
        null = without_frames(without_text(bare))
        dropped = (told.frames_BCTHW == 0).flatten(1).all(1)
        mute = (told.text_BLD == 0).flatten(1).all(1)
        assert (dropped | ~mute).all(), "here the text goes with the frames alone"
        assert torch.equal(told.text_BLD[mute], null.text_BLD[mute]), (
            "as the side of guidance without anything"
        )
        assert torch.equal(told.mask_BL[mute], null.mask_BL[mute])
        assert (told.numbers_BN[:, 2] > 0).all()
        silent, alone = silent + int(mute.sum()), alone + int((dropped & ~mute).sum())
        whole += len(dropped)
    assert silent / whole == pytest.approx(0.2, abs=0.03)
    assert alone / whole == pytest.approx(0.1, abs=0.03)


@KINDS
def test_ranks_and_runs_that_go_on_see_what_one_run_sees(filmed, recipe) -> None:
    whole = batches(filmed, recipe, 3)
    halves = [batches(filmed, recipe, 3, rank, 2) for rank in (0, 1)]
    later = next(iter(TrainingClips(filmed, recipe, 2, 0, 1)))
    for name in ("joined_BCFHW", "joined_sigma_B", "silent_B"):
        for one, *parts in zip(whole, *halves, strict=True):
            assert torch.equal(getattr(one, name), torch.cat([getattr(part, name) for part in parts]))
        assert torch.equal(getattr(later, name), getattr(whole[2], name))
    held = [held_out_batches(filmed, replace(recipe, lr=lr))[0] for lr in (1e-3, 1e-2)]
    assert torch.equal(held[0].joined_BCFHW, held[1].joined_BCFHW)
    assert not held[0].silent_B.any() and (held[0].joined_BCFHW != 0).any((1, 2, 3, 4)).all()


def mean_loss(network, some: list[Batch], change: Callable[[torch.Tensor], torch.Tensor]) -> float:
    shown = [replace(batch, joined_BCFHW=change(batch.joined_BCFHW)) for batch in some]
    losses = held_out_losses(network, shown, torch.zeros(255), edges=(1.0, 3.0, 10.0))
    return float(np.mean([bucket.loss for bucket in losses]))


@KINDS
def test_a_network_learns_from_the_frames_that_it_is_shown(tmp_path, filmed, recipe) -> None:
    """Shown frames of another clip, it misses by more; a network that did not listen would miss alike."""
    many = {"num_samples": 8 * 100, "warmup_samples": 80, "checkpoint_every_steps": 500, "p_mean": 0.7}
    run_stage(Job(replace(recipe, **many), filmed.uri), tmp_path / "out", lambda event: None, StopRequest())
    network = load_weights(tmp_path / "out").network()
    some = held_out_batches(filmed, recipe)
    right = mean_loss(network, some, lambda shown: shown)
    wrong = mean_loss(network, some, lambda shown: shown.roll(1, 0))
    assert right < 0.5 * wrong, (right, wrong)


@KINDS
def test_a_run_that_was_stopped_ends_bit_for_bit_as_the_one_that_was_not(tmp_path, filmed, recipe) -> None:
    job = Job(replace(recipe, num_samples=8 * 16), filmed.uri)
    run_stage(job, tmp_path / "whole", lambda event: None, StopRequest())
    stop = StopRequest()

    def heard(event: dict) -> None:
        stop.received = event["event"] == "step" and event["step"] >= 8

    assert run_stage(job, tmp_path / "broken", heard, stop) is None
    run_stage(job, tmp_path / "broken", lambda event: None, StopRequest())
    again = load_weights(tmp_path / "broken").tensors
    assert all(
        torch.equal(again[name], value) for name, value in load_weights(tmp_path / "whole").tensors.items()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network.condition_channels": 4}, "num_numbers is 2 with network.condition_channels 4, expected 3"),
        (
            {"network.condition_channels": 5},
            "condition_channels is 5, expected 0, or .*, 4, .*masks of inpainting",
        ),
        ({"network.num_numbers": 3}, "num_numbers is 3 with network.condition_channels 0, expected 2"),
        ({"network": "svd-multi-view"}, "num_numbers is 4, but no dataset tells more .* sampled alone"),
        (
            {"network.missing_size": [2, 2]},
            r"missing_size is \(2, 2\), expected none, or .*_channels 4$",
        ),
        (
            {"network": "svd-i2v", "given.image_head": 0.5},
            "condition_channels is set, but given has shares too",
        ),
        (
            {"network": "svd-i2v", "single_frames": True, "network.temporal": False},
            "single_frames is on, but network.condition_channels too",
        ),
        ({"joining.dropout": 0.5, "joining.dropout_with_text": 0.5}, "shares that sum to less than 1"),
        ({"joining.p_std": -1}, "expected none below 0"),
    ],
)
def test_what_cannot_be_trained_is_refused_when_the_recipe_is_read(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        with_settings(tiny_stage.VIDEO, settings)


def test_clips_that_cannot_show_what_is_asked_for_are_refused_before_the_first_step(tmp_path, filmed) -> None:
    wide = replace(ENDS, network=replace(ENDS.network, missing_size=(4, 4)))
    with pytest.raises(SettingsError, match=r"missing_size is \(4, 4\), but clips of 4x16x16 .* of \(2, 2\)"):
        Joiner.of(wide, filmed)
    packed.write(tmp_path / "short", packed.rows(30, num_frames=1), packed.rows(30, num_frames=2))
    short = PackedDataset.open(tmp_path / "short")
    assert Joiner.of(FIRST, short).scaling == Scaling([0.5, 0.5, 0.5, 0.25], [0.0, 0.0, 0.0, 1.0])
    with pytest.raises(SettingsError, match=r"clips of 1x16x16, 2x16x16 alone, expected .* than the 2 that"):
        Joiner.of(ENDS, short)
    packed.write(tmp_path / "mixed", packed.rows(30, num_frames=1), packed.rows(30))
    mixed = Job(replace(ENDS, num_samples=32), str(tmp_path / "mixed"))
    report = run_stage(mixed, tmp_path / "out", lambda event: None, StopRequest())
    assert all(np.isfinite(bucket["loss"]) for bucket in report["held_out"]), "stills among films"
    older = replace(filmed, manifest=replace(filmed.manifest, latent_scaling={}))
    with pytest.raises(SettingsError, match="does not tell how its latents were scaled"):
        Joiner.of(FIRST, older)
    assert Joiner.of(tiny_stage.VIDEO, older) is None


def test_stages_before_are_shown_nothing_and_hand_over_their_weights(tmp_path, filmed) -> None:
    assert tuple(RECIPES)[len(STAGES) :] == SHOWN
    named = {"image_to_video": {"network": "svd-i2v", "network.width": 64}}
    images, video, last = recipes_of((*STAGES[:2], "image_to_video"), Settings(recipes=named))
    assert (images.network.condition_channels, video.network.condition_channels) == (0, 0)
    assert (video.network.num_numbers, last.network.num_numbers) == (2, 3)
    assert video.network == replace(last.network, condition_channels=0, num_numbers=2)
    *_, ends = recipes_of((*STAGES[:2], "interpolation"), Settings(recipes={"video": {"network.width": 64}}))
    assert (ends.network.width, ends.network.condition_channels, ends.network.missing_size) == (64, 4, (8, 8))
    run_stage(
        Job(replace(tiny_stage.VIDEO, num_samples=80), filmed.uri),
        tmp_path / "video",
        lambda e: None,
        StopRequest(),
    )
    for recipe in (FIRST, ENDS):
        job = Job(replace(recipe, num_samples=8, lr=1e-12), filmed.uri, str(tmp_path / "video"))
        out = tmp_path / str(len(recipe.network.missing_size))
        run_stage(job, out, lambda event: None, StopRequest())
        before, after = (load_weights(path).tensors for path in (tmp_path / "video", out))
        name = "conv_in.weight"
        torch.testing.assert_close(after[name][:, :4], before[name], atol=1e-6, rtol=0)
        assert float(after[name][:, 4:].abs().max()) < 1e-6, "what is new begins with no say"


@pytest.mark.parametrize("network", ["svd-t2v", "latte-s-2", "stdit-xl-2"])
@pytest.mark.parametrize("stage", SHOWN)
def test_a_stage_of_shown_frames_refuses_a_network_that_is_shown_none(stage: str, network: str) -> None:
    settings = Settings(recipes={stage: {"network": network}})
    with pytest.raises(SettingsError, match=f"stage {stage} trains a network that is shown frames"):
        recipes_of((*STAGES[:2], stage), settings)
