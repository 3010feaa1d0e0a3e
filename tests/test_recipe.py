"""Recipes, their settings, and the schedules that follow from them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from models.frame_masks import GivenRatios
from training.draws import draw
from training.ema import Ema, decay_at
from training.recipe import Recipe, parse_setting, with_settings
from training.recipes import RECIPES, recipe_from
from training.schedule import lr_factor
from warehouse.errors import SettingsError


def test_the_stages_are_these():
    assert list(RECIPES) == ["images", "video", "high_quality", "image_to_video", "interpolation"]
    for name, function in RECIPES.items():
        assert function().stage == name
        with pytest.raises(dataclasses.FrozenInstanceError):
            function().lr = 1.0
    shown = {"condition_channels": 0, "num_numbers": 2, "missing_size": ()}
    networks = {dataclasses.replace(r().network, temporal=True, **shown) for r in RECIPES.values()}
    assert len(networks) == 1, "each stage starts from the weights of the one before"


def test_settings_change_by_name_and_by_nesting():
    base = recipe_from("images")
    assert with_settings(base, {"lr": 1, "network.width": 64}).lr == 1.0
    assert with_settings(
        base, {"network": {"multipliers": [1, 2, 2], "attention": [True] * 3}}
    ).network.multipliers == (
        1,
        2,
        2,
    )
    assert with_settings(base, {"network.width": 16, "network.head_dim": 8}).network.head_dim == 8
    assert base == recipe_from("images")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1e-4}, "recipe has no setting 'learning_rate'; it has .*lr"),
        ({"network.depth": 3}, "recipe.network has no setting 'depth'"),
        ({"lr.high": 3}, "recipe.lr is a single value"),
        ({"network": 3}, "recipe.network is 3, expected its settings by name"),
        ({"lr": "fast"}, "recipe.lr is 'fast', expected float"),
        ({"batch_size": 8.5}, "recipe.batch_size is 8.5, expected int"),
        ({"single_frames": 1}, "recipe.single_frames is 1, expected bool"),
        ({"lr_decay": "slow"}, "recipe.lr_decay is 'slow', expected one of constant, linear, cosine"),
        ({"betas": [0.9]}, "recipe.betas is .*expected 2 values"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"log_every_steps": 0}, "log_every_steps is 0, expected at least 1"),
        ({"checkpoint_every_steps": 0}, "checkpoint_every_steps is 0, expected at least 1"),
        ({"evaluate_every_steps": -1}, "evaluate_every_steps is -1, expected at least 0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0, expected at least 1"),
        ({"shuffle_window": 0}, "shuffle_window is 0, expected at least 1"),
        ({"num_samples": 3}, "num_samples is 3, expected at least batch_size"),
        ({"network.temporal": True}, "single_frames is on, but network.temporal too"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, message):
    with pytest.raises(SettingsError, match=message):
        with_settings(recipe_from("images"), settings)


def test_command_line_settings():
    assert parse_setting("lr=1e-4") == ("lr", 1e-4)
    assert parse_setting("network.multipliers=[1, 2]") == ("network.multipliers", [1, 2])
    assert parse_setting("lr_decay=linear") == ("lr_decay", "linear")
    with pytest.raises(SettingsError, match="not name=value"):
        parse_setting("lr")


def test_a_recipe_survives_its_file_and_every_setting_is_in_its_digest(tmp_path):
    recipe = dataclasses.replace(recipe_from("video"), lr=0.123, betas=(0.5, 0.6))
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert recipe_from(str(tmp_path / "recipe.json")) == recipe
    plain = json.loads(recipe.to_json())
    assert set(plain) == {field.name for field in dataclasses.fields(Recipe)}
    assert (
        dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, width=64)).digest()
        != recipe.digest()
    )
    del plain["lr"]
    (tmp_path / "recipe.json").write_text(json.dumps(plain))
    with pytest.raises(SettingsError, match="lacks lr"):
        recipe_from(str(tmp_path / "recipe.json"))
    with pytest.raises(SettingsError, match="no recipe 'film'; there are images, video, high_quality"):
        recipe_from("film")


def test_learning_rate_rises_and_falls_in_closed_form():
    recipe = with_settings(
        recipe_from("images"),
        {"batch_size": 10, "num_samples": 1100, "warmup_samples": 100, "lr_decay": "linear"},
    )
    assert lr_factor(recipe, 0) == pytest.approx(1 / 11)
    assert lr_factor(recipe, 10) == 1
    assert lr_factor(recipe, 60) == pytest.approx(0.5)
    assert lr_factor(recipe, 110) == 0
    cosine = dataclasses.replace(recipe, lr_decay="cosine")
    assert lr_factor(cosine, 35) == pytest.approx(0.8535534)
    assert lr_factor(dataclasses.replace(recipe, lr_decay="constant"), 110) == 1


def test_average_equals_its_closed_form():
    layer = torch.nn.Linear(1, 1)
    layer.bias.requires_grad_(False)
    ema = Ema(layer, highest_decay=0.5)
    expected = layer.weight.item()
    for step in range(1, 20):
        with torch.no_grad():
            layer.weight.fill_(step**2)
        ema.update(layer)
        decay = min(0.5, (1 + step) / (10 + step))
        assert decay_at(step, 0.5) == decay
        expected = decay * expected + (1 - decay) * step**2
    weights = ema.weights(layer)
    assert weights["weight"].item() == pytest.approx(expected)
    assert weights["bias"] == layer.bias

    restored = Ema(layer, highest_decay=0.5)
    restored.load_state_dict(ema.state_dict())
    ema.update(layer), restored.update(layer)
    assert torch.equal(restored.averages["weight"], ema.averages["weight"])


def test_draws_depend_on_seed_and_position_and_not_on_ranks():
    changes = {"batch_size": 8, "text_dropout": 0.5, "given.image_head": 0.25, "given.random": 0.5}
    recipe = with_settings(recipe_from("video"), changes)
    shape = (8, 4, 5, 3, 3)
    whole = draw(recipe, 5, 0, shape)
    ranks = [draw(recipe, 5, rank, (2, *shape[1:])) for rank in range(4)]
    for name in vars(whole):
        assert torch.equal(torch.cat([getattr(each, name) for each in ranks]), getattr(whole, name))
    assert not torch.equal(draw(recipe, 6, 0, shape).noise_BCTHW, whole.noise_BCTHW)
    assert not torch.equal(draw(dataclasses.replace(recipe, seed=1), 5, 0, shape).sigma_B, whole.sigma_B)
    drops = torch.cat([draw(recipe, position, 0, shape).drop_B for position in range(200)])
    assert drops.float().mean().item() == pytest.approx(0.5, abs=0.05)
    plain = draw(dataclasses.replace(recipe, given=GivenRatios()), 5, 0, shape)
    assert plain.given_BT is None
    assert torch.equal(plain.noise_BCTHW, whole.noise_BCTHW)
    with pytest.raises(SettingsError, match="of a single frame nothing is left to make"):
        with_settings(recipe_from("images"), {"given.image_head": 0.25})
