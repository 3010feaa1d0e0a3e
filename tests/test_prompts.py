"""The grammar of prompts: what is read, what is refused, and where frames go."""

from __future__ import annotations

import pytest
import torch

from models.edm import karras_sigmas
from training.prompts import Placement, Request, given_of, read_prompt
from warehouse.errors import SettingsError

SIGMAS = karras_sigmas(20, 0.02, 20.0)
FILES = {"a.mp4": torch.arange(6.0).reshape(1, 6, 1, 1), "b.png": torch.full((1, 1, 1, 1), 9.0)}


def test_plain_text_asks_for_nothing_else() -> None:
    for text in ("a red circle", "a | b", "{braces} in the middle", "50% }{ of it", ""):
        assert read_prompt(text) == Request(((0, text),))


def test_a_whole_prompt_is_read() -> None:
    prompt = '|0| a calm sea |2| a storm {"reference_path": "a.mp4; b.png", "mask_strategy": "0,1;1,0,-3,5,3,0.25"}'
    request = read_prompt(prompt)
    assert request.references == ("a.mp4", "b.png")
    assert request.placements == (Placement(0, 1), Placement(1, 0, -3, 5, 3, 0.25))
    assert [request.text(loop) for loop in range(4)] == ["a calm sea"] * 2 + ["a storm"] * 2
    request.check_loops(3)
    with pytest.raises(SettingsError, match="piece 2 is asked for, but the video has 2"):
        request.check_loops(2)


def test_the_prompts_own_files_go_before_the_options() -> None:
    request = read_prompt('a sea {"reference_path": "b.png"}', "a.mp4", "0")
    assert (request.references, request.placements) == (("b.png",), (Placement(),))
    assert read_prompt("a sea", "a.mp4", "0,0,2").placements == (Placement(0, 0, 2),)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ('a {"reference_path": "a.mp4"', None),
        ('a {"reference_path": "a.mp4",}', "which is no JSON"),
        ('a {"mask": "0"}', "has mask; expected reference_path and mask_strategy"),
        ('a {"mask_strategy": 0}', "mask_strategy is 0, expected text"),
        ('a {"reference_path": "a.mp4"}', "has no mask_strategy; '0' begins the video"),
        ('a {"reference_path": "a.mp4;;b.png", "mask_strategy": "0"}', "has an empty entry"),
        ('a {"mask_strategy": "0"}', "takes frames of file 0, but reference_path names 0"),
        ('a {"reference_path": "a.mp4", "mask_strategy": "0,1"}', "frames of file 1, but reference_path names 1"),
        ('a {"reference_path": "a.mp4", "mask_strategy": "0,0,0,0,1,0,7"}', "has 7 numbers, expected at most 6"),
        ('a {"reference_path": "a.mp4", "mask_strategy": "0,x"}', "reference is 'x', expected a number; the six"),
        ('a {"reference_path": "a.mp4", "mask_strategy": "0;"}', "loop is '', expected a number"),
        ('a {"reference_path": "a.mp4", "mask_strategy": "0,0,0,0,1.5"}', "length is '1.5'"),
        ('a {"reference_path": "a.mp4", "mask_strategy": "0,0,0,0,0"}', "length from 1"),
        ('a {"reference_path": "a.mp4", "mask_strategy": "0,0,0,0,1,2"}', "edit_ratio from 0 to 1"),
        ('a {"reference_path": "a.mp4", "mask_strategy": "-1"}', "loop and reference from 0"),
        ("|1| a |2| b", r"pieces \[1, 2\]: expected 0 first"),
        ("|0| a |3| b |2| c", "rising numbers"),
        ("|0| a |1| ", "and a text for each"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(prompt: str, message: str | None) -> None:
    if message is None:
        assert read_prompt(prompt).text(0) == prompt, "what does not end as JSON is text"
        return
    with pytest.raises(SettingsError, match=message):
        read_prompt(prompt)


def given(strategy: str, loop: int = 0) -> list[list[float]]:
    """Frames and the levels at which they are let go, of a piece of 8 frames for the second of two clips."""
    requests = [read_prompt("a"), read_prompt("b", "a.mp4;b.png", strategy)]
    found = given_of(requests, loop, FILES, torch.zeros(2, 1, 8, 1, 1), SIGMAS)
    assert found.release_BT[0].isinf().all()
    held = [int(i) for i in torch.nonzero(found.release_BT[1].isfinite()).flatten()]
    return [[i, found.latents_BCTHW[1, 0, i].item(), found.release_BT[1, i].item()] for i in held]


def test_frames_go_where_they_are_asked() -> None:
    inf_free = SIGMAS[15].item()
    assert given("0") == [[0, 0, 0]]
    assert given("0,1") == [[0, 9, 0]]
    assert given("0,0,-2,0,2") == [[0, 4, 0], [1, 5, 0]]
    assert given("0,0,0,-3,3") == [[5, 0, 0], [6, 1, 0], [7, 2, 0]]
    assert given("0;0,1,0,-1") == [[0, 0, 0], [7, 9, 0]]
    assert given("0,0,1,4,1,0.25") == [[4, 1, inf_free]]
    assert given("1,0,1,4") == []
    assert given("1,0,1,4", loop=1) == [[4, 1, 0]]
    assert given("0,0,0,0,6,1") == []


@pytest.mark.parametrize("strategy", ["0,0,4,0,3", "0,1,0,0,2", "0,0,0,7,2", "0,0,-7", "0,0,0,-9", "0,0,6"])
def test_frames_that_do_not_fit_are_refused(strategy: str) -> None:
    with pytest.raises(
        SettingsError,
        match=r"Placement\(.* does not fit: (a.mp4|b.png) has [16] latent frames and the piece 8",
    ):
        given(strategy)
