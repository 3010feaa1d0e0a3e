"""Sampling from networks that are shown frames: what they are shown and told, and what is refused."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.autoencoder import Autoencoder, load_autoencoder
from models.conditioning import Conditioning
from models.image_encoder import load_image_encoder
from models.samplers import initial_latents
from models.video_unet import VideoUNet, VideoUNetConfig
from tests.test_publish import VIDEO, pipeline_latents, save_image_encoder, save_run
from tests.test_sample import CONFIG, Letters
from training.checkpoints import Weights, load_weights, save_weights
from training.draws import generator
from training.encoders import Encoders
from training.imported import import_weights
from training.objective import Objective
from training.pictures import to_pixels
from training.publish import export_diffusers
from training.sample import TrainedNetwork, sample_latents, sample_videos
from training.sample_settings import Numbers, Sampling, VideoShape
from training.trained import TRAINED, Levels, Trained
from warehouse.errors import SettingsError
from warehouse.run_folder import WEIGHTS

FIRST = replace(CONFIG, condition_channels=4, num_numbers=3)
ENDS = replace(FIRST, missing_size=(2, 2))
ORBIT = replace(FIRST, num_numbers=4)
SMALL = VideoShape(4, 16, 16)
CLEAN = Numbers(augmentation=0.0)


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    """The embedded one, with a scale and a shift that it does not have by itself."""
    loaded = load_autoencoder("embedded")
    loaded.scale_factor, loaded.shift = 0.5, 1.0
    return loaded


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def pixels_of(path: Path) -> torch.Tensor:
    """(1, 1, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.asarray(Image.open(path)).copy()).movedim(-1, 0)[None, None] / 127.5 - 1


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory):
    """A run whose network is random, by its config."""

    def make(config: VideoUNetConfig) -> Path:
        folder = tmp_path_factory.mktemp("run")
        torch.manual_seed(0)
        network = VideoUNet(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
        save_weights(folder / WEIGHTS, Weights(config, network.state_dict(), torch.zeros(255), {}))
        return folder

    return make


@pytest.fixture
def told() -> list[Conditioning]:
    """What every network is told that is called in the test."""
    heard: list[Conditioning] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: heard.append(inputs[2]) if isinstance(module, VideoUNet) else None
    )
    yield heard
    hook.remove()


def asked(pictures: Path, strategy: str, names: str = "a", text: str = "red") -> str:
    files = ";".join(f"{pictures}/{name}.png" for name in names)
    return f'{text} {{"reference_path": "{files}", "mask_strategy": "{strategy}"}}'


@torch.no_grad()
def test_imported_weights_of_svd_are_sampled_as_diffusers_pipeline_samples_them(tmp_path: Path) -> None:
    save_run(tmp_path / "run", VIDEO)
    svd = Trained(Objective(), Levels("karras", 25, 0.002, 700.0), fps_less=1.0)
    weights = load_weights(tmp_path / "run")
    save_weights(tmp_path / "run" / WEIGHTS, replace(weights, origin={"trained": asdict(svd)}))
    autoencoder = load_autoencoder("embedded")
    encoder = load_image_encoder(save_image_encoder(tmp_path / "clip"))
    export_diffusers(tmp_path / "run", tmp_path / "svd", autoencoder, encoder)
    picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    noise = initial_latents((1, 4, 3, 8, 12), 0.0, [generator("sample", 7)])
    theirs = pipeline_latents(tmp_path / "svd", picture, noise.movedim(1, 2))

    import_weights(tmp_path / "svd", tmp_path / "imported")
    trained = Trained.of(load_weights(tmp_path / "imported").origin)
    assert trained == svd
    ours = sample_videos(
        tmp_path / "imported",
        [asked(tmp_path, "0", text="")],
        Encoders(
            load_autoencoder(str(tmp_path / "svd" / "vae")),
            Letters(),
            load_image_encoder(str(tmp_path / "svd"), subfolder="image_encoder"),
        ),
        video=VideoShape(3, 64, 96),
        numbers=Numbers(motion_bucket=100.0, augmentation=0.0),
        sampling=Sampling(num_steps=5, guidance=(1.0, 2.5)),
        seed=7,
    )
    expected = to_pixels(autoencoder.decode(theirs))
    assert expected.std() > 20
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_frames_and_text_are_followed_apart() -> None:
    """A network that says 1 of frames and 10 of text: 2 times the one and 3 times the other, where both count alone."""
    told_of = Conditioning(
        torch.ones(1, 2, 5),
        torch.ones(1, 2, dtype=torch.bool),
        torch.zeros(1, 3),
        frames_BCTHW=torch.ones(1, 4, 3, 2, 2),
    )

    def network(x, _, told):
        heard = told.frames_BCTHW.mean((1, 2, 3, 4)) + 10 * told.text_BLD.mean((1, 2))
        return torch.ones_like(x) * heard[:, None, None, None, None]

    def moved(**options) -> float:
        sampling = Sampling(num_steps=3, sampler="euler", **options)
        return float(sample_latents(TrainedNetwork(network), told_of, (4, 3, 2, 2), [0], sampling).mean())

    nothing = moved(guidance=(0.0, 0.0))
    both = moved(guidance=(1.0, 1.0)) - nothing
    apart = moved(guidance=(3.0, 3.0), frames_guidance=2.0) - nothing
    assert apart / both == pytest.approx((2 * 1 + 3 * 10) / 11, rel=1e-4)
    assert (moved(guidance=(3.0, 3.0)) - nothing) / both == pytest.approx(3.0, rel=1e-4)


@torch.no_grad()
def test_svds_weights_go_on_from_what_was_made_as_pixels(told, tmp_path, pictures, autoencoder) -> None:
    encoder = load_image_encoder(save_image_encoder(tmp_path / "clip"))
    origin = {"imported": "svd", TRAINED: {"fps_less": 1.0}}
    (tmp_path / "run").mkdir()
    save_weights(
        tmp_path / "run" / WEIGHTS, Weights(VIDEO, VideoUNet(VIDEO).state_dict(), torch.zeros(255), origin)
    )
    encoders, sampling = Encoders(autoencoder, Letters(), encoder), Sampling(num_steps=2, loops=2)
    with decoded(autoencoder) as made:
        prompts = [asked(pictures, "0")]
        sample_videos(tmp_path / "run", prompts, encoders, video=SMALL, numbers=CLEAN, sampling=sampling)
    picture, last = pixels_of(pictures / "a.png")[0], autoencoder.decode(made[-1][:, 3:4])[0].clamp(-1, 1)
    for heard, pixels in ((told[0], picture), (told[-1], last)):
        torch.testing.assert_close(heard.text_BLD[1], encoder.encode(pixels)[0])
        assert not heard.text_BLD[0].any() and heard.mask_BL.all()
        own = autoencoder.encode(pixels[None])[0, 0] / 0.5 + 1.0
        torch.testing.assert_close(heard.frames_BCTHW[1, :, 2], own)
    assert told[0].numbers_BN.tolist() == [[7.0, 127.0, 0.0]] * 2


@contextmanager
def decoded(autoencoder: Autoencoder):
    """What an autoencoder decodes."""
    made: list[torch.Tensor] = []
    plain = autoencoder.decode
    autoencoder.decode = lambda z_BTCHW: made.append(z_BTCHW) or plain(z_BTCHW)
    try:
        yield made
    finally:
        del autoencoder.decode


def test_a_network_is_shown_the_picture_unscaled_and_told_the_noise_on_it(
    told, run_of, pictures, autoencoder
) -> None:
    """On the side of guidance that is told nothing the frames are zeros, and the numbers stay."""
    own = ((autoencoder.encode(pixels_of(pictures / "a.png"))[0, 0]) / 0.5 + 1.0)[:, None]
    run, encoders = run_of(FIRST), Encoders(autoencoder, Letters())

    def sample(name: str, augmentation: float | None) -> np.ndarray:
        return sample_videos(
            run,
            [asked(pictures, "0", name)],
            encoders,
            video=SMALL,
            numbers=Numbers(100.0, augmentation),
            sampling=Sampling(num_steps=2),
        )

    clean = sample("a", 0.0)
    nothing, everything = told[0].frames_BCTHW
    torch.testing.assert_close(everything, own.expand(-1, 4, -1, -1))
    assert not nothing.any() and told[0].shown_BT is None
    assert told[0].text_BLD[1].any() and not told[0].text_BLD[0].any()
    assert told[0].numbers_BN.tolist() == [[8.0, 100.0, 0.0]] * 2
    told.clear()
    noisy = sample("a", 3.0)
    off = (told[0].frames_BCTHW[1] - own) * 0.5
    assert (off == off[:, :1]).all() and float(off[:, 0].std()) == pytest.approx(3.0, rel=0.4)
    assert told[0].numbers_BN[:, 2].tolist() == [3.0, 3.0]
    other = sample("b", 0.0)
    assert (clean != noisy).any() and (clean != other).any()
    told.clear()
    sample("a", None)
    assert told[0].numbers_BN[0, 2] == pytest.approx(0.02)


def test_samples_do_not_depend_on_those_beside_them(run_of, pictures, autoencoder) -> None:
    prompts = [asked(pictures, "0", name) for name in "aba"]

    def sample(these, seed, size):
        sampling = Sampling(num_steps=2, batch_size=size)
        options = {"seed": seed, "sampling": sampling, "numbers": Numbers(augmentation=1.0), "video": SMALL}
        return sample_videos(run, these, encoders, **options).astype(int)

    run, encoders = run_of(FIRST), Encoders(autoencoder, Letters())
    together = sample(prompts, 3, 3)
    assert np.abs(together - sample(prompts, 3, 2)).max() <= 1
    assert np.abs(together[1:2] - sample(prompts[1:2], 4, 1)).max() <= 1


def test_between_two_pictures_the_others_are_the_learned_one(told, run_of, pictures, autoencoder) -> None:
    own = [autoencoder.encode(pixels_of(pictures / f"{name}.png"))[0, 0] / 0.5 + 1.0 for name in "ab"]
    options = {"sampling": Sampling(num_steps=2, loops=2), "numbers": CLEAN, "video": SMALL}
    prompt = asked(pictures, "0;0,1,0,-1;1,0,0,-1", "ab")
    video = sample_videos(run_of(ENDS), [prompt], Encoders(autoencoder, Letters()), **options)
    assert video.shape == (1, 7, 16, 16, 3)
    first, second = told[0], told[-1]
    assert first.shown_BT.tolist() == [[True, False, False, True]] * 2
    for place, frame in zip((0, 3), own, strict=True):
        torch.testing.assert_close(first.frames_BCTHW[1, :, place], frame)
    torch.testing.assert_close(second.frames_BCTHW[1, :, 3], own[0], msg="the second piece ends in its own")
    head = second.frames_BCTHW[1, :, 0]
    assert (head != own[1]).any(), "and begins with what was made last, not with what was shown"


def test_a_piece_goes_on_from_the_last_frame_of_the_one_before(told, run_of, pictures, autoencoder) -> None:
    options = {"numbers": CLEAN, "video": SMALL}
    run, prompt, encoders = run_of(FIRST), asked(pictures, "0"), Encoders(autoencoder, Letters())
    with decoded(autoencoder) as made:
        for loops in (1, 2):
            sampling = Sampling(num_steps=2, loops=loops)
            sample_videos(run, [prompt], encoders, sampling=sampling, **options)
    last = made[0][0, -1] / 0.5 + 1.0
    torch.testing.assert_close(told[-1].frames_BCTHW[1, :, 0], last)
    assert made[1].shape[1] == 7


def test_the_elevation_is_the_fourth_number(told, run_of, pictures, autoencoder) -> None:
    options = {"sampling": Sampling(num_steps=2), "numbers": Numbers(elevation=15.0), "video": SMALL}
    sample_videos(run_of(ORBIT), [asked(pictures, "0")], Encoders(autoencoder, Letters()), **options)
    assert told[0].numbers_BN[0].tolist() == pytest.approx([8.0, 127.0, 0.02, 15.0])


@pytest.mark.parametrize(
    ("config", "strategy", "names", "options", "message"),
    [
        (
            FIRST,
            None,
            "",
            {},
            "piece 0 is given none, expected 0 of the 4.*a file with .* '0' as mask_strategy",
        ),
        (FIRST, "0,0,0,1", "a", {}, "piece 0 is given 1 from 1 on, expected 0 of the 4"),
        (FIRST, "0;0,0,0,-1", "a", {}, "given 1 from 0 on, 1 from 3 on, expected 0 of the 4"),
        (FIRST, "0,0,0,0,1,0.5", "a", {}, "without an edit ratio"),
        (ENDS, "0", "a", {}, "given 1 from 0 on, expected 0 and 3 of the 4.*two files .* '0;0,1,0,-1'"),
        (
            ENDS,
            "0;0,1,0,-1",
            "ab",
            {"video": replace(SMALL, height_px=32)},
            r"size of \(4, 2\), but the network was trained for \(2, 2\)",
        ),
        (
            ENDS,
            "0;0,1,0,-1",
            "ab",
            {"video": replace(SMALL, num_frames=2)},
            "2 latent frames, expected more than the 2",
        ),
        (FIRST, "0", "a", {"sampling": Sampling(loops=2, carry=2)}, "carry is 2, expected 1"),
        (
            FIRST,
            "0",
            "a",
            {"numbers": Numbers(augmentation=-0.1)},
            "augmentation is -0.1, expected 0 or more",
        ),
        (
            CONFIG,
            None,
            "",
            {"numbers": Numbers(augmentation=0.1)},
            "augmentation is 0.1, .* for a network that is shown frames",
        ),
        (FIRST, "0", "a", {"numbers": Numbers(elevation=3.0)}, "elevation is 3.0, expected none"),
        (ORBIT, "0", "a", {}, "elevation is None, expected degrees"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(
    told, run_of, pictures, autoencoder, config, strategy, names, options, message
) -> None:
    prompt = "red" if strategy is None else asked(pictures, strategy, names)
    encoders = Encoders(autoencoder, Letters())
    with pytest.raises(SettingsError, match=message):
        sample_videos(run_of(config), [prompt], encoders, **{"video": SMALL, **options})
    assert told == []


def test_imported_weights_ask_for_the_encoder_of_what_they_hear_and_others_refuse_it(
    tmp_path: Path, run_of, pictures, autoencoder
) -> None:
    save_weights(
        tmp_path / WEIGHTS,
        Weights(VIDEO, VideoUNet(VIDEO).state_dict(), torch.zeros(255), {"imported": "svd"}),
    )
    with pytest.raises(SettingsError, match="hears a picture in place of text: name its image encoder"):
        sample_videos(tmp_path, [asked(tmp_path, "0")], Encoders(autoencoder, Letters()), video=SMALL)
    encoder = load_image_encoder(save_image_encoder(tmp_path / "clip"))
    with pytest.raises(
        SettingsError, match="an image encoder is named, but the network hears text: leave it"
    ):
        encoders = Encoders(autoencoder, Letters(), encoder)
        sample_videos(run_of(FIRST), [asked(pictures, "0")], encoders, video=SMALL)
