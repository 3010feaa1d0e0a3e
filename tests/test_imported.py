"""Transformers that diffusers or their authors saved become runs; a name that contradicts the source is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flows.cli_weights import import_weights as command
from models import layouts
from models.autoencoder import load_autoencoder
from models.networks import NETWORKS
from models.transformers import DiffusionTransformer, TransformerConfig
from models.weight_names import write_weights
from tests.test_sample import Letters
from tests.test_transformers import inputs, randomised
from training.checkpoints import load_weights
from training.encoders import Encoders
from training.imported import import_weights
from training.objective import Objective
from training.sample import sample_videos
from training.sample_settings import Sampling, VideoShape
from training.trained import Trained
from warehouse.errors import WeightsError

COMMON = {
    "num_attention_heads": 4,
    "attention_head_dim": 12,
    "sample_size": 8,
    "out_channels": 8,
    "norm_eps": 1e-6,
}
SINGLE = {"cross_attention_dim": 48, "caption_channels": 20}
SMALL = {"width": 48, "depth": 4, "num_heads": 4}
LATENT = (3, 8, 8)


def dit() -> nn.Module:
    network = randomised(diffusers.DiTTransformer2DModel(**COMMON, num_layers=4, num_embeds_ada_norm=7))
    first = network.transformer_blocks[0].norm1.emb.state_dict()
    for block in network.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return network


def pixart() -> nn.Module:
    scaled = {"interpolation_scale": 2, "use_additional_conditions": True}
    return randomised(diffusers.PixArtTransformer2DModel(**COMMON, **SINGLE, **scaled, num_layers=4))


def latte() -> nn.Module:
    single = {
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "activation_fn": "gelu-approximate",
    }
    more = {"in_channels": 4, "patch_size": 2, "attention_bias": True, "num_embeds_ada_norm": 1000}
    return randomised(
        diffusers.LatteTransformer3DModel(**COMMON, **SINGLE, **single, **more, num_layers=2, video_length=3)
    )


@torch.no_grad()
def said_by(theirs: nn.Module) -> tuple[Tensor, Tensor]:
    """What diffusers' network says of a clip, and what the imported one is to say: both (B, out, T, H, W)."""
    video = isinstance(theirs, diffusers.LatteTransformer3DModel)
    x_BCTHW, time_B, told = inputs(num_frames=3 if video else 1)
    told = replace(told, mask_BL=torch.ones_like(told.mask_BL))
    if video:
        return theirs(x_BCTHW, time_B, told.text_BLD).sample
    if isinstance(theirs, diffusers.DiTTransformer2DModel):
        return theirs(x_BCTHW[:, :, 0], time_B, torch.tensor([3, 7])).sample[:, :, None]
    added = {"resolution": told.size_B3[:, :2], "aspect_ratio": told.size_B3[:, 2:]}
    return theirs(x_BCTHW[:, :, 0], told.text_BLD, time_B, added).sample[:, :, None]


@torch.no_grad()
@pytest.mark.parametrize("make", [dit, pixart, latte])
@pytest.mark.parametrize("earlier", [False, True], ids=["own class", "Transformer2DModel"])
def test_a_folder_of_diffusers_is_what_it_computes(
    tmp_path: Path, make: Callable[[], nn.Module], earlier: bool
) -> None:
    theirs = make()
    theirs.save_pretrained(tmp_path / "pipeline" / "transformer")
    if earlier and make is not latte:
        told = tmp_path / "pipeline" / "transformer" / "config.json"
        settings = json.loads(told.read_text()) | {"_class_name": "Transformer2DModel"}
        told.write_text(json.dumps(settings))
    made = import_weights(tmp_path / "pipeline", tmp_path / "run")
    assert made.report.missing == made.report.unexpected == made.report.reshaped == ()
    assert (len(made.report.passed) > 0) == (make is dit), "the copies of its embedding"
    weights = load_weights(tmp_path / "run")
    trained = Trained.of(weights.origin)
    assert weights.config == made.config and trained.objective == Objective("iddpm")
    assert trained.single_frames == (make is not latte)
    x_BCTHW, time_B, told = inputs(num_frames=3 if make is latte else 1)
    told = replace(told, mask_BL=torch.ones_like(told.mask_BL))
    found = weights.network()(x_BCTHW, time_B, told)
    assert (found - said_by(theirs)).abs().max() < 1e-5
    assert found.std() > 0.1


def small(monkeypatch: pytest.MonkeyPatch, name: str, **more: object) -> TransformerConfig:
    """A named network made small."""
    config = replace(NETWORKS[name].config, **SMALL, **more)
    monkeypatch.setitem(NETWORKS, name, replace(NETWORKS[name], config=config))
    return config


ORIGINALS = {
    "dit-xl-2": ("dit_original", "state_dict", {"num_classes": 7}, "iddpm"),
    "latte-xl-2": ("dit_original", "ema", {}, "iddpm"),
    "pixart-xl-2": ("pixart_original", "state_dict", {"text_dim": 20}, "iddpm"),
    "stdit-xl-2": ("pixart_original", None, {"text_dim": 20}, "iddpm"),
    "stdit2-xl-2": ("pixart_original", None, {"text_dim": 20}, "iddpm"),
    "stdit3-xl-2": ("stdit3_original", None, {"text_dim": 20}, "flow"),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_authors_files_are_read_by_the_networks_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    layout, held, more, objective = ORIGINALS[name]
    config = small(monkeypatch, name, **more)
    if config.null_tokens:
        config = replace(config, null_tokens=6)  # the file tells it, not the name
    if name == "latte-xl-2":
        config = replace(config, num_classes=5)  # as of one that was trained with classes
    network = randomised(DiffusionTransformer(config))
    file = write_weights(network, getattr(layouts, layout)(config), LATENT)
    if held is None:
        save_file(file, tmp_path / "theirs.safetensors")
    else:
        other = {"state_dict": {"nothing": torch.zeros(1)}} if held == "ema" else {"epoch": 3}
        torch.save({**other, held: file}, tmp_path / "theirs.safetensors.pt")
        (tmp_path / "theirs.safetensors.pt").rename(tmp_path / "theirs.pth")
    source = next(tmp_path.glob("theirs.*"))
    made = import_weights(source, tmp_path / "run", name)
    assert (made.config, made.layout) == (config, layout)
    fixed = {"rope.freqs"} if config.rotary == "time" else {"pos_embed"}
    assert fixed <= set(made.report.passed)
    weights = load_weights(tmp_path / "run")
    trained = Trained.of(weights.origin)
    assert weights.origin["imported"] == source.name and trained.objective.name == objective
    assert trained.empty_text == (not config.null_tokens), (
        "a network that has a caption for none is told that"
    )
    assert all(torch.equal(weights.tensors[n], value) for n, value in network.state_dict().items())


def test_imported_weights_are_sampled_by_their_own_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(monkeypatch, "stdit3-xl-2", text_dim=6, patch=1)
    network = randomised(DiffusionTransformer(config))
    save_file(write_weights(network, layouts.stdit3_original(config), LATENT), tmp_path / "a.safetensors")
    import_weights(tmp_path / "a.safetensors", tmp_path / "run", "stdit3-xl-2")
    told = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: told.append(inputs[1]) if isinstance(module, DiffusionTransformer) else None
    )
    encoders = Encoders(load_autoencoder(), Letters())
    frames = sample_videos(
        tmp_path / "run", ["a"], encoders, video=VideoShape(2), sampling=Sampling(num_steps=2)
    )
    hook.remove()
    shift = (64 * 64 / 512**2 * 2) ** 0.5  # Open-Sora 1.2's, of two frames
    halfway = 1000 * shift * 0.5 / (1 + (shift - 1) * 0.5)
    assert [float(one[0]) for one in told] == pytest.approx([1000, halfway], rel=1e-4)
    assert frames.shape == (1, 2, 64, 64, 3)


def test_a_name_that_contradicts_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixart().save_pretrained(tmp_path / "pixart")
    with pytest.raises(
        WeightsError, match=r"is not of pixart-xl-2: width 48, expected 1152; depth 4, .*sizes True"
    ):
        import_weights(tmp_path / "pixart", tmp_path / "run", "pixart-xl-2")
    with pytest.raises(WeightsError, match="holds a TransformerConfig, but svd-i2v is a VideoUNetConfig"):
        import_weights(tmp_path / "pixart", tmp_path / "run", "svd-i2v")
    with pytest.raises(WeightsError, match="there is no network 'pixart'"):
        import_weights(tmp_path / "pixart", tmp_path / "run", "pixart")
    assert not (tmp_path / "run").exists()
    same = {"text_dim": 20, "position_scale": 2.0, "position_base": 4}
    small(monkeypatch, "pixart-xl-2-1024", **same)
    assert import_weights(tmp_path / "pixart", tmp_path / "run", "pixart-xl-2-1024").config.sizes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"activation_fn": "geglu"}, "differ in activation_fn 'geglu'"),
        ({"norm_eps": 1e-5}, "differ in norm_eps 1e-05"),
        ({"num_layers": None}, "lacks 'num_layers'"),
        ({"_class_name": "FluxTransformer2DModel"}, "of a FluxTransformer2DModel: expected"),
        ({"sample_size": [8, 16]}, "of no PixArtTransformer2DModel"),
        ({"num_attention_heads": "4"}, "of no PixArtTransformer2DModel"),
    ],
)
def test_settings_that_no_network_here_has_are_named(
    tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    pixart().save_pretrained(tmp_path / "pixart")
    told = tmp_path / "pixart" / "config.json"
    settings = {n: v for n, v in (json.loads(told.read_text()) | changes).items() if v is not None}
    told.write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match=expected):
        import_weights(tmp_path / "pixart", tmp_path / "run")


def test_a_config_that_is_no_object_is_refused(tmp_path: Path) -> None:
    pixart().save_pretrained(tmp_path / "pixart")
    (tmp_path / "pixart" / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"config.json of list: expected settings by name"):
        import_weights(tmp_path / "pixart", tmp_path / "run")


def test_the_command_says_what_did_not_go_one_to_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(monkeypatch, "stdit-xl-2", text_dim=20)
    file = write_weights(DiffusionTransformer(config), layouts.pixart_original(config), LATENT)
    save_file(file, tmp_path / "stdit.safetensors")
    command(tmp_path / "stdit.safetensors", tmp_path / "run", "stdit-xl-2")
    told = capsys.readouterr().out
    assert "1 held with axes of length 1 more or less, and reshaped: patches.weight\n" in told
    assert "2 computed here, or a copy, and passed over: pos_embed, pos_embed_temporal\n" in told
    command(tmp_path / "stdit.safetensors", tmp_path / "again", "stdit-xl-2", json=True)
    result = json.loads(capsys.readouterr().out)
    assert result["passed_over"] == ["pos_embed", "pos_embed_temporal"] and result["left"] == []
