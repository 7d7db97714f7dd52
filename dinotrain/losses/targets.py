"""From teacher scores to target probabilities: centering, and Sinkhorn-Knopp."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.distributed.collectives import max_over_processes, sum_over_processes


@torch.no_grad()
def sinkhorn_knopp(logits: Float[Tensor, "R K"], temperature: float, iterations: int = 3) -> Float[Tensor, "R K"]:
    """Soft assignments with equal use of all prototypes over the global batch (SwAV, appendix A.1; DINOv2, section 4).

    Starting from exp(logits / temperature), each iteration scales every prototype to the total mass 1/K, then every
    row to 1/R, over the rows of all processes; the rows returned sum to 1. The numbers of rows may differ between
    processes, also be 0. Computed in float32, the first iteration in logarithms: no temperature overflows, and no row
    vanishes beside another one; after it all rows sum to 1, and plain numbers do.
    """
    scores = logits.float() / temperature
    mass = (scores - _log_sum_over_rows(scores)).softmax(dim=1)
    for _ in range(iterations - 1):
        mass /= sum_over_processes(mass.sum(dim=0)).clamp_(min=torch.finfo(mass.dtype).tiny)
        mass /= mass.sum(dim=1, keepdim=True)
    return mass


def _log_sum_over_rows(scores: Float[Tensor, "R K"]) -> Float[Tensor, "K"]:
    """log(sum(exp(scores))) per prototype, over the rows of all processes."""
    peak = scores.amax(dim=0) if scores.shape[0] else scores.new_full(scores.shape[1:], -torch.inf)
    peak = max_over_processes(peak)
    return peak + sum_over_processes((scores - peak).exp_().sum(dim=0)).log_()


class Center(nn.Module):
    """The running mean of teacher scores that keeps one prototype from winning everywhere (DINO paper, section 3.1).

    The mean of the rows of a step (over all its micro-batches and processes) enters with weight 1 - `momentum` and is
    used from the next step on, so that it does not depend on how a step is split. `mean` weighs "rows" alike over
    processes, or "processes" that have any alike (the original's mean of means, for patches).
    """

    center: Float[Tensor, "K"]
    pending: Float[Tensor, "K"]
    rows: Float[Tensor, ""]

    def __init__(self, num_prototypes: int, *, momentum: float = 0.9, mean: str = "rows") -> None:
        super().__init__()
        if mean not in ("rows", "processes"):
            raise ValueError(f"center_mean: got {mean!r}, expected rows or processes")
        self.momentum, self.mean = momentum, mean
        self.register_buffer("center", torch.zeros(num_prototypes, dtype=torch.float32))
        self.register_buffer("pending", torch.zeros(num_prototypes, dtype=torch.float32), persistent=False)
        self.register_buffer("rows", torch.zeros((), dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def forward(self, logits: Float[Tensor, "R K"], temperature: float) -> Float[Tensor, "R K"]:
        """softmax((logits - center) / temperature) in float32; remembers the rows for `update`."""
        scores = logits.float()
        self.pending += scores.sum(dim=0)
        self.rows += scores.shape[0]
        return ((scores - self.center) / temperature).softmax(dim=-1)

    @torch.no_grad()
    def update(self) -> None:
        """Move the center by what was seen since the last call; every process must call it."""
        if self.mean == "rows":
            total, count = sum_over_processes(self.pending), sum_over_processes(self.rows)
        else:
            total = sum_over_processes(self.pending / self.rows.clamp(min=1))
            count = sum_over_processes((self.rows > 0).float())
        # Without any row there is no mean to move to, and one overflow would stay in the center for ever.
        usable = (count > 0) & total.isfinite().all()
        moved = self.center.lerp(total / count.clamp(min=1), 1 - self.momentum)
        self.center.copy_(torch.where(usable, moved, self.center))
        self.pending.zero_()
        self.rows.zero_()
