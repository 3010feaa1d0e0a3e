"""Latents and text embeddings of the kept clips, as the engine runs them. Computed once for all selections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import polars as pl

from curation.captions.choosing import SCORES, choose_caption, telling_scores, written_captions
from curation.captions.cleaning import CleaningConfig, clean
from curation.captions.score_words import ScoreWordsConfig, parts
from curation.engine.places import RunsOn
from curation.engine.work import Outputs, Unit, by_video, in_batches, settled
from curation.footage.clip_frames import Bucket, Sampled, read_clips, sample
from curation.footage.media import MediaLimits
from curation.ingest import open_source
from curation.listed_captions import METHOD
from curation.sources import find_source
from models.digest import weights_id
from models.latent_scaling import scaling_of
from models.weight_files import check_weights, memory_of_weights
from warehouse.errors import InputError, MediaError, SettingsError, WeightsError
from warehouse.ledger import Ledger
from warehouse.plan import FACTS, WEIGHTS, Step
from warehouse.ranges import MANY, RATE_FPS, check_ranges

_TEXT_SETTINGS = (
    "text_subfolder",
    "tokenizer_subfolder",
    "max_length",
    "text_dtype",
    "listed_captions",
    "cleaning",
    "score_words",
)
"""Those that change the rows of text where they are not at their default."""


@dataclass(frozen=True)
class EncodeConfig:
    """How clips become what a trainer reads."""

    buckets: tuple[str, ...] = ("8x64x64",)
    """Shapes to choose from, frames x height x width in pixels; a still picture takes one's height and width."""
    fps: float = 8.0
    """Frames a second that are taken from a clip."""
    autoencoder: str = "embedded"
    """'embedded', a folder or a hub name, in diffusers' layout."""
    autoencoder_subfolder: str = ""
    """Folder in it that holds the autoencoder: 'vae' in a pipeline of diffusers."""
    decode_frames: int | None = None
    """Frames that SVD's temporal decoder sees at once when samples are decoded; none: as many as have the pixels of 14
    frames of 576x1024."""
    text_encoder: str = "embedded"
    """'embedded', a folder or a hub name, in transformers' layout."""
    text_subfolder: str = ""
    """Folder in it that holds the encoder: 'text_encoder' in a pipeline of diffusers."""
    tokenizer_subfolder: str = ""
    """Folder in it that holds the tokenizer: 'tokenizer' in a pipeline of diffusers."""
    max_length: int | None = None
    """Tokens of a caption, of which the rest is cut; none: what the encoder has (CLIP 77), 120 for T5, 512 for mT5."""
    text_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What a text encoder in transformers' layout computes in; T5-XXL takes 19 GB in float32, half of it in the others."""
    caption_shares: tuple[float, float, float] = (0.5, 0.25, 0.25)
    """Shares of clips that take the middle frame's caption, the video's, the summary (SVD, appendix D)."""
    listed_captions: bool = True
    """A clip that imported lists say something of takes what they say, one of several drawn; else it draws by the shares,
    as all clips do where this is off."""
    cleaning: CleaningConfig | None = None
    """What is done to captions before one is chosen, and to prompts; none takes them as they were written."""
    score_words: ScoreWordsConfig | None = None
    """Whether captions tell a clip's aesthetics and motion; none tells nothing. The embedded text encoder does not know
    these words."""

    def __post_init__(self) -> None:
        check_ranges("encode", self, fps=RATE_FPS, caption_shares=(0, MANY), max_length=(1, MANY))
        if not sum(self.caption_shares):
            raise SettingsError(
                f"encode.caption_shares is {self.caption_shares}: expected one above 0 at least; "
                f"with encode.listed_captions they are for clips that no list says anything of"
            )
        if not self.buckets:
            raise SettingsError("encode.buckets is empty: expected one at least, as 8x64x64")


def check_encoders(config: EncodeConfig) -> None:
    """Looks at the encoders' weights on this machine. Raises SettingsError for those that no worker could load."""
    named = {
        "autoencoder": _inside(config.autoencoder, config.autoencoder_subfolder),
        "text_encoder": _inside(config.text_encoder, config.text_subfolder),
    }
    for field_name, name in named.items():
        try:
            check_weights(name)
        except WeightsError as error:
            raise SettingsError(f"encode.{field_name}: {error}") from error


def _inside(name: str, subfolder: str) -> str:
    return f"{name}/{subfolder}" if subfolder else name


def _told(config: EncodeConfig, always: Sequence[str], if_set: Sequence[str]) -> dict[str, Any]:
    """A step's settings: of those that only some need, what differs from the default."""
    values, plain = asdict(config), asdict(EncodeConfig())
    return {n: values[n] for n in (*always, *if_set) if n in always or values[n] != plain[n]}


def load_image_side(config: EncodeConfig) -> Any:
    """The autoencoder. Raises WeightsError, or SettingsError for a setting that it does not take."""
    from models.autoencoder import load_autoencoder

    subfolder, together = config.autoencoder_subfolder or None, config.decode_frames
    with _as_setting("decode_frames"):
        loaded = load_autoencoder(config.autoencoder, subfolder=subfolder, decode_frames=together)
    return _placed(loaded, config.autoencoder)


def load_text_side(config: EncodeConfig) -> Any:
    """The text encoder. Raises WeightsError, or SettingsError for a setting that it does not take."""
    import torch

    from models.text_encoder import load_text_encoder

    with _as_setting("max_length or encode.text_dtype"):
        loaded = load_text_encoder(
            config.text_encoder,
            subfolder=config.text_subfolder,
            tokenizer_subfolder=config.tokenizer_subfolder,
            max_length=config.max_length,
            dtype=getattr(torch, config.text_dtype),
        )
    return _placed(loaded, config.text_encoder)


def _runs_on(name: str) -> RunsOn:
    """The embedded models are small enough for every core."""
    return "cores" if name == "embedded" else "devices"


def _placed(encoder: Any, name: str) -> Any:
    from models.devices import best_device

    return encoder if _runs_on(name) == "cores" else encoder.to(best_device())


@contextmanager
def _as_setting(name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise SettingsError(f"encode.{name}: {error}") from error


_autoencoder, _text_encoder = lru_cache(maxsize=1)(load_image_side), lru_cache(maxsize=1)(load_text_side)


@dataclass(frozen=True)
class LatentWork:
    """Decodes the kept clips of each video once more and encodes their frames."""

    config: EncodeConfig
    limits: MediaLimits
    timeout_s: float = 3600.0
    isolated: bool = False
    runs_on: RunsOn = field(init=False)
    model_bytes: int = field(init=False)
    step: Step = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        settings = _told(config, ("buckets", "fps", "autoencoder"), ("autoencoder_subfolder",))
        folder = _inside(config.autoencoder, config.autoencoder_subfolder)
        settings |= {WEIGHTS: {config.autoencoder: weights_id(folder, "autoencoder")}}
        object.__setattr__(self, "runs_on", _runs_on(config.autoencoder))
        object.__setattr__(self, "model_bytes", memory_of_weights([folder]))
        if scaled := scaling_of(config.autoencoder, config.autoencoder_subfolder):
            settings[FACTS] = dict(zip(("scale", "shift"), scaled, strict=True))
        step = Step("encode", 2, ("videos", "frame_scores", "clips"), ("latents",), settings)
        object.__setattr__(self, "step", step)

    def split(self, ledger: Ledger, shard: str, ids: Sequence[tuple]) -> Iterable[Sequence[tuple]]:
        return by_video(ledger, shard, ids)

    def run(self, ledger: Ledger, unit: Unit, outputs: Outputs) -> None:
        ids = [i for (i,) in unit.ids]
        clips = ledger.read("clips", unit.shard, filters=[("clip_id", "in", ids)])
        spent = dict(zip(ids, unit.attempts, strict=True))
        for (video_id,), of_video in clips.group_by("video_id"):
            rows = self._encode_video(ledger, unit.shard, video_id, of_video)
            outputs.append("latents", [r | {"attempt": spent[r["clip_id"]] + 1} for r in rows])

    def _encode_video(
        self, ledger: Ledger, shard: str, video_id: str, clips: pl.DataFrame
    ) -> list[dict[str, Any]]:
        (video,) = ledger.read("videos", shard, filters=[("video_id", "=", video_id)]).iter_rows(named=True)
        sampled = self._sample(ledger, shard, video, clips)
        wanted = {c: s for c, s in sampled.items() if s is not None}
        rows = [
            {"clip_id": c} | settled(1, "skipped", "too_short_for_buckets")
            for c, s in sampled.items()
            if s is None
        ]
        if not wanted:
            return rows
        try:
            size = (video["width"], video["height"])
            source = open_source(find_source(ledger, shard, video_id))
            pixels = read_clips(source, wanted, size, self.limits)
        except (MediaError, OSError) as error:
            failed = MediaError.of(error)
            return rows + [{"clip_id": c} | settled(1, "failed", failed.cause, failed.detail) for c in wanted]
        return rows + [self._encode(c, pixels[c], wanted[c]) | settled(1) for c in wanted]

    def _sample(
        self, ledger: Ledger, shard: str, video: Mapping[str, Any], clips: pl.DataFrame
    ) -> dict[str, Sampled | None]:
        wanted = [("video_id", "=", video["video_id"]), ("signal", "=", "brightness")]
        (every,) = ledger.read("frame_scores", shard, ["pts"], filters=wanted)["pts"]
        pts = every.to_numpy()
        time_base = Fraction(video["time_base_num"], video["time_base_den"])
        aspect = video["width"] / video["height"]
        buckets = [Bucket.parse(name) for name in self.config.buckets]
        if len(pts) == 1:  # a still picture has the size of a bucket, and one frame
            buckets = [replace(bucket, num_frames=1) for bucket in buckets]
        return {
            clip["clip_id"]: sample(
                pts[(pts >= clip["start_pts"]) & (pts < clip["end_pts"])],
                time_base,
                self.config.fps,
                aspect,
                buckets,
            )
            for clip in clips.iter_rows(named=True)
        }

    def _encode(self, clip_id: str, frames_THWC: np.ndarray, sampled: Sampled) -> dict[str, Any]:
        import torch

        x_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float() / 127.5 - 1
        z_BTCHW = _autoencoder(self.config).encode(x_TCHW[None])
        latents = z_BTCHW[0].cpu().numpy().astype("<f2")
        row = {"clip_id": clip_id, "bucket": str(sampled.bucket), "fps": sampled.fps}
        return row | {"latents": latents.tobytes(), "shape": latents.shape}


@dataclass(frozen=True)
class TextWork:
    """Chooses one caption for each kept clip and encodes it."""

    config: EncodeConfig
    timeout_s: float = 1800.0
    isolated: bool = False
    runs_on: RunsOn = field(init=False)
    model_bytes: int = field(init=False)
    step: Step = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        settings = _told(config, ("text_encoder", "caption_shares"), _TEXT_SETTINGS)
        names = {config.text_encoder: _inside(config.text_encoder, config.text_subfolder)}
        object.__setattr__(self, "runs_on", _runs_on(config.text_encoder))
        object.__setattr__(self, "model_bytes", memory_of_weights(names.values()))
        if config.text_subfolder or config.tokenizer_subfolder:
            folders = {n: getattr(config, n) for n in ("text_subfolder", "tokenizer_subfolder")}
            settings |= folders
            names[config.tokenizer_subfolder] = _inside(config.text_encoder, config.tokenizer_subfolder)
        settings |= {WEIGHTS: {name: weights_id(path, "coca") for name, path in names.items()}}
        told = SCORES if config.score_words else ()
        listed = ("listed_captions",) if config.listed_captions else ()
        reads = ("clips", "captions", "summaries", *listed, *told)
        step = Step("encode_text", 4, reads, ("text_embeddings",), settings)
        object.__setattr__(self, "step", step)

    def split(self, ledger: Ledger, shard: str, ids: Sequence[tuple]) -> Iterable[Sequence[tuple]]:
        return in_batches(ids, 256)

    def outdated(self, ledger: Ledger, shard: str) -> list[tuple]:
        """Clips whose listed captions a later import changed, so that others are theirs than were encoded."""
        if not self.config.listed_captions:
            return []
        columns = ["clip_id", "caption", "caption_method", "state"]
        rows = ledger.read("text_embeddings", shard, columns).filter(pl.col("state") != "failed")
        listed = ledger.read("listed_captions", shard, ["clip_id", "state"]).filter(pl.col("state") == "done")
        of_lists = pl.col("caption_method").str.starts_with(METHOD).fill_null(False)
        rows = rows.filter(of_lists | pl.col("clip_id").is_in(listed["clip_id"].to_list()))
        now = self._choose(ledger, shard, rows["clip_id"].to_list())
        encoded = rows.select("clip_id", "caption", "caption_method").iter_rows()
        return [(i,) for i, *said in encoded if (now[i] or (None, None)) != tuple(said)]

    def run(self, ledger: Ledger, unit: Unit, outputs: Outputs) -> None:
        ids = [i for (i,) in unit.ids]
        chosen = self._choose(ledger, unit.shard, ids)
        outputs.append("text_embeddings", self._rows(chosen, dict(zip(ids, unit.attempts, strict=True))))

    def _choose(self, ledger: Ledger, shard: str, ids: Sequence[str]) -> dict[str, tuple[str, str] | None]:
        """Caption, as it is encoded, and method of each clip."""
        if not ids:
            return {}
        config = self.config
        captions = written_captions(ledger, shard, ids, config.listed_captions)
        chosen = {i: choose_caption(i, captions[i], config.caption_shares, config.cleaning) for i in ids}
        if config.score_words is not None:
            chosen = telling_scores(ledger, shard, chosen, config.score_words)
        return chosen

    def _rows(
        self, chosen: Mapping[str, tuple[str, str] | None], spent: Mapping[str, int]
    ) -> list[dict[str, Any]]:
        found = {i: c for i, c in chosen.items() if c is not None}
        rows = [
            {"clip_id": i} | settled(spent[i] + 1, "skipped", "no_caption")
            for i, c in chosen.items()
            if c is None
        ]
        if not found:
            return rows
        encoder, captions = _text_encoder(self.config), [c for c, _ in found.values()]
        tokens_BLD, mask_BL = (part.cpu() for part in encoder.encode(captions))
        encoded = zip(
            tokens_BLD.numpy().astype("<f2"), mask_BL.numpy(), encoder.num_tokens(captions), strict=True
        )
        for (clip_id, (caption, method)), (tokens, mask, whole) in zip(found.items(), encoded, strict=True):
            row = {"clip_id": clip_id, "caption": caption, "caption_method": method, "shape": tokens.shape}
            row |= {"text": tokens.tobytes(), "mask": mask.tobytes(), "num_tokens": whole}
            rows.append(row | settled(spent[clip_id] + 1))
        return rows


def as_caption(prompt: str, config: EncodeConfig) -> str:
    """A prompt as the captions that were encoded: cleaned, but for what tells scores, which came after cleaning.

    Raises SettingsError where cleaning leaves nothing of it.
    """
    if config.cleaning is None:
        return prompt
    said = parts(prompt) if config.score_words else [prompt]
    said[::2] = [clean(own, config.cleaning) for own in said[::2]]
    cleaned = " ".join(filter(None, said))
    if prompt.strip() and not cleaned:
        raise SettingsError(
            f"nothing is left of the prompt {prompt!r} as encode.cleaning cleans it; use words"
        )
    return cleaned
