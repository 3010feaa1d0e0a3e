"""How the learning rate moves over a stage."""

from __future__ import annotations

import math

from training.recipe import Recipe


def lr_factor(recipe: Recipe, step: int) -> float:
    """Share of the highest learning rate in the step of this number (0 first): warm-up, then the recipe's
    decay.
    """
    warmup_steps = recipe.warmup_samples / recipe.batch_size
    rise = min(1.0, (step + 1) / (warmup_steps + 1))
    share_done = max(0.0, min(1.0, (step - warmup_steps) / max(1.0, recipe.num_steps - warmup_steps)))
    match recipe.lr_decay:
        case "constant":
            fall = 1.0
        case "linear":
            fall = 1 - share_done
        case "cosine":
            fall = (1 + math.cos(math.pi * share_done)) / 2
    return rise * fall
