from __future__ import annotations

import numpy as np
import pytest
from annotator_clips import check_columns, clip_of
from tiny_coca import save_tiny_coca

from curation.annotators.base import Clip, Done, Failed
from curation.annotators.clip_model import load_clip
from curation.annotators.embeddings import EmbeddingsAnnotator, EmbeddingsConfig
from curation.annotators.similarity import SimilarityAnnotator, SimilarityConfig


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_coca(tmp_path_factory.mktemp("coca"))


@pytest.fixture(scope="module")
def annotator(tiny: str) -> SimilarityAnnotator:
    made = SimilarityAnnotator(SimilarityConfig(model=tiny, batch_size=5))
    made.load()
    return made


def embedded_clip(tiny: str, seed: int) -> Clip:
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 255, (40, 40, 3), np.uint8) for _ in range(3)]
    embeddings = EmbeddingsAnnotator(EmbeddingsConfig(model=tiny))
    embeddings.load()
    (row,) = embeddings.annotate([clip_of(frames)])
    assert isinstance(row, Done)
    rows = {
        "embeddings": row.columns,
        "captions": {"frame_caption": f"a dog {seed}", "video_caption": f"{seed} dogs run"},
        "summaries": {"summary": f"dogs on grass {seed}"},
    }
    return clip_of(frames, rows=rows)


def test_nine_cosines_frames_by_captions_are_those_of_open_clip(
    tiny: str, annotator: SimilarityAnnotator
) -> None:
    import open_clip
    import torch

    clip = embedded_clip(tiny, 3)
    (outcome,) = annotator.annotate([clip])
    assert isinstance(outcome, Done)
    check_columns("similarity", outcome)
    network = load_clip(tiny, None).network
    with torch.no_grad():
        texts = network.encode_text(
            open_clip.get_tokenizer(tiny)(["a dog 3", "3 dogs run", "dogs on grass 3"])
        )
    frames = torch.tensor([clip.rows["embeddings"][name] for name in ("first", "middle", "last")])
    expected = torch.nn.functional.cosine_similarity(frames[:, None], texts[None], dim=-1)
    np.testing.assert_allclose(outcome.columns["cosines"], expected.reshape(-1), atol=1e-5)
    assert outcome.columns["score"] == pytest.approx(expected[:, 2].mean().item(), abs=1e-5)
    assert len(set(np.round(outcome.columns["cosines"], 5))) == 9


def test_a_clip_is_compared_alike_alone_and_among_six_others(
    tiny: str, annotator: SimilarityAnnotator
) -> None:
    clips = [embedded_clip(tiny, seed) for seed in range(7)]
    for clip, outcome in zip(clips, annotator.annotate(clips), strict=True):
        (alone,) = annotator.annotate([clip])
        assert isinstance(alone, Done) and isinstance(outcome, Done)
        np.testing.assert_allclose(alone.columns["cosines"], outcome.columns["cosines"], atol=1e-5)


def test_a_caption_that_failed_has_no_cosines_and_the_score_is_the_summarys(
    tiny: str, annotator: SimilarityAnnotator
) -> None:
    clip = embedded_clip(tiny, 1)
    silent = {**clip.rows["captions"], "video_caption": None}
    whole, part = annotator.annotate([clip, clip_of([], rows={**clip.rows, "captions": silent})])
    assert isinstance(whole, Done) and isinstance(part, Done)
    check_columns("similarity", part)
    found, expected = (np.array(outcome.columns["cosines"], float).reshape(3, 3) for outcome in (part, whole))
    assert np.isnan(found[:, 1]).all()
    np.testing.assert_allclose(found[:, [0, 2]], expected[:, [0, 2]], atol=1e-5)
    assert part.columns["score"] == pytest.approx(whole.columns["score"], abs=1e-5)


def test_a_missing_caption_or_another_models_embedding_fails_its_clip_alone(
    tiny: str, annotator: SimilarityAnnotator
) -> None:
    good = embedded_clip(tiny, 0)
    no_summary = clip_of([], rows={**good.rows, "summaries": {}})
    other = clip_of(
        [], rows={**good.rows, "embeddings": {**good.rows["embeddings"], "model": "ViT-B-32/openai"}}
    )
    fine, missing, wrong = annotator.annotate([good, no_summary, other])
    assert isinstance(fine, Done)
    assert isinstance(missing, Failed) and missing.cause == "missing_input" and "summaries" in missing.detail
    assert isinstance(wrong, Failed) and wrong.cause == "wrong_space"
