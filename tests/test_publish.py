"""Weights go to diffusers and to Stability's layout and come back, and diffusers samples what we trained."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from models.autoencoder import Autoencoder, load_autoencoder
from models.conditioning import Conditioning
from models.counting import network_of
from models.edm import SVD
from models.guidance import guided_denoiser, linear, with_and_without_anything
from models.image_encoder import load_image_encoder
from models.networks import NETWORKS
from models.samplers import SAMPLERS
from models.unet_config import from_diffusers, to_diffusers
from models.video_unet import VideoUNet, VideoUNetConfig
from training.checkpoints import Weights, load_weights, save_weights
from training.imported import import_weights
from training.publish import export_diffusers, export_original
from training.sample_settings import Sampling
from training.trained import Trained
from warehouse.errors import WeightsError
from warehouse.run_folder import WEIGHTS

SMALL_TEMPORAL = {"down_block_types": ("DownEncoderBlock2D",) * 2, "block_out_channels": (32, 32)}
SMALL = {"width": 32, "multipliers": (1, 2), "attention": (True, False), "group_channels": 1}
IMAGES = replace(NETWORKS["sd21"].config, **SMALL, head_dim=8, text_dim=24)
VIDEO = replace(NETWORKS["svd-i2v"].config, **SMALL, head_dim=8, text_dim=24, number_dim=32)


def save_run(folder: Path, config: VideoUNetConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = VideoUNet(config)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.3 if parameter.ndim < 2 else 0.7 * parameter[0].numel() ** -0.5
            parameter += spread * torch.randn(parameter.shape)
    tensors = dict(network.state_dict())
    save_weights(folder / WEIGHTS, Weights(config, tensors, torch.zeros(255), {}))
    return tensors


def save_image_encoder(folder: Path) -> str:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, image_size=224, patch_size=56, projection_dim=24)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "name", [n for n, named in NETWORKS.items() if isinstance(named.config, VideoUNetConfig)]
)
def test_published_shapes_are_told_and_read_back(name: str) -> None:
    config = NETWORKS[name].config
    unlike = {"svd-interpolation": "missing_size", "pseudo3d": "pseudo3d, no numbers"}
    unlike["svd-t2v-unlabelled"] = "no numbers"
    if name in unlike:
        with pytest.raises(WeightsError, match=f"differ in {unlike[name]}$"):
            to_diffusers(config)
        return
    kind, settings = to_diffusers(config)
    assert from_diffusers({"_class_name": kind, **settings}) == config


def test_a_transformer_has_no_such_layout(tmp_path: Path) -> None:
    config = replace(NETWORKS["dit-s-2"].config, width=48, depth=1, num_heads=4)
    tensors = network_of(config).state_dict()
    (tmp_path / "run").mkdir()
    save_weights(tmp_path / "run" / WEIGHTS, Weights(config, tensors, torch.zeros(255), {}))
    for export in (export_diffusers, export_original):
        with pytest.raises(WeightsError, match="holds a diffusion transformer: expected a UNet"):
            export(tmp_path / "run", tmp_path / "out")


def test_stable_diffusion_1_tells_its_heads_by_one_number() -> None:
    config = NETWORKS["sd15-inpainting"].config
    kind, settings = to_diffusers(config)
    published = {**settings, "attention_head_dim": 8}
    del published["use_linear_projection"]  # which its file leaves out
    assert from_diffusers({"_class_name": kind, **published}) == config


OTHERS: dict[str, object] = {
    "norm_num_groups": 16,
    "norm_eps": 1e-3,
    "act_fn": "gelu",
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "center_input_sample": True,
    "downsample_padding": 0,
    "mid_block_scale_factor": 2.0,
    "time_embedding_act_fn": "silu",
    "timestep_post_act": "silu",
}


@torch.no_grad()
@pytest.mark.parametrize("name", OTHERS)
def test_settings_that_no_weight_shows_are_told_from_ours(name: str) -> None:
    """With them diffusers makes something else of the very same weights."""
    kind, settings = to_diffusers(IMAGES)
    usual, other = (UNet2DConditionModel(**settings, **more) for more in ({}, {name: OTHERS[name]}))
    generator = torch.Generator().manual_seed(0)
    for parameter in usual.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    other.load_state_dict(usual.state_dict())
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 24)
    assert (usual(*inputs).sample - other(*inputs).sample).abs().max() > 1e-4
    assert from_diffusers({**usual.config, "_class_name": kind}) == IMAGES
    with pytest.raises(WeightsError, match=f"differ in {name} {OTHERS[name]!r}$"):
        from_diffusers({**other.config, "_class_name": kind})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"block_out_channels": None}, "of no UNet2DConditionModel"),
        ({"block_out_channels": [0, 0]}, "of no UNet2DConditionModel"),
        ({"down_block_types": ...}, "lacks 'down_block_types'"),
        ({"layers_per_block": ...}, "lacks 'layers_per_block'"),
    ],
)
def test_a_damaged_config_is_named(changes: dict[str, object], expected: str) -> None:
    kind, settings = to_diffusers(IMAGES)
    told = {name: value for name, value in {**settings, **changes}.items() if value is not ...}
    with pytest.raises(WeightsError, match=expected):
        from_diffusers({"_class_name": kind, **told})


def pipeline_latents(folder: Path, picture: np.ndarray, noise_BTCHW: torch.Tensor) -> torch.Tensor:
    """What diffusers' pipeline for SVD makes of noise and a picture, in five steps, guided from 1 to 2.5."""
    pipeline = StableVideoDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    for name, module in pipeline.unet.named_modules():
        if isinstance(module, nn.GroupNorm) and "res_block" in name:
            module.eps = 1e-5  # diffusers has 1e-6 there
    height, width, _ = picture.shape
    return pipeline(
        Image.fromarray(picture),
        height=height,
        width=width,
        num_frames=noise_BTCHW.shape[1],
        num_inference_steps=5,
        min_guidance_scale=1.0,
        max_guidance_scale=2.5,
        fps=8,
        motion_bucket_id=100,
        noise_aug_strength=0.0,
        latents=noise_BTCHW,
        output_type="latent",
    ).frames


@torch.no_grad()
def test_diffusers_pipeline_samples_a_run_as_we_do(tmp_path: Path) -> None:
    save_run(tmp_path / "run", VIDEO)
    autoencoder = load_autoencoder("embedded")
    encoder = load_image_encoder(save_image_encoder(tmp_path / "clip"))
    assert (
        export_diffusers(tmp_path / "run", tmp_path / "out", autoencoder, encoder)
        == "StableVideoDiffusionPipeline"
    )
    picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    noise_BTCHW = torch.randn(1, 3, 4, 8, 12, generator=torch.Generator().manual_seed(2))
    theirs = pipeline_latents(tmp_path / "out", picture, noise_BTCHW)

    x_BCHW = torch.from_numpy(picture).movedim(-1, 0)[None] / 127.5 - 1
    told = Conditioning(
        encoder.encode(x_BCHW),
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([[7.0, 100.0, 0.0]]),  # the pipeline tells one frame a second less than it is told
        frames_BCTHW=autoencoder.encode(x_BCHW[:, None]).movedim(1, 2).expand(-1, -1, 3, -1, -1),
    )
    network = load_weights(tmp_path / "run").network()

    denoise = guided_denoiser(SVD, network, with_and_without_anything(told), [linear(1.0, 2.5, 3)])
    sigmas = Sampling(num_steps=5).following(Trained()).sigmas  # those that we sample such a run over
    first = noise_BTCHW.movedim(1, 2) * (float(sigmas[0]) ** 2 + 1) ** 0.5
    ours = SAMPLERS["euler"](denoise, first, sigmas, torch.randn_like)
    torch.testing.assert_close(ours.movedim(1, 2), theirs, atol=2e-4 * float(theirs.std()), rtol=0)


def test_a_pipeline_of_what_was_trained_on_captions_is_said_to_hear_something_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_run(tmp_path / "run", VIDEO)
    parts = load_autoencoder("embedded"), load_image_encoder(save_image_encoder(tmp_path / "clip"))
    export_diffusers(tmp_path / "run", tmp_path / "imported", *parts)
    assert not caplog.records
    weights = load_weights(tmp_path / "run")
    save_weights(tmp_path / "run" / WEIGHTS, replace(weights, origin={"encoding": {"fps": 8.0}}))
    export_diffusers(tmp_path / "run", tmp_path / "trained", *parts)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        f"{tmp_path / 'run'} was trained on captions"
    ]


def test_the_parts_stand_alone_where_diffusers_has_no_pipeline(tmp_path: Path) -> None:
    tensors = save_run(tmp_path / "run", IMAGES)
    assert export_diffusers(tmp_path / "run", tmp_path / "out") == "UNet2DConditionModel"
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")
    assert sum(p.numel() for p in unet.parameters()) == sum(v.numel() for v in tensors.values())
    scheduler = EulerDiscreteScheduler.from_pretrained(tmp_path / "out" / "scheduler")
    scheduler.set_timesteps(25)
    torch.testing.assert_close(scheduler.sigmas[:-1], Sampling().following(Trained()).sigmas[:-1].float())
    with pytest.raises(WeightsError, match="not empty"):
        export_diffusers(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize("config", [IMAGES, VIDEO], ids=["images", "video"])
def test_a_folder_of_diffusers_comes_back_as_it_was(tmp_path: Path, config: VideoUNetConfig) -> None:
    tensors = save_run(tmp_path / "run", config)
    export_diffusers(tmp_path / "run", tmp_path / "out", load_autoencoder("embedded"))
    assert import_weights(tmp_path / "out", tmp_path / "back").config == config
    again = load_weights(tmp_path / "back")
    assert again.tensors.keys() == tensors.keys()
    assert all(torch.equal(again.tensors[name], value) for name, value in tensors.items())
    with pytest.raises(WeightsError, match="has weights already"):
        import_weights(tmp_path / "out", tmp_path / "back")


def test_an_original_file_comes_back_and_holds_the_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = save_run(tmp_path / "run", VIDEO)
    named = replace(NETWORKS["svd-i2v"], config=VIDEO)
    monkeypatch.setitem(NETWORKS, "svd-i2v", named)
    scaled = Autoencoder(diffusers.AutoencoderKLTemporalDecoder(**SMALL_TEMPORAL, scaling_factor=0.3))
    whole = export_original(tmp_path / "run", tmp_path / "whole.safetensors", scaled)
    assert {name.split(".")[0] for name in load_file(whole)} == {"model", "first_stage_model"}
    assert load_autoencoder(str(whole)).scale_factor == 0.3
    made = import_weights(whole, tmp_path / "back", "svd-i2v")
    assert {name.rpartition(".")[2] for name in made.report.reshaped} == {"mix"}
    assert set(made.left) == {n for n in load_file(whole) if n.startswith("first_stage_model.")}
    again = load_weights(tmp_path / "back").tensors
    assert all(torch.equal(again[name], value) for name, value in tensors.items())
    torch.save({"state_dict": load_file(whole)}, tmp_path / "whole.ckpt")
    import_weights(tmp_path / "whole.ckpt", tmp_path / "more", "svd-i2v")
    with pytest.raises(WeightsError, match="does not tell its network"):
        import_weights(whole, tmp_path / "none")


def test_autoencoders_that_a_layout_has_no_place_for_are_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", VIDEO)
    wan = diffusers.AutoencoderKLWan(
        base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[0.5, 0.0, 0.0, 0.0], latents_std=[2.0] * 4
    )
    with pytest.raises(WeightsError, match="shifts its latents"):
        export_diffusers(tmp_path / "run", tmp_path / "out", Autoencoder(wan))
    tiny = Autoencoder(diffusers.AutoencoderTiny())
    encoder = load_image_encoder(save_image_encoder(tmp_path / "clip"))
    with pytest.raises(WeightsError, match="autoencoder: AutoencoderTiny, expected AutoencoderKL or"):
        export_diffusers(tmp_path / "run", tmp_path / "out", tiny, encoder)
    assert not (tmp_path / "out").exists()
    with pytest.raises(
        WeightsError, match=r"differ in group norms of 8 groups .* no attention in the middle"
    ):
        export_original(tmp_path / "run", tmp_path / "out.safetensors", load_autoencoder("embedded"))
    for other in (Autoencoder(wan), tiny):
        with pytest.raises(WeightsError, match=f"no names for a {other.kind}: expected AutoencoderKL or"):
            export_original(tmp_path / "run", tmp_path / "out.safetensors", other)


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", IMAGES)
    (tmp_path / "out").write_text("mine")
    with pytest.raises(WeightsError, match="out is a file; name a new folder"):
        export_diffusers(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_run(tmp_path / "run", IMAGES)

    def stop(self: EulerDiscreteScheduler, folder: Path) -> None:
        assert list(Path(folder).parent.glob("unet/*.safetensors")) and not (tmp_path / "out").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EulerDiscreteScheduler, "save_pretrained", stop)
        export_diffusers(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    (tmp_path / "out").mkdir()
    export_diffusers(tmp_path / "run", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"unet", "scheduler"}


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    save_run(tmp_path / "run", IMAGES)
    export_original(tmp_path / "run", tmp_path / "out.safetensors")
    before = (tmp_path / "out.safetensors").read_bytes()
    for there in (tmp_path / "out.safetensors", tmp_path):
        with pytest.raises(WeightsError, match="is there already; name a new file"):
            export_original(tmp_path / "run", there)
    assert (tmp_path / "out.safetensors").read_bytes() == before


def test_what_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_run(tmp_path / "demo", VideoUNetConfig())
    with pytest.raises(WeightsError, match=r"group norms of 8 groups.*pooled_text, text_mask"):
        export_diffusers(tmp_path / "demo", tmp_path / "out")
    with pytest.raises(
        WeightsError, match=r"Stability's code .*group norms of 8 groups.*pooled_text, text_mask"
    ):
        export_original(tmp_path / "demo", tmp_path / "out.safetensors")
    for name, change in {
        "norm_eps 1e-06": {"norm_eps": 1e-6},
        "text_mask": {"text_mask": True},
        "group norms of 4 groups": {"group_channels": 8},
    }.items():
        save_run(tmp_path / name, replace(VIDEO, **change))
        with pytest.raises(WeightsError, match=f"Stability's code and our networks differ in {name}"):
            export_original(tmp_path / name, tmp_path / "out.safetensors")
    monkeypatch.setitem(NETWORKS, "sd21", replace(NETWORKS["sd21"], config=IMAGES))
    save_run(tmp_path / "run", IMAGES)
    whole = load_file(export_original(tmp_path / "run", tmp_path / "whole.safetensors"))
    whole["model.diffusion_model.strange"] = torch.zeros(1)
    save_file(whole, tmp_path / "strange.safetensors")
    with pytest.raises(WeightsError, match=r"1 unexpected.*strange") as told:
        import_weights(tmp_path / "strange.safetensors", tmp_path / "back", "sd21")
    assert "strict" not in str(told.value)
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"x": Path("/")}, protocol=2))
    with pytest.raises(WeightsError, match="holds more than tensors") as told:
        import_weights(tmp_path / "evil.ckpt", tmp_path / "back", "sd21")
    assert "weights_only" not in str(told.value)
    with pytest.raises(WeightsError, match="nope is not there"):
        import_weights(tmp_path / "nope", tmp_path / "back")
    junk = {"empty": b"", "words": b"hello world", "cut": b"PK\x03\x04" + bytes(range(256))}
    for name, content in junk.items():
        (tmp_path / f"{name}.ckpt").write_bytes(content)
        with pytest.raises(
            WeightsError, match=r"cannot be read as weights: it is damaged, or no .* \(\w*Error"
        ):
            import_weights(tmp_path / f"{name}.ckpt", tmp_path / "back", "sd21")
    with pytest.raises(WeightsError, match=r"no config.json"):
        import_weights(tmp_path / "demo", tmp_path / "back")
    assert not (tmp_path / "back").exists()
