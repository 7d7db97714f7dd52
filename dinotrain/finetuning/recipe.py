"""What each kind of head trains, and how, where nothing else is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dinotrain.optim.recipe import OptimizationRecipe

Head = Literal["linear", "linear4", "full"]


@dataclass(frozen=True)
class Kind:
    """A kind of classifier."""

    blocks: int
    """Last blocks whose CLS tokens the head takes."""
    trains_backbone: bool


KINDS: dict[Head, Kind] = {
    "linear": Kind(1, False),
    "linear4": Kind(4, False),
    "full": Kind(1, True),
}
REFERENCE_BATCH = 64
FULL_LR = 5e-4
"""At `REFERENCE_BATCH` images per step: that of MAE (arXiv:2111.06377, table 9), 2e-3 for 1024 of them."""
HEAD_LR = 4.0
"""Divided by the channels that a head takes, at `REFERENCE_BATCH`: an update of Adam moves every weight by about the
learning rate, and the scores by as much times the channels."""
LAYER_DECAY = 0.75
"""Of head=full (BEiT, arXiv:2106.08254, appendix H: 0.75 for small and base networks)."""
PASSES = 10
LEAST_STEPS = 300


def default_steps(images: int, batch: int) -> int:
    """So many passes over the images, but enough steps for few of them."""
    return max(-(-images * PASSES // batch), LEAST_STEPS)


def default_lr(head: Head, batch: int, channels: int) -> float:
    """Grows with the square root of the batch, as suits Adam.

    Args:
        channels: that the head takes.
    """
    own = FULL_LR if KINDS[head].trains_backbone else HEAD_LR / channels
    return own * (batch / REFERENCE_BATCH) ** 0.5


def optimization(
    *,
    steps: int,
    batch: int,
    micro_batch: int | None = None,
    lr: float,
    warmup: float = 0.05,
    weight_decay: float = 0.05,
    clip_grad: float | None = 3.0,
    layer_decay: float = 1.0,
) -> OptimizationRecipe:
    """AdamW with a warm-up and a cosine to nearly 0; weight decay stays as it is.

    Args:
        steps: updates.
        batch: images per update.
        micro_batch: images per process and forward pass; None for all at once.
        lr: at the peak.
        warmup: below 1: share of the steps.
        layer_decay: factor on the learning rate per block, from the head down; the patch embedding is as deep as the
            tokens.
    """
    return OptimizationRecipe(
        steps=steps,
        global_batch=batch,
        micro_batch=micro_batch,
        base_lr=lr,
        lr_rule="none",
        min_lr=min(1e-6, lr),
        warmup=warmup,
        weight_decay=weight_decay,
        weight_decay_end=weight_decay,
        clip_grad=clip_grad,
        layerwise_decay=layer_decay,
        patch_embed_lr_multiplier=1.0,
        freeze_last_layer=0.0,
    )
