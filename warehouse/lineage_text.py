"""A clip's whole life as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warehouse.lineage import Explanation, ScoreFact


def render(explanation: Explanation) -> str:
    """The explanation as plain text for a terminal; characters that a terminal would obey are spelled out."""
    blocks = (
        _clip_lines(explanation),
        ["scores", *_columns([_score_cells(s) for s in explanation.scores])],
        _verdict_lines(explanation.verdict),
        [
            "captions",
            *_columns([(c["of"], c["text"], c["method"], c["status"]) for c in explanation.captions]),
        ],
        ["made by", *_columns([_file_cells(t) for t in explanation.tables])],
        ["datasets", *_columns([(d["path"], d["bucket"], d["split"]) for d in explanation.datasets])],
        ["checkpoints", *_columns([_run_cells(c) for c in explanation.checkpoints])],
    )
    whole = [[b[0], "  none"] if len(b) == 1 else b for b in blocks]
    return "\n\n".join("\n".join(_printable(line) for line in block) for block in whole)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as aligned, indented lines."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _clip_lines(explanation: Explanation) -> list[str]:
    clip, video = explanation.clip, explanation.video
    last = clip["first_frame"] + clip["num_frames"] - 1
    span = f"{clip['start_s']:.3f} s to {clip['end_s']:.3f} s ({clip['duration_s']:.3f} s)"
    shape = f"{video['codec']}, {video['width']}x{video['height']}, {video['fps']:.3f} fps"
    state = "a clip" if clip["state"] == "done" else f"no clip: {clip['cause']}"
    rows = [
        *(
            ("source", f"{s['uri']}{' (read from here)' if s['read_from'] else ''}")
            for s in explanation.sources
        ),
        (
            "video",
            f"{shape}, {video['duration_s']:.3f} s, {video['num_frames']} frames, id {video['video_id']}",
        ),
        ("span", f"{span}, frames {clip['first_frame']} to {last}, scene {clip['scene']}"),
        (
            "pts",
            f"[{clip['start_pts']}, {clip['end_pts']}) x {video['time_base_num']}/{video['time_base_den']} s",
        ),
        ("state", state),
    ]
    return [f"clip {clip['clip_id']}", *_columns(rows)]


def _score_cells(score: ScoreFact) -> tuple[str, ...]:
    if score.value is None:
        value, place = f"{score.state}{f' ({score.cause})' if score.cause else ''}", ""
    else:
        value = f"{score.value:.4g} {score.unit}".rstrip()
        place = f"percentile {score.percentile:.0f} of {score.num_scored} clips"
    model = f"[{score.model}]" if score.model else ""
    return score.name, value, place, _threshold_words(score), model


def _threshold_words(score: ScoreFact) -> str:
    if score.threshold is None:
        return ""
    sign = ">=" if score.threshold["better"] == "high" else "<="
    word = {True: "passes", False: "fails", None: "is let be by"}[score.passed]
    return f"{word} {sign} {score.threshold['value']:.4g}"


def _verdict_lines(verdict: Mapping[str, Any] | None) -> list[str]:
    if verdict is None:
        return ["verdict", "  nothing has judged it"]
    said = "kept" if verdict["kept"] else f"rejected by {verdict['rejected_by']}"
    also = [f for f in verdict["failed_filters"] if f != verdict["rejected_by"]]
    further = f", also by {', '.join(also)}" if also else ""
    copy = verdict["near_duplicate_of"]
    further += f" of clip {copy}, which is kept (by {verdict['near_duplicate_by']})" if copy else ""
    return ["verdict", f"  {said}{further} (selection {verdict['selection']}, {verdict['path']})"]


def _file_cells(file: Mapping[str, Any]) -> tuple[str, ...]:
    return file["table"], f"{file['step']} v{file['version']}", f"run {file['run']}", file["path"]


def _run_cells(run: Mapping[str, Any]) -> tuple[str, ...]:
    through = f"from {run['dataset']}" if run["dataset"] else f"through {run['inherited_from']}"
    return run["path"], run["stage"], "done" if run["is_done"] else "not finished", through
