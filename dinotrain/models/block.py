"""The pre-norm transformer block with LayerScale and stochastic depth, on packed sequences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.models.attention import Attention
from dinotrain.models.feedforward import FEEDFORWARD
from dinotrain.models.packing import Branch, Layout


class LayerScale(nn.Module):
    """A learned gain per channel on a residual branch (Touvron et al. 2021)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return x * self.gamma


class Block(nn.Module):
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x)))."""

    def __init__(
        self, dim: int, num_heads: int, *, ffn: str, ffn_hidden: int, layer_scale: bool, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads)
        self.ls1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = FEEDFORWARD[ffn](dim, ffn_hidden)
        self.ls2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(self, x: Float[Tensor, "T D"], attn: Branch, ffn: Branch) -> Float[Tensor, "T D"]:
        x = _add_branch(x, attn, lambda rows, layout: self.ls1(self.attn(self.norm1(rows), layout)))
        return _add_branch(x, ffn, lambda rows, _: self.ls2(self.mlp(self.norm2(rows))))


def _add_branch(
    x: Float[Tensor, "T D"], branch: Branch, residual: Callable[[Tensor, Layout], Tensor]
) -> Float[Tensor, "T D"]:
    """x + residual(x), computed on the branch's rows only."""
    rows = x if branch.rows is None else x.index_select(0, branch.rows)
    update = residual(rows, branch.layout)
    if branch.scale is not None:
        update = (update * branch.scale).to(x.dtype)
    return x + update if branch.rows is None else x.index_add(0, branch.rows, update.to(x.dtype))
