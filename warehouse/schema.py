"""Every table of a warehouse: its rows, its key's parts, its states and its retry rule.

The tables form a chain. Each says from which rows of which other table its ids follow, so that `audit` can prove from
ids that nothing is missing, doubled or unknown::

    given -> sources -> shards -> videos -> frame_scores, flow, grid_frames
                                       \\-> cuts -> clips -> motion, text_area, ... -> verdicts -> latents, text_embeddings
    listed -> matched (beside them: what imported lists say, and which sources of `given` they say it of; what they say of
                       each clip is one more table of the clips, `listed_captions`)

**Key.** ``hash(table, step version, step config, keys of the tables that the step reads)``; see `warehouse.plan`.

**States.** A row of a stateful table is ``done``, ``failed`` (with cause, detail and attempt) or ``skipped`` (with the
reason as its cause). An id without a row is pending; pending is never written.

**Retry rule.** The same command again settles the ids that have no row. A failure whose cause is transient
(`TRANSIENT_CAUSES`) is tried again, up to `MAX_ATTEMPTS` times in all; any other failure is final at once and is tried
again on demand only (``--retry-failed``). A retry writes the next generation of its shard with the rows that it
settled; for an id the highest generation counts. A list that is imported again settles anew the entries whose file has
come, gone or changed since. Rows of `listed_captions`, and of `text_embeddings` that follow from them, are settled anew
where a later import says something else of their clip. A source that failed because its file was not there, or not
whole, becomes ``skipped`` (``given_again``) once the file was given again and read.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from warehouse.annotations import ANNOTATIONS, CLIP_ID, DONE_CLIPS
from warehouse.table import Expects, Table, column

State = Literal["done", "failed", "skipped"]

MAX_ATTEMPTS = 3
TRANSIENT_CAUSES = frozenset({"timeout", "crashed", "out_of_memory", "io_error", "server_error"})


_VIDEO_ID = column("video_id", pa.string(), "SHA-256 of the video's bytes")
_DONE_VIDEOS = Expects("videos", ("video_id",), ("state", "done"))
_KEPT = Expects("verdicts", ("clip_id",), ("kept", True))

_GIVEN = Table(
    "given",
    ("source_id",),
    (
        column("source_id", pa.string(), "hash of the URI, size and time of last change"),
        column("uri", pa.string(), "the file as it was given, absolute"),
        column("named", pa.bool_(), "given by its own name, not found in a folder"),
        column("bytes", pa.int64(), "size; null when there is no such file", unit="bytes"),
        column("modified_ns", pa.int64(), "time of last change; null when there is no such file", unit="ns"),
    ),
    None,
    stateful=False,
    by_shard=False,
)

_LISTED = Table(
    "listed",
    ("entry_id",),
    (
        column("entry_id", pa.string(), "hash of the list's id and the entry's position in it"),
        column("list_id", pa.string(), "hash of the format, the list's URI, and all that its entries say"),
        column("format", pa.string(), "as `cutroom import-data` names it"),
        column("uri", pa.string(), "the list as it was given, absolute"),
        column("place", pa.string(), "where in the list: a line, an item, a folder"),
        column("path", pa.string(), "footage, as the list has it; null where it names none"),
        column("captions", pa.list_(pa.string()), "what the list says is to be seen"),
        column("start_s", pa.float64(), "span of the footage, if one is listed", unit="s"),
        column("end_s", pa.float64(), "its end", unit="s"),
        column("start_frame", pa.int64(), "first frame of the span, in presentation order"),
        column("end_frame", pa.int64(), "just past its last frame"),
        column("columns", pa.string(), "all else that the list says, as a JSON object"),
    ),
    None,
    stateful=False,
    by_shard=False,
)

_MATCHED = Table(
    "matched",
    ("entry_id",),
    (
        column("entry_id", pa.string(), "hash of the list's id and the entry's position in it"),
        column("source_id", pa.string(), "the source that it became; null when it could not be used"),
        column(
            "import_number",
            pa.int64(),
            "counts the imports of this warehouse; of versions of one list, the one that was imported last is read",
        ),
    ),
    Expects("listed", ("entry_id",)),
    by_shard=False,
    references=("source_id", "given"),
)

_SOURCES = Table(
    "sources",
    ("source_id",),
    (
        column("source_id", pa.string(), "hash of the URI, size and time of last change"),
        column("uri", pa.string(), "the file as it was given, absolute"),
        column("video_id", pa.string(), "SHA-256 of its bytes; null when it could not be read"),
        column("bytes", pa.int64(), "size", unit="bytes"),
        column("duration_s", pa.float64(), "as the header says; null when unknown", unit="s"),
    ),
    Expects("given", ("source_id",)),
    by_shard=False,
)

_SHARDS = Table(
    "shards",
    ("video_id",),
    (
        _VIDEO_ID,
        column("source_id", pa.string(), "the source that its bytes are read from"),
        column("uri", pa.string(), "that source's URI"),
        column("bytes", pa.int64(), "size", unit="bytes"),
        column(
            "duration_s", pa.float64(), "as the header says; sizes the shard; null when unknown", unit="s"
        ),
    ),
    Expects("sources", ("video_id",), ("state", "done")),
    stateful=False,
)

_VIDEOS = Table(
    "videos",
    ("video_id",),
    (
        _VIDEO_ID,
        column("uri", pa.string(), "where its bytes were read"),
        column("container", pa.string(), "container format"),
        column("stream", pa.int16(), "index of the stream in its container"),
        column("codec", pa.string(), "video codec"),
        column("pix_fmt", pa.string(), "pixel format"),
        column("width", pa.int32(), "as displayed, after rotation", unit="px"),
        column("height", pa.int32(), "as displayed, after rotation", unit="px"),
        column("rotation_deg", pa.int16(), "display rotation that was applied", unit="degrees"),
        column("time_base_num", pa.int32(), "numerator of the stream's time base"),
        column("time_base_den", pa.int32(), "denominator of the stream's time base"),
        column("start_pts", pa.int64(), "first frame", unit="ticks"),
        column("end_pts", pa.int64(), "end of the last frame", unit="ticks"),
        column("duration_s", pa.float64(), "from first frame to the end of the last", unit="s"),
        column("fps", pa.float64(), "decoded frames over duration", unit="1/s"),
        column("num_frames", pa.int64(), "frames that were decoded"),
        column("decode_errors", pa.int32(), "packets that the decoder refused and survived"),
        column("bit_rate", pa.float64(), "of the video stream's packets, measured", unit="bit/s"),
        column("has_audio", pa.bool_(), "an audio stream is present"),
        column("bytes", pa.int64(), "size", unit="bytes"),
        column("signals", pa.list_(pa.string()), "signals that were taken of its frames"),
        column("grid_pts", pa.list_(pa.int64()), "frames that were spooled on the time grid", unit="ticks"),
    ),
    Expects("shards", ("video_id",)),
)

_FRAME_SCORES = Table(
    "frame_scores",
    ("video_id", "signal"),
    (
        _VIDEO_ID,
        column("signal", pa.string(), "detector and rate, or a plain measure of each frame"),
        column(
            "rate_fps", pa.float64(), "rate at which frames were looked at; null: every frame", unit="1/s"
        ),
        column("frame", pa.list_(pa.int32()), "index in presentation order"),
        column("pts", pa.list_(pa.int64()), "time of the frame", unit="ticks"),
        column("value", pa.list_(pa.float64()), "the score of the frame, as the detector computes it"),
    ),
    Expects("videos", ("video_id", "signals"), ("state", "done"), explode=True),
    stateful=False,
)

_FLOW = Table(
    "flow",
    ("video_id",),
    (
        _VIDEO_ID,
        column("pts0", pa.list_(pa.int64()), "first frame of each pair", unit="ticks"),
        column("pts1", pa.list_(pa.int64()), "second frame of each pair", unit="ticks"),
        column(
            "magnitude",
            pa.list_(pa.float32()),
            "mean length of the flow vectors",
            unit="px of a frame with a short side of 16 px, per 0.5 s",
            source="SVD, appendix C; Farneback 2003",
        ),
        column("dx", pa.list_(pa.float32()), "mean horizontal flow, right is positive", unit="as magnitude"),
        column("dy", pa.list_(pa.float32()), "mean vertical flow, down is positive", unit="as magnitude"),
        column(
            "camera_motion",
            pa.list_(pa.float32()),
            "mean length of the flow that the camera makes; null, as the next five, where no camera explains the flow",
            unit="as magnitude",
        ),
        column(
            "object_motion",
            pa.list_(pa.float32()),
            "mean length of the flow that is left where the camera does not explain the picture",
            unit="as magnitude",
        ),
        *(
            column(f"camera_{part}", pa.list_(pa.float32()), meaning, unit="as magnitude")
            for part, meaning in (
                ("dx", "shift of the content by the camera, right is positive"),
                ("dy", "shift of the content by the camera, down is positive"),
                ("zoom", "growth of the content, as the mean shift that it makes"),
                ("roll", "clockwise turn of the content, as the mean shift that it makes"),
            )
        ),
    ),
    _DONE_VIDEOS,
    stateful=False,
)

_GRID_FRAMES = Table(
    "grid_frames",
    ("video_id", "pts"),
    (
        _VIDEO_ID,
        column("pts", pa.int64(), "time of the frame", unit="ticks"),
        column("jpeg", pa.binary(), "upright RGB image"),
        column("width", pa.int32(), "of the image", unit="px"),
        column("height", pa.int32(), "of the image", unit="px"),
    ),
    Expects("videos", ("video_id", "grid_pts"), ("state", "done"), explode=True),
    stateful=False,
)

_CUT = pa.struct(
    [
        column("frame", pa.int32(), "first frame wholly of the new scene, in presentation order"),
        column("pts", pa.int64(), "its time", unit="ticks"),
        column("time_s", pa.float64(), "its time from the first frame", unit="s"),
        column("start_pts", pa.int64(), "where the transition begins", unit="ticks"),
        column("end_pts", pa.int64(), "where the transition ends; equals pts", unit="ticks"),
        column("type", pa.string(), "hard or gradual; or flash, which parts no scenes"),
        column("confidence", pa.float32(), "0 to 1"),
    ]
)

_CUTS = Table(
    "cuts",
    ("video_id",),
    (
        _VIDEO_ID,
        column(
            "cuts",
            pa.list_(_CUT),
            "boundaries, merged over the detectors' frame rates",
            source="SVD, appendix C",
        ),
        column(
            "span_ids", pa.list_(pa.string()), "ids of all spans, in order; together they cover the video"
        ),
    ),
    _DONE_VIDEOS,
)

_CLIPS = Table(
    "clips",
    ("clip_id",),
    (
        CLIP_ID,
        _VIDEO_ID,
        column("stream", pa.int16(), "index of the stream in its container"),
        column("start_pts", pa.int64(), "first frame", unit="ticks"),
        column("end_pts", pa.int64(), "just past the last frame", unit="ticks"),
        column("start_s", pa.float64(), "from the video's first frame", unit="s"),
        column("duration_s", pa.float64(), "length", unit="s"),
        column("num_frames", pa.int32(), "frames inside"),
        column("scene", pa.int32(), "index of the scene that it lies in"),
    ),
    Expects("cuts", ("span_ids",), ("state", "done"), explode=True),
)

_VERDICTS = Table(
    "verdicts",
    ("clip_id",),
    (
        CLIP_ID,
        column("kept", pa.bool_(), "it passed every filter"),
        column("rejected_by", pa.string(), "first filter that rejected it; null when kept"),
        column("failed_filters", pa.list_(pa.string()), "all filters that reject it, in order"),
        column(
            "near_duplicate_of",
            pa.string(),
            "clip that is kept in place of this one; null unless rejected by near_duplicate",
        ),
        column(
            "near_duplicate_by", pa.string(), "what the two have in common: hash or embedding; null as above"
        ),
    ),
    DONE_CLIPS,
    stateful=False,
)

_LATENTS = Table(
    "latents",
    ("clip_id",),
    (
        CLIP_ID,
        column(
            "bucket", pa.string(), "shape of the frames that were encoded: frames x height x width in pixels"
        ),
        column("latents", pa.binary(), "float16, C order (frames, channels, height, width), scaled"),
        column("shape", pa.list_(pa.int32()), "frames, channels, height, width"),
        column("fps", pa.float32(), "rate at which the frames were really taken", unit="1/s"),
    ),
    _KEPT,
)

_TEXT_EMBEDDINGS = Table(
    "text_embeddings",
    ("clip_id",),
    (
        CLIP_ID,
        column("caption", pa.string(), "the caption that was encoded"),
        column("caption_method", pa.string(), "who wrote it"),
        column("text", pa.binary(), "float16, C order (tokens, width)"),
        column("shape", pa.list_(pa.int32()), "tokens, width"),
        column("mask", pa.binary(), "bool, one byte a token: true where there is a token"),
        column(
            "num_tokens",
            pa.int32(),
            "tokens of the whole caption; of more than fit into `shape` the rest was cut",
        ),
    ),
    _KEPT,
)

TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        _GIVEN,
        _LISTED,
        _MATCHED,
        _SOURCES,
        _SHARDS,
        _VIDEOS,
        _FRAME_SCORES,
        _FLOW,
        _GRID_FRAMES,
        _CUTS,
        _CLIPS,
        *ANNOTATIONS,
        _VERDICTS,
        _LATENTS,
        _TEXT_EMBEDDINGS,
    )
}
"""All tables by name, in the order in which they are filled."""
