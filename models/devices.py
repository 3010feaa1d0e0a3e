"""Where models compute."""

from __future__ import annotations

import torch


def best_device() -> str:
    """Where torch sees an accelerator (NVIDIA's or AMD's) "cuda", else "cpu"; CUDA_VISIBLE_DEVICES="" hides them."""
    return "cuda" if torch.cuda.is_available() else "cpu"
