"""Teacher features brought to mean 0 and standard deviation 1 per channel, by running statistics."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dinotrain.distributed.collectives import sum_over_processes


class Standardize(nn.Module):
    """(x - mean) / sqrt(variance + eps) per channel, so that no few channels dominate what a student learns.

    In the features of large ViTs a few channels have most of the variance; a distance between features sees only them.
    Theia (Shang et al. 2024) takes mean and variance over its data set beforehand; here they are learnt while training.

    Mean and second moment of the rows of a step (over all its micro-batches and processes, all rows alike) enter with
    weight max(1 - `momentum`, 1 / (steps so far + 1)): plain averages over the first steps, moving ones afterwards. As
    second moments are averaged, the variance has in it how the mean differs from step to step. Statistics are used from
    the next step on, so that a result does not depend on how a step is split. Before the first step there are none:
    then those of the rows at hand are used, over all processes, which must all call then, with no rows if need be.

    Args:
        dim: channels D of the features.
        momentum: of the statistics, in [0, 1).
        eps: added to the variance; keeps a channel that is constant at 0.

    Raises:
        ValueError: for values out of range.
    """

    mean: Float[Tensor, "D"]
    var: Float[Tensor, "D"]
    updates: Int[Tensor, ""]
    pending: Float[Tensor, "3 D"]

    def __init__(self, dim: int, *, momentum: float = 0.99, eps: float = 1e-6) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim: got {dim}, expected at least 1")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: got {momentum}, expected in [0, 1)")
        if not eps > 0:
            raise ValueError(f"eps: got {eps}, expected a number above 0")
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float32))
        self.register_buffer("var", torch.zeros(dim, dtype=torch.float32))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pending", torch.zeros(3, dim, dtype=torch.float64), persistent=False)
        self._known = False
        self.register_load_state_dict_post_hook(_forget)

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        """The rows standardised, in float32; remembers them for `update`."""
        rows = x.float()
        sums = _sums(rows)
        self.pending += sums
        mean, var = self.mean, self.var
        if not self._has_statistics():
            mean, var = (moment.float() for moment in _moments(sum_over_processes(sums)))
        return (rows - mean) * torch.rsqrt(var + self.eps)

    @torch.no_grad()
    def update(self) -> None:
        """Move the statistics by what was seen since the last call; every process must call it, once per step."""
        sums = sum_over_processes(self.pending)
        mean, var = _moments(sums)
        weight = (self.updates + 1).double().reciprocal().clamp(min=1 - self.momentum)
        # The average of second moments less the square of the average mean, without their difference.
        var = self.var.double().lerp(var, weight) + weight * (1 - weight) * (mean - self.mean).square()
        mean = self.mean.double().lerp(mean, weight)
        # Without any row there is nothing to average, and one overflow would stay in the statistics for ever.
        usable = (sums[0] > 0).all() & sums.isfinite().all()
        self.mean.copy_(torch.where(usable, mean, self.mean))
        self.var.copy_(torch.where(usable, var, self.var))
        self.updates += usable
        self.pending.zero_()

    def _has_statistics(self) -> bool:
        """Asks the device, which makes the host wait, only as long as there are none."""
        self._known = self._known or bool(self.updates > 0)
        return self._known


def _sums(x: Float[Tensor, "R D"]) -> Float[Tensor, "3 D"]:
    """Number, sum and sum of squares of each channel, in float64.

    Squares are taken of deviations from the mean: those of a channel far from 0 would drown its variance in float32.
    """
    count = x.shape[0]
    mean = x.sum(dim=0) / max(count, 1)
    squares = (x - mean).square_().sum(dim=0).double()
    mean = mean.double()
    return torch.stack([torch.full_like(mean, count), count * mean, squares + count * mean.square()])


def _moments(sums: Float[Tensor, "3 D"]) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
    """Mean and variance of each channel; 0 where there are no rows."""
    count = sums[0].clamp(min=1)
    mean = sums[1] / count
    return mean, (sums[2] / count - mean.square()).clamp(min=0)


def _forget(module: nn.Module, _: object) -> None:
    """After a state is loaded: nothing that was seen before counts, and whether there are statistics is open again."""
    assert isinstance(module, Standardize)
    module.pending.zero_()
    module._known = False
