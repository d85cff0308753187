"""What moves the weights: Muon for the matrices inside the layers, AdamW for the rest, one schedule for both."""

from __future__ import annotations

from typing import Any

from fastlm.train.recipe import Recipe

EMBEDDINGS = ("embed", "lm_head", "wte", "wpe", "head")


def optimizers(model: Any, recipe: Recipe) -> list[Any]:
    """torch optimizers over all weights that are to be trained."""
    import torch

    muon, decayed, plain = list[Any](), list[Any](), list[Any]()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            inside = weight.ndim == 2 and not any(part in name for part in EMBEDDINGS)
            group = muon if inside and recipe.optimizer == "muon" else decayed if weight.ndim >= 2 else plain
            group.append(weight)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    made: list[Any] = []
    if decayed or plain:
        kept = [group for group in groups if group["params"]]
        made.append(torch.optim.AdamW(kept, lr=recipe.lr, betas=(0.9, 0.98)))
    if muon:
        # its updates are scaled to the size of AdamW's, so that one learning rate serves both
        made.append(
            torch.optim.Muon(
                muon, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
            )
        )
    return made


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Up linearly over the warm-up, then down linearly to zero at the last step."""
    warmup = min(recipe.warmup, steps // 2)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * (steps - step) / (steps - warmup)
