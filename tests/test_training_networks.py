"""Every family of networks is trained by one setting in place of the video UNet, and sampled from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import packed
import pytest
import tiny_stage
import torch

from flows.settings import Settings
from flows.train import recipes_of
from models.autoencoder import load_autoencoder
from models.conditioning import Conditioning
from models.edm import per_clip
from models.learned_variance import hybrid_losses
from models.networks import NETWORKS
from models.transformers import DiffusionTransformer
from tests.test_sample import Letters
from training.checkpoints import Weights, load_weights, start_from
from training.encoders import Encoders
from training.job import Job
from training.objective import Name, Objective, prediction_of, training_losses
from training.pictures import write_video
from training.recipe import Recipe, with_settings
from training.recipes import RECIPES, recipe_from
from training.sample import sample_videos
from training.sample_settings import Sampling, VideoShape
from training.stage import run_stage
from training.stop import StopRequest
from warehouse.errors import SettingsError, WeightsError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning", "ignore:.*LeafSpec.*")

SMALL = {"network.width": 48, "network.depth": 4, "network.num_heads": 4, "network.patch": 1}
TEXT = {"network.text_dim": 6}
CASES = {
    ("stdit-xl-2", "iddpm"): SMALL | TEXT,
    ("stdit2-xl-2", "flow"): SMALL | TEXT,
    ("stdit3-xl-2", "flow"): SMALL | TEXT,
    ("pixart-xl-2-1024", "iddpm"): SMALL | TEXT,
    ("latte-xl-2", "iddpm"): SMALL,
    ("latte-t2v", "edm"): SMALL | TEXT,
    ("dit-xl-2", "edm"): SMALL,
    ("open-sora-plan-1.3", "flow"): SMALL | TEXT | {"network.in_channels": 4},
}
QUICK = (("stdit-xl-2", "iddpm"), ("open-sora-plan-1.3", "flow"))


def recipe(network: str, objective: str) -> Recipe:
    settings = {"network": network, "objective": objective, **CASES[network, objective]}
    more = {"num_samples": 8 * 16, "log_every_steps": 1, "evaluate_clips": 16}
    return with_settings(tiny_stage.VIDEO, settings | more)


@pytest.mark.parametrize(("tokens", "taken"), [(2, [0, 1]), (5, [0, 1, 2, 2, 2]), (0, [])])
def test_a_stage_takes_over_the_null_caption_at_its_own_length(tokens, taken) -> None:
    """Open-Sora 1.2 cuts PixArt's, or repeats its last token."""
    small = {"width": 48, "depth": 4, "num_heads": 4, "text_dim": 6}
    image = replace(NETWORKS["pixart-xl-2"].config, **small, null_tokens=3)
    video = replace(NETWORKS["stdit-xl-2"].config, **small, null_tokens=tokens)
    earlier, later = DiffusionTransformer(image), DiffusionTransformer(video)
    weights = Weights(image, earlier.state_dict(), torch.zeros(255), {})
    if not tokens:
        with pytest.raises(WeightsError, match="null_text"):
            start_from(later, weights)
        return
    start_from(later, weights)
    assert torch.equal(later.null_text, earlier.null_text[taken])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    """Latents of a small spread, of which an untrained network knows nothing and a trained one much."""
    folder = tmp_path_factory.mktemp("data") / "dataset"
    packed.write(folder, packed.rows(48, spread=0.3))
    return str(folder)


def train(job: Job, out: Path, stop_at: int | None = None) -> tuple[list[float], dict | None]:
    """Losses of the steps, and what the run reports; asked to stop in the step of a number, it reports nothing."""
    stop, losses = StopRequest(), []

    def heard(event: dict) -> None:
        if event["event"] == "step":
            losses.append(event["loss"])
            stop.received = event["step"] == stop_at

    return losses, run_stage(job, out, heard, stop)


@pytest.mark.parametrize(
    ("network", "objective"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.long) for case in CASES],
)
def test_a_family_learns_resumes_exactly_and_is_sampled_from(tmp_path, dataset, network, objective):
    job = Job(recipe(network, objective), dataset)
    losses, report = train(job, tmp_path / "whole")
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    missed, nothing_said = (sum(b[name] for b in report["held_out"]) for name in ("loss", "zero_loss"))
    assert missed < 0.9 * nothing_said
    first, nothing = train(job, tmp_path / "broken", stop_at=9)
    assert (len(first), nothing) == (9, None)
    again, _ = train(job, tmp_path / "broken")
    assert first + again == losses
    whole, broken = (load_weights(tmp_path / name) for name in ("whole", "broken"))
    assert all(torch.equal(broken.tensors[name], value) for name, value in whole.tensors.items())
    assert whole.config == job.recipe.network and whole.origin["recipe"]["objective"]["name"] == objective
    told = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: told.append(inputs[1]) if isinstance(module, DiffusionTransformer) else None
    )
    encoders, video = Encoders(load_autoencoder("embedded"), Letters()), VideoShape(4, 16, 16)

    def sample(prompts: list[str], **options: Any) -> np.ndarray:
        return sample_videos(tmp_path / "whole", prompts, encoders, video=video, sampling=Sampling(**options))

    frames = sample(["red", "blue"], num_steps=3)
    hook.remove()
    assert frames.std() > 1
    highest = {"edm": math.log(20.0) / 4, "flow": 1000.0, "iddpm": 999.0}[objective]
    assert told[0].tolist() == pytest.approx([highest] * 4, abs=2e-3), (
        "in the numbers that it was trained with"
    )
    own = {"flow": "rectified_flow", "iddpm": "iddpm"}.get(objective)
    if own:
        again = sample(["red"], num_steps=3, sampler=own)
        assert again.std() > 1 and not np.array_equal(again, frames[:1])
    for sampler in {"rectified_flow", "iddpm"} - {own}:
        with pytest.raises(SettingsError, match=f"trained as {objective}, expected objective"):
            sample(["red"], sampler=sampler)
    write_video(tmp_path / "out.mp4", frames[0], 8.0)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(list(container.decode(video=0))) == 4


def test_one_setting_names_the_network_and_others_change_it_further(tmp_path):
    named = with_settings(tiny_stage.VIDEO, {"network": "stdit3-xl-2"})
    assert named.network == NETWORKS["stdit3-xl-2"].config
    small = recipe("latte-xl-2", "iddpm")
    expected = replace(NETWORKS["latte-xl-2"].config, width=48, depth=4, num_heads=4, patch=1)
    assert small.network == expected
    for one in (named, small):
        (tmp_path / "recipe.json").write_text(one.to_json())
        assert recipe_from(str(tmp_path / "recipe.json")) == one
    again = with_settings(named, {"network.num_classes": 7, "network.text_dim": None}).network
    assert (again.num_classes, again.text_dim) == (7, None)
    assert with_settings(named, {"network": "svd-t2v"}).network == NETWORKS["svd-t2v"].config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "stdit"}, "recipe.network is 'stdit', expected one of sd21, .*stdit-xl-2"),
        ({"network": ["dit-xl-2"]}, "expected its settings by name, or the name of a network"),
        ({"network": "dit-xl-2", "network.blocks": 3}, "recipe.network has no setting 'blocks'"),
        ({"network": "dit-xl-2", "network.num_classes": "many"}, "num_classes is 'many', expected int"),
        (
            {"network": "dit-xl-2", "network.out_channels": 5},
            "out_channels is 5, expected .*4, or twice as many",
        ),
        (
            {"objective": "ddpm"},
            "objective.name is 'ddpm', expected one of edm, flow, epsilon, v, sample, iddpm",
        ),
        ({"objective": "iddpm"}, "objective is iddpm, whose network says a variance too"),
        (
            {"network": "stdit-xl-2", "objective": "iddpm", "given.image_head": 0.2},
            "objective is iddpm, but given has shares too",
        ),
    ],
)
def test_networks_and_objectives_that_cannot_be_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        with_settings(tiny_stage.VIDEO, settings)


def test_a_network_that_hears_another_text_is_told_what_to_set(tmp_path, dataset):
    wide = with_settings(recipe("stdit-xl-2", "iddpm"), {"network.text_dim": 7})
    with pytest.raises(
        SettingsError, match=r"network.in_channels and network.text_dim are \(4, 7\), but .* has \(4, 6\)"
    ):
        run_stage(Job(wide, dataset), tmp_path / "out", lambda event: None, StopRequest())


def test_stages_share_the_network_that_one_of_them_names():
    def chain(**recipes: dict) -> list[Recipe]:
        return recipes_of(("images", "video", "high_quality"), Settings(recipes=recipes))

    for stage in ("images", "video", "high_quality"):
        named = chain(**{stage: {"network": "stdit-xl-2", "objective": "iddpm"}})
        assert {one.network for one in named} == {NETWORKS["stdit-xl-2"].config}
        assert {one.objective for one in named} == {Objective("iddpm")}
    images, video, best = chain(video={"network.width": 64})
    assert (images.network.width, video.network.width, best.network.width) == (64, 64, 64)
    assert (images.network.temporal, video.network.temporal, best.network.temporal) == (False, True, True)
    images, video, best = chain(images={"network": "sd21"})
    assert video.network == best.network == replace(images.network, temporal=True)
    images, video, best = chain(images={"network": "pixart-xl-2"}, video={"network": "stdit-xl-2"})
    assert [one.network.temporal for one in (images, video, best)] == ["none", "sequential", "sequential"]
    assert chain() == [RECIPES[name]() for name in ("images", "video", "high_quality")]


@pytest.mark.long
def test_single_frames_hand_over_to_clips_in_the_same_network_and_objective(tmp_path, dataset):
    images = replace(recipe("pixart-xl-2-1024", "iddpm"), stage="images", single_frames=True, num_samples=16)
    images = with_settings(images, {"network.sizes": False})
    train(Job(images, dataset), tmp_path / "images")
    config = replace(images.network, temporal="sequential")
    video = replace(images, stage="video", single_frames=False, network=config, num_samples=8, lr=1e-12)
    train(Job(video, dataset, str(tmp_path / "images")), tmp_path / "video")
    before, after = (load_weights(tmp_path / name).tensors for name in ("images", "video"))
    assert all(torch.allclose(after[name], value, atol=1e-6) for name, value in before.items())
    assert any(".temporal." in name for name in after.keys() - before.keys())
    other = with_settings(video, {"objective": "flow"})
    with pytest.raises(
        SettingsError,
        match="objective is flow with betas linear, but the earlier weights were trained with iddpm",
    ):
        train(Job(other, dataset, str(tmp_path / "images")), tmp_path / "other")


CONFIG = NETWORKS["stdit-xl-2"].config
TOLD = Conditioning(torch.zeros(64, 1, 1), torch.ones(64, 1) > 0, torch.zeros(64, 2))


@pytest.mark.parametrize("name", get_args(Name))
def test_a_network_that_says_what_it_should_finds_the_data(name):
    """It has no loss but for its variance, and one that says nothing loses what it should have said."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 64, 4, 2, 3, 3, generator=generator)
    objective = Objective(name)
    sigma_B = objective.draw_sigmas(64, -0.4, 1.2, generator)
    preconditioning = objective.preconditioning
    target = preconditioning.target(x0, noise, sigma_B)

    def ideal(*_):
        return torch.cat([target, torch.ones_like(target)], dim=1)

    x = x0 + per_clip(sigma_B, x0) * noise
    clean = preconditioning.denoise(prediction_of(ideal, CONFIG), x, sigma_B, TOLD)
    torch.testing.assert_close(clean, x0, atol=2e-3, rtol=1e-3)
    losses_B = training_losses(objective, ideal, CONFIG, x0, noise, sigma_B, TOLD)
    silent_B = training_losses(objective, lambda *_: 0 * ideal(), CONFIG, x0, noise, sigma_B, TOLD)
    if name != "iddpm":
        assert losses_B.max() < 1e-10
        torch.testing.assert_close(silent_B, target.square().flatten(1).mean(1))


def test_steps_of_iddpm_are_drawn_alike_and_found_again_in_their_levels():
    objective = Objective("iddpm")
    steps = objective.steps
    sigma_B = objective.draw_sigmas(50_000, 0.0, 1.0, torch.Generator().manual_seed(0))
    step_B = steps.c_noise(sigma_B.double()).round().long()
    assert torch.equal(steps.sigmas[step_B].float(), sigma_B)
    assert (torch.bincount(step_B, minlength=1000) - 50).abs().max() < 5 * 50**0.5
    generator = torch.Generator().manual_seed(1)
    x0, noise, said = torch.randn(3, 64, 4, 2, 3, 3, generator=generator)

    def network(*_):
        return torch.cat([said, said.tanh()], dim=1)

    expected = hybrid_losses(steps, network, x0, noise, step_B[:64], TOLD)
    found = training_losses(objective, network, CONFIG, x0, noise, sigma_B[:64], TOLD)
    torch.testing.assert_close(found, expected)
