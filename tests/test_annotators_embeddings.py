from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from annotator_clips import check_columns, clip_of
from tiny_coca import save_tiny_coca

from curation.annotators.aesthetics import AestheticsAnnotator, AestheticsConfig, judge, load_head
from curation.annotators.base import Clip, Done, Failed, Skipped
from curation.annotators.clip_model import load_clip
from curation.annotators.embeddings import EmbeddingsAnnotator, EmbeddingsConfig
from warehouse.errors import WeightsError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_coca(tmp_path_factory.mktemp("coca"))


@pytest.fixture(scope="module")
def annotator(tiny: str) -> EmbeddingsAnnotator:
    made = EmbeddingsAnnotator(EmbeddingsConfig(model=tiny, batch_size=4))
    made.load()
    return made


def noise(seed: int, height: int = 48, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def test_embeds_first_middle_and_last_frame_with_the_models_own_preprocessing(
    tiny: str, annotator: EmbeddingsAnnotator
) -> None:
    import open_clip

    clip = clip_of([noise(i) for i in range(5)])
    (outcome,) = annotator.annotate([clip])
    assert isinstance(outcome, Done)
    check_columns("embeddings", outcome)
    assert outcome.columns["model"] == tiny
    network, _, preprocess = open_clip.create_model_and_transforms(tiny)
    for name, index in (("first", 0), ("middle", 2), ("last", 4)):
        from PIL import Image

        with torch.no_grad():
            expected = network.eval().encode_image(preprocess(Image.fromarray(clip.grid[index].rgb))[None])[0]
        np.testing.assert_allclose(outcome.columns[name], expected / expected.norm(), atol=1e-5)


def test_frames_that_are_lacking_are_stood_for_by_their_neighbours(annotator: EmbeddingsAnnotator) -> None:
    one, two = annotator.annotate([clip_of([noise(0)]), clip_of([noise(0), noise(1)])])
    assert isinstance(one, Done) and isinstance(two, Done)
    assert one.columns["first"] == one.columns["middle"] == one.columns["last"]
    assert two.columns["middle"] == two.columns["last"] != two.columns["first"]


def test_a_clip_is_embedded_alike_alone_and_among_six_others(annotator: EmbeddingsAnnotator) -> None:
    clips = [clip_of([noise(10 * c + i, 40 + c, 60) for i in range(3)], clip_id=f"c{c}") for c in range(7)]
    together = annotator.annotate(clips)
    for clip, outcome in zip(clips, together, strict=True):
        (alone,) = annotator.annotate([clip])
        assert isinstance(alone, Done) and isinstance(outcome, Done)
        for name in ("first", "middle", "last"):
            np.testing.assert_allclose(alone.columns[name], outcome.columns[name], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_size_of_a_batch_changes_no_embedding(
    tiny: str, annotator: EmbeddingsAnnotator, batch_size: int
) -> None:
    other = EmbeddingsAnnotator(EmbeddingsConfig(model=tiny, batch_size=batch_size))
    other.load()
    clips = [clip_of([noise(10 * c + i) for i in range(3)]) for c in range(3)]
    for one, two in zip(annotator.annotate(clips), other.annotate(clips), strict=True):
        for name in ("first", "middle", "last"):
            np.testing.assert_allclose(one.columns[name], two.columns[name], atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_a_gpu_gives_the_embeddings_of_the_cpu_in_batches_of_any_size(tiny: str) -> None:
    half = load_clip(tiny, None)
    assert half.dtype == torch.float16 and half.device == "cuda"
    pictures = [noise(i) for i in range(7)]
    found = half.embed_images(pictures, 3)
    full = replace(half, network=copy.deepcopy(half.network).float().cpu(), device="cpu", dtype=torch.float32)
    assert (found * full.embed_images(pictures)).sum(1) == pytest.approx(np.ones(7), abs=1e-3)
    np.testing.assert_allclose(found, half.embed_images(pictures, 7), atol=2e-3)


def test_a_broken_picture_fails_its_clip_alone(annotator: EmbeddingsAnnotator) -> None:
    good, broken, empty = annotator.annotate(
        [clip_of([noise(0)]), clip_of([noise(0), b"cut off"]), clip_of([])]
    )
    assert isinstance(good, Done)
    assert isinstance(broken, Failed) and broken.cause == "broken_frame"
    assert empty == Skipped("no_grid_frame")


@pytest.mark.parametrize(
    ("model", "pretrained"),
    [
        ("ViT-B-32", "no_such_weights.pt"),
        ("no-such-model", None),
        ("ViT-B-32", None),
        ("local-dir:nowhere", None),
    ],
)
def test_weights_that_are_not_there_are_an_error_that_says_how_to_mend_it(
    model: str, pretrained: str | None
) -> None:
    with pytest.raises(WeightsError, match="local-dir:FOLDER"):
        load_clip(model, pretrained)


def laion(folder: Path, head: str, embeddings: str) -> np.ndarray:
    levels = [np.load(folder / embeddings / f"rating{level}.npy").reshape(-1) for level in range(10)]
    return judge(load_head(str(folder / head)).eval(), np.stack(levels).astype(np.float32))


def test_laion_heads_give_the_scores_that_are_known_of_their_reference_embeddings(test_data: Path) -> None:
    folder = test_data / "weights" / "aesthetic"
    second = laion(folder, "sac+logos+ava1-l14-linearMSE.pth", "embeddings_vit_l_14")
    np.testing.assert_allclose(
        second, [1.66, 2.36, 3.07, 3.67, 4.24, 4.70, 5.07, 5.37, 5.58, 5.75], atol=0.006
    )
    first = laion(folder, "sa_0_4_vit_l_14_linear.pth", "embeddings_vit_l_14")
    np.testing.assert_allclose(
        first, [-2.46, -0.14, 1.90, 3.58, 5.10, 6.47, 7.79, 9.05, 10.23, 11.30], atol=0.006
    )
    assert (np.diff(laion(folder, "sa_0_4_vit_b_32_linear.pth", "embeddings_vit_b_32")) > 0).all()


def embedded_row(model: str, *levels: np.ndarray) -> dict[str, object]:
    return {"model": model} | {
        k: v.tolist() for k, v in zip(("first", "middle", "last"), levels, strict=True)
    }


def test_aesthetics_are_the_mean_over_the_three_embeddings(test_data: Path) -> None:
    folder = test_data / "weights" / "aesthetic"
    levels = [np.load(folder / "embeddings_vit_l_14" / f"rating{i}.npy").reshape(-1) for i in (0, 4, 9)]
    annotator = AestheticsAnnotator(AestheticsConfig(model=str(folder / "sac+logos+ava1-l14-linearMSE.pth")))
    annotator.load()

    def clip(rows: dict[str, object]) -> Clip:
        return clip_of([], rows={"embeddings": rows})

    good, missing, other = annotator.annotate(
        [clip(embedded_row("ViT-L-14/openai", *levels)), clip({}), clip(embedded_row("embedded", *levels))]
    )
    assert isinstance(good, Done)
    check_columns("aesthetics", good)
    assert good.columns["scores"] == pytest.approx([1.66, 4.24, 5.75], abs=0.006)
    assert good.columns["score"] == pytest.approx((1.66 + 4.24 + 5.75) / 3, abs=0.006)
    assert isinstance(missing, Failed) and missing.cause == "missing_input"
    assert isinstance(other, Failed) and other.cause == "wrong_space"
    with pytest.raises(WeightsError, match="embeddings of 512 numbers"):
        annotator.annotate([clip(embedded_row("ViT-B-32/openai", *(level[:512] for level in levels)))])


def test_a_head_that_is_missing_or_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=re.escape(f"{tmp_path / 'head.pth'} is missing; download")):
        load_head(str(tmp_path / "head.pth"))
    torch.save({"layers.0.weight": torch.zeros(3, 4)}, tmp_path / "head.pth")
    with pytest.raises(WeightsError, match="not a LAION aesthetics head"):
        load_head(str(tmp_path / "head.pth"))
