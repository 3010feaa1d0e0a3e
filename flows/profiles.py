"""Profiles: named sets of models and filters, between the defaults and what a user sets."""

from __future__ import annotations

from typing import Any

PROFILES: dict[str, dict[str, Any]] = {
    "embedded": {},
    "published": {
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
"""`embedded` is the defaults. `published` is what SVD used (section 3.1, appendices C and E.2)."""
