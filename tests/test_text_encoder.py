"""The text encoder wrapper against transformers' own calls, and what can be read from the embedded one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from curation.reel.sample_reel import COLOURS, MOTIONS, SHAPES, random_shots
from models.text_encoder import load_text_encoder
from warehouse.errors import InputError, WeightsError

TEXTS = ["a red circle", "a blue star on a noisy background", ""]


@pytest.fixture(scope="module")
def embedded():
    return load_text_encoder()


def save_tokenizer(folder, end="</s>", words=None):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", end, "<unk>", *(words or " ".join(TEXTS)).split()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token=end, unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return fast


@torch.no_grad()
@pytest.mark.parametrize("kind", ["T5", "MT5", "UMT5"])
def test_t5_from_a_folder_is_transformers_own(tmp_path, kind):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")
    sizes = config(vocab_size=32, d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2)
    network = getattr(transformers, f"{kind}EncoderModel")(sizes).eval()
    network.save_pretrained(tmp_path)
    tokenizer = save_tokenizer(tmp_path)
    encoder = load_text_encoder(str(tmp_path), max_length=12)
    tokens, mask = encoder.encode(TEXTS)
    assert (encoder.width, encoder.max_length) == (16, 12)
    assert tokens.shape == (3, 12, 16) and tokens.dtype == torch.float32 and mask.dtype == torch.bool
    for text, row, counted in zip(TEXTS, tokens, mask, strict=True):
        alone = network(
            **tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        ).last_hidden_state[0]
        torch.testing.assert_close(row[counted], alone)
        assert not row[~counted].any()


@pytest.mark.parametrize(("kind", "length"), [("T5", 120), ("MT5", 512), ("UMT5", 512)])
def test_t5_has_the_length_of_the_systems_that_use_it_and_the_type_that_is_asked_for(tmp_path, kind, length):
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    getattr(transformers, f"{kind}EncoderModel")(
        getattr(transformers, f"{kind}Config")(**sizes)
    ).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    encoder, half = load_text_encoder(str(tmp_path)), load_text_encoder(str(tmp_path), dtype=torch.bfloat16)
    assert encoder.max_length == length
    assert encoder.num_tokens([*TEXTS, "red " * 700]) == [4, 8, 1, 701]
    assert {value.dtype for value in half.network.parameters()} == {torch.bfloat16}
    tokens, rough = encoder.encode(TEXTS)[0], half.encode(TEXTS)[0]
    assert rough.dtype == torch.float32 and 0 < (tokens - rough).abs().max() < 0.1 * tokens.abs().max()
    with pytest.raises(InputError, match="max_length is 1, expected at least 2"):
        load_text_encoder(str(tmp_path), max_length=1)


def test_lengths_that_an_encoder_does_not_have_are_refused(tmp_path, embedded):
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2}
    CLIPTextModel(
        CLIPTextConfig(vocab_size=32, max_position_embeddings=10, **sizes, **special)
    ).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert load_text_encoder(str(tmp_path), max_length=8).max_length == 8
    with pytest.raises(InputError, match="max_length is 120, expected from 2 to the 10 positions"):
        load_text_encoder(str(tmp_path), max_length=120)
    assert load_text_encoder(max_length=embedded.max_length).max_length == embedded.max_length
    with pytest.raises(
        InputError, match=f"max_length is 120, but .* has {embedded.max_length} tokens always"
    ):
        load_text_encoder(max_length=120)
    with pytest.raises(InputError, match="computes in float32, got torch"):
        load_text_encoder(dtype=torch.bfloat16)


@torch.no_grad()
def test_clip_from_the_subfolders_of_a_pipeline_is_cut_to_its_positions(tmp_path):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=10,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=2,
    )
    network = CLIPTextModel(config).eval()
    network.save_pretrained(tmp_path / "text_encoder")
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    encoder = load_text_encoder(str(tmp_path), subfolder="text_encoder", tokenizer_subfolder="tokenizer")
    texts = [*TEXTS, "red " * 30]
    tokens, mask = encoder.encode(texts)
    assert tokens.shape == (4, 10, 16) and mask.all()
    ids = tokenizer(
        texts, padding="max_length", truncation=True, max_length=10, return_tensors="pt"
    ).input_ids
    torch.testing.assert_close(tokens, network(input_ids=ids).last_hidden_state)


@torch.no_grad()
def test_open_clips_last_layer_but_one_is_what_transformers_has_of_stable_diffusion_2(tmp_path):
    """That one's folder holds a layer less, and the final norm after it."""
    import open_clip
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    sizes = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": sizes}
    network = open_clip.CLIP(**config).eval()
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape) / 4)
    save_file(network.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    encoder = load_text_encoder(f"open_clip:local-dir:{tmp_path}")
    tokens, mask = encoder.encode(TEXTS)
    assert tokens.shape == (3, 12, 32) and mask.all()
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")([*TEXTS, "red " * 30])
    whole = encoder.num_tokens([*TEXTS, "red " * 30])
    assert whole[:3] == (ids[:3] != 0).sum(1).tolist() and whole[3] == 32

    theirs = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=32,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=12,
            hidden_act="gelu",
        )
    ).eval()
    theirs.load_state_dict(as_transformers(network.state_dict(), layers=2), strict=False)
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    torch.testing.assert_close(tokens, theirs(input_ids=ids).last_hidden_state, atol=1e-4, rtol=1e-4)
    with pytest.raises(WeightsError, match="ARCHITECTURE:WEIGHTS"):
        load_text_encoder("open_clip:ViT-H-14:nobody_trained_this")


def as_transformers(weights, layers):
    """An open_clip text tower's weights by the names of transformers' CLIPTextModel."""
    renamed = {
        "embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "embeddings.position_embedding.weight": weights["positional_embedding"],
    }
    for part in ("weight", "bias"):
        renamed[f"final_layer_norm.{part}"] = weights[f"ln_final.{part}"]
        for i in range(layers):
            theirs, ours = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
            fused = weights[f"{theirs}.attn.in_proj_{part}"].chunk(3)
            renamed |= {f"{ours}.self_attn.{n}_proj.{part}": v for n, v in zip("qkv", fused, strict=True)}
            pairs = {
                "attn.out_proj": "self_attn.out_proj",
                "ln_1": "layer_norm1",
                "ln_2": "layer_norm2",
                "mlp.c_fc": "mlp.fc1",
                "mlp.c_proj": "mlp.fc2",
            }
            renamed |= {f"{ours}.{n}.{part}": weights[f"{theirs}.{o}.{part}"] for o, n in pairs.items()}
    return renamed


def test_the_digest_follows_weights_vocabulary_and_length(tmp_path):
    from transformers import T5Config, T5EncoderModel

    digests = set()
    for seed, length, end in ((0, 12, "</s>"), (1, 12, "</s>"), (0, 13, "</s>"), (0, 12, "<end>")):
        torch.manual_seed(seed)
        T5EncoderModel(
            T5Config(vocab_size=32, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
        ).save_pretrained(tmp_path)
        save_tokenizer(tmp_path, end)
        digests.add(load_text_encoder(str(tmp_path), max_length=length).digest)
    assert len(digests) == 4
    assert load_text_encoder(str(tmp_path), max_length=length).digest in digests


def test_unreadable_encoders_are_named(tmp_path):
    with pytest.raises(
        WeightsError, match="expected a hub id or a folder with config, weights and tokenizer"
    ):
        load_text_encoder(str(tmp_path / "nothing"))
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="holds a bert: expected one of clip"):
        load_text_encoder(str(tmp_path))


def test_embedded_tokens_are_masked_and_independent_of_the_batch(embedded):
    tokens, mask = embedded.encode(TEXTS)
    assert tokens.shape == (3, embedded.max_length, embedded.width)
    assert mask.sum(dim=1).tolist() == embedded.num_tokens(TEXTS) == [5, 9, 2]  # words with start and end
    assert not tokens[~mask].any()
    torch.testing.assert_close(embedded.encode(TEXTS[1:2])[0], tokens[1:2])
    torch.testing.assert_close(embedded.encode([""])[0], tokens[2:])


def test_shape_colour_and_motion_are_linearly_readable_from_the_embedded_tokens(embedded):
    shots = random_shots(600, seed=41)
    tokens, mask = embedded.encode([shot.caption for shot in shots])
    features = (tokens.sum(1) / mask.sum(1, keepdim=True)).numpy()
    features = np.concatenate([features, np.ones((len(shots), 1))], axis=1)
    for field, names in (("shape", SHAPES), ("colour", COLOURS), ("motion", MOTIONS)):
        truth = np.array([list(names).index(getattr(shot, field)) for shot in shots])
        probe = np.linalg.lstsq(features[:400], np.eye(len(names))[truth[:400]], rcond=1e-4)[0]
        assert ((features[400:] @ probe).argmax(1) == truth[400:]).mean() >= 0.98
