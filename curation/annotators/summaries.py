"""One caption out of a clip's two: by a language model on a server, or by rule (SVD, section 3.1 and appendix C)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from typing import Any, ClassVar

from curation.annotators.base import Clip, Failed, Outcome
from curation.annotators.batch import row_of, score_batch
from curation.annotators.caption_merge import merge_captions
from curation.annotators.coca import Caption
from curation.annotators.summary_server import Answer, Request, ServerConfig, SummaryServer
from curation.captions.spending import Spent
from curation.engine.places import RunsOn

OFFLINE = "offline-merge"


@dataclass(frozen=True)
class SummariesConfig:
    """Who merges the captions."""

    server: ServerConfig | None = None
    """The language model; without one the captions are merged by rule."""


class SummariesAnnotator:
    """Merges the caption of the middle frame and that of the clip."""

    name: ClassVar[str] = "summaries"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("captions",)
    config_type: ClassVar[type] = SummariesConfig

    def __init__(self, config: SummariesConfig) -> None:
        self._config = config
        self.server: SummaryServer | None = None
        """The server; None where there is none."""

    @staticmethod
    def runs_on(config: SummariesConfig) -> RunsOn:
        """See ChoosesPlace."""
        return "elsewhere" if config.server else "cores"

    @staticmethod
    def batch_size(config: SummariesConfig) -> int:
        """See ChoosesPlace: enough to keep the server busy, and not more than its limit lets through in five minutes."""
        if config.server is None:
            return 16
        a_minute = config.server.requests_per_minute or inf
        return max(1, int(min(4 * config.server.concurrency, 5 * a_minute)))

    def load(self) -> None:
        """Makes the server's client, without asking it anything; raises SettingsError."""
        self.server = SummaryServer(self._config.server) if self._config.server else None

    def annotate(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Columns of table summaries."""
        return score_batch(clips, lambda clip: (clip.clip_id, row_of(clip, "captions")), self._columns)

    def _columns(self, captioned: list[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any] | Failed]:
        requests = [Request(i, *captions) for i, row in captioned if len(captions := _written(row)) == 2]
        if self.server is None or self._config.server is None or not requests:
            return [_columns(Answer(_merge(row)), OFFLINE) for _, row in captioned]
        answers = iter(self.server.ask_all(requests))
        method = f"llm-{self._config.server.model}"
        # A single caption is its own summary.
        return [
            _columns(next(answers), method)
            if len(_written(row)) == 2
            else _columns(Answer(_merge(row)), OFFLINE)
            for _, row in captioned
        ]


def _columns(answer: Answer, method: str) -> dict[str, Any] | Failed:
    spent = asdict(answer.spent) if answer.spent else dict.fromkeys(f.name for f in fields(Spent))
    if isinstance(answer.told, Failed):
        return replace(answer.told, columns=spent)
    return {"summary": answer.told.text, "method": method, "status": answer.told.status} | spent


def _written(row: Mapping[str, Any]) -> list[str]:
    """The captions of the frame and the clip, less one that failed."""
    return [row[f"{of}_caption"] for of in ("frame", "video") if row[f"{of}_caption"] is not None]


def _merge(row: Mapping[str, Any]) -> Caption:
    cut = "truncated" in (row["frame_status"], row["video_status"])
    captions = _written(row)
    text = merge_captions(captions[0], captions[-1])
    return Caption(text, "truncated" if cut else "ok")
