"""Published models that describe a clip, through transformers: InstructBLIP-Video, BLIP-2 over frames, chat models.

The paper's VideoBLIP (SVD, appendix C) is BLIP-2 on video; InstructBLIP-Video is its kin that transformers holds. Every
clip is described by itself, so that a caption does not depend on the batch that the clip came in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from curation.annotators.coca import Caption
from curation.annotators.video_captioners import VideoView, elect
from warehouse.errors import SettingsError, WeightsError


@dataclass(frozen=True)
class VideoModelConfig:
    """Which model, and what it is asked."""

    kind: Literal["instructblip-video", "blip-2", "chat"] = "instructblip-video"
    """instructblip-video sees four frames at once, blip-2 describes each frame and the captions vote, chat is any
    model that transformers can talk to about a video (the Qwen-VL family and others)."""
    model: str = "Salesforce/instructblip-vicuna-7b"
    """A hub name, or a folder with the model and its processor."""
    revision: str | None = None
    """Commit of the hub's repository; None takes its newest."""
    prompt: str = "Describe in one sentence what happens in this video."
    """What the model is asked; empty for BLIP-2 models that were trained to describe without a question."""
    num_beams: int = 5
    """Sequences that are followed at once; sampling is never used."""
    max_tokens: int = 80
    """A caption that has not ended after as many tokens is cut there."""


Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class _Kind:
    """transformers' classes of a kind of model, and how a clip becomes the processor's output, one batch or several."""

    model_class: str
    processor_class: str
    inputs: Callable[[Any, str, Sequence[np.ndarray]], list[Inputs]]


class VideoModel:
    """One of transformers' models as a video captioner."""

    def __init__(self, config: VideoModelConfig) -> None:
        import torch
        import transformers

        if config.kind not in _KINDS:
            raise SettingsError(
                f"annotators.captions.video.kind is {config.kind!r}; expected one of {', '.join(_KINDS)}"
            )
        self._config = config
        self._kind = _KINDS[config.kind]
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        source = {"pretrained_model_name_or_path": config.model, "revision": config.revision}
        try:
            self._processor = getattr(transformers, self._kind.processor_class).from_pretrained(**source)
            network = getattr(transformers, self._kind.model_class).from_pretrained(
                **source, dtype=self._dtype
            )
        except (
            Exception
        ) as error:  # transformers raises OSError, ValueError, KeyError and more for one and the same
            raise WeightsError(
                f"video model {config.model!r} of kind {config.kind!r} cannot be loaded ({error}); name a folder that "
                "holds the model and its processor, or run where the hub is in reach, or set "
                "annotators.captions.video to none"
            ) from error
        self._network = network.to(self._device).eval()

    def caption(self, videos: Sequence[VideoView]) -> list[tuple[Caption, str]]:
        """See VideoCaptioner."""
        method = f"{self._config.kind}-{self._config.model}"
        return [(self._of_clip(video.frames_HW3), method) for video in videos]

    def _of_clip(self, frames_HW3: Sequence[np.ndarray]) -> Caption:
        inputs = self._kind.inputs(self._processor, self._config.prompt, frames_HW3)
        return elect([self._write(part) for part in inputs])

    def _write(self, inputs: Inputs) -> Caption:
        """What the model writes after `inputs`, a batch of one."""
        import torch

        on_device = {
            name: value.to(self._device, self._dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }
        with torch.inference_mode():
            (written,) = self._network.generate(
                **on_device,
                num_beams=self._config.num_beams,
                max_new_tokens=self._config.max_tokens,
                do_sample=False,
            ).tolist()
        (prompt,) = inputs["input_ids"].tolist()
        fresh = written[len(prompt) :] if written[: len(prompt)] == prompt else written
        tokenizer = self._processor.tokenizer
        text = " ".join(tokenizer.decode(fresh, skip_special_tokens=True).split())
        ended = len(fresh) < self._config.max_tokens or tokenizer.eos_token_id in fresh
        return Caption(text, "ok" if ended else "truncated")


def _four_frames(processor: Any, prompt: str, frames_HW3: Sequence[np.ndarray]) -> list[Inputs]:
    """InstructBLIP-Video's processor makes room for the query tokens of exactly four frames."""
    spread = np.linspace(0, len(frames_HW3) - 1, 4).round().astype(int)
    return [processor(images=[frames_HW3[i] for i in spread], text=prompt, return_tensors="pt")]


def _each_frame(processor: Any, prompt: str, frames_HW3: Sequence[np.ndarray]) -> list[Inputs]:
    return [processor(images=frame, text=prompt, return_tensors="pt") for frame in frames_HW3]


def _conversation(processor: Any, prompt: str, frames_HW3: Sequence[np.ndarray]) -> list[Inputs]:
    asked = [{"type": "video", "video": np.stack(frames_HW3)}, {"type": "text", "text": prompt}]
    message = {"role": "user", "content": asked}
    return [
        processor.apply_chat_template(
            [message], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    ]


_KINDS = {
    "instructblip-video": _Kind(
        "InstructBlipVideoForConditionalGeneration", "InstructBlipVideoProcessor", _four_frames
    ),
    "blip-2": _Kind("Blip2ForConditionalGeneration", "Blip2Processor", _each_frame),
    "chat": _Kind("AutoModelForImageTextToText", "AutoProcessor", _conversation),
}
