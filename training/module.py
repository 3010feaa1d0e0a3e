"""One training step: denoiser, objective and conditioning put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from models.conditioning import drop_text
from models.frame_masks import with_noise_on_given
from training.data import Batch
from training.draws import draw
from training.ema import Ema
from training.objective import training_losses
from training.recipe import Recipe
from training.schedule import lr_factor


class LatentDiffusion(LightningModule):
    """A network (x_BCTHW, c_noise_B, conditioning) -> same shape, its average, and the recipe it is
    trained by.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, motion_edges: Tensor) -> None:
        super().__init__()
        self.recipe, self.network = recipe, network
        self.ema = Ema(network, recipe.ema_decay)
        self.register_buffer("motion_edges", motion_edges)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        draws = draw(self.recipe, batch.position, self.global_rank, batch.latents_BCTHW.shape).to(self.device)
        conditioning = drop_text(batch.conditioning(self.motion_edges), draws.drop_B)
        conditioning = replace(conditioning, given_BT=draws.given_BT)
        objective, (height_px, width_px, _) = self.recipe.objective, batch.size_B3[0].tolist()
        shift = objective.shift(height_px, width_px, batch.latents_BCTHW.shape[2])
        x0, noise = batch.latents_BCTHW, draws.noise_BCTHW
        if draws.given_BT is not None:
            x0 = with_noise_on_given(x0, noise, draws.given_BT, draws.given_sigma_B)
        clips = (x0, noise, shift * draws.sigma_B, conditioning)
        return training_losses(objective, self.network, self.recipe.network, *clips).mean()

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)
        self.ema.update(self.network)

    def configure_optimizers(self) -> dict[str, Any]:
        recipe = self.recipe
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.network.parameters() if parameter.requires_grad],
            lr=recipe.lr,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(recipe, step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ema.load_state_dict(checkpoint["ema"])
