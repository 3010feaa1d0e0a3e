"""Networks refuse what they cannot take, by name, before they compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import inf, nan

import pytest
import torch
from torch import Tensor, nn

from models.conditioning import Conditioning
from models.counting import sample_inputs
from models.edm import SVD
from models.guidance import constant, guided_denoiser, with_and_without_text
from models.networks import NETWORKS, NetworkConfig, build
from models.transformers import DiffusionTransformer
from models.video_unet import VideoUNetConfig
from tests.small_networks import SMALL_NETWORKS, inputs_of, randomised
from warehouse.errors import InputError


def refused(name: str, message: str, x=None, time=None, **fields) -> None:
    """On the meta device, so that nothing can have been computed."""
    with torch.device("meta"):
        network = SMALL_NETWORKS[name].build()
    x_BCTHW, time_B, told = inputs_of(name)
    x_BCTHW = x_BCTHW if x is None else x(x_BCTHW)
    with pytest.raises(InputError, match=message):
        network(x_BCTHW, time_B if time is None else time, replace(told, **fields))


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_wrong_channels_are_refused(name):
    channels = inputs_of(name)[0].shape[1]
    refused(
        name,
        rf"input is of shape \(2, {channels - 1}, 3, 8, 8\), expected \(clips, {channels}, frames, height, width\)",
        lambda x: x[:, 1:],
    )


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_sizes_that_do_not_divide_are_refused(name):
    refused(name, "size of the input is 8 x 7, expected multiples of 2; crop", lambda x: x[..., :7])


@pytest.mark.parametrize("name", [name for name in SMALL_NETWORKS if SMALL_NETWORKS[name].config.text_dim])
def test_text_of_another_encoder_is_refused(name):
    text = r"text is of shape \(2, 5, 21\), expected \(2, tokens, 20\)"
    refused(name, text, text_BLD=torch.zeros(2, 5, 21))
    refused(name, r"mask of the text is of shape \(2, 4\), expected \(2, 5\)", mask_BL=torch.ones(2, 4) > 0)


def test_other_conditioning_is_refused():
    refused("svd", r"numbers is of shape \(2, 2\), expected \(2, 3\)", numbers_BN=torch.zeros(2, 2))
    refused("svd", r"frames that join the input is missing, expected \(2, 4, 3, 8, 8\)", frames_BCTHW=None)
    refused("svd", r"noise level is of shape \(1,\), expected \(2,\)", time=torch.zeros(1))
    refused("svd", r"noise level is of shape \(2, 4\), expected \(2, 3\)", time=torch.zeros(2, 4))
    refused("svd interpolation", r"shown_BT is missing, expected \(2, 3\)", shown_BT=None)
    refused("pseudo3d", "image_only_BT is given, expected None", image_only_BT=torch.ones(2, 3) > 0)
    refused("dit", r"label is of shape \(3,\), expected \(2,\)", label_B=torch.zeros(3))
    refused("pixart", r"size told is missing, expected \(2, 3\)", size_B3=None)
    per_second = r"numbers \(the first the frames per second\) is of shape \(2, 0\), expected \(2, numbers\)"
    refused("stdit3", per_second, numbers_BN=torch.zeros(2, 0))
    refused("latte", r"given_BT is of shape \(2, 4\), expected \(2, 3\)", given_BT=torch.ones(2, 4) > 0)


def test_an_interpolating_network_takes_the_size_that_it_learned():
    x_BCTHW, time_B, told = inputs_of("svd interpolation", side=4)
    with pytest.raises(InputError, match=r"size is \(4, 4\), expected \(8, 8\)"):
        SMALL_NETWORKS["svd interpolation"].build()(x_BCTHW, time_B, told)


def test_too_many_frames_are_refused():
    network = DiffusionTransformer(replace(SMALL_NETWORKS["latte"].config, max_frames=2))
    with pytest.raises(InputError, match="number of frames is 3, expected at most 2; give fewer"):
        network(*inputs_of("latte"))


Batch = tuple[Tensor, Tensor, Conditioning]
Change = Callable[[Tensor, Tensor, Conditioning], Batch]


@lru_cache(maxsize=1)
def published(name: str) -> nn.Module:
    """Without weights: nothing can be computed of a batch that has values."""
    return build(name, device="meta")


def of_input(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda x, time, told: (change(x), time, told)


def of_level(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda x, time, told: (x, change(time), told)


def of_told(**changes: Callable[[Tensor], Tensor | None]) -> Change:
    return lambda x, time, told: (
        x,
        time,
        replace(told, **{name: change(getattr(told, name)) for name, change in changes.items()}),
    )


def text(config: NetworkConfig) -> bool:
    return config.text_dim is not None


def numbers(config: NetworkConfig) -> bool:
    unet = isinstance(config, VideoUNetConfig)
    return config.num_numbers > 0 if unet else config.fps or config.num_frames


def joins(config: NetworkConfig) -> bool:
    return getattr(config, "condition_channels", 0) > 0


def classes(config: NetworkConfig) -> bool:
    return getattr(config, "num_classes", None) is not None


def told_size(config: NetworkConfig) -> bool:
    return getattr(config, "sizes", False)


def fills_in(config: NetworkConfig) -> bool:
    return bool(getattr(config, "missing_size", ()))


def every(config: NetworkConfig) -> bool:
    return True


CASES: dict[str, tuple[Callable[[NetworkConfig], bool], Change, str]] = {
    "a channel too few": (every, of_input(lambda x: x[:, 1:]), r"input is of shape .*, expected \(clips, "),
    "a picture": (every, of_input(lambda x: x[:, :, 0]), r"input is of shape .*, expected \(clips, "),
    "a vector": (every, of_input(lambda x: x[0, :, 0, 0, 0]), r"input is of shape .*, expected \(clips, "),
    "no clip": (every, of_input(lambda x: x[:0]), r"input is of shape \(0, .*, expected \(clips, "),
    "no frame": (every, of_input(lambda x: x[:, :, :0]), r"input is of shape .* 0, .*, expected \(clips, "),
    "no row": (every, of_input(lambda x: x[..., :0, :]), r"input is of shape .* 0, .*, expected \(clips, "),
    "an odd width": (every, of_input(lambda x: x[..., 1:]), "size of the input is .*, expected multiples of"),
    "double": (
        every,
        of_input(lambda x: x.double()),
        "type of the input is torch.float64, expected torch.float32",
    ),
    "bytes": (
        every,
        of_input(lambda x: x.byte()),
        "type of the input is torch.uint8, expected torch.float32",
    ),
    "levels for others": (
        every,
        of_level(lambda t: t.repeat(3)),
        r"noise level is of shape \(3,\), expected \(1,\)",
    ),
    "levels as whole numbers": (
        every,
        of_level(lambda t: t.long()),
        "type of the noise level is torch.int64",
    ),
    "a level of NaN": (
        every,
        of_level(lambda t: t + nan),
        r"noise level is \[nan\], expected finite numbers",
    ),
    "an infinite level": (
        every,
        of_level(lambda t: t - inf),
        r"noise level is \[-inf\], expected finite numbers",
    ),
    "no text": (text, of_told(text_BLD=lambda v: None), r"text is missing, expected \(1, tokens, "),
    "no token": (
        text,
        of_told(text_BLD=lambda v: v[:, :0]),
        r"text is of shape \(1, 0, .*expected \(1, tokens",
    ),
    "a narrow text": (
        text,
        of_told(text_BLD=lambda v: v[..., 1:]),
        r"text is of shape .*, expected \(1, tokens, ",
    ),
    "a text in half precision": (
        text,
        of_told(text_BLD=lambda v: v.half()),
        "type of the text is torch.float16",
    ),
    "no mask": (text, of_told(mask_BL=lambda v: None), "mask of the text is missing, expected"),
    "a mask of numbers": (
        text,
        of_told(mask_BL=lambda v: v.float()),
        "type of the mask of the text is torch.float32",
    ),
    "no numbers": (numbers, of_told(numbers_BN=lambda v: None), "numbers .*is missing, expected"),
    "no frames": (
        joins,
        of_told(frames_BCTHW=lambda v: None),
        "frames that join the input is missing, expected",
    ),
    "frames in double precision": (
        joins,
        of_told(frames_BCTHW=lambda v: v.double()),
        "type of the frames that join the input is torch.float64",
    ),
    "no label": (classes, of_told(label_B=lambda v: None), r"label is missing, expected \(1,\)"),
    "a class of others": (
        classes,
        of_told(label_B=lambda v: v + 1000),
        r"label is \[1000.0\], expected 0 to 999",
    ),
    "no size": (told_size, of_told(size_B3=lambda v: None), r"size told is missing, expected \(1, 3\)"),
    "not told what is shown": (fills_in, of_told(shown_BT=lambda v: None), "shown_BT is missing, expected"),
    "shown as numbers": (fills_in, of_told(shown_BT=lambda v: v.int()), "type of shown_BT is torch.int32"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_published_network_refuses_what_it_cannot_take(name: str) -> None:
    """The batch that it takes fails for want of weights alone; with one thing wrong it is refused before that."""
    network, named = published(name), NETWORKS[name]
    batch = sample_inputs(named.config, named.latent)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        network(*batch)
    for case, (asked, change, message) in CASES.items():
        if asked(named.config):
            with pytest.raises(InputError, match=message):
                network(*change(*batch))
                pytest.fail(f"{name} takes {case}")


@pytest.mark.parametrize("name", [n for n in NETWORKS if not isinstance(NETWORKS[n].config, VideoUNetConfig)])
def test_every_transformer_with_a_limit_refuses_more_frames(name: str) -> None:
    named = NETWORKS[name]
    limited = replace(named.config, depth=1, max_frames=2)
    with torch.device("meta"):
        network = DiffusionTransformer(limited)
    with pytest.raises(InputError, match="number of frames is 3, expected at most 2; give fewer"):
        network(*sample_inputs(limited, (3, *named.latent[1:])))


def test_types_are_free_where_autocast_casts_them():
    network = randomised(SMALL_NETWORKS["stdit"].build())
    x_BCTHW, time_B, told = inputs_of("stdit")
    told = replace(told, text_BLD=told.text_BLD.half())
    with torch.autocast("cpu", torch.bfloat16):
        assert network(x_BCTHW.bfloat16(), time_B, told).isfinite().all()
        with pytest.raises(
            InputError, match=r"type of the input is torch.int32, expected a floating point type"
        ):
            network(x_BCTHW.int(), time_B, told)
    half = nn.Module.to(network, torch.bfloat16)
    with pytest.raises(
        InputError, match=r"float32, expected torch.bfloat16, the type of the weights; cast it"
    ):
        half(x_BCTHW, time_B, told)


@pytest.mark.parametrize("sigma", [nan, inf, 0.0, -1.0])
def test_levels_that_no_clip_has_are_refused_on_every_device(sigma: float) -> None:
    with torch.device("meta"):
        network = SMALL_NETWORKS["svd"].build()
    x_BCTHW, _, told = inputs_of("svd")
    denoise = guided_denoiser(SVD, network, with_and_without_text(told), [constant(2.0)])
    with pytest.raises(InputError, match=r"noise level is .*, expected a finite number above 0"):
        denoise(x_BCTHW, sigma)
