"""Packed token sequences: all crops of a step as one matrix, so that linear layers and norms run once.

A pack is a matrix [T, D] that holds groups of equal-length sequences one after the other; `Layout` says how it is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Layout = tuple[tuple[int, int], ...]
"""(sequences B, tokens per sequence N) of every group; the pack has sum(B * N) rows."""


def group_rows(layout: Layout) -> list[int]:
    """Rows of every group, for `Tensor.split`."""
    return [batch * length for batch, length in layout]


@dataclass(frozen=True)
class Branch:
    """Which sequences a residual branch runs on, and how its output is weighted (stochastic depth).

    A plain object rather than a tuple: FSDP casts the tensors of tuples to the compute precision, and the weights
    must stay exact.
    """

    layout: Layout
    """Layout of the rows the branch sees."""
    rows: Int[Tensor, "t"] | None
    """Rows of the pack to run on; None for all."""
    scale: Float[Tensor, "t 1"] | None
    """Weight of every row of the branch's output; None for 1."""


def full_branch(layout: Layout) -> Branch:
    """The branch that runs on everything."""
    return Branch(layout, None, None)


def draw_branches(layout: Layout, rate: float, count: int, device: torch.device) -> list[Branch]:
    """Stochastic depth for `count` residual branches (draws from the device's default generator).

    Above a rate of 0.1 every branch runs on a random subset of max(int(B * (1 - rate)), 1) sequences of each group,
    weighted by B / subset, which saves the compute of the others; up to 0.1, where a subset would round badly for small
    B, sequences are dropped with that probability (DINOv2 paper, section 4, "efficient stochastic depth").
    """
    if rate <= 0:
        return [full_branch(layout)] * count
    draw = _subsets if rate > 0.1 else _bernoulli
    return draw(layout, rate, count, device)


def subset_branch(layout: Layout, kept: list[Int[Tensor, "_"]]) -> Branch:
    """The branch that runs on the sequences `kept[i]` of each group i, weighted by B / k."""
    device, offset = kept[0].device, 0
    rows, scales = [], []
    for (batch, length), chosen in zip(layout, kept):
        rows.append((offset + chosen[:, None] * length + torch.arange(length, device=device)).flatten())
        scales.append(torch.full((rows[-1].numel(), 1), batch / max(chosen.numel(), 1), device=device))
        offset += batch * length
    small = tuple((chosen.numel(), length) for (_, length), chosen in zip(layout, kept))
    return Branch(small, torch.cat(rows), torch.cat(scales))


def _subsets(layout: Layout, rate: float, count: int, device: torch.device) -> list[Branch]:
    orders = [
        torch.rand(count, batch, device=device).argsort(dim=1)[:, : max(int(batch * (1 - rate)), 1)]
        for batch, _ in layout
    ]
    return [subset_branch(layout, [order[i] for order in orders]) for i in range(count)]


def _bernoulli(layout: Layout, rate: float, count: int, device: torch.device) -> list[Branch]:
    weights = []
    for batch, length in layout:
        kept = (torch.rand(count, batch, device=device) >= rate).float() / (1 - rate)
        weights.append(kept.repeat_interleave(length, dim=1))
    table = torch.cat(weights, dim=1).unsqueeze(-1)
    return [Branch(layout, None, table[i]) for i in range(count)]
