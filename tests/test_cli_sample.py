"""`cutroom sample` on a tiny run: what its options make of the videos that it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from test_autoencoder import SMALL_COG, save_small
from test_cli import Run, run

from curation.pipeline import make_plan
from flows.settings import load_settings
from models.video_unet import VideoUNet, VideoUNetConfig
from training.checkpoints import Weights, load_weights, save_weights
from warehouse.run_folder import WEIGHTS
from warehouse.store import Store

__all__ = ["run"]
CONFIG = VideoUNetConfig(width=8, attention=(False, True), head_dim=8, text_dim=128, number_dim=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A warehouse, and a run whose network is random."""
    folder = tmp_path_factory.mktemp("sample")
    settings = load_settings({"warehouse": str(folder / "w")})
    make_plan(settings.curation()).save(Store(settings.warehouse))
    generator = torch.Generator().manual_seed(0)
    network = VideoUNet(CONFIG)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    origin = {"recipe": {"given": {"image_head": 0.5}}}
    (folder / "run").mkdir()
    save_weights(folder / "run" / WEIGHTS, Weights(CONFIG, network.state_dict(), torch.zeros(255), origin))
    return folder / "w", folder / "run"


@pytest.fixture(scope="module")
def orbits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random run that is shown the first frame and told an elevation."""
    config = replace(CONFIG, condition_channels=4, num_numbers=4)
    torch.manual_seed(0)
    network = VideoUNet(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    folder = tmp_path_factory.mktemp("orbits")
    save_weights(folder / WEIGHTS, Weights(config, network.state_dict(), torch.zeros(255), {}))
    return folder


def frames_of(path: str) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture
def sample(run: Run, trained: tuple[Path, Path], tmp_path: Path):
    """Frames of the videos that the command writes; what it says where it fails."""

    def call(*arguments: object):
        where = ("-w", trained[0], "--run", trained[1], "--output", tmp_path / "out", "--steps", 3, "--json")
        code, result = run("sample", *arguments, *where)
        if code:
            return str(result)
        assert len(result["prompts"]) == len(result["videos"])
        assert json.loads((tmp_path / "out" / "prompts.json").read_text()) == result["prompts"]
        return [frames_of(path) for path in result["videos"]]

    return call


def test_frames_are_given_kept_and_carried_on(sample, tmp_path: Path) -> None:
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    files = f"{tmp_path}/red.png;{tmp_path}/blue.png"
    (video,) = sample("a sea", "--reference", files, "--mask-strategy", "0;0,1,0,-1")
    assert video.shape == (8, 64, 64, 3)
    red, blue = video[0].mean((0, 1)), video[7].mean((0, 1))
    assert red[0] > red[2] + 80 and blue[2] > blue[0] + 80
    own = f'a sea {{"reference_path": "{tmp_path}/blue.png", "mask_strategy": "0"}}'
    other, plain = sample(own, "a sea", "--loops", 3, "--carry", 2)
    assert len(other) == len(plain) == 3 * (8 - 2) + 2
    assert other[0, ..., 2].mean() > other[0, ..., 0].mean() + 80
    assert np.abs(other[0].astype(int) - plain[0]).mean() > 20


def test_a_network_that_is_shown_a_picture_is_given_one_and_told_more(
    run: Run, trained: tuple[Path, Path], orbits: Path, tmp_path: Path
) -> None:
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    where = ("-w", trained[0], "--run", orbits, "--steps", 3, "--json", "--output", tmp_path / "out")

    def sample(*options: object):
        code, result = run("sample", "a sea", *options, *where)
        return frames_of(result["videos"][0]) if code == 0 else " ".join(str(result).split())

    shown = ("--reference", f"{tmp_path}/red.png", "--mask-strategy", "0")
    first = sample(*shown, "--elevation", 10)
    assert first.shape == (8, 64, 64, 3)
    for other in (
        ("--elevation", 30),
        ("--elevation", 10, "--augmentation", 0.9),
        ("--elevation", 10, "--motion-bucket", 3),
        ("--elevation", 10, "--sigma-max", 80),
        ("--elevation", 10, "--sigma-min", 0.3),
        ("--elevation", 10, "--reference", f"{tmp_path}/blue.png"),
    ):
        assert (sample(*shown, *other) != first).any(), other
    assert "elevation is None, expected degrees" in sample(*shown)
    assert "piece 0 is given none, expected 0 of the 8" in sample("--elevation", 10)
    assert "no image encoder at 'gone'" in sample(*shown, "--elevation", 10, "--image-encoder", "gone")


def test_longer_and_seamless_videos_have_their_length(sample) -> None:
    assert sample("a sea", "--frames", 13)[0].shape == (13, 64, 64, 3)
    assert sample("a sea", "--frames", 12, "--seamless", "--overlap", 2)[0].shape == (12, 64, 64, 3)
    assert sample("a sea", "--frames", 5)[0].shape == (5, 64, 64, 3)


@pytest.mark.parametrize(
    "options",
    [
        ("--guidance-end", 6),
        ("--guidance-end", 6, "--guidance-shape", "triangle"),
        ("--sampler", "kdpm2_ancestral"),
        ("--sampler", "pndm"),
    ],
)
def test_samplers_and_guidance_change_the_videos(sample, options: tuple) -> None:
    first, again = sample("a sea")[0], sample("a sea", *options)[0]
    assert first.shape == again.shape
    assert (first != again).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sampler", "plms"), "sampler is 'plms', expected one of euler"),
        (("--guidance-shape", "round"), "expected one of linear, triangle"),
        (("--mask-strategy", "0"), "reference_path names 0"),
        (("--reference", "gone.png", "--mask-strategy", "0"), "gone.png is not there"),
        (("--loops", 2, "--carry", 8), "carry is 8, expected fewer than the 8 latent frames"),
        (("--sampler", "pndm", "--repeats", 2), "steps of pndm cannot be repeated"),
        (("--seamless", "--loops", 2), "one loop where the video is seamless"),
    ],
)
def test_what_cannot_be_is_said(sample, options: tuple, message: str) -> None:
    assert message in " ".join(sample("a sea", *options).split())


def test_frames_that_an_autoencoder_does_not_take_are_named_with_their_setting(
    sample, tmp_path: Path
) -> None:
    save_small("AutoencoderKLCogVideoX", SMALL_COG, tmp_path / "cog")
    compressed = ("--set", f"encode.autoencoder={tmp_path}/cog")
    said = " ".join(sample("a sea", *compressed).split())
    assert (
        "encode.buckets: number of frames is 8, but a AutoencoderKLCogVideoX takes one and a multiple of 4"
        in said
    )
    nine = (*compressed, "--set", 'encode.buckets=["9x64x64"]')
    said = " ".join(sample("a sea", *nine, "--frames", 12).split())
    assert "frames: number of frames is 12" in said and "take 9 or 13" in said
    (video,) = sample("a sea", *nine, "--frames", 13)
    assert video.shape == (13, 64, 64, 3)


def test_nothing_but_earlier_samples_is_replaced(
    run: Run, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    where = ("-w", trained[0], "--run", trained[1], "--steps", 2, "--json")
    mine = tmp_path / "films"
    (mine / "sub").mkdir(parents=True)
    (mine / "prompts.json").write_text("mine")
    (mine / "thesis.txt").write_text("mine")
    for place in (mine, mine / "thesis.txt"):
        code, told = run("sample", "a red circle", "--output", place, *where)
        assert code == 2 and "name another folder" in str(told)
    assert (mine / "thesis.txt").read_text() == (mine / "prompts.json").read_text() == "mine"
    out = tmp_path / "out"
    for prompts in (("a red circle", "a blue star"), ("a green cross",)):
        code, _ = run("sample", *prompts, "--output", out, *where)
        assert code == 0
        assert len(list(out.glob("*.mp4"))) == len(prompts)
        (out / "001.mp4.tmp").write_bytes(b"left by a run that was killed")


def reborn(trained: tuple[Path, Path], folder: Path, **recipe: object) -> Path:
    """The run's weights, as those of another recipe."""
    own = load_weights(trained[1])
    folder.mkdir()
    save_weights(folder / WEIGHTS, replace(own, origin={"recipe": recipe}))
    return folder


def test_a_network_of_images_makes_one_frame_and_no_more(
    run: Run, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    images = reborn(trained, tmp_path / "run", single_frames=True)
    where = ("-w", trained[0], "--run", images, "--output", tmp_path / "out", "--steps", 2, "--json")
    code, result = run("sample", "a sea", *where)
    assert code == 0 and len(frames_of(result["videos"][0])) == 1
    code, said = run("sample", "a sea", "--frames", 4, *where)
    assert code == 2
    assert "4 frames are asked of a network that was trained on images alone" in " ".join(str(said).split())


def test_noise_levels_are_settings(run: Run, trained: tuple[Path, Path], tmp_path: Path) -> None:
    told: list[float] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: told.append(float(inputs[1][0])) if isinstance(module, VideoUNet) else None
    )

    def levels(folder: Path, *options: object) -> list[float]:
        told.clear()
        where = ("-w", trained[0], "--run", folder, "--output", tmp_path / "out", "--frames", 1, "--json")
        code, result = run("sample", "a sea", "--steps", 3, *options, *where)
        assert code == 0, result
        return list(told)

    try:
        edm = np.exp(np.array(levels(trained[1], "--sigma-max", 700, "--sigma-min", 0.002)) * 4)
        middle = ((700 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7  # EDM eq. 5
        assert edm == pytest.approx([700.0, middle, 0.002], rel=1e-3)
        steps = reborn(trained, tmp_path / "v", objective={"name": "v", "betas": "scaled_linear"})
        assert levels(steps) == pytest.approx([999, 666, 332], abs=0.6)
        assert levels(steps, "--spacing", "leading") == pytest.approx([666, 333, 0], abs=0.01)
        flow = reborn(trained, tmp_path / "flow", objective={"name": "flow", "size_shift": True})
        # Of one picture of 64 x 64 the shift is 1/8: t' = t / (8 - 7 t).
        assert levels(flow) == pytest.approx([1000, 1000 * 2 / 3 / (8 - 14 / 3), 1000 / 17], abs=0.01)
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--spacing", "trailing"), "spacing is trailing, but the weights' objective is edm"),
        (("--sigma-max", 0.001), "expected 0 < sigma_min < sigma_max"),
        (("--sampler", "iddpm"), "trained as edm, expected objective iddpm"),
        (("--frames-guidance", 2), "frames_guidance is 2.0, but no frames join the network's input"),
        (("--guided-channels", 5), "guided_channels is 5, expected 1 to the latents' 4"),
    ],
)
def test_what_the_weights_cannot_be_sampled_with_is_said(sample, options: tuple, message: str) -> None:
    assert message in " ".join(sample("a sea", *options).split())
