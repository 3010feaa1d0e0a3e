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
_NUMBERS_PER_S = 1000


@dataclass(frozen=True)
class _Kind:
    """transformers' classes of a kind of model, and how a clip becomes the processor's output, one batch or several."""

    model_class: str
    processor_class: str
    inputs: Callable[[Any, str, VideoView], list[Inputs]]


class VideoModel:
    """One of transformers' models as a video captioner."""

    def __init__(self, config: VideoModelConfig) -> None:
        import torch
        import transformers

        from models.devices import best_device
        from models.whole_weights import whole

        if config.kind not in _KINDS:
            raise SettingsError(
                f"annotators.captions.video.kind is {config.kind!r}; expected one of {', '.join(_KINDS)}"
            )
        self._config = config
        self._kind = _KINDS[config.kind]
        self._device = best_device()
        self._dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        source = {"pretrained_model_name_or_path": config.model, "revision": config.revision}
        try:
            self._processor = getattr(transformers, self._kind.processor_class).from_pretrained(**source)
            loaded = getattr(transformers, self._kind.model_class).from_pretrained(
                **source, dtype=self._dtype, output_loading_info=True
            )
        # transformers raises OSError, ValueError, KeyError and more for one and the same.
        except Exception as error:
            raise WeightsError(
                f"video model {config.model!r} of kind {config.kind!r} cannot be loaded ({error}); name a folder that "
                "holds the model and its processor, or run where the hub is in reach, or set "
                "annotators.captions.video to none"
            ) from error
        self._network = whole(loaded, config.model).to(self._device).eval()

    def caption(self, videos: Sequence[VideoView]) -> list[tuple[Caption, str]]:
        """See VideoCaptioner."""
        method = f"{self._config.kind}-{self._config.model}"
        return [(self._of_clip(video), method) for video in videos]

    def _of_clip(self, video: VideoView) -> Caption:
        inputs = self._kind.inputs(self._processor, self._config.prompt, video)
        return elect([self._write(part) for part in inputs])

    def _write(self, inputs: Inputs) -> Caption:
        """What the model writes after `inputs`, a batch of one."""
        import torch

        on_device = {
            name: value.to(self._device, self._dtype if name.startswith("pixel_values") else value.dtype)
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


def _four_frames(processor: Any, prompt: str, video: VideoView) -> list[Inputs]:
    """InstructBLIP-Video's processor makes room for the query tokens of exactly four frames."""
    spread = np.linspace(0, len(video.frames_HW3) - 1, 4).round().astype(int)
    return [processor(images=[video.frames_HW3[i] for i in spread], text=prompt, return_tensors="pt")]


def _each_frame(processor: Any, prompt: str, video: VideoView) -> list[Inputs]:
    return [processor(images=frame, text=prompt, return_tensors="pt") for frame in video.frames_HW3]


def _conversation(processor: Any, prompt: str, video: VideoView) -> list[Inputs]:
    # Qwen3-VL refuses a video of one frame, which others show twice by themselves.
    twice = 2 if len(video.frames_HW3) == 1 else 1
    frames_THW3, times_s = np.stack([*video.frames_HW3] * twice), [*video.times_s] * twice
    asked = [{"type": "video", "video": frames_THW3}, {"type": "text", "text": prompt}]
    # The frames have been chosen: a processor that were left to itself would choose among them, at a rate it guesses.
    shown = {"video_metadata": [_metadata(times_s)], "do_sample_frames": False}
    return [
        processor.apply_chat_template(
            [{"role": "user", "content": asked}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=shown,
        )
    ]


def _metadata(times_s: Sequence[float]) -> dict[str, Any]:
    """The frames as transformers knows sampled ones: by their number in a video of a thousand frames a second.

    Times are numbers over that rate, and the rate of the frames themselves is their share of the video's length, so the
    length is that of as many frames at their mean distance, to the millisecond.
    """
    apart_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1) or 1.0
    length_s = apart_s * len(times_s)
    return {
        "total_num_frames": round(length_s * _NUMBERS_PER_S),
        "fps": float(_NUMBERS_PER_S),
        "duration": length_s,
        "frames_indices": [round(time_s * _NUMBERS_PER_S) for time_s in times_s],
    }


_KINDS = {
    "instructblip-video": _Kind(
        "InstructBlipVideoForConditionalGeneration", "InstructBlipVideoProcessor", _four_frames
    ),
    "blip-2": _Kind("Blip2ForConditionalGeneration", "Blip2Processor", _each_frame),
    "chat": _Kind("AutoModelForImageTextToText", "AutoProcessor", _conversation),
}
