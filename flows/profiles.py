"""Profiles: named sets of models and filters, between the defaults and what a user sets."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from curation.annotators.captions import PUBLISHED

PROFILES: dict[str, dict[str, Any]] = {
    "embedded": {},
    "published": {
        "annotators": {
            "embeddings": {"model": "ViT-L-14", "pretrained": "openai"},
            "aesthetics": {"model": "sac+logos+ava1-l14-linearMSE.pth"},
            "captions": asdict(PUBLISHED),
            "summaries": {"server": {"url": "http://127.0.0.1:8000/v1"}},
            "similarity": {"model": "ViT-L-14", "pretrained": "openai"},
        },
        "selection": {
            "name": "svd",
            "filters": [
                {"score": "motion", "drop": 0.25},
                {"score": "text_area", "drop": 0.25},
                {"score": "aesthetics", "drop": 0.25},
                {"score": "similarity", "drop": 0.5},
            ],
        },
    },
}
"""`embedded` is the defaults. `published` is what SVD used (section 3.1, appendices C and E.2):
models from a hub, LAION's head from a file in the working folder, a language model from a server on this machine. Each
name may be a local file or folder instead."""
