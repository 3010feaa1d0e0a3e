"""What the step that samples tells the text encoder, and what it shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from test_cli_sample import trained

from curation.captions.cleaning import CleaningConfig
from tasks.encoding import EncodeConfig
from tasks.sampling import PROMPTS, Sampled, sample_run
from training.sample import Sampling

__all__ = ["trained"]


def test_prompts_are_cleaned_as_captions_were_and_shown_as_typed(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    def sample(prompt: str, cleaning: CleaningConfig | None = None) -> Sampled:
        encode = EncodeConfig(buckets=("2x64x64",), cleaning=cleaning)
        return sample_run(trained[1], [prompt], encode, tmp_path / "out", 0, Sampling(num_steps=3))

    typed = '|0| The video shows a red circle {"mask_strategy": ""}'
    cleaned = sample(typed, CleaningConfig())
    assert cleaned.prompts == (typed,) and json.loads((tmp_path / "out" / PROMPTS).read_text()) == [typed]
    assert np.array_equal(cleaned.frames_BTHWC, sample("A red circle").frames_BTHWC)
    assert not np.array_equal(cleaned.frames_BTHWC, sample(typed).frames_BTHWC)
