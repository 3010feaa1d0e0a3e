"""Trained weights in the layouts of others, and theirs as the start of a stage.

A video network trained here hears the true frame rate; the released ones of SVD, and so diffusers' pipeline, hear the
frame rate less one: give the pipeline `fps` one higher.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.autoencoder_layouts import ORIGINAL_KINDS, autoencoder_original
from models.conditioning import NUM_MOTION_BUCKETS
from models.layouts import read_weights, unet_diffusers, unet_original, write_weights
from models.networks import NETWORKS
from models.tensor_files import load_tensors
from models.unet_config import from_diffusers, to_diffusers
from models.video_unet import VideoUNet, VideoUNetConfig
from training.checkpoints import WEIGHTS, Weights, load_weights, place, place_folder, save_weights
from warehouse.errors import WeightsError

if TYPE_CHECKING:
    from models.autoencoder import Autoencoder
    from models.image_encoder import ImageEncoder

UNET_PREFIX, AUTOENCODER_PREFIX = "model.diffusion_model.", "first_stage_model."
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
}
"""diffusers' EulerDiscreteScheduler as SVD samples: noise levels of Karras, told to the network as ln(sigma) / 4."""


def export_original(run: Path, out: Path, autoencoder: Autoencoder | None = None) -> Path:
    """Writes one file in Stability's layout: the averaged weights, and the autoencoder's where one is given.

    Raises WeightsError where the layout has no name for a weight or for that kind of autoencoder, or `out` is there.
    """
    if out.exists():
        raise WeightsError(f"{out} is there already; name a new file")
    weights = _load_unet(run)
    written = write_weights(weights.network(), unet_original(weights.config))
    tensors = {f"{UNET_PREFIX}{name}": value for name, value in written.items()}
    if autoencoder is not None:
        network = autoencoder.network
        layout = autoencoder_original(network)
        tensors |= {f"{AUTOENCODER_PREFIX}{n}": v for n, v in write_weights(network, layout).items()}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    place(out, lambda temporary: save_file(tensors, temporary))
    return out


def export_diffusers(
    run: Path, out: Path, autoencoder: Autoencoder | None = None, image_encoder: ImageEncoder | None = None
) -> str:
    """Writes a folder in diffusers' layout; returns the class that loads it.

    A network that continues an image, with autoencoder and image encoder, makes a StableVideoDiffusionPipeline; of any
    other the parts stand in the folder each by itself (`unet`, `scheduler`, `vae`), since diffusers has no pipeline.
    The folder appears whole or not at all.

    Raises:
        WeightsError: diffusers has no such network, the parts do not fit it, or there is something in `out`.
    """
    import diffusers

    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise WeightsError(f"{out} is {'a file' if out.is_file() else 'not empty'}; name a new folder")
    weights = _load_unet(run)
    kind, settings = to_diffusers(weights.config)
    unet = getattr(diffusers, kind)(**settings)
    unet.load_state_dict(write_weights(weights.network(), unet_diffusers(weights.config)))
    scheduler = diffusers.EulerDiscreteScheduler(**SCHEDULER)
    if autoencoder is not None and torch.as_tensor(autoencoder.shift).any():
        raise WeightsError("the autoencoder shifts its latents, which diffusers' pipelines do not")
    if autoencoder is not None and image_encoder is not None and weights.config.condition_channels:
        _check_fits(weights.config, autoencoder, image_encoder)
        pipeline = _pipeline(unet, scheduler, autoencoder, image_encoder)
        place_folder(out, pipeline.save_pretrained)
        return type(pipeline).__name__
    parts = {"unet": unet, "scheduler": scheduler}
    if autoencoder is not None:
        parts["vae"] = autoencoder.network
    place_folder(out, lambda folder: [part.save_pretrained(folder / name) for name, part in parts.items()])
    return kind


def _load_unet(run: Path) -> Weights:
    weights = load_weights(run)
    if not isinstance(weights.config, VideoUNetConfig):
        raise WeightsError(
            f"{run} holds a diffusion transformer: expected a UNet; `models.layouts.write_weights` writes transformers in "
            f"the layouts that `cutroom networks` lists for them"
        )
    return weights


def _check_fits(config: VideoUNetConfig, autoencoder: Autoencoder, image_encoder: ImageEncoder) -> None:
    pairs = {
        "latent channels": (config.latent_channels, autoencoder.latent_channels),
        "channels of the image's latents": (config.condition_channels, autoencoder.latent_channels),
        "width of the image's token": (config.text_dim, image_encoder.width),
        "numbers": (config.num_numbers, 3),
    }
    wrong = [f"{what}: {has}, expected {wants}" for what, (has, wants) in pairs.items() if has != wants]
    if autoencoder.kind not in ORIGINAL_KINDS:
        wrong.append(f"autoencoder: {autoencoder.kind}, expected {' or '.join(ORIGINAL_KINDS)}")
    if wrong:
        raise WeightsError(f"network and encoders make no StableVideoDiffusionPipeline: {'; '.join(wrong)}")


def _pipeline(unet: Any, scheduler: Any, autoencoder: Autoencoder, image_encoder: ImageEncoder) -> Any:
    from diffusers import StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor

    side = {"height": image_encoder.side, "width": image_encoder.side}
    return StableVideoDiffusionPipeline(
        vae=autoencoder.network,
        image_encoder=image_encoder.network,
        unet=unet,
        scheduler=scheduler,
        feature_extractor=CLIPImageProcessor(size=side, crop_size=side),
    )


def import_weights(source: Path, out: Path, network: str | None = None) -> VideoUNetConfig:
    """Weights of others as those of a run, which a stage can start from and samples can be drawn with.

    Args:
        source: a folder of diffusers (a pipeline's or its `unet`), or a file in Stability's layout (.safetensors, or
            .ckpt and .pt that hold nothing but tensors).
        out: the run's folder; its weights are written once.
        network: which of `models.networks` a file is of; a folder says it itself.

    Raises:
        WeightsError: they are of another network, a name is missing or not known, or `out` has weights.
    """
    if (out / WEIGHTS).exists():
        raise WeightsError(f"{out} has weights already; name a new folder")
    if not source.exists():
        raise WeightsError(
            f"{source} is not there; name a folder of diffusers or a file in Stability's layout"
        )
    config, file, of_diffusers = _read_folder(source) if source.is_dir() else _read_file(source, network)
    unet = VideoUNet(config)
    read_weights(unet, file, (unet_diffusers if of_diffusers else unet_original)(config))
    edges = torch.zeros(NUM_MOTION_BUCKETS - 1)  # theirs are not published
    origin = {"imported": source.name}
    save_weights(out / WEIGHTS, Weights(config, dict(unet.state_dict()), edges, origin))
    return config


def _read_folder(folder: Path) -> tuple[VideoUNetConfig, dict[str, Tensor], bool]:
    folder = folder / "unet" if (folder / "unet" / "config.json").exists() else folder
    try:
        settings = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} has no config.json of diffusers: {error}") from error
    files = sorted(folder.glob("*.safetensors"))
    full = [path for path in files if ".fp16." not in path.name] or files
    if not full:
        raise WeightsError(f"{folder} has no .safetensors file")
    tensors = {name: value for path in full for name, value in _load(path).items()}
    return from_diffusers(settings), tensors, True


def _read_file(path: Path, network: str | None) -> tuple[VideoUNetConfig, dict[str, Tensor], bool]:
    known = [name for name, named in NETWORKS.items() if isinstance(named.config, VideoUNetConfig)]
    if network not in known:
        raise WeightsError(f"a file does not tell its network: got {network!r}, expected {', '.join(known)}")
    tensors = _load(path)
    own = {n.removeprefix(UNET_PREFIX): v for n, v in tensors.items() if n.startswith(UNET_PREFIX)}
    return NETWORKS[network].config, own or dict(tensors), False


def _load(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    held = load_tensors(path)
    held = held.get("state_dict", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise WeightsError(f"{path} holds {type(held).__name__}: expected names and their tensors")
    return held
