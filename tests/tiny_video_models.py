"""Small random video captioners of transformers' classes, with tokenizers of a few words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SPECIALS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<image>",
    "<video>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|im_start|>",
    "<|im_end|>",
]
SENTENCES = "describe this video in one sentence . a red dog runs left a blue cat sleeps right user assistant"
WORDS = [*SPECIALS, *dict.fromkeys(SENTENCES.split(" "))]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}<|vision_start|> <|video_pad|> <|vision_end|> {% else %}{{ c['text'] }} {% endif %}"
    "{% endfor %}<|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QFORMER = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "encoder_hidden_size": 16,
    "max_position_embeddings": 64,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
OPT = {
    "model_type": "opt",
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "word_embed_proj_dim": 16,
    "max_position_embeddings": 128,
    **IDS,
}


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[word for word in SPECIALS if word.startswith("<|")],
    )


def _save(network: Any, processor: Any, folder: Path) -> None:
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.7 * torch.randn_like(parameter)
    embedding = network.get_input_embeddings().weight.data
    embedding[: len(SPECIALS)] = 0  # tied to the output: words, not special tokens, are written
    network.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_instruct_blip(folder: Path) -> None:
    import transformers as t

    config = t.InstructBlipVideoConfig(
        vision_config=VISION, qformer_config=QFORMER, text_config=OPT, num_query_tokens=4, video_token_index=5
    )
    pictures = t.InstructBlipVideoVideoProcessor(size={"height": 28, "width": 28})
    processor = t.InstructBlipVideoProcessor(pictures, _tokenizer(), _tokenizer(), num_query_tokens=4)
    _save(t.InstructBlipVideoForConditionalGeneration(config), processor, folder)


def save_blip2(folder: Path) -> None:
    import transformers as t

    config = t.Blip2Config(
        vision_config=VISION, qformer_config=QFORMER, text_config=OPT, num_query_tokens=4, image_token_index=4
    )
    pictures = t.BlipImageProcessor(size={"height": 28, "width": 28})
    processor = t.Blip2Processor(pictures, _tokenizer(), num_query_tokens=4)
    _save(t.Blip2ForConditionalGeneration(config), processor, folder)


def save_qwen(folder: Path) -> None:
    import transformers as t

    text = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        **IDS,
    }
    vision = {
        "depth": 1,
        "embed_dim": 16,
        "hidden_size": 16,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    config = t.Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=6,
        video_token_id=7,
        vision_start_token_id=8,
        vision_end_token_id=9,
        tie_word_embeddings=True,
    )
    side = {"shortest_edge": 56 * 56, "longest_edge": 4 * 56 * 56}
    processor = t.Qwen2VLProcessor(
        t.Qwen2VLImageProcessor(size=side),
        _tokenizer(),
        t.Qwen2VLVideoProcessor(size=side),
        chat_template=CHAT_TEMPLATE,
    )
    _save(t.Qwen2VLForConditionalGeneration(config), processor, folder)


SAVE: dict[str, Callable[[Path], None]] = {
    "instructblip-video": save_instruct_blip,
    "blip-2": save_blip2,
    "chat": save_qwen,
}
