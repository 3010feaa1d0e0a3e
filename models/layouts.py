"""Names of weights in the files of others, one table for each layout, and the way there and back.

A table pairs the name of a module or parameter in the file with ours. Several of ours for one of theirs means that
theirs holds them on top of each other (a fused query, key and value).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.positions import frame_positions, grid_positions, rotary_frequencies
from models.transformers import TransformerConfig
from models.unet_modules import unet_modules
from models.video_unet import VideoUNetConfig
from warehouse.errors import WeightsError

Names = dict[str, str | tuple[str, ...]]
Latent = tuple[int, int, int]
"""Frames, height and width of latents."""
Computed = Callable[[Latent], Tensor]


@dataclass(frozen=True)
class Layout:
    """How a file names what a network holds."""

    names: Mapping[str, str | tuple[str, ...]]
    """Theirs to ours, by module or parameter."""
    computed: Mapping[str, Computed] = field(default_factory=dict)
    """Names in the file that hold what we compute, as positions for latents of one size; passed over when reading."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Names in the file that hold once more what another one holds."""
    unwritten: tuple[str, ...] = ()
    """Names that are read where a file has them, but which the class that reads what we write does not know."""
    vectors: tuple[str, ...] = ()
    """Names in the file that hold one number as a vector where ours is a number."""
    films: tuple[str, ...] = ()
    """Modules in the file whose kernels have an axis of frames, of length 1, where ours have none."""
    convolutions: tuple[str, ...] = ()
    """Modules in the file that are 1x1 convolutions where ours are linear layers."""


@dataclass(frozen=True)
class Report:
    """What did not go one to one when weights were read."""

    missing: tuple[str, ...]
    """Ours that the file does not have."""
    unexpected: tuple[str, ...]
    """Names in the file that the layout does not know."""
    reshaped: tuple[str, ...]
    """Ours that the file holds with axes of length 1 more or less."""
    passed: tuple[str, ...] = ()
    """Names in the file that hold what is computed here, or a copy."""


def read_weights(
    network: nn.Module, file: Mapping[str, Tensor], layout: Layout, strict: bool = True
) -> Report:
    """Copies weights into a network.

    Raises:
        WeightsError: a shape does not fit, what should be a copy is none, or, if strict, a name is missing or not
            expected.
    """
    _check_copies(file, layout.copies)
    own = network.state_dict()
    found: dict[str, Tensor] = {}
    unexpected, reshaped, passed = [], [], []
    for name, value in file.items():
        ours = _find(layout.names, name)
        if ours is None:
            (passed if name in {*layout.computed, *layout.copies} else unexpected).append(name)
            continue
        if len(ours) > 1 and (value.ndim == 0 or len(value) % len(ours)):
            raise WeightsError(
                f"{name} has shape {tuple(value.shape)}, expected a first axis in {len(ours)} equal parts: "
                f"{', '.join(ours)}; the file is damaged, or of a network with another configuration"
            )
        for target, part in zip(ours, value.chunk(len(ours)), strict=True):
            if target not in own:
                unexpected.append(name)
                continue
            if part.shape != own[target].shape:
                if _full(part.shape) != _full(own[target].shape):
                    raise WeightsError(
                        f"{name} has shape {tuple(part.shape)}, expected {tuple(own[target].shape)} for {target}; "
                        f"the file is of a network with another configuration"
                    )
                reshaped.append(target)
            found[target] = part.reshape(own[target].shape)
    missing = tuple(name for name in own if name not in found)
    if strict and (missing or unexpected):
        raise WeightsError(
            f"the file does not fit: {_some('missing', missing)}, {_some('unexpected', unexpected)}; "
            "check layout and configuration"
        )
    network.load_state_dict(found, strict=False)
    return Report(missing, tuple(unexpected), tuple(reshaped), tuple(passed))


def write_weights(network: nn.Module, layout: Layout, latent: Latent | None = None) -> dict[str, Tensor]:
    """A network's weights under the names of a layout.

    Args:
        latent: the latents that the file is for, asked for by layouts that hold fixed positions.

    Raises:
        WeightsError: the layout has no name for a weight, or holds positions and no `latent` is given.
    """
    if layout.computed and latent is None:
        raise WeightsError(
            f"the layout holds {', '.join(layout.computed)} for latents of one size: name their frames, height and width"
        )
    own = network.state_dict()
    written: dict[str, Tensor] = {}
    left = set(own)
    for theirs, ours in layout.names.items():
        ours = (ours,) if isinstance(ours, str) else ours
        if theirs in layout.unwritten:
            left -= set(ours)
            continue
        for suffix in ("", ".weight", ".bias"):
            parts = [own.get(name + suffix) for name in ours]
            if parts[0] is not None:
                written[theirs + suffix] = torch.cat(parts) if len(parts) > 1 else parts[0].clone()
                left -= {name + suffix for name in ours}
    for name in written.keys() & set(layout.vectors):
        written[name] = written[name].reshape(1)
    for name in written.keys() & {f"{module}.weight" for module in layout.convolutions}:
        written[name] = written[name][..., None, None]
    for name in written.keys() & {f"{module}.weight" for module in layout.films}:
        written[name] = written[name].unsqueeze(2)
    if left:
        raise WeightsError(f"the layout has no name for {_some('ours', sorted(left))}")
    written |= {copy: written[name].clone() for copy, name in layout.copies.items()}
    return written | {name: compute(latent) for name, compute in layout.computed.items()}


def _check_copies(file: Mapping[str, Tensor], copies: Mapping[str, str]) -> None:
    """The networks here have one weight for all copies; one that was trained apart from the others cannot be read."""
    for copy, name in copies.items():
        if copy in file and name in file and not torch.equal(file[copy], file[name]):
            raise WeightsError(f"{copy} is not what {name} is, expected a copy; networks here hold it once")


def known_names(file: Mapping[str, Tensor], layout: Layout) -> int:
    """How many names of a file a layout knows."""
    fixed = {*layout.computed, *layout.copies}
    return sum(name in fixed or _find(layout.names, name) is not None for name in file)


def _find(names: Mapping[str, str | tuple[str, ...]], name: str) -> tuple[str, ...] | None:
    """Ours for a name in the file: listed itself, or as a module with this parameter."""
    module, _, parameter = name.rpartition(".")
    for key, suffix in ((name, ""), (module, f".{parameter}")):
        if key in names:
            ours = names[key]
            return tuple(one + suffix for one in ((ours,) if isinstance(ours, str) else ours))
    return None


def _full(shape: Iterable[int]) -> list[int]:
    return [length for length in shape if length != 1]


def _some(what: str, names: Iterable[str]) -> str:
    names = list(names)
    return f"{len(names)} {what}" + (f" ({', '.join(names[:5])})" if names else "")


def _attention(theirs: str, ours: str) -> Names:
    return {f"{theirs}.to_{p}": f"{ours}.to_{p}" for p in "qkv"} | {f"{theirs}.to_out.0": f"{ours}.to_out"}


def _diffusers_block(theirs: str, ours: str, has_cross: bool) -> Names:
    cross = _attention(f"{theirs}.attn2", f"{ours}.cross") if has_cross else {}
    return {
        **_attention(f"{theirs}.attn1", f"{ours}.attend"),
        **cross,
        f"{theirs}.ff.net.0.proj": f"{ours}.mlp.0",
        f"{theirs}.ff.net.2": f"{ours}.mlp.2",
    }


def _diffusers_single(config: TransformerConfig) -> Names:
    """What PixArt and LatteT2V have in common beside their blocks."""
    sizes = {"resolution_embedder": "side", "aspect_ratio_embedder": "aspect"} if config.sizes else {}
    embedders = {
        f"adaln_single.emb.{theirs}.linear_{i}": f"embedding.{ours}.{2 * i - 2}"
        for theirs, ours in {"timestep_embedder": "noise", **sizes}.items()
        for i in (1, 2)
    }
    return embedders | {
        "pos_embed.proj": "patches",
        "adaln_single.linear": "shared",
        "caption_projection.linear_1": "text.0",
        "caption_projection.linear_2": "text.2",
        "scale_shift_table": "output.table",
        "proj_out": "output.project",
    }


def pixart_diffusers(config: TransformerConfig) -> Layout:
    """diffusers' PixArtTransformer2DModel.

    Its early files hold the learned null caption; its class does not, and asks T5 for the empty text instead.
    """
    names = _diffusers_single(config)
    null = "caption_projection.y_embedding"
    names |= {null: "null_text"} if config.null_tokens else {}
    for i in range(config.depth):
        theirs, ours = f"transformer_blocks.{i}", f"blocks.{i}"
        names |= _diffusers_block(theirs, ours, True)
        names[f"{theirs}.scale_shift_table"] = f"{ours}.table"
    return Layout(names, unwritten=(null,))


def latte_t2v_diffusers(config: TransformerConfig) -> Layout:
    """diffusers' LatteTransformer3DModel: its two lists of blocks take turns."""
    names = _diffusers_single(config)
    for i in range(config.depth):
        theirs = f"{'temporal_' if i % 2 else ''}transformer_blocks.{i // 2}"
        names |= _diffusers_block(theirs, f"blocks.{i}", i % 2 == 0)
        names[f"{theirs}.scale_shift_table"] = f"blocks.{i}.table"
    return Layout(names)


def dit_diffusers(config: TransformerConfig) -> Layout:
    """diffusers' DiTTransformer2DModel, which holds a copy of the embedding in every block."""
    names: Names = {
        "pos_embed.proj": "patches",
        "proj_out_1": "output.modulate",
        "proj_out_2": "output.project",
    }
    embedding = {
        "timestep_embedder.linear_1": "noise.0",
        "timestep_embedder.linear_2": "noise.2",
        "class_embedder.embedding_table": "classes",
    }
    copies = {}
    for i in range(config.depth):
        theirs, ours = f"transformer_blocks.{i}", f"blocks.{i}"
        names |= _diffusers_block(theirs, ours, False)
        names[f"{theirs}.norm1.linear"] = f"{ours}.modulate"
        if i == 0:
            names |= {f"{theirs}.norm1.emb.{a}": f"embedding.{b}" for a, b in embedding.items()}
        else:
            held = [f"{a}.{p}" for a in embedding for p in ("weight", "bias") if (a, p) != _TABLE_BIAS]
            copies |= {f"{theirs}.norm1.emb.{a}": f"transformer_blocks.0.norm1.emb.{a}" for a in held}
    return Layout(names, copies=copies)


_TABLE_BIAS = ("class_embedder.embedding_table", "bias")  # which a table does not have


def _original_block(ours: str, config: TransformerConfig, modulation: str) -> Names:
    """A block of DiT, PixArt or STDiT as their authors name it."""

    def fused(module: str, parts: str) -> tuple[str, ...]:
        return tuple(f"{ours}.{module}.to_{part}" for part in parts)

    names: Names = {
        f"{ours}.attn.qkv": fused("attend", "qkv"),
        f"{ours}.attn.proj": f"{ours}.attend.to_out",
        f"{ours}.mlp.fc1": f"{ours}.mlp.0",
        f"{ours}.mlp.fc2": f"{ours}.mlp.2",
        f"{ours}.{modulation}": f"{ours}.{'table' if modulation == 'scale_shift_table' else 'modulate'}",
    }
    if config.text_dim is not None:
        names |= {
            f"{ours}.cross_attn.q_linear": f"{ours}.cross.to_q",
            f"{ours}.cross_attn.kv_linear": fused("cross", "kv"),
            f"{ours}.cross_attn.proj": f"{ours}.cross.to_out",
        }
    if config.temporal != "none":
        names |= {
            f"{ours}.attn_temp.qkv": fused("temporal", "qkv"),
            f"{ours}.attn_temp.proj": f"{ours}.temporal.to_out",
        }
    if config.temporal == "own":
        names[f"{ours}.scale_shift_table_temporal"] = f"{ours}.temporal_table"
    if config.qk_norm:
        names |= {
            f"{ours}.{theirs}.{part}_norm": f"{ours}.{module}.norm_{part}"
            for theirs, module in (("attn", "attend"), ("attn_temp", "temporal"))
            for part in "qk"
        }
    return names


def pixart_original(config: TransformerConfig) -> Layout:
    """PixArt-alpha's own files, and those of Open-Sora's STDiT and STDiT2, which took them over."""
    told = {"t_embedder": "noise"}
    told |= {"csize_embedder": "side", "ar_embedder": "aspect"} if config.sizes else {}
    told |= {"fps_embedder": "fps"} if config.fps else {}
    told |= {"fl_embedder": "frames"} if config.num_frames else {}
    names: Names = {
        f"{theirs}.mlp.{i}": f"embedding.{ours}.{i}" for theirs, ours in told.items() for i in (0, 2)
    }
    names |= {"y_embedder.y_embedding": "null_text"} if config.null_tokens else {}
    if config.temporal == "own":
        names["t_block_temp.1"] = "shared_temporal"
    names |= {
        "x_embedder.proj": "patches",
        "t_block.1": "shared",
        "y_embedder.y_proj.fc1": "text.0",
        "y_embedder.y_proj.fc2": "text.2",
        "final_layer.scale_shift_table": "output.table",
        "final_layer.linear": "output.project",
    }
    for i in range(config.depth):
        names |= _original_block(f"blocks.{i}", config, "scale_shift_table")
    patches = ("x_embedder.proj",)
    if config.rotary == "time":
        frequencies = rotary_frequencies(config.head_dim // 2).float()
        return Layout(names, {"rope.freqs": lambda _: frequencies.clone()}, films=patches)
    positions: dict[str, Computed] = {"pos_embed": _grid(config)}
    if config.temporal == "none":
        return Layout(names, positions)
    return Layout(names, positions | {"pos_embed_temporal": _frames(config)}, films=patches)


def _grid(config: TransformerConfig) -> Computed:
    def positions(latent: Latent) -> Tensor:
        rows, columns = (side // config.patch for side in latent[1:])
        scale, base = config.position_scale, config.position_base
        return grid_positions(rows, columns, config.width, scale, base, torch.empty(0))[None]

    return positions


def _frames(config: TransformerConfig) -> Computed:
    return lambda latent: frame_positions(latent[0], config.width, config.frame_scale, torch.empty(0))[None]


def stdit3_original(config: TransformerConfig) -> Layout:
    """Open-Sora's STDiT3: its blocks over space and over time, which take turns, stand in two lists."""
    original = pixart_original(config)
    names: Names = {}
    for theirs, ours in original.names.items():
        head, _, rest = theirs.partition(".")
        if head == "blocks":
            number, _, inside = rest.partition(".")
            which = "temporal" if int(number) % 2 else "spatial"
            theirs = f"{which}_blocks.{int(number) // 2}.{inside}"
        names[theirs] = ours
    return Layout(names, original.computed, films=original.films)


def dit_original(config: TransformerConfig) -> Layout:
    """DiT's own files, and Latte's, which took them over (the label table is missing where there are no classes)."""
    names: Names = {
        "x_embedder.proj": "patches",
        "t_embedder.mlp.0": "embedding.noise.0",
        "t_embedder.mlp.2": "embedding.noise.2",
        "final_layer.adaLN_modulation.1": "output.modulate",
        "final_layer.linear": "output.project",
    }
    if config.num_classes is not None:
        names["y_embedder.embedding_table"] = "embedding.classes"
    for i in range(config.depth):
        names |= _original_block(f"blocks.{i}", config, "adaLN_modulation.1")
    computed: dict[str, Computed] = {"pos_embed": _grid(config)}
    computed |= {} if set(config.attention) == {"full"} else {"temp_embed": _frames(config)}
    return Layout(names, computed)


def _unet(config: VideoUNetConfig, column: int) -> Layout:
    """A blend's weight is a parameter of its own, and a vector of one number in files.

    Stable Diffusion 1, whose attentions all have one number of heads, enters and leaves them by convolutions.
    """
    names: Names = {}
    convolutions = []
    for row in unet_modules(config):
        blend = row[0].endswith("temporal_blend")
        names[f"{row[column]}.mix_factor" if blend else row[column]] = f"{row[0]}.mix" if blend else row[0]
        if config.num_heads and row[0].endswith((".project_in", ".project_out")):
            convolutions.append(row[column])
    vectors = tuple(name for name in names if name.endswith(".mix_factor"))
    return Layout(names, vectors=vectors, convolutions=tuple(convolutions))


def unet_diffusers(config: VideoUNetConfig) -> Layout:
    """diffusers' UNet2DConditionModel (Stable Diffusion 2) and UNetSpatioTemporalConditionModel (SVD).

    The latter has eps 1e-6 in the group norms of most ResBlocks; the authors' code has 1e-5, as we do.
    """
    return _unet(config, 1)


def unet_original(config: VideoUNetConfig) -> Layout:
    """Stability's own files, without the prefix `model.diffusion_model.`."""
    return _unet(config, 2)
