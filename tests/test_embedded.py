"""The embedded models on shots they never saw, and their tokenizer and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from curation.reel.sample_reel import random_shots, render
from flows.embedded_figures import aesthetics_figures, all_figures, coca_figures
from models.embedded import greedy_caption, load_aesthetics, load_coca, store
from models.embedded.tokenizer import WordTokenizer
from warehouse.errors import WeightsError


@pytest.fixture(scope="module")
def coca():
    return load_coca()


def pictures(shots, side_px=64):
    frames = np.stack([render(shot, side_px, 1)[0] for shot in shots])
    return torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1


def test_captions_name_shape_and_colour_and_are_the_nearest_of_16():
    figures = coca_figures(256)
    assert figures["caption_shape_and_colour"] >= 0.90
    assert figures["right_of_16"] >= 0.90
    assert figures["caption_background"] >= 0.85
    assert figures["caption_text"] >= 0.90


def test_aesthetics_rank_frames_as_the_truth_does():
    figures = aesthetics_figures(256)
    assert figures["aesthetics_rank_correlation"] >= 0.7
    assert figures["aesthetics_mean_error"] <= 1.0


@torch.no_grad()
def test_a_caption_is_what_teacher_forcing_finds_likeliest(coca):
    """open_clip's own forward over the whole caption gives, word by word, what the loop chose."""
    images = pictures(random_shots(6, seed=51))
    captions = greedy_caption(coca.model, images, coca.tokenizer)
    ids = coca.tokenizer(captions)
    chosen = coca.model(images, ids)["logits"].argmax(dim=-1)
    for row, said in zip(ids, chosen, strict=True):
        length = int((row == coca.tokenizer.eot_token_id).nonzero()[0])
        assert torch.equal(said[:length], row[1 : length + 1])


def test_captions_do_not_depend_on_the_batch(coca):
    images = pictures(random_shots(9, seed=52))
    together = greedy_caption(coca.model, images, coca.tokenizer)
    assert [greedy_caption(coca.model, image[None], coca.tokenizer)[0] for image in images] == together


def test_scores_stay_on_the_scale():
    scores = load_aesthetics()(torch.nn.functional.normalize(torch.randn(64, 128), dim=-1) * 50)
    assert scores.shape == (64,) and scores.min() >= 1 and scores.max() <= 10


def test_words_go_to_ids_and_back():
    tokenizer = WordTokenizer(["a", "red", "circle"], context_length=6)
    ids = tokenizer(["A red, circle!", "a zebra", "a red circle a red circle"])
    assert ids.tolist() == [[1, 4, 5, 6, 2, 0], [1, 4, 3, 2, 0, 0], [1, 4, 5, 6, 4, 2]]
    assert [tokenizer.decode(row) for row in ids.tolist()] == [
        "a red circle",
        "a <unknown>",
        "a red circle a",
    ]
    assert tokenizer("a red").shape == (1, 6) and tokenizer(["a"], context_length=3).shape == (1, 3)


def test_every_word_of_every_caption_is_known(coca):
    for shot in random_shots(300, seed=53):
        ids = coca.tokenizer(shot.caption)[0]
        assert coca.tokenizer.unknown_token_id not in ids
        assert coca.tokenizer.decode(ids) == shot.caption


def test_missing_and_foreign_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_FOLDER", tmp_path)
    with pytest.raises(WeightsError, match="build_embedded"):
        load_coca()
    store.store("aesthetics", torch.nn.Linear(3, 1), {"embedding": 128, "hidden": 64})
    with pytest.raises(WeightsError, match="do not fit the config"):
        load_aesthetics()


def test_all_weights_together_stay_small():
    files = list(store._FOLDER.glob("*.safetensors"))
    assert {path.stem for path in files} == {"aesthetics", "autoencoder", "coca"}
    assert sum(path.stat().st_size for path in files) <= 10_000_000


@pytest.mark.long
def test_figures_hold_on_a_thousand_shots_and_real_footage_decodes(test_data, capsys):
    figures = all_figures(test_data / "videos")
    with capsys.disabled():
        print(f"\nembedded autoencoder on real footage: {figures['footage_psnr_db_64px']:.1f} dB")
    assert figures["psnr_db"] >= 25
    assert min(figures["caption_shape_and_colour"], figures["right_of_16"]) >= 0.90
    assert figures["oracle_right_on_clean_reconstructions"] >= 0.90
