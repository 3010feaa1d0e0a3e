"""Objectives as settings of a recipe: what is drawn, weighed and refused, beside diffusers and closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_stage
import torch

from models.autoencoder import load_autoencoder
from models.conditioning import Conditioning
from models.noise import shifted
from models.video_unet import VideoUNet
from tests.test_sample import Letters
from training.checkpoints import load_weights
from training.data import dataset_motion_edges, held_out_batches
from training.draws import draw
from training.encoders import Encoders
from training.module import LatentDiffusion
from training.objective import Objective, training_losses
from training.recipe import with_settings
from training.recipes import recipe_from
from training.sample import sample_videos
from training.sample_settings import Sampling, VideoShape
from training.stage import run_stage
from training.stop import StopRequest
from training.trained import Levels, Trained
from warehouse.errors import SettingsError
from warehouse.reader import PackedDataset

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning", "ignore:.*LeafSpec.*")

THEIR_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
RANGES = {"scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012}}
STEPS = {
    "objective": "v",
    "objective.betas": "scaled_linear",
    "objective.zero_terminal_snr": True,
    "objective.min_snr": 5,
    "objective.offset_noise": 0.1,
}
TOLD = Conditioning(torch.zeros(16, 1, 1), torch.ones(16, 1) > 0, torch.zeros(16, 2))


def theirs(objective: Objective, kind: str = "DDIMScheduler", **more: Any) -> Any:
    betas = {"beta_schedule": THEIR_BETAS[objective.betas], **RANGES.get(objective.betas, {})}
    return getattr(diffusers, kind)(**betas, rescale_betas_zero_snr=objective.zero_terminal_snr, **more)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("betas", THEIR_BETAS)
def test_steps_have_the_noise_of_diffusers_schedules(betas: Any, zero: bool) -> None:
    objective = Objective("v", betas, zero)
    kept = 1 / (1 + objective.steps.sigmas.square())
    expected = theirs(objective).alphas_cumprod.double()
    torch.testing.assert_close(kept[:-1], expected[:-1], rtol=2e-3, atol=1e-7)
    assert (kept[-1] == 0) == zero
    assert (objective.steps.sigmas.diff() > 0).all()


def test_a_recipe_has_all_of_it_and_a_file_gives_it_back(tmp_path: Path) -> None:
    recipe = with_settings(recipe_from("video"), STEPS)
    assert recipe.objective == Objective("v", "scaled_linear", True, 5.0, 0.1)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert recipe_from(str(tmp_path / "recipe.json")) == recipe
    flow = {"objective": "flow", "objective.times": "uniform", "objective.size_shift": True}
    assert with_settings(recipe, {**flow, "objective.betas": "linear"} | _off()).objective == Objective(
        "flow", times="uniform", size_shift=True
    )


def _off() -> dict[str, Any]:
    return {"objective.zero_terminal_snr": False, "objective.min_snr": None, "objective.offset_noise": 0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"objective": "epsilon", "objective.zero_terminal_snr": True},
            "a name among v and sample: where no",
        ),
        ({"objective.zero_terminal_snr": True}, "zero_terminal_snr is True, but objective.name edm"),
        ({"objective.betas": "cosine"}, "betas is cosine, but objective.name edm: expected linear"),
        ({"objective": "flow", "objective.min_snr": 5.0}, "a name among epsilon, v and sample"),
        ({"objective": "v", "objective.times": "uniform"}, "times is uniform, but objective.name v"),
        ({"objective.size_shift": True}, "size_shift is True, but objective.name edm"),
        ({"objective": "v", "objective.min_snr": 0}, "min_snr is 0.0, expected none or above 0"),
        ({"objective.offset_noise": -0.1}, "offset_noise is -0.1, expected 0 or more"),
        ({"objective.gamma": 5}, "recipe.objective has no setting 'gamma'"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_setting(settings: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        with_settings(recipe_from("video"), settings)


@pytest.mark.parametrize("name", ["epsilon", "v", "sample"])
def test_min_snr_weighs_the_error_of_the_data_up_to_gamma(name: Any) -> None:
    """An error e of the data is e SNR ** 0.5 of the noise; by the data the weight is min(SNR, gamma) whatever is said."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 16, 4, 2, 3, 3, generator=generator)
    objective = Objective(name, min_snr=5.0)
    sigma_B = objective.draw_sigmas(16, 0.0, 1.0, generator)
    precondition = objective.preconditioning
    wrong = precondition.target(x0, noise, sigma_B) + torch.randn(x0.shape, generator=generator)
    losses_B = training_losses(objective, lambda *_: wrong, tiny_stage.NETWORK, x0, noise, sigma_B, TOLD)
    x = x0 + sigma_B[:, None, None, None, None] * noise
    error_B = (precondition.compose(x.double(), sigma_B.double(), wrong.double()) - x0).square()
    expected = sigma_B.double().pow(-2).clamp(max=5.0) * error_B.flatten(1).mean(1)
    torch.testing.assert_close(losses_B.double(), expected, rtol=2e-3, atol=1e-5)
    assert (sigma_B**-2 > 5).any() and (sigma_B**-2 < 5).any()


def test_offset_noise_is_one_number_a_channel_whatever_the_ranks() -> None:
    shape = (8, 4, 5, 16, 16)
    plain = with_settings(recipe_from("video"), {"batch_size": 8})
    recipe = with_settings(plain, {"objective.offset_noise": 0.5})
    offset = [draw(recipe, i, 0, shape).noise_BCTHW - draw(plain, i, 0, shape).noise_BCTHW for i in range(8)]
    each = torch.cat(offset)
    assert each.flatten(2).std(-1).max() < 1e-5
    numbers = each[:, :, 0, 0, 0]
    assert numbers.std().item() == pytest.approx(0.5, abs=0.1) and abs(numbers.mean().item()) < 0.1
    assert len(numbers.unique()) == numbers.numel()
    ranks = [draw(recipe, 3, rank, (2, *shape[1:])).noise_BCTHW for rank in range(4)]
    assert torch.equal(torch.cat(ranks), draw(recipe, 3, 0, shape).noise_BCTHW)


def test_uniform_times_are_uniform_before_they_are_shifted() -> None:
    def times(p_mean: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        sigma_B = Objective("flow", times="uniform").draw_sigmas(1000, p_mean, 1.0, generator)
        return (sigma_B / (1 + sigma_B)).sort().values

    assert (times(0.0) - (torch.arange(1000) + 0.5) / 1000).abs().max() <= 0.0005 + 1e-6
    torch.testing.assert_close(times(np.log(3.0)), shifted(times(0.0), 3.0), atol=1e-6, rtol=1e-5)


def test_a_larger_clip_gets_more_noise_in_the_step_itself(tmp_path: Path) -> None:
    """Open-Sora 1.2: r = (height width / 512^2)^0.5 frames^0.5, t' = r t / (1 + (r - 1) t)."""
    job = tiny_stage.job(tmp_path, objective=Objective("flow"))
    dataset = PackedDataset.open(job.dataset)
    batch = held_out_batches(dataset, replace(job.recipe, evaluate_clips=8))[0]
    told: list[torch.Tensor] = []

    def times(objective: Objective) -> torch.Tensor:
        recipe = replace(job.recipe, objective=objective, batch_size=len(batch.clip_ids))
        module = LatentDiffusion(recipe, VideoUNet(tiny_stage.NETWORK), dataset_motion_edges(dataset))
        module.network.register_forward_pre_hook(lambda _, inputs: told.append(inputs[1]))
        assert torch.isfinite(module.training_step(batch, 0))
        return told[-1] / 1000

    plain, larger = times(Objective("flow")), times(Objective("flow", size_shift=True))
    height, width, _ = batch.size_B3[0].tolist()
    ratio = (height * width / 512**2 * batch.latents_BCTHW.shape[2]) ** 0.5
    assert abs(ratio - 1) > 0.5
    torch.testing.assert_close(larger, ratio * plain / (1 + (ratio - 1) * plain), rtol=1e-4, atol=1e-5)


def test_a_stage_with_all_of_the_settings_learns_and_is_sampled_from_its_last_step(tmp_path: Path) -> None:
    recipe = with_settings(tiny_stage.VIDEO, STEPS)
    losses: list[float] = []

    def heard(event: dict) -> None:
        losses.extend([event["loss"]] if event["event"] == "step" else [])

    run_stage(tiny_stage.job(tmp_path, recipe), tmp_path / "run", heard, StopRequest())
    assert np.isfinite(losses).all()
    assert Trained.of(load_weights(tmp_path / "run").origin).objective == recipe.objective
    told: list[torch.Tensor] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: told.append(inputs[1]) if isinstance(module, VideoUNet) else None
    )
    encoders, sampling = Encoders(load_autoencoder("embedded"), Letters()), Sampling(num_steps=4)
    sample_videos(tmp_path / "run", ["red"], encoders, video=VideoShape(3, 16, 16), sampling=sampling)
    hook.remove()
    found = [float(one[0]) for one in told]
    assert found == pytest.approx([999, 749, 499, 249], abs=1e-3), (
        "as Lin et al. 2023 say, from the last step"
    )


@pytest.mark.parametrize("num_steps", [7, 25, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_levels_are_those_of_diffusers_spacings(spacing: Any, num_steps: int) -> None:
    objective = Objective("v", "scaled_linear")
    scheduler = theirs(objective, timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(num_steps)
    levels = Levels(spacing, num_steps, steps_offset=1)
    steps = objective.steps.c_noise(levels.sigmas(objective)[:-1])
    assert steps.round().long().tolist() == scheduler.timesteps.tolist()


def test_spacings_that_the_weights_do_not_have_are_refused() -> None:
    with pytest.raises(SettingsError, match="spacing is trailing, but the weights' objective is edm"):
        Levels("trailing").sigmas(Objective())
    with pytest.raises(SettingsError, match="spacing is times, but the weights' objective is v"):
        Levels("times").sigmas(Objective("v"))
    with pytest.raises(SettingsError, match="num_steps is 1001, expected at most 1000"):
        Levels("linspace", 1001).sigmas(Objective("v"))
