"""Small models that ship with the project, trained on generated footage by `flows/build_embedded.py`; see card.md."""

from __future__ import annotations

from models.embedded.aesthetics import load_aesthetics
from models.embedded.autoencoder import load_autoencoder
from models.embedded.coca import EmbeddedCoCa, greedy_caption, load_coca

__all__ = ["EmbeddedCoCa", "greedy_caption", "load_aesthetics", "load_autoencoder", "load_coca"]
