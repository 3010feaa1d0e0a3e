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
TIMES = "< > seconds 0 1 2 3 4 5 6 7 8 9 10 11 12"
WORDS = [*SPECIALS, *dict.fromkeys(f"{SENTENCES} {TIMES}".split(" "))]
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


QWEN_TEXT = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    **IDS,
}
QWEN_IDS = {
    "image_token_id": 6,
    "video_token_id": 7,
    "vision_start_token_id": 8,
    "vision_end_token_id": 9,
    "tie_word_embeddings": True,
}
QWEN_SIDE = {"shortest_edge": 56 * 56, "longest_edge": 4 * 56 * 56}
QWEN_VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2}


def save_qwen(folder: Path) -> None:
    import transformers as t

    vision = {**QWEN_VISION, "embed_dim": 16, "mlp_ratio": 2, "patch_size": 14}
    config = t.Qwen2VLConfig(text_config=QWEN_TEXT, vision_config=vision, **QWEN_IDS)
    pictures = t.Qwen2VLImageProcessor(size=QWEN_SIDE), t.Qwen2VLVideoProcessor(size=QWEN_SIDE)
    processor = t.Qwen2VLProcessor(pictures[0], _tokenizer(), pictures[1], chat_template=CHAT_TEMPLATE)
    _save(t.Qwen2VLForConditionalGeneration(config), processor, folder)


def save_qwen25(folder: Path) -> None:
    import transformers as t

    own = {"intermediate_size": 32, "patch_size": 14, "out_hidden_size": 16, "fullatt_block_indexes": [0]}
    config = t.Qwen2_5_VLConfig(text_config=QWEN_TEXT, vision_config=QWEN_VISION | own, **QWEN_IDS)
    pictures = t.Qwen2VLImageProcessor(size=QWEN_SIDE), t.Qwen2VLVideoProcessor(size=QWEN_SIDE)
    processor = t.Qwen2_5_VLProcessor(pictures[0], _tokenizer(), pictures[1], chat_template=CHAT_TEMPLATE)
    _save(t.Qwen2_5_VLForConditionalGeneration(config), processor, folder)


def save_qwen3(folder: Path) -> None:
    import transformers as t

    own = {"intermediate_size": 32, "patch_size": 16, "out_hidden_size": 16, "deepstack_visual_indexes": [0]}
    vision = QWEN_VISION | own | {"num_position_embeddings": 16}
    config = t.Qwen3VLConfig(text_config=QWEN_TEXT, vision_config=vision, **QWEN_IDS)
    pictures = t.Qwen2VLImageProcessor(size=QWEN_SIDE, patch_size=16), t.Qwen3VLVideoProcessor(size=QWEN_SIDE)
    processor = t.Qwen3VLProcessor(pictures[0], _tokenizer(), pictures[1], chat_template=CHAT_TEMPLATE)
    _save(t.Qwen3VLForConditionalGeneration(config), processor, folder)


SAVE: dict[str, Callable[[Path], None]] = {
    "instructblip-video": save_instruct_blip,
    "blip-2": save_blip2,
    "chat": save_qwen,
}
"""By kind of `VideoModelConfig`."""
CHATS = {"qwen2": save_qwen, "qwen2.5": save_qwen25, "qwen3": save_qwen3}
"""Several families of the kind chat, which are told times in ways of their own."""
