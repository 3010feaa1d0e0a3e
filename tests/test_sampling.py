"""What the step that samples tells the text encoder, and what it shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from test_cli import Run, run
from test_cli_sample import trained

from curation.captions.cleaning import CleaningConfig
from flows.sample import encode_of
from models.text_encoder import load_text_encoder
from tasks.encoding import EncodeConfig
from tasks.sampling import Sampled, _warn_of_cut, sample_run
from training.checkpoints import load_weights, save_weights
from training.prompts import read_prompt
from training.sample_settings import Sampling
from warehouse.run_folder import PROMPTS, WEIGHTS

__all__ = ["run", "trained"]


def test_prompts_are_cleaned_as_captions_were_and_shown_as_typed(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    def sample(prompt: str, cleaning: CleaningConfig | None = None) -> Sampled:
        encode = EncodeConfig(buckets=("2x64x64",), cleaning=cleaning)
        return sample_run(
            trained[1], [prompt], encode, tmp_path / "out", seed=0, sampling=Sampling(num_steps=3)
        )

    typed = '|0| The video shows a red circle {"mask_strategy": ""}'
    cleaned = sample(typed, CleaningConfig())
    assert cleaned.prompts == (typed,) and json.loads((tmp_path / "out" / PROMPTS).read_text()) == [typed]
    assert np.array_equal(cleaned.frames_BTHWC, sample("A red circle").frames_BTHWC)
    assert not np.array_equal(cleaned.frames_BTHWC, sample(typed).frames_BTHWC)


def test_a_run_is_sampled_as_it_was_trained_with_its_warehouse_gone(
    trained: tuple[Path, Path], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load_weights(trained[1])
    told = {"buckets": ["2x64x64"], "fps": 4.0, "cleaning": {"t5": True}}
    (tmp_path / "run").mkdir()
    save_weights(tmp_path / "run" / WEIGHTS, replace(own, origin=own.origin | {"encoding": told}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cutroom.toml").write_text("[encode]\nbuckets = ['8x32x32']\ncleaning = {t5 = false}\n")

    def sample(prompt: str, *options: object) -> np.ndarray:
        place = ("--run", "run", "--output", "out", "--steps", 3, "--json")
        code, result = run("sample", prompt, *place, *options)
        assert code == 0, result
        with av.open(result["videos"][0]) as video:
            assert video.streams.video[0].average_rate == 4
            return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])

    typed = sample("The video shows a Red Circle")
    assert typed.shape == (2, 64, 64, 3)
    assert np.array_equal(typed, sample("a red circle"))
    assert np.array_equal(typed, sample("The video shows a Red Circle", "-w", trained[0]))
    asked = sample("The video shows a Red Circle", "--set", "encode.cleaning=null")
    assert not np.array_equal(typed, asked), "a flag comes before what the run says"
    code, said = run("sample", "--run", "run", "--json")
    assert code == 2 and "no warehouse is given" in str(said), "captions are the warehouse's"
    (tmp_path / "cutroom.toml").write_text("[encode]\nbuckets = ['8x32x32']\ndecode_frames = 3\n")
    encode = encode_of(tmp_path / "run", {})
    assert (encode.buckets, encode.decode_frames) == (("2x64x64",), 3), (
        "how much is held at once is this machine's"
    )


def test_a_prompt_that_the_text_encoder_cuts_is_said(caplog: pytest.LogCaptureFixture) -> None:
    encoder = load_text_encoder()
    requests = [read_prompt("a red circle"), read_prompt("red " * 200), read_prompt("red " * 200)]
    _warn_of_cut(requests, encoder)
    assert [r.getMessage()[:50] for r in caplog.records] == [
        f"prompt of 202 tokens is cut to {encoder.max_length}: red red red red "[:50]
    ]


def test_scores_are_asked_for_in_the_words_of_the_captions_of_training(
    trained: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    own = load_weights(trained[1])
    told = {"buckets": ["2x64x64"], "score_words": {"style": "numbers"}}
    (tmp_path / "run").mkdir()
    save_weights(tmp_path / "run" / WEIGHTS, replace(own, origin=own.origin | {"encoding": told}))
    place = ("--run", tmp_path / "run", "--output", tmp_path / "out", "--steps", 3, "--json")
    scores = ("--aesthetics", 6.5, "--motion", 5, "--camera", "pan right")

    def sample(prompt: str, *options: object) -> bytes:
        code, result = run("sample", prompt, *place, *options)
        assert code == 0, result
        assert result["prompts"] == [prompt]
        return Path(result["videos"][0]).read_bytes()

    told_so = sample("a circle. aesthetic score: 6.5. motion score: 5.0. camera motion: pan right.")
    assert sample("a circle", *scores) == sample("|0| a circle", *scores) == told_so != sample("a circle")
    code, said = run("sample", "a circle", *place, *scores, "--set", "encode.score_words=null")
    assert code == 2 and "told no score (encode.score_words)" in str(said)
