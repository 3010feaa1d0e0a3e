"""The locked packages do together what the project asks of them."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import urllib.request

import numpy as np
import served


def test_prefects_server_starts_and_answers() -> None:
    api, _ = served.server()
    with urllib.request.urlopen(f"{api}/health", timeout=30) as answer:
        assert json.load(answer) is True
    assert served.ask(api, "flows/filter") is not None


def test_there_is_one_opencv() -> None:
    owners = {d.metadata["Name"] for d in importlib.metadata.distributions() if d.files and any(
        f.parts[0] == "cv2" for f in d.files
    )}  # fmt: skip
    assert len(owners) == 1, owners


def test_diffusers_has_the_pipeline_of_stable_video_diffusion() -> None:
    code = "from diffusers import StableVideoDiffusionPipeline as p; print(p.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "StableVideoDiffusionPipeline", done.stderr


def test_the_embedded_coca_captions_a_frame() -> None:
    from curation.annotators.caption_decoding import DecodingConfig
    from curation.annotators.clip_model import EMBEDDED, load_clip
    from curation.annotators.coca import CocaCaptioner
    from curation.reel.sample_reel import Shot, render

    frame = render(Shot("star", "green", "still", "plain", size=0.5), 96, 1)[0]
    captioner = CocaCaptioner(load_clip(EMBEDDED, None), DecodingConfig(), 1)
    (caption,) = captioner.caption([np.ascontiguousarray(frame)])
    assert "green" in caption.text
    assert "star" in caption.text
