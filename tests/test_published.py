"""Weights of others, imported: what is known of them, and samples that equal those of diffusers' own pipelines."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_stage
import torch
from test_cli import Run, run
from test_publish import IMAGES, save_run
from test_text_encoder import save_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

from flows.sample import sample
from models.counting import network_of
from models.layouts import unet_diffusers
from models.networks import NETWORKS
from models.samplers import initial_latents
from models.unet_config import to_diffusers
from models.weight_names import write_weights
from training.checkpoints import Weights, load_weights, read_origin, save_weights
from training.draws import generator
from training.imported import import_weights
from training.objective import Objective
from training.publish import export_diffusers
from training.published import of_scheduler, trained_as
from training.sample_settings import Sampling
from training.stage import build
from training.trained import Levels, Trained
from warehouse.errors import WeightsError
from warehouse.reader import PackedDataset
from warehouse.run_folder import WEIGHTS

__all__ = ["run"]

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
V2 = {"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction", **SCALED}


def stable_diffusion(folder: Path, scheduler: Any, added: int = 0) -> Any:
    """A pipeline of random weights, saved to a folder; `added`: channels that join the input, as inpainting has."""
    config = replace(IMAGES, condition_channels=added)
    save_run(folder / "run", config)
    kind, settings = to_diffusers(config)
    unet = getattr(diffusers, kind)(**settings, sample_size=8)
    unet.load_state_dict(write_weights(load_weights(folder / "run").network(), unet_diffusers(config)))
    torch.manual_seed(1)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {
        "vocab_size": 32,
        "max_position_embeddings": 10,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "bos_token_id": 0,
    }
    tokenizer = save_tokenizer(folder / "tokenizer")
    tokenizer.model_max_length = 10
    vae = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=4,
        latent_channels=4,
    )
    made = diffusers.StableDiffusionInpaintPipeline if added else diffusers.StableDiffusionPipeline
    pipeline = made(
        vae=vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(**sizes, **words)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "pipeline")
    return pipeline


SCHEDULERS = {
    "v, leading": ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", "steps_offset": 1}),
    "epsilon, leading": ("EulerDiscreteScheduler", {"steps_offset": 1}),
    "zero SNR": (
        "DDIMScheduler",
        {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "steps_offset": 1,
        },
    ),
    "sample": ("DDIMScheduler", {"prediction_type": "sample", "steps_offset": 1}),
    "inpainting": ("EulerDiscreteScheduler", {"steps_offset": 1}),
}


@torch.no_grad()
def all_painted(vae: Any) -> dict[str, torch.Tensor]:
    """What the pipeline for inpainting is given where nothing is known."""
    grey_BCHW = vae.encode(torch.zeros(1, 3, 16, 24)).latent_dist.mode() * vae.config.scaling_factor
    picture = torch.zeros(1, 3, 16, 24)
    return {"image": picture, "mask_image": picture[:, :1] + 1, "masked_image_latents": grey_BCHW}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_folder_of_stable_diffusion_is_sampled_as_its_own_pipeline_does(
    run: Run, tmp_path: Path, kind: str
) -> None:
    inpainting = kind == "inpainting"
    name, settings = SCHEDULERS[kind]
    if name == "DDIMScheduler":
        settings = {"clip_sample": False, "set_alpha_to_one": True, **settings}
    settings = {"timestep_spacing": "leading", **SCALED, **settings}
    pipeline = stable_diffusion(tmp_path, getattr(diffusers, name)(**settings), 5 if inpainting else 0)
    code, said = run("import-weights", tmp_path / "pipeline", tmp_path / "imported", "--json")
    assert code == 0, said
    noise = initial_latents((1, 4, 1, 8, 12), 0.0, [generator("sample", 5)])[:, :, 0]
    painted = all_painted(pipeline.vae) if inpainting else {}
    prompt = "a red circle"  # of 5 steps, since of 6 diffusers' DDIM goes beside the levels that it visits
    their_options = {"height": 16, "width": 24, "num_inference_steps": 5, "guidance_scale": 4.0}
    theirs = pipeline(prompt, **their_options, **painted, latents=noise, output_type="np").images[0]
    encoders = {name: str(tmp_path / "pipeline") for name in ("autoencoder", "text_encoder")}
    subfolders = {"autoencoder_subfolder": "vae", "text_subfolder": "text_encoder"}
    subfolders |= {"tokenizer_subfolder": "tokenizer"}
    flags = {"encode": encoders | subfolders | {"buckets": ["8x16x24"]}}
    ours = sample(
        flags,
        prompts=[prompt],
        run=tmp_path / "imported",
        out=tmp_path / "out",
        seed=5,
        sampling=Sampling(num_steps=5, guidance=(4.0, 4.0)),
    ).frames_BTHWC
    assert ours.shape == (1, 1, 16, 24, 3) and theirs.std() > 0.05
    difference = np.abs(ours[0, 0].astype(float) - theirs * 255)
    assert difference.max() <= 0.5 + 0.05, "but for rounding to 8 bits"


def test_every_published_network_is_known_by_its_name() -> None:
    found = {name: trained_as(Path("file"), named.config, name) for name, named in NETWORKS.items()}
    assert {name for name, one in found.items() if one.single_frames} == {
        name for name, named in NETWORKS.items() if named.latent[0] == 1
    }
    said = {
        "svd-i2v": ("edm", "karras", 700.0),
        "sd21": ("v", "leading", 14.6146),
        "sd15-inpainting": ("epsilon", "leading", 14.6146),
        "dit-xl-2": ("iddpm", "linspace", 157.4072),
        "pixart-xl-2-512": ("iddpm", "linspace", 157.4072),
        "latte-t2v": ("iddpm", "linspace", 157.4072),
        "stdit2-xl-2": ("iddpm", "linspace", 157.4072),
    }
    for name, (objective, spacing, highest) in said.items():
        trained = found[name]
        assert (trained.objective.name, trained.levels.spacing) == (objective, spacing)
        assert float(trained.levels.sigmas(trained.objective)[0]) == pytest.approx(
            highest if spacing == "linspace" else {"edm": 700.0}.get(objective, 13.1204), rel=1e-4
        )
        assert trained.levels.sigma_max == pytest.approx(highest, rel=1e-4)
    assert found["stdit3-xl-2"].objective == Objective("flow", size_shift=True)
    assert found["open-sora-plan-1.3"].objective.zero_terminal_snr
    assert {one.fps_less for name, one in found.items() if name.startswith("svd")} == {1.0}
    for name, one in found.items():
        origin = json.loads(json.dumps({"trained": asdict(one)}))
        assert Trained.of(origin) == one, name


@pytest.mark.parametrize(
    ("changes", "name", "spacing"),
    [
        ({}, "v", "linspace"),
        ({"prediction_type": "epsilon", "timestep_spacing": "trailing"}, "epsilon", "trailing"),
        ({"_class_name": "DDIMScheduler"}, "v", "leading"),
        ({"use_karras_sigmas": True}, "v", "karras"),
        ({"timestep_type": "continuous"}, "edm", "karras"),
    ],
)
def test_a_scheduler_tells_objective_and_levels(changes: dict, name: str, spacing: str) -> None:
    trained = of_scheduler(V2 | changes, IMAGES)
    assert (trained.objective.name, trained.levels.spacing) == (name, spacing)
    transformer = of_scheduler({"beta_schedule": "linear"}, NETWORKS["dit-xl-2"].config)
    assert transformer.objective == Objective("iddpm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction_type": "flow_prediction"}, "prediction_type flow_prediction: expected one of epsilon"),
        ({"beta_end": 0.02}, "beta_start 0.00085, beta_end 0.02"),
        ({"num_train_timesteps": 500}, "num_train_timesteps 500"),
        ({"beta_schedule": "laplace"}, "beta_schedule laplace"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "EDMEulerScheduler"}, "_class_name EDMEulerScheduler"),
        ({"timestep_spacing": "foo"}, "timestep_spacing foo"),
    ],
)
def test_a_scheduler_that_no_objective_here_is_like_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        of_scheduler(V2 | changes, IMAGES)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_levels_are_those_of_the_steps_that_diffusers_visits(spacing: str) -> None:
    objective, offset = Objective("v", "scaled_linear"), int(spacing == "leading")
    settings = {**SCALED, "timestep_spacing": spacing, "steps_offset": offset}
    scheduler = diffusers.DDIMScheduler(**settings)
    for num_steps in (
        *range(2, 48),
        50,
        100,
        250,
        500,
    ):  # of 48 and 61, diffusers' own steps slip by rounding
        scheduler.set_timesteps(num_steps)
        found = Levels(spacing, num_steps, steps_offset=offset).sigmas(objective)[:-1]
        assert torch.equal(found, objective.steps.sigmas[scheduler.timesteps]), num_steps


def test_weights_that_do_not_tell_must_be_told_of(tmp_path: Path) -> None:
    save_run(tmp_path / "run", IMAGES)
    export_diffusers(tmp_path / "run", tmp_path / "pipeline")
    (tmp_path / "pipeline" / "unet").rename(tmp_path / "alone")
    with pytest.raises(WeightsError, match="alone does not tell what its network says of a noisy clip"):
        import_weights(tmp_path / "alone", tmp_path / "imported")
    with pytest.raises(WeightsError, match="objective is 'velocity', expected one of edm"):
        import_weights(tmp_path / "alone", tmp_path / "imported", objective="velocity")
    import_weights(tmp_path / "alone", tmp_path / "imported", objective="epsilon")
    trained = Trained.of(read_origin(tmp_path / "imported"))
    assert (trained.objective, trained.single_frames) == (Objective("epsilon", "scaled_linear"), True)


def test_a_stage_from_an_import_takes_the_datasets_edges_of_motion(tmp_path: Path) -> None:
    """Without any of its own, every clip that moves would be told bucket 255."""
    job = tiny_stage.job(tmp_path)
    dataset = PackedDataset.open(job.dataset)
    config = job.recipe.network
    own = build(job, dataset)
    origin = {"imported": "theirs", "trained": asdict(Trained())}
    (tmp_path / "imported").mkdir()
    tensors = own.network.state_dict()
    save_weights(tmp_path / "imported" / WEIGHTS, Weights(config, tensors, torch.zeros(255), origin))
    from_theirs = build(replace(job, init_from=str(tmp_path / "imported")), dataset)
    assert from_theirs.motion_edges.diff().max() > 0
    assert torch.equal(from_theirs.motion_edges, own.motion_edges)
    (tmp_path / "earlier").mkdir()
    edges = torch.linspace(0.5, 1.5, 255)
    save_weights(tmp_path / "earlier" / WEIGHTS, Weights(config, tensors, edges, {}))
    assert torch.equal(build(replace(job, init_from=str(tmp_path / "earlier")), dataset).motion_edges, edges)


def test_a_stage_from_an_import_is_sampled_over_its_levels_and_so_are_those_after_it(tmp_path: Path) -> None:
    """A network that SVD's authors trained up to 700 makes grey of noise that is said to be of 20."""
    job = tiny_stage.job(tmp_path)
    svd = Trained(Objective(), Levels("karras", 25, 0.002, 700.0), fps_less=1.0)
    tensors = build(job, PackedDataset.open(job.dataset)).network.state_dict()
    names = [tmp_path / name for name in ("imported", "first", "second")]
    origin: dict[str, Any] = {"imported": "theirs", "trained": asdict(svd)}
    for folder in names:
        save_weights(folder / WEIGHTS, Weights(job.recipe.network, tensors, torch.zeros(255), origin))
        origin = json.loads(json.dumps(replace(job, init_from=str(folder)).describe()))
        trained = Trained.of(origin)
        assert (trained.levels, trained.fps_less) == (svd.levels, 0.0)
    other = replace(job.recipe, objective=Objective("v"))
    assert replace(job, recipe=other, init_from=str(names[0])).describe()["levels"] is None
    assert Trained.of(job.describe()).levels == Levels()


def test_an_import_may_learn_another_objective_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = tiny_stage.job(tmp_path)
    dataset = PackedDataset.open(job.dataset)
    tensors = build(job, dataset).network.state_dict()
    for name in ("edm", "v"):
        origin = {"imported": "theirs", "trained": asdict(Trained(Objective(name)))}
        (tmp_path / name).mkdir()
        weights = Weights(job.recipe.network, tensors, torch.zeros(255), origin)
        save_weights(tmp_path / name / WEIGHTS, weights)
        build(replace(job, init_from=str(tmp_path / name)), dataset)
        said = "trained with objective v (betas linear) and go on with edm" in caplog.text
        assert said == (name == "v")


@pytest.mark.parametrize(
    "objective",
    [
        Objective(),
        Objective("epsilon", "scaled_linear"),
        Objective("v", "linear", zero_terminal_snr=True),
        Objective("sample", "cosine"),
    ],
    ids=str,
)
def test_what_is_exported_says_what_it_was_trained_to_say(tmp_path: Path, objective: Objective) -> None:
    """diffusers takes the scheduler, and reading it back gives the objective."""
    config = replace(NETWORKS["sd21"].config, width=32, group_channels=1, head_dim=8, text_dim=24)
    tensors = dict(network_of(config).state_dict())
    origin = {"recipe": {"objective": asdict(objective)}}
    save_weights(tmp_path / "run" / WEIGHTS, Weights(config, tensors, torch.zeros(255), origin))
    export_diffusers(tmp_path / "run", tmp_path / "out")
    diffusers.EulerDiscreteScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler").set_timesteps(4)
    import_weights(tmp_path / "out", tmp_path / "again")
    found = Trained.of(load_weights(tmp_path / "again").origin)
    assert found.objective == objective
    ends = [(trained.levels.sigma_min, trained.levels.sigma_max) for trained in (found, Trained.of(origin))]
    assert ends[0] == ends[1], "it is sampled there from the level that it is sampled from here"
    flow = origin | {"recipe": {"objective": asdict(Objective("flow"))}}
    save_weights(tmp_path / "run" / WEIGHTS, Weights(config, tensors, torch.zeros(255), flow))
    with pytest.raises(WeightsError, match="trained with objective flow, for which"):
        export_diffusers(tmp_path / "run", tmp_path / "flow")
