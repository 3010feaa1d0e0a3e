"""Trained weights in the layouts of others (`training.imported`: theirs as the start of a stage).

A video network trained here hears the true frame rate; the released ones of SVD, and so diffusers' pipeline, hear the
frame rate less one: give the pipeline `fps` one higher.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from models.autoencoder_layouts import ORIGINAL_KINDS, autoencoder_original
from models.latent_scaling import SCALE
from models.layouts import unet_diffusers, unet_original
from models.unet_config import check_original, to_diffusers
from models.video_unet import VideoUNetConfig
from models.weight_names import write_weights
from training.checkpoints import Weights, load_weights, place, place_folder
from training.published import to_scheduler
from training.trained import Trained
from warehouse.errors import WeightsError

if TYPE_CHECKING:
    from models.autoencoder import Autoencoder
    from models.image_encoder import ImageEncoder

log = logging.getLogger(__name__)

UNET_PREFIX, AUTOENCODER_PREFIX = "model.diffusion_model.", "first_stage_model."


def export_original(run: Path, out: Path, autoencoder: Autoencoder | None = None) -> Path:
    """Writes one file in Stability's layout: the averaged weights, and the autoencoder's where one is given.

    Raises WeightsError where Stability's code would compute otherwise with these weights, the layout has no name for a
    weight or for that kind of autoencoder, or `out` is there.
    """
    if out.exists():
        raise WeightsError(f"{out} is there already; name a new file")
    weights = _load_unet(run)
    check_original(weights.config)
    written = write_weights(weights.network(), unet_original(weights.config))
    tensors = {f"{UNET_PREFIX}{name}": value for name, value in written.items()}
    said = {"objective": Trained.of(weights.origin).objective.name}  # which the layout has no place for
    if autoencoder is not None:
        network = autoencoder.network
        layout = autoencoder_original(network)
        tensors |= {f"{AUTOENCODER_PREFIX}{n}": v for n, v in write_weights(network, layout).items()}
        said[SCALE] = str(autoencoder.scale_factor)
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    place(out, lambda temporary: save_file(tensors, temporary, metadata=said))
    return out


def export_diffusers(
    run: Path, out: Path, autoencoder: Autoencoder | None = None, image_encoder: ImageEncoder | None = None
) -> str:
    """Writes a folder in diffusers' layout; returns the class that loads it.

    A network that continues an image, with autoencoder and image encoder, makes a StableVideoDiffusionPipeline; of any
    other the parts stand in the folder each by itself (`unet`, `scheduler`, `vae`), since diffusers has no pipeline.
    The folder appears whole or not at all.

    Raises:
        WeightsError: diffusers has no such network, or no scheduler for what it was trained to say, the parts do
            not fit it, or there is something in `out`.
    """
    import diffusers

    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise WeightsError(f"{out} is {'a file' if out.is_file() else 'not empty'}; name a new folder")
    weights = _load_unet(run)
    kind, settings = to_diffusers(weights.config)
    unet = getattr(diffusers, kind)(**settings)
    unet.load_state_dict(write_weights(weights.network(), unet_diffusers(weights.config)))
    scheduler = diffusers.EulerDiscreteScheduler(**to_scheduler(Trained.of(weights.origin)))
    if autoencoder is not None and torch.as_tensor(autoencoder.shift).any():
        raise WeightsError("the autoencoder shifts its latents, which diffusers' pipelines do not")
    if autoencoder is not None and image_encoder is not None and weights.config.condition_channels:
        _check_fits(weights.config, autoencoder, image_encoder)
        if "encoding" in weights.origin:
            log.warning(
                "%s was trained on captions: in their place the pipeline tells it a picture's token, which it has not met",
                run,
            )
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
            f"{run} holds a diffusion transformer: expected a UNet; `models.weight_names.write_weights` writes "
            f"transformers in the layouts that `cutroom networks` lists for them"
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
