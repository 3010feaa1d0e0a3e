"""Windows over more frames than a network takes, on frames whose covariance is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.conditioning import Conditioning, frames_of
from models.edm import SVD, karras_sigmas, per_clip, per_frame
from models.given_frames import Given, telling
from models.guidance import FrameDenoiser, constant, guided_denoiser, linear, with_and_without_text
from models.samplers import heun, initial_latents
from models.windows import window_starts, window_weights, windowed, windowed_guidance
from tests.small_networks import SMALL_NETWORKS, inputs_of, randomised
from warehouse.errors import InputError

NEAR, HIGHEST, SIDE = 0.9, 20.0, 50
SIGMAS = karras_sigmas(30, 0.002, HIGHEST)


def ideal(index_T: Tensor) -> FrameDenoiser:
    """E[x0 | x] of neighbouring frames with correlation NEAR; it does not know where in the video it is."""
    count = torch.arange(len(index_T))
    covariance = NEAR ** (count[:, None] - count).abs().double()

    def denoise(x: Tensor, sigma: float, given_BT: Tensor | None = None) -> Tensor:
        assert x.shape[2] == len(index_T)
        level_T = torch.full((len(index_T),), sigma**2, dtype=torch.float64)
        if given_BT is not None:
            level_T = level_T.masked_fill(given_BT[0], 0.0)
        matrix = covariance @ torch.linalg.inv(covariance + torch.diag(level_T))
        return torch.einsum("st,bcthw->bcshw", matrix, x)

    return denoise


def first(num_frames: int) -> Tensor:
    return initial_latents(
        (1, 1, num_frames, SIDE, SIDE), HIGHEST, [torch.Generator().manual_seed(0)]
    ).double()


def steps(video: Tensor) -> Tensor:
    """Mean squared difference of each frame from the one before, the first from the last; 0.2 in true data."""
    return (video - video.roll(1, 2)).square().mean((0, 1, 3, 4))


def test_no_window_leaves_a_seam_where_they_overlap() -> None:
    """Everywhere within 20 percent of what data has; without overlap, frames at the seams know nothing of each other."""
    expected = 2 * (1 - NEAR)
    smooth = steps(heun(windowed(ideal, 40, 16, 8), first(40), SIGMAS))[1:]
    assert (smooth / expected - 1).abs().max() < 0.2
    torn = steps(heun(windowed(ideal, 48, 16, 0), first(48), SIGMAS))
    assert torn[[16, 32]].min() > 8 * expected
    assert torn[[8, 24, 40]].max() < 1.2 * expected


def test_a_loops_end_goes_on_at_its_beginning() -> None:
    """The last frame is as near to the first as neighbours are, also with windows as long as the loop."""
    expected = 2 * (1 - NEAR)
    for num_frames, window, overlap in ((32, 16, 8), (16, 16, 8), (20, 16, 6)):
        loop = steps(heun(windowed(ideal, num_frames, window, overlap, loop=True), first(num_frames), SIGMAS))
        assert loop[0] < 1.1 * loop[1:].max()
        assert (loop / expected - 1).abs().max() < 0.2
        straight = steps(heun(windowed(ideal, num_frames, window, overlap), first(num_frames), SIGMAS))
        assert straight[0] > 4 * expected


def test_windows_pass_on_which_frames_are_given() -> None:
    given = Given.none(first(24)).with_frames(0, 10, torch.full((1, 2, SIDE, SIDE), 2.0))
    denoise = telling(windowed(ideal, 24, 16, 8), given)
    made = given.kept(heun(denoise, given.start(first(24), HIGHEST), SIGMAS))
    assert (made[:, :, 10:12] == 2).all()
    mean = made.mean((0, 1, 3, 4))
    expected = 2 * NEAR ** torch.tensor([10 - i if i < 10 else max(0, i - 11) for i in range(24)]).double()
    assert (mean - expected).abs().max() < 0.15


def test_one_window_changes_nothing() -> None:
    x = first(16)
    torch.testing.assert_close(windowed(ideal, 16, 16, 4)(x, 2.0), ideal(torch.arange(16))(x, 2.0))


@pytest.mark.parametrize("loop", [False, True])
def test_every_window_is_told_its_own_frames(loop: bool) -> None:
    """A network that says what it is told of a frame says the same of it in all windows."""
    frames = torch.arange(11.0)
    marks = [frames % 2 == 0, frames % 3 == 0]
    told = Conditioning(
        torch.ones(2, 3, 4),
        torch.ones(2, 3) > 0,
        torch.zeros(2, 2),
        frames_BCTHW=frames[:, None, None].expand(2, 4, 11, 2, 2),
        image_only_BT=marks[0].expand(2, 11),
        shown_BT=marks[1].expand(2, 11),
    )

    def network(x: Tensor, _: Tensor, told: Conditioning) -> Tensor:
        assert x.shape[2] == 4
        said = told.frames_BCTHW + 100 * per_frame(told.image_only_BT) + 1000 * per_frame(told.shown_BT)
        return said + per_clip(told.text_BLD.mean((1, 2)), x)

    sides = with_and_without_text(told)
    weights = [linear(1.0, 3.0, 11)]
    x = torch.randn(2, 4, 11, 2, 2)
    found = windowed_guidance(SVD, network, sides, weights, 11, 4, 2, loop)(x, 2.0)
    level_B = torch.full((2,), 2.0)
    said = frames + 100 * marks[0] + 1000 * marks[1] + torch.linspace(1.0, 3.0, 11)
    without = sides[0].frames_BCTHW[0, 0, :, 0, 0]
    said = said + (without - frames) * (1 - torch.linspace(1.0, 3.0, 11))
    expected = SVD.compose(x, level_B, said[:, None, None].expand_as(x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("name", ["svd", "svd interpolation", "svd multi-view", "inpainting", "pseudo3d"])
def test_networks_with_frames_for_a_condition_take_them_in_windows(name: str) -> None:
    network, (x, _, told) = randomised(SMALL_NETWORKS[name].build()), inputs_of(name)
    longer = torch.tensor([0, 1, 2, 0, 1, 2, 1])
    x, told = x[:, :, longer], frames_of(told, longer)
    denoise = windowed_guidance(SVD, network, with_and_without_text(told), [constant(2.0)], 7, 3, 0)
    found = denoise(x, 2.0)
    alone = guided_denoiser(
        SVD, network, with_and_without_text(frames_of(told, torch.arange(3))), [constant(2.0)]
    )
    torch.testing.assert_close(found[:, :, :2], alone(x[:, :, :3], 2.0)[:, :, :2], rtol=1e-4, atol=1e-5)
    whole = guided_denoiser(SVD, network, with_and_without_text(told), [constant(2.0)])
    with pytest.raises(InputError, match="frames that join the input"):
        windowed(lambda _: whole, 7, 3, 0)(x, 2.0)


@pytest.mark.parametrize(
    ("num_frames", "window", "overlap"), [(40, 16, 8), (41, 16, 5), (17, 16, 0), (9, 4, 3)]
)
@pytest.mark.parametrize("loop", [False, True])
def test_windows_cover_all_frames_and_overlap(num_frames: int, window: int, overlap: int, loop: bool) -> None:
    starts = window_starts(num_frames, window, overlap, loop)
    ends = [start + window for start in starts]
    following = [*starts[1:], num_frames] if loop else starts[1:]
    assert all(end - start >= overlap for end, start in zip(ends, following, strict=False))
    assert starts[0] == 0 and (loop or ends[-1] == num_frames)
    told = []
    windowed(lambda index: told.append(index) or ideal(index), num_frames, window, overlap, loop)
    assert set(torch.cat(told).tolist()) == set(range(num_frames))


def test_weights_fall_towards_both_ends() -> None:
    weights = window_weights(6, 2)
    assert weights.tolist() == pytest.approx([0.1464, 0.8536, 1, 1, 0.8536, 0.1464], abs=1e-4)
    assert (weights[:2] + weights[-2:]).tolist() == pytest.approx([1, 1]), "two that overlap make one"
    assert window_weights(3, 0).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="windows of 16 frames that share 16 cannot cover 40"):
        window_starts(40, 16, 16, False)
    with pytest.raises(ValueError, match="windows of 16 frames that share 4 cannot cover 10"):
        window_starts(10, 16, 4, False)
