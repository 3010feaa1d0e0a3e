"""Summaries from a real server program: transformers' own, with a small model that has learnt a few requests by heart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from annotator_clips import check_columns, clip_of

from curation.annotators.base import Clip, Done, Failed
from curation.annotators.summaries import SummariesAnnotator, SummariesConfig
from curation.annotators.summary_server import Request, ServerConfig
from flows.server import free_port

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

CLIPS = {
    "clip1": ("a brown dog on grass", "a dog runs", "A brown dog runs on grass"),
    "clip2": ("two boats near a pier", "boats leave", "Two boats leave a pier"),
    "clip3": ("a red car in a street", "a car turns left", "A red car turns left in a street"),
}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]


def requests() -> dict[str, Request]:
    return {clip_id: Request(clip_id, frame, video) for clip_id, (frame, video, _) in CLIPS.items()}


def save_model(folder: Path) -> None:
    """A Llama of 50,000 weights that answers the requests of `CLIPS` as a good model would, and others anyhow."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    talks = [
        request.body(ServerConfig())["messages"]
        + [{"role": "assistant", "content": f"{request.key} | {CLIPS[clip_id][2]}"}]
        for clip_id, request in requests().items()
    ]
    split = pre_tokenizers.Whitespace()
    said = " ".join(f"{m['role']} {m['content']}" for talk in talks for m in talk)
    words = [*SPECIALS, *sorted({word for word, _ in split.pre_tokenize_str(said)})]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = split
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    network = LlamaForCausalLM(config)
    learn(network, tokenizer, talks)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def learn(network: torch.nn.Module, tokenizer: object, talks: list[list[dict[str, str]]]) -> None:
    """Trains until the model is sure of every word of its answers."""
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(300):
        losses = []
        for talk in talks:
            asked = tokenizer.apply_chat_template(talk[:-1], tokenize=False, add_generation_prompt=True)
            start = len(tokenizer(asked).input_ids)
            ids = torch.tensor([tokenizer(f"{asked}{talk[-1]['content']} </s>").input_ids])
            labels = ids.clone()
            labels[:, :start] = -100
            losses.append(network(input_ids=ids, labels=labels).loss)
        torch.stack(losses).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if max(losses) < 0.01:
            return
    raise AssertionError(f"the model did not learn its answers: {losses}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerConfig]:
    for needed in ("openai", "accelerate"):
        pytest.importorskip(needed, reason=f"transformers serve needs the package {needed}")
    folder = tmp_path_factory.mktemp("served")
    save_model(folder / "model")
    port = free_port()
    command = [Path(sys.executable).parent / "transformers", "serve", folder / "model"]
    options = ["--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [*map(str, command), *map(str, options)],
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            start_new_session=True,
        )
    try:
        wait(f"http://127.0.0.1:{port}/health", child, folder / "log")
        yield ServerConfig(f"http://127.0.0.1:{port}/v1", str(folder / "model"), max_tokens=24, concurrency=3)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait(10)


def wait(url: str, child: subprocess.Popen, log: Path) -> None:
    for _ in range(180):
        assert child.poll() is None, log.read_text()[-2000:]
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(1)
    raise AssertionError(f"no server after three minutes: {log.read_text()[-2000:]}")


def captioned(clip_id: str, frame: str, video: str) -> Clip:
    row = {"frame_caption": frame, "frame_status": "ok", "video_caption": video, "video_status": "ok"}
    return clip_of([], clip_id=clip_id, rows={"captions": row})


def test_each_clip_gets_its_own_summary_and_one_that_the_model_cannot_answer_fails(
    server: ServerConfig,
) -> None:
    annotator = SummariesAnnotator(SummariesConfig(replace(server, attempts=2, backoff_s=0.1)))
    annotator.load()
    known = [captioned(clip_id, frame, video) for clip_id, (frame, video, _) in CLIPS.items()]
    *outcomes, unknown = annotator.annotate(
        [*known, captioned("clip9", "boats near grass", "a dog turns left")]
    )
    for outcome, (_, _, summary) in zip(outcomes, CLIPS.values(), strict=True):
        assert isinstance(outcome, Done)
        check_columns("summaries", outcome)
        assert (outcome.columns["summary"], outcome.columns["status"]) == (summary, "ok")
    assert (
        isinstance(unknown, Failed) and unknown.cause == "bad_answer" and "attempt 2 of 2" in unknown.detail
    )
    paid = [outcome.columns for outcome in (*outcomes, unknown)]
    assert [told["requests"] for told in paid] == [1, 1, 1, 2]
    assert all(told["prompt_tokens"] > 100 * told["requests"] for told in paid)
    assert all(5 < told["completion_tokens"] / told["requests"] <= 24 for told in paid)


def test_an_answer_that_the_server_cut_is_marked(server: ServerConfig) -> None:
    annotator = SummariesAnnotator(SummariesConfig(replace(server, max_tokens=6)))
    annotator.load()
    (cut,) = annotator.annotate([captioned("clip1", *CLIPS["clip1"][:2])])
    assert isinstance(cut, Done) and cut.columns["status"] == "truncated"
    assert CLIPS["clip1"][2].startswith(cut.columns["summary"])


def test_another_model_than_the_servers_is_refused_once(server: ServerConfig) -> None:
    annotator = SummariesAnnotator(SummariesConfig(replace(server, model="some-other-model")))
    annotator.load()
    (refused,) = annotator.annotate([captioned("clip1", *CLIPS["clip1"][:2])])
    assert isinstance(refused, Failed) and refused.cause == "refused" and "attempt 1 of" in refused.detail
