"""Which caption of a clip the trainer reads, and what is done to it, over a warehouse whose rows are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from transformers import T5Config, T5EncoderModel
from warehouse_builder import build_warehouse

from curation.captions.choosing import choose_caption
from curation.captions.cleaning import CleaningConfig
from curation.captions.score_words import ScoreWordsConfig, with_score_words, without_score_words
from curation.engine.work import Outputs, Unit
from curation.footage.media import MediaLimits
from flows.prepare import _count_cut
from tasks.encoding import EncodeConfig, LatentWork, TextWork, as_caption, load_text_side
from tests.test_text_encoder import save_tokenizer
from warehouse.errors import SettingsError
from warehouse.ledger import Ledger
from warehouse.plan import resolve_keys

ROW = {f"{k}_{c}": f"{k} {c}" for k in ("frame", "video", "summary") for c in ("caption", "method")}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return build_warehouse(tmp_path_factory.mktemp("encoding") / "warehouse")


def encoded(ledger: Ledger, config: EncodeConfig, folder: Path) -> dict[str, dict]:
    """Rows of table text_embeddings of one shard's clips."""
    folder.mkdir()
    shard = ledger.shards()[0]
    ids = tuple((i,) for i in sorted(ledger.read("captions", shard)["clip_id"]))
    outputs = Outputs(folder)
    TextWork(config).run(ledger, Unit(shard, ids, (0,) * len(ids)), outputs)
    outputs.close()
    (file,) = folder.glob("text_embeddings*")
    return {r["clip_id"]: r for r in pa.ipc.open_stream(file).read_all().to_pylist()}


def test_shares_decide_by_clip_and_another_caption_stands_in() -> None:
    shares, names = (0.5, 0.25, 0.25), [f"clip {n}" for n in range(4000)]
    drawn = [choose_caption(name, ROW, shares) for name in names]
    assert drawn == [choose_caption(name, ROW, shares) for name in names]
    for kind, share in zip(("frame", "video", "summary"), shares, strict=True):
        deviation = (share * (1 - share) / len(names)) ** 0.5
        assert abs(drawn.count((f"{kind} caption", f"{kind} method")) / len(names) - share) < 4 * deviation
    no_frame = {choose_caption(name, ROW | {"frame_caption": None}, (1, 0, 0)) for name in names}
    assert no_frame == {("video caption", "video method")}
    assert choose_caption("c", ROW | {"summary_caption": None}, (0, 0, 1)) == (
        "frame caption",
        "frame method",
    )
    assert choose_caption("c", dict.fromkeys(ROW), shares) is None
    assert choose_caption("c", {}, shares) is None


def test_a_caption_is_cleaned_and_one_that_is_not_used_gives_way() -> None:
    row = ROW | {
        "summary_caption": "The video shows a dog",
        "video_caption": "at www.a.com",
        "frame_caption": "1",
    }
    assert choose_caption("c", row, (0, 0, 1), CleaningConfig()) == ("A dog", "summary method")
    assert choose_caption("c", row, (0, 1, 0), CleaningConfig()) == ("A dog", "summary method")
    assert choose_caption("c", row | {"summary_caption": " "}, (0, 1, 0), CleaningConfig()) is None


def test_captions_tell_their_own_clips_scores(ledger: Ledger, tmp_path: Path) -> None:
    plain = encoded(ledger, EncodeConfig(caption_shares=(0, 0, 1)), tmp_path / "plain")
    words = ScoreWordsConfig("numbers", drop_share=0.0)
    told = encoded(ledger, EncodeConfig(caption_shares=(0, 0, 1), score_words=words), tmp_path / "told")
    aesthetics, motion, camera = (
        dict(ledger.read_all(t, ["clip_id", name]).iter_rows())
        for t, name in (("aesthetics", "score"), ("motion", "score"), ("motion", "camera"))
    )
    assert len(told) == len(plain) > 3 and None in {motion.get(i) for i in told}
    for clip_id, row in told.items():
        own = with_score_words(
            plain[clip_id]["caption"], clip_id, aesthetics[clip_id], motion[clip_id], words, camera[clip_id]
        )
        assert row["caption"] == own and f"aesthetic score: {aesthetics[clip_id]:.1f}." in own
        assert without_score_words(own).rstrip(".") == plain[clip_id]["caption"]
        assert ("motion score" in own) == (motion[clip_id] is not None)
        name = camera[clip_id]
        assert ("camera motion" in own) == (name not in (None, "mixed"))
        assert name in (None, "mixed") or f"camera motion: {name.replace('_', ' ')}." in own
    assert len({name for name in camera.values() if name not in (None, "mixed")}) > 1


def test_what_is_not_asked_for_changes_no_key() -> None:
    plain = TextWork(EncodeConfig()).step
    # 1 masked CLIP's padding; 2 did not count tokens; 1 and 3 cleaned captions by other rules
    assert plain.version == 4
    assert "cleaning" not in plain.config and "aesthetics" not in plain.reads
    told = TextWork(EncodeConfig(score_words=ScoreWordsConfig(), cleaning=CleaningConfig(t5=True))).step
    assert {"aesthetics", "motion"} <= set(told.reads) and told.config["cleaning"]["t5"]


def save_pipeline(folder: Path, words: str) -> None:
    """A text encoder of two layers and its tokenizer, as a pipeline of diffusers holds them."""
    torch.manual_seed(0)
    sizes = T5Config(vocab_size=64, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    T5EncoderModel(sizes).save_pretrained(folder / "text_encoder")
    save_tokenizer(folder / "tokenizer", words=words)


def test_captions_that_are_cut_are_counted(ledger: Ledger, tmp_path: Path) -> None:
    plain = encoded(ledger, EncodeConfig(caption_shares=(0, 0, 1)), tmp_path / "plain")
    assert all(row["num_tokens"] == sum(row["mask"]) <= row["shape"][0] for row in plain.values())
    save_pipeline(tmp_path / "pipeline", " ".join(row["caption"] for row in plain.values())[:200])
    config = EncodeConfig(
        caption_shares=(0, 0, 1),
        text_encoder=str(tmp_path / "pipeline"),
        text_subfolder="text_encoder",
        tokenizer_subfolder="tokenizer",
    )
    whole = encoded(ledger, config, tmp_path / "whole")
    assert {tuple(row["shape"]) for row in whole.values()} == {(120, 8)}
    assert all(row["num_tokens"] == sum(row["mask"]) for row in whole.values())
    cut = encoded(ledger, replace(config, max_length=4, text_dtype="bfloat16"), tmp_path / "cut")
    assert {tuple(row["shape"]) for row in cut.values()} == {(4, 8)}
    assert {i: row["num_tokens"] for i, row in cut.items()} == {
        i: row["num_tokens"] for i, row in whole.items()
    }
    assert all(row["num_tokens"] > 4 and all(row["mask"]) for row in cut.values())
    assert _count_cut(ledger) == len(ledger.shards()), "the first of every shard, as it was built"
    with pytest.raises(SettingsError, match=r"encode.max_length .* is 1, expected at least 2"):
        load_text_side(replace(config, max_length=1))


def test_settings_that_change_the_texts_rows_change_their_key(tmp_path: Path) -> None:
    def key(**changes: object) -> str:
        config = replace(EncodeConfig(text_encoder=str(tmp_path)), **changes)
        return resolve_keys([replace(TextWork(config).step, reads=())])["text_embeddings"]

    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text("same" if name != "three" else "other")
    plain = key()
    changes = ({"max_length": 200}, {"text_dtype": "bfloat16"}, {"text_subfolder": "one"})
    assert len({plain, *(key(**change) for change in changes)}) == 4
    inside = {"text_subfolder": "one", "tokenizer_subfolder": "two"}
    assert key(**inside) != key(**{**inside, "tokenizer_subfolder": "three"})
    (tmp_path / "two").rename(tmp_path / "moved")
    (tmp_path / "three" / "tokenizer.json").write_text("same")
    assert key(**{**inside, "tokenizer_subfolder": "moved"}) == key(
        **{**inside, "tokenizer_subfolder": "three"}
    )
    assert key(decode_frames=4) == key(), "which decodes samples"
    images = [
        LatentWork(EncodeConfig(autoencoder_subfolder=s), MediaLimits()).step.config for s in ("", "vae")
    ]
    assert "autoencoder_subfolder" not in images[0] and images[1]["autoencoder_subfolder"] == "vae"


def test_weights_are_known_by_their_content_however_their_path_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys(name: str | Path) -> tuple[str, str]:
        config = EncodeConfig(autoencoder=str(name), text_encoder=str(name))
        steps = (LatentWork(config, MediaLimits()).step, TextWork(config).step)
        found = resolve_keys([*(replace(s, reads=()) for s in steps)])
        return found["latents"], found["text_embeddings"]

    monkeypatch.chdir(tmp_path)
    for name, text in (("a", "one"), ("copy", "one"), ("other", "two"), ("embedded", "mine")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(text)
    assert keys("a") == keys("./a") == keys(tmp_path / "a") == keys("copy")
    assert set(keys("a")).isdisjoint(keys("other"))
    (tmp_path / "a").rename(tmp_path / "moved")
    assert keys("moved") == keys("copy") != keys("a"), "nothing lies at the old path, and may be a hub's name"
    as_open_clip = keys("open_clip:local-dir:moved")[1]
    assert as_open_clip == keys(f"open_clip:local-dir:{tmp_path}/copy")[1] != keys("moved")[1]
    file = "copy/model.safetensors"
    by_file = keys(f"open_clip:ViT-B-32:{file}")
    assert by_file == keys(f"open_clip:ViT-B-32:./{file}") != keys(f"open_clip:ViT-L-14:{file}")
    ours = keys("embedded")
    (tmp_path / "embedded" / "model.safetensors").write_text("changed")
    assert keys("embedded") == ours, "a folder of that name is not what the name stands for"
    (tmp_path / "copy" / "model.safetensors").write_text("changed")
    assert keys("copy") != keys("moved")


@pytest.mark.parametrize("style", ["numbers", "words", "sentences"])
@pytest.mark.parametrize("clip_id", [f"clip {n}" for n in range(8)])
@pytest.mark.parametrize("aesthetics", [2.0, 6.0])
def test_a_prompt_reads_as_the_caption_that_was_encoded(style: str, clip_id: str, aesthetics: float) -> None:
    """A clip's raw caption with its scores, and that of the encoding itself, both end as the latter."""
    raw, words = "The video shows A Dog in the picture", ScoreWordsConfig(style, drop_share=0.0)
    for cleaning in (CleaningConfig(), CleaningConfig(t5=True)):
        config = EncodeConfig(cleaning=cleaning, score_words=words)
        (own, _) = choose_caption("c", ROW | {"frame_caption": raw}, (1, 0, 0), cleaning)
        encoded = with_score_words(own, clip_id, aesthetics, 3.0, words)
        assert encoded != own and "video" in own
        typed = with_score_words(raw, clip_id, aesthetics, 3.0, words)
        assert as_caption(typed, config) == as_caption(encoded, config) == encoded


def test_prompts_without_cleaning_stay_and_none_is_lost() -> None:
    assert as_caption("The video  shows a dog", EncodeConfig()) == "The video  shows a dog"
    t5 = EncodeConfig(cleaning=CleaningConfig(t5=True))
    assert as_caption("", t5) == "" and as_caption("The Video shows A Dog", t5) == "a dog"
    with pytest.raises(SettingsError, match="nothing is left of the prompt"):
        as_caption("\u732b", t5)
