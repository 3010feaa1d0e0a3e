"""What is said of each clip: one table an annotator; see `warehouse.schema` for keys, states and the retry rule."""

from __future__ import annotations

import pyarrow as pa

from warehouse.table import Expects, Table, column

CLIP_ID = column("clip_id", pa.string(), "hash of video, stream, start and end")
DONE_CLIPS = Expects("clips", ("clip_id",), ("state", "done"))
_MODEL = column(
    "model",
    pa.string(),
    "which weights made it: 'embedded', a hub name or a path; embedded ones know the sample reel alone",
)


def _per_clip(name: str, *fields: pa.Field) -> Table:
    return Table(name, ("clip_id",), (CLIP_ID, *fields), DONE_CLIPS)


_MOTION = _per_clip(
    "motion",
    column(
        "score",
        pa.float32(),
        "mean flow over the pairs that lie inside the clip",
        unit="px of a frame with a short side of 16 px, per 0.5 s",
        source="SVD, appendix C",
    ),
    column("dx", pa.float32(), "mean horizontal flow, right is positive", unit="as score"),
    column("dy", pa.float32(), "mean vertical flow, down is positive", unit="as score"),
    column("num_pairs", pa.int32(), "pairs averaged"),
    column(
        "camera",
        pa.string(),
        "what the camera does: static, pan_left, pan_right, tilt_up, tilt_down, zoom_in, zoom_out, roll or mixed; null, "
        "as the next six, where no camera explains the flow of any pair",
    ),
    column("camera_motion", pa.float32(), "mean length of the flow that the camera makes", unit="as score"),
    column(
        "object_motion",
        pa.float32(),
        "mean length of the flow that is left where the camera does not explain the picture",
        unit="as score",
    ),
    column(
        "camera_dx",
        pa.float32(),
        "mean shift of the content by the camera, right is positive",
        unit="as score",
    ),
    column("camera_dy", pa.float32(), "the same, down is positive", unit="as score"),
    column(
        "camera_zoom",
        pa.float32(),
        "mean growth of the content, as the mean shift that it makes",
        unit="as score",
    ),
    column(
        "camera_roll",
        pa.float32(),
        "mean clockwise turn of the content, as the shift it makes",
        unit="as score",
    ),
    column("num_camera_pairs", pa.int32(), "pairs whose flow a camera explains"),
)

_RAFT_MOTION = _per_clip(
    "raft_motion",
    column(
        "score",
        pa.float32(),
        "mean length of RAFT's flow vectors over the pairs of grid frames inside the clip",
        unit="px of a frame with a short side of 16 px, per 0.5 s",
        source="SVD, appendix; Teed and Deng 2020",
    ),
    column("dx", pa.float32(), "mean horizontal flow, right is positive", unit="as score"),
    column("dy", pa.float32(), "mean vertical flow, down is positive", unit="as score"),
    column("num_pairs", pa.int32(), "pairs averaged"),
    column("network", pa.string(), "raft_small or raft_large"),
)

_TEXT_AREA = _per_clip(
    "text_area",
    column(
        "score",
        pa.float32(),
        "largest of the frames' areas",
        unit="share of the frame",
        source="SVD, appendix C",
    ),
    column(
        "areas",
        pa.list_(pa.float32()),
        "union of text boxes in first, middle, last frame",
        unit="share of the frame",
    ),
    column("text", pa.list_(pa.string()), "what was read, over the frames, each once"),
    column(
        "engine", pa.string(), "which detector found it, and whether its weights are not the published ones"
    ),
)

_OVERLAYS = _per_clip(
    "overlays",
    column(
        "score",
        pa.float32(),
        "area of what stays at its place while the scene moves: logos, watermarks, lower thirds",
        unit="share of the frame",
        source="Dekel et al. 2017, section 3.1",
    ),
    column(
        "boxes",
        pa.list_(pa.list_(pa.float32())),
        "left, top, right, bottom of each, the largest first",
        unit="share of the frame's width and height",
    ),
    column("num_frames", pa.int32(), "frames that were compared"),
)

_SHARPNESS = _per_clip(
    "sharpness",
    column(
        "score",
        pa.float32(),
        "median over frames of the log variance of the Laplacian at a fixed size",
        unit="log",
    ),
    column("brightness", pa.float32(), "mean luma", unit="0 to 1"),
)

_QUALITY = _per_clip(
    "quality",
    column(
        "contrast",
        pa.float32(),
        "standard deviation of luma inside the bars, median over frames",
        unit="0 to 0.5",
        source="Peli 1990, RMS contrast",
    ),
    column("letterbox", pa.float32(), "black bars above and below", unit="share of the height"),
    column("pillarbox", pa.float32(), "black bars left and right", unit="share of the width"),
    column("bar_top", pa.float32(), "black bar above", unit="share of the height"),
    column("bar_bottom", pa.float32(), "black bar below", unit="share of the height"),
    column("bar_left", pa.float32(), "black bar on the left", unit="share of the width"),
    column("bar_right", pa.float32(), "black bar on the right", unit="share of the width"),
    column(
        "frozen",
        pa.float32(),
        "pairs of neighbouring grid frames between which nothing changes; null for a single frame",
        unit="share of the pairs",
    ),
    column("width", pa.float32(), "as displayed, bars included", unit="px"),
    column("height", pa.float32(), "as displayed, bars included", unit="px"),
    column("pixels", pa.float32(), "width times height", unit="px"),
    column("aspect", pa.float32(), "width over height as displayed, bars included"),
    column("fps", pa.float32(), "frames of the clip over its length", unit="1/s"),
    column(
        "bits_per_pixel",
        pa.float32(),
        "the stream's bit rate over displayed pixels and frames; null where the video's duration is unknown",
        unit="bit",
    ),
    column("audio", pa.float32(), "1 where the file has sound, else 0"),
)

_FINGERPRINTS = _per_clip(
    "fingerprints",
    column(
        "hashes",
        pa.list_(pa.uint64()),
        "perceptual hash of each grid frame that has structure: signs of 63 low frequencies",
        source="Zauner 2010",
    ),
    column("colours", pa.binary(), "uint8, C order (frames, 8, 8, RGB): mean colours of those frames"),
)

_EMBEDDINGS = _per_clip(
    "embeddings",
    _MODEL,
    column("first", pa.list_(pa.float32()), "image embedding of the first frame, length 1"),
    column("middle", pa.list_(pa.float32()), "image embedding of the middle frame, length 1"),
    column("last", pa.list_(pa.float32()), "image embedding of the last frame, length 1"),
)

_AESTHETICS = _per_clip(
    "aesthetics",
    _MODEL,
    column("score", pa.float32(), "mean over the frames", source="LAION aesthetic predictor"),
    column("scores", pa.list_(pa.float32()), "first, middle, last frame"),
)

_CAPTIONS = _per_clip(
    "captions",
    column("frame_caption", pa.string(), "of the middle frame; null where its status is failed"),
    column("frame_method", pa.string(), "model that wrote it"),
    column("frame_status", pa.string(), "ok, truncated, or failed: the model wrote no word"),
    column("video_caption", pa.string(), "of the whole clip; null where its status is failed"),
    column("video_method", pa.string(), "model or rule that wrote it"),
    column("video_status", pa.string(), "ok, truncated, or failed: the model wrote no word"),
)

_SUMMARIES = _per_clip(
    "summaries",
    column("summary", pa.string(), "one caption out of both, or the only one where the other failed"),
    column("method", pa.string(), "language model or rule that merged them"),
    column("status", pa.string(), "ok or truncated"),
    column("requests", pa.int32(), "requests that a server was sent for it; null where none was asked"),
    column(
        "prompt_tokens",
        pa.int32(),
        "tokens of the prompts, over all requests; null where the server did not say",
    ),
    column(
        "completion_tokens", pa.int32(), "tokens of the answers, over all requests; null where it did not say"
    ),
    column(
        "nano_usd",
        pa.int64(),
        "their price as the settings had it; null where they had none",
        unit="1e-9 USD",
    ),
)

_SIMILARITY = _per_clip(
    "similarity",
    _MODEL,
    column(
        "score", pa.float32(), "mean over the frames for the summary", unit="cosine", source="SVD, appendix C"
    ),
    column(
        "cosines",
        pa.list_(pa.float32()),
        "nine values: first, middle, last frame by frame, video, summary caption; null for a caption that failed",
    ),
)

_LISTED_CAPTIONS = _per_clip(
    "listed_captions",
    column(
        "captions",
        pa.list_(pa.string()),
        "what imported lists say of the footage, or of a span that the clip lies in; each once, in their order",
    ),
    column("methods", pa.list_(pa.string()), "the list that each is from: `listed, <format>: <URI>`"),
    column("status", pa.string(), "ok: they stand as the list has them"),
)

ANNOTATIONS = (
    _MOTION,
    _RAFT_MOTION,
    _TEXT_AREA,
    _OVERLAYS,
    _SHARPNESS,
    _QUALITY,
    _FINGERPRINTS,
    _EMBEDDINGS,
    _AESTHETICS,
    _CAPTIONS,
    _SUMMARIES,
    _SIMILARITY,
    _LISTED_CAPTIONS,
)
