"""Text dropout and motion buckets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.conditioning import (
    Conditioning,
    draw_dropout,
    drop_frames,
    drop_text,
    frames_of,
    motion_bucket,
    motion_edges,
    stack,
    without_frames,
    without_text,
)
from warehouse.errors import InputError


def conditioning(num_clips=4):
    text_BLD = torch.arange(1, num_clips + 1.0)[:, None, None].expand(-1, 3, 5)
    mask_BL = torch.tensor([[True, True, False]]).expand(num_clips, -1)
    numbers_BN = torch.arange(2.0 * num_clips).reshape(num_clips, 2)
    label_B, size_B3 = torch.arange(num_clips).float(), torch.ones(num_clips, 3)
    frames_BCTHW = torch.arange(1, num_clips + 1.0)[:, None, None, None, None].expand(-1, 4, 2, 3, 3)
    image_only_BT = torch.zeros(num_clips, 2).bool()
    marks = (image_only_BT, ~image_only_BT, ~image_only_BT)
    fields = (text_BLD, mask_BL, numbers_BN, label_B, size_B3, frames_BCTHW, *marks)
    return Conditioning(*fields)


def test_dropping_touches_the_dropped_clips_and_their_text_alone():
    before = conditioning()
    after = drop_text(before, torch.tensor([False, True, False, True]))
    assert torch.equal(after.text_BLD[[0, 2]], before.text_BLD[[0, 2]])
    assert torch.equal(after.mask_BL[[0, 2]], before.mask_BL[[0, 2]])
    assert not after.text_BLD[[1, 3]].any()
    assert after.mask_BL[[1, 3]].all()
    assert torch.equal(after.numbers_BN, before.numbers_BN)
    for name in ("frames_BCTHW", "shown_BT", "given_BT", "image_only_BT", "size_B3"):
        assert torch.equal(getattr(after, name), getattr(before, name)), name


def test_frames_are_dropped_of_the_dropped_clips_alone():
    before = conditioning()
    after = drop_frames(before, torch.tensor([False, True, False, True]))
    assert torch.equal(after.frames_BCTHW[[0, 2]], before.frames_BCTHW[[0, 2]])
    assert not after.frames_BCTHW[[1, 3]].any()
    assert replace(after, frames_BCTHW=before.frames_BCTHW) == before
    assert without_frames(replace(before, frames_BCTHW=None)).frames_BCTHW is None


def test_the_null_of_training_is_the_null_of_sampling():
    dropped, unconditional = (
        drop_text(conditioning(2), torch.tensor([True, True])),
        without_text(conditioning(2)),
    )
    assert dropped.label_B.isnan().all()
    for pair in zip(vars(dropped).values(), vars(unconditional).values(), strict=True):
        assert torch.allclose(*pair, rtol=0, atol=0, equal_nan=True)


def test_dropout_has_its_rate_and_is_fixed_by_its_generator():
    drawn = draw_dropout(20_000, 0.15, torch.Generator().manual_seed(0))
    assert drawn.float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert torch.equal(drawn, draw_dropout(20_000, 0.15, torch.Generator().manual_seed(0)))
    assert not draw_dropout(100, 0.0, torch.Generator().manual_seed(0)).any()
    assert draw_dropout(100, 1.0, torch.Generator().manual_seed(0)).all()


def test_stack_keeps_the_order():
    both = stack(conditioning(2), without_text(conditioning(2)))
    assert both.text_BLD[:, 0, 0].tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(
    "name", ["frames_BCTHW", "label_B", "size_B3", "given_BT", "shown_BT", "image_only_BT"]
)
def test_batches_are_not_stacked_where_one_lacks_what_the_other_has(name):
    whole, less = conditioning(2), replace(conditioning(2), **{name: None})
    for pair in ((whole, less), (less, whole)):
        with pytest.raises(
            InputError, match=rf"{name} of the clips .* missing.*, expected the same in both; give it"
        ):
            stack(*pair)
    assert getattr(stack(less, less), name) is None
    other = replace(whole, text_BLD=torch.ones(2, 4, 5), mask_BL=torch.ones(2, 4) > 0)
    with pytest.raises(InputError, match=r"text_BLD .* is \(3, 5\) and \(4, 5\), expected the same"):
        stack(whole, other)


def test_some_frames_are_chosen_of_all_that_goes_by_frames():
    told, index_T = conditioning(2), torch.tensor([1, 0, 1])
    marked = replace(told, given_BT=torch.tensor([[True, False], [False, True]]))
    some = frames_of(marked, index_T)
    assert some.given_BT.tolist() == [[False, True, False], [True, False, True]]
    assert torch.equal(some.frames_BCTHW, told.frames_BCTHW[:, :, index_T])
    assert some.image_only_BT.shape == some.shown_BT.shape == (2, 3)
    for name in ("text_BLD", "mask_BL", "numbers_BN", "label_B", "size_B3"):
        assert getattr(some, name) is getattr(told, name)
    assert frames_of(replace(told, frames_BCTHW=None), index_T).frames_BCTHW is None


def test_motion_buckets_are_quantile_ranks():
    scores = torch.rand(5000, generator=torch.Generator().manual_seed(0)) ** 3
    edges = motion_edges(scores)
    buckets = motion_bucket(scores, edges)
    assert buckets.min() == 0
    assert buckets.max() == 255
    assert torch.bincount(buckets.long(), minlength=256).max() <= 21
    assert buckets[scores.argsort()].diff().min() >= 0
    assert motion_bucket(torch.tensor([torch.nan, -1.0, 9.0]), edges).isnan().tolist() == [True, False, False]


def test_unknown_motion_leaves_the_edges_alone():
    known = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(motion_edges(torch.cat([known, torch.full((4,), torch.nan)])), motion_edges(known))
    assert motion_bucket(torch.tensor([torch.nan]), motion_edges(torch.tensor([torch.nan]))).isnan().all()
