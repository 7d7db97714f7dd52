"""How far predicted depth is from the truth (Eigen et al. 2014, arXiv:1406.2283, section 4)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dinotrain.evaluation.dense.depth_bins import MIN_DEPTH

METRICS = ("rmse", "abs_rel", "sq_rel", "log10", "rmse_log", "delta1", "delta2", "delta3")


def depth_errors(
    predicted: Float[Tensor, "H W"],
    truth: Float[Tensor, "H W"],
    max_depth: float,
    crop: tuple[int, int, int, int] | None = None,
) -> Float64[Tensor, "8"]:
    """The numbers named in `METRICS` of one image; NaN if nothing is known of it.

    `rmse` in metres; `sq_rel` mean of (p - t)^2 / t in metres; `log10` and `rmse_log` (natural) of logarithms;
    `delta1..3` the percentage of pixels with max(p / t, t / p) below 1.25, 1.25^2, 1.25^3.

    Args:
        predicted, truth: metres. Pixels with a truth outside 1 mm .. `max_depth` are not counted; predictions are
            clamped to that range.
        crop: top, bottom, left, right of the part that counts.
    """
    if crop is not None:
        top, bottom, left, right = crop
        predicted, truth = predicted[top:bottom, left:right], truth[top:bottom, left:right]
    known = (truth >= MIN_DEPTH) & (truth <= max_depth)
    t = truth[known].double()
    p = predicted[known].double().clamp(MIN_DEPTH, max_depth)
    ratio, logs = torch.maximum(p / t, t / p), p.log() - t.log()
    return torch.stack(
        [
            (p - t).square().mean().sqrt(),
            ((p - t).abs() / t).mean(),
            ((p - t).square() / t).mean(),
            (p.log10() - t.log10()).abs().mean(),
            logs.square().mean().sqrt(),
            *(100.0 * (ratio < 1.25**power).double().mean() for power in (1, 2, 3)),
        ]
    )
