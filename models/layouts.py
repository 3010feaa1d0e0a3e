"""Names of weights in the files of others: one table (`models.weight_names.Layout`) for each layout."""

from __future__ import annotations

import torch
from torch import Tensor

from models.positions import frame_positions, grid_positions, rotary_frequencies
from models.transformers import TransformerConfig
from models.unet_modules import unet_modules
from models.video_unet import VideoUNetConfig
from models.weight_names import Computed, Latent, Layout, Names

_TABLE_BIAS = ("class_embedder.embedding_table", "bias")
"""Of diffusers' DiT, which a table does not have."""


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
