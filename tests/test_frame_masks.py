"""Frames that are given in training: which, how often, and what network and loss make of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_stage
import torch
from torch import Tensor

from models.blocks import BlockConfig, TemporalResBlock
from models.conditioning import Conditioning
from models.edm import SVD, Preconditioning, clip_losses, per_clip
from models.frame_masks import WAYS, GivenRatios, draw_given
from models.noise import Discrete, Flow, linear_betas, sigmas_of
from models.video_unet import VideoUNet, VideoUNetConfig
from training.checkpoints import load_weights
from training.data import TrainingClips
from training.module import LatentDiffusion
from training.stage import run_stage
from training.stop import StopRequest
from warehouse.errors import SettingsError
from warehouse.reader import PackedDataset

ALWAYS = {
    "image_head": {"x......."},
    "image_tail": {".......x"},
    "image_head_tail": {"x......x"},
    "loop": {"x......x"},
    "image_random": {"." * i + "x" + "." * (7 - i) for i in range(8)},
    "quarter_head": {"x.......", "xx......"},
    "quarter_tail": {".......x", "......xx"},
    "quarter_head_tail": {"x......x", "xx.....x", "x.....xx", "xx....xx"},
    "quarter_random": {"." * i + "x" * n + "." * (8 - n - i) for n in (1, 2) for i in range(9 - n)},
    "interpolate": {"x.x.x.x.", ".x.x.x.x"},
    "v2v_head": {"xxxx...."},
    "v2v_head_noisy": {"xxxx...."},
    "v2v_tail": {"....xxxx"},
}
TOLD = Conditioning(torch.zeros(2, 1, 1), torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 2))
GIVEN_BT = torch.tensor([[True, False, False], [False, False, False]])
KINDS: list[Preconditioning] = [SVD, Flow(), Discrete(sigmas_of(linear_betas()))]


def drawn(way: str, num_frames: int = 8, times: int = 400) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return draw_given(times, num_frames, GivenRatios(**{way: 1.0}), generator)[0]


@pytest.mark.parametrize("way", ALWAYS)
def test_each_way_gives_its_frames_and_all_of_its_forms(way: str) -> None:
    found = {"".join(".x"[int(one)] for one in given_T) for given_T in drawn(way)}
    assert found == ALWAYS[way]
    assert not way.startswith("quarter") or drawn(way, 12).sum(1).max() == (6 if "head_tail" in way else 3)


def test_random_frames_are_from_a_tenth_to_nine_tenths_and_half_on_average() -> None:
    share = drawn("random", 100).float().mean(1)
    assert share.mean().item() == pytest.approx(0.5, abs=0.03)
    assert share.std().item() == pytest.approx((0.8**2 / 12 + 0.0022) ** 0.5, abs=0.02)


def test_ways_come_in_their_shares_and_leave_something_to_make() -> None:
    ratios = GivenRatios(image_head=0.2, interpolate=0.3)
    given, _ = draw_given(4000, 8, ratios, torch.Generator().manual_seed(1))
    assert (given.sum(1) == 1).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (given.sum(1) == 4).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert (given.sum(1) == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    for way in WAYS:
        assert not drawn(way, 1).any(), "an image is given nothing"
        assert not drawn(way, 2).all(1).any()
    assert set(WAYS) == set(vars(GivenRatios()))
    again, _ = draw_given(4000, 8, ratios, torch.Generator().manual_seed(1))
    assert torch.equal(given, again)


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"sum to 1.2: expected none below 0 and a sum of at most 1"):
        GivenRatios(image_head=0.7, random=0.5)
    with pytest.raises(SettingsError, match="expected none below 0"):
        GivenRatios(loop=-0.1)


@pytest.mark.parametrize("preconditioning", KINDS)
def test_given_frames_go_in_clean_and_count_for_nothing(preconditioning: Preconditioning) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 4, 3, 5, 5, generator=generator, dtype=torch.float64)
    sigma_B = torch.tensor([3.0, 0.7], dtype=torch.float64)
    said = torch.randn(2, 4, 3, 5, 5, generator=generator, dtype=torch.float64).requires_grad_()
    seen: list[Tensor] = []

    def network(x: Tensor, c_noise: Tensor, told: Conditioning) -> Tensor:
        seen.extend((x, c_noise))
        return said

    losses = clip_losses(preconditioning, network, x0, noise, sigma_B, replace(TOLD, given_BT=GIVEN_BT))
    losses.sum().backward()
    error = (said - preconditioning.target(x0, noise, sigma_B)).detach().square()
    torch.testing.assert_close(losses[0].item(), error[0, :, 1:].mean().item(), rtol=1e-5, atol=0)
    torch.testing.assert_close(losses[1].item(), error[1].mean().item(), rtol=1e-5, atol=0)
    assert not said.grad[0, :, 0].any()
    x, told = seen
    level = torch.zeros((), dtype=torch.float64)
    assert torch.equal(x[0, :, 0], preconditioning.c_in(level) * x0[0, :, 0])
    noisy = per_clip(preconditioning.c_in(sigma_B), x0) * (x0 + per_clip(sigma_B, x0) * noise)
    torch.testing.assert_close(x[0, :, 1:], noisy[0, :, 1:])
    expected = preconditioning.c_noise(sigma_B)[:, None].repeat(1, 3)
    expected[0, 0] = preconditioning.c_noise(level + preconditioning.given_sigma)
    assert torch.equal(told, expected)
    assert told.isfinite().all()


def test_given_frames_are_in_the_answer_as_they_came() -> None:
    x, sigma_B = torch.randn(2, 4, 3, 5, 5), torch.tensor([3.0, 0.7])
    denoised = SVD.denoise(lambda x, *_: torch.sin(x), x, sigma_B, replace(TOLD, given_BT=GIVEN_BT))
    assert torch.equal(denoised[0, :, 0], x[0, :, 0])
    assert (denoised[:, :, 1:] != x[:, :, 1:]).all()


@torch.no_grad()
def test_the_unet_hears_a_level_for_each_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    network = VideoUNet(VideoUNetConfig(width=16, attention=(True, True), head_dim=8, text_dim=6)).eval()
    for parameter in network.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    x = torch.randn(2, 4, 3, 8, 8, generator=generator)
    told = Conditioning(torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 2))
    level_B = torch.tensor([0.3, -0.8])
    base = network(x, level_B, told)
    torch.testing.assert_close(network(x, level_B[:, None].repeat(1, 3), told), base)
    mixed = network(x, torch.tensor([[0.3, -1.5, 0.3], [-0.8] * 3]), told)
    torch.testing.assert_close(mixed[1], base[1])
    change = (mixed - base)[0].abs().mean((0, 2, 3))
    assert change[1] > 2 * change[0] > 0, "the frame of another level changes most"


@torch.no_grad()
def test_temporal_blocks_add_each_frame_its_own_level() -> None:
    """Where frames do not mix and nothing else comes in, the output goes round with the levels."""
    block = TemporalResBlock(BlockConfig(6, 4, 4, 1e-5, 4, True, "svd"), 8)
    block.conv_in.weight.zero_()
    torch.nn.init.dirac_(block.conv_out.weight)
    nothing, levels_BTE = torch.zeros(2, 8, 5, 3, 3), torch.randn(2, 5, 6)
    out = block(nothing, levels_BTE)
    torch.testing.assert_close(block(nothing, levels_BTE.roll(1, 1)), out.roll(1, 2))
    assert out.std(2).min() > 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning", "ignore:.*LeafSpec.*")
def test_a_stage_trains_with_given_frames_and_they_matter(tmp_path: Path) -> None:
    def trained(**changes: object) -> dict[str, Tensor]:
        job = tiny_stage.job(tmp_path, **changes)
        out = tmp_path / job.recipe.digest()
        run_stage(job, out, lambda event: None, StopRequest())
        return load_weights(out).tensors

    with_given = trained(num_samples=16, given=GivenRatios(image_head=0.5, interpolate=0.5))
    without = trained(num_samples=16)
    assert max((with_given[name] - without[name]).abs().max().item() for name in without) > 1e-4


@pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning", "ignore:.*LeafSpec.*")
def test_a_noisy_head_has_a_little_noise_of_which_the_network_is_not_told(tmp_path: Path) -> None:
    job = tiny_stage.job(tmp_path)
    dataset = PackedDataset.open(job.dataset)
    batch = next(iter(TrainingClips(dataset, job.recipe, 0, 0, 1)))
    half = batch.latents_BCTHW.shape[2] // 2
    assert half
    level_of_given = SVD.c_noise(torch.tensor(SVD.given_sigma))

    def on_given(way: str) -> Tensor:
        """What the network sees of the given frames more than they are, one row a clip."""
        recipe = replace(job.recipe, given=GivenRatios(**{way: 1.0}))
        module = LatentDiffusion(recipe, VideoUNet(tiny_stage.NETWORK), torch.zeros(255))
        seen: list[tuple[Tensor, Tensor]] = []
        module.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2]))
        found = []
        for position in range(40):
            module.training_step(replace(batch, position=position), 0)
            x, told = seen[-1]
            assert torch.equal(told[:, :half], level_of_given.expand(len(x), half))
            assert (told[:, half:] != level_of_given).all()
            found.append((x - batch.latents_BCTHW)[:, :, :half].flatten(1))
        return torch.cat(found)

    assert not on_given("v2v_head").any()
    levels = on_given("v2v_head_noisy").square().mean(1).sqrt().log()
    assert levels.mean().item() == pytest.approx(-3.0, abs=0.1)
    assert levels.std().item() == pytest.approx(0.5, abs=0.08)
