"""The standing check of captions as a step of a flow: what has just been captioned is held against its clips."""

from __future__ import annotations

from collections.abc import Mapping

from curation.captions.fit import CaptionFit, check_captions
from curation.formats.kept import CAPTIONS
from curation.pipeline import of_embedded_models
from tasks.progress import note
from tasks.tracking import step
from warehouse.errors import CutroomError
from warehouse.ledger import Ledger

SAMPLE = 300
"""Most clips that are looked at after a run; `cutroom check-captions` takes more."""


def check_new_captions(ledger: Ledger, new_rows: Mapping[str, int]) -> tuple[CaptionFit, ...] | None:
    """How captions fit where the run wrote some; None where it wrote none, or where no check can tell, which is said."""
    if not any(new_rows.get(table) for table, _ in CAPTIONS.values()):
        return None
    if "similarity" in of_embedded_models(ledger.plan):
        note(
            "captions were not checked against their clips: the embedded models know the sample reel alone "
            "(`cutroom check-captions` checks all the same)"
        )
        return None
    try:
        return _check(ledger)
    except CutroomError as error:
        note(f"captions were not checked against their clips: {error}")
        return None


@step(name="check captions", run_name="check captions")
def _check(ledger: Ledger) -> tuple[CaptionFit, ...]:
    return tuple(check_captions(ledger, SAMPLE))
