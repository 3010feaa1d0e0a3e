from __future__ import annotations

import itertools

import pytest
import torch

from curation.annotators.caption_decoding import DecodingConfig, decode
from warehouse.errors import SettingsError

START, END = 0, 1


class Table:
    """A language model that is a table: the next token's logits depend on the image and the last two tokens."""

    def __init__(self, num_images: int, vocabulary: int, seed: int, end_bias: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.logits = 2 * torch.randn(num_images, vocabulary, vocabulary, vocabulary, generator=generator)
        self.logits[..., END] += end_bias
        self.vocabulary = vocabulary

    def __call__(self, images_B: torch.Tensor, tokens_BL: torch.Tensor) -> torch.Tensor:
        before_B = tokens_BL[:, -2] if tokens_BL.shape[1] > 1 else torch.zeros_like(tokens_BL[:, 0])
        return self.logits[images_B, before_B, tokens_BL[:, -1]]

    def step(self, image: int, tokens: tuple[int, ...]) -> list[float]:
        """Log-probabilities of the next token after START and `tokens`."""
        (logits_V,) = self(torch.tensor([image]), torch.tensor([[START, *tokens]]))
        return logits_V.double().log_softmax(-1).tolist()

    def log_prob(self, image: int, tokens: tuple[int, ...]) -> float:
        return sum(self.step(image, tokens[:i])[token] for i, token in enumerate(tokens))


def best_of_all(model: Table, image: int, config: DecodingConfig) -> tuple[tuple[int, ...], float]:
    """The caption of highest mean log-probability, found by looking at every one."""
    words = range(2, model.vocabulary)
    captions = [
        (*body, END)
        for length in range(config.min_tokens, config.max_tokens)
        for body in itertools.product(words, repeat=length)
    ]
    scored = [(model.log_prob(image, caption) / len(caption), caption) for caption in captions]
    score, caption = max(scored)
    return caption[:-1], score


@pytest.mark.parametrize("seed", range(5))
def test_one_beam_takes_the_likeliest_token_each_time(seed: int) -> None:
    model = Table(3, 8, seed)
    found = decode(model, 3, START, END, DecodingConfig(max_tokens=12, min_tokens=2), banned_ids=[START])
    for image, caption in enumerate(found):
        expected: list[int] = []
        while len(expected) < 12:
            scores = model.step(image, tuple(expected))
            allowed = [t for t in range(8) if t != START and not (t == END and len(expected) < 2)]
            token = max(allowed, key=scores.__getitem__)
            if token == END:
                break
            expected.append(token)
        assert caption.tokens == tuple(expected)
        assert caption.truncated == (len(expected) == 12)
        whole = tuple(expected) if caption.truncated else (*expected, END)
        assert caption.mean_log_prob == pytest.approx(model.log_prob(image, whole) / len(whole), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_as_many_beams_as_captions_find_the_best_of_all(seed: int) -> None:
    model = Table(2, 5, seed)
    config = DecodingConfig(num_beams=3**4, min_tokens=1, max_tokens=5)
    found = decode(model, 2, START, END, config, banned_ids=[START])
    for image, caption in enumerate(found):
        tokens, score = best_of_all(model, image, config)
        assert caption.tokens == tokens and not caption.truncated
        assert caption.mean_log_prob == pytest.approx(score, abs=1e-5)


def test_an_image_is_captioned_alike_alone_and_in_a_batch() -> None:
    model = Table(7, 12, seed=3)
    config = DecodingConfig(num_beams=3, min_tokens=2, max_tokens=9, repetition_penalty=1.3)
    together = decode(model, 7, START, END, config)
    for image in range(7):

        def alone(images_B: torch.Tensor, tokens_BL: torch.Tensor, image: int = image) -> torch.Tensor:
            return model(torch.full_like(images_B, image), tokens_BL)

        assert decode(alone, 1, START, END, config) == [together[image]]


def test_lengths_and_banned_tokens_are_kept_to() -> None:
    eager = Table(4, 6, seed=0, end_bias=20)
    for caption in decode(eager, 4, START, END, DecodingConfig(num_beams=2, min_tokens=5, max_tokens=9)):
        assert len(caption.tokens) == 5 and not caption.truncated
    endless = Table(4, 6, seed=0, end_bias=-50)
    for caption in decode(
        endless, 4, START, END, DecodingConfig(num_beams=2, max_tokens=7), banned_ids=[START, 3]
    ):
        assert len(caption.tokens) == 7 and caption.truncated
        assert not {START, END, 3} & set(caption.tokens)


def test_a_heavy_penalty_keeps_tokens_from_coming_twice() -> None:
    model = Table(4, 20, seed=1, end_bias=-50)
    plain = decode(model, 4, START, END, DecodingConfig(max_tokens=12), banned_ids=[START])
    varied = decode(
        model, 4, START, END, DecodingConfig(max_tokens=12, repetition_penalty=1e3), banned_ids=[START]
    )
    assert all(len(set(c.tokens)) == 12 for c in varied)
    assert any(len(set(c.tokens)) < 12 for c in plain)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("num_beams", [2, 4])
def test_beams_end_as_those_of_transformers(num_beams: int, penalty: float) -> None:
    """Random GPT-2s through both loops; captions that were cut are left out, as in theirs they compete with ended."""
    num_ended = 0
    for seed in range(6):
        gpt = random_gpt(seed)
        config = DecodingConfig(num_beams=num_beams, min_tokens=2, max_tokens=12, repetition_penalty=penalty)
        (ours,) = decode(lambda _, tokens_BL, gpt=gpt: gpt(tokens_BL).logits[:, -1], 1, START, END, config)
        (theirs,) = gpt.generate(
            torch.tensor([[START]]),
            attention_mask=torch.ones(1, 1),
            num_beams=num_beams,
            do_sample=False,
            min_new_tokens=2,
            max_new_tokens=12,
            repetition_penalty=penalty,
            early_stopping=True,
        ).tolist()
        if END in theirs:
            num_ended += 1
            assert list(ours.tokens) == theirs[1 : theirs.index(END)]
    assert num_ended >= 3


def random_gpt(seed: int) -> torch.nn.Module:
    """A small GPT-2 of sharp random distributions that ends now and then."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    shape = {"vocab_size": 30, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    gpt = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=START, eos_token_id=END, pad_token_id=END)).eval()
    for parameter in gpt.parameters():
        parameter.data.mul_(8)
    gpt.transformer.ln_f.bias.data += 14 * gpt.transformer.wte.weight[END]
    return gpt


@pytest.mark.parametrize(
    "wrong",
    [{"num_beams": 0}, {"min_tokens": 9, "max_tokens": 9}, {"repetition_penalty": 0.5}, {"min_tokens": -1}],
)
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="num_beams >= 1"):
        DecodingConfig(**wrong)  # type: ignore[arg-type]
