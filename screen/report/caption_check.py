"""The standing check of captions as the report shows it: whether each kind fits its own clips."""

from __future__ import annotations

from dataclasses import dataclass

from curation.captions.fit import LEAST_SHARE, CaptionFit, check_captions
from curation.pipeline import of_embedded_models
from screen.report.words import count
from warehouse.errors import CutroomError
from warehouse.ledger import Ledger

SAMPLE = 500
"""Most clips that are looked at for the page; `cutroom check-captions` takes more."""


@dataclass(frozen=True)
class FitRow:
    """How captions of one kind fit: `css` and `verdict` say whether they do, `said` the figures or why there are none."""

    of: str
    share: float | None
    """Of the pairs in which a clip's own caption is the nearer one; null where nothing could be held against it."""
    css: str
    verdict: str
    said: str


@dataclass(frozen=True)
class CaptionCheck:
    """What the check found; `unchecked` says why it could not be made at all."""

    rows: tuple[FitRow, ...]
    unchecked: str | None
    is_embedded: bool
    """The embedded model compared, on footage that nobody says it knows."""
    least: float = LEAST_SHARE


def caption_check(ledger: Ledger) -> CaptionCheck:
    """Checks the captions of up to `SAMPLE` clips; where the model is not at hand, says so instead of raising."""
    doubtful = "similarity" in of_embedded_models(ledger.plan)
    try:
        fits = check_captions(ledger, SAMPLE)
    except CutroomError as error:
        return CaptionCheck((), str(error), doubtful)
    return CaptionCheck(tuple(_row(fit) for fit in fits), None, doubtful)


def _row(fit: CaptionFit) -> FitRow:
    if why := fit.unchecked():
        return FitRow(fit.of, None, "warn", "not checked", why)
    cosines = f"mean cosine {fit.own:.2f} with its own caption, {fit.other:.2f} with another's"
    said = f"{count(fit.pairs, 'pair')} of {count(fit.clips, 'clip')}; {cosines}"
    good = fit.fits()
    return FitRow(
        fit.of, fit.share, "good" if good else "bad", "they fit" if good else "they do not fit", said
    )
