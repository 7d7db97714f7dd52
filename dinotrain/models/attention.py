"""Multi-head self-attention over packed sequences, by torch SDPA or by xformers."""

from __future__ import annotations

import functools
import warnings

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.models.packing import Layout, group_rows

BACKENDS = ("sdpa", "xformers")


class Attention(nn.Module):
    """Self-attention within each sequence of a pack.

    `backend` changes how attention is computed, not what: "sdpa" runs torch's scaled dot product once per group of
    equal-length sequences, "xformers" runs one kernel with a block-diagonal mask over the whole pack.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"model.num_heads: got {num_heads}, expected a divisor of model.embed_dim {dim}")
        self.num_heads = num_heads
        self.backend = "sdpa"
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "T D"], layout: Layout) -> Float[Tensor, "T D"]:
        qkv = self.qkv(x)
        attend = _attend_xformers if self.backend == "xformers" else _attend_sdpa
        return self.proj(attend(qkv, layout, self.num_heads))


def _attend_sdpa(qkv: Float[Tensor, "T E"], layout: Layout, heads: int) -> Float[Tensor, "T D"]:
    parts = []
    for (batch, length), part in zip(layout, qkv.split(group_rows(layout))):
        q, k, v = part.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        parts.append(_attention(q, k, v).transpose(1, 2).reshape(batch * length, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attention(
    q: Float[Tensor, "B h N d"], k: Float[Tensor, "B h N d"], v: Float[Tensor, "B h N d"]
) -> Float[Tensor, "B h N d"]:
    # torch's fused kernel for half precision on a CPU has a backward pass that takes several times as long as products.
    if q.device.type == "cpu" and q.dtype != torch.float32:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return scores.float().softmax(dim=-1).to(q.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


def _attend_xformers(qkv: Float[Tensor, "T E"], layout: Layout, heads: int) -> Float[Tensor, "T D"]:
    from xformers.ops import memory_efficient_attention

    q, k, v = qkv.view(1, qkv.shape[0], 3, heads, -1).unbind(2)
    out = memory_efficient_attention(q, k, v, attn_bias=_block_diagonal(layout, qkv.device))
    return out.reshape(qkv.shape[0], -1)


@functools.lru_cache(maxsize=64)
def _block_diagonal(layout: Layout, device: torch.device):
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    lengths = [length for batch, length in layout for _ in range(batch)]
    return BlockDiagonalMask.from_seqlens(lengths, device=device)


def available_backends(device: torch.device, dtype: torch.dtype, head_dim: int) -> tuple[str, ...]:
    """The attention backends that can run, forward and backward, on `device` with such heads."""
    if device.type == "cuda" and _xformers_works(dtype, head_dim):
        return BACKENDS
    return ("sdpa",)


@functools.cache
def _xformers_works(dtype: torch.dtype, head_dim: int) -> bool:
    """Whether xformers is installed and has a kernel here: tried out, since its tables can be wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe = torch.zeros(8, 3 * head_dim, device="cuda", dtype=dtype, requires_grad=True)
            _attend_xformers(probe, ((1, 3), (1, 5)), 1).sum().backward()
    except (ImportError, NotImplementedError, RuntimeError, OSError):
        return False
    return True


def select_attention(model: nn.Module, backend: str) -> None:
    """Set the backend of every attention layer in `model`."""
    if backend not in BACKENDS:
        raise ValueError(f"attention: got {backend!r}, expected one of {', '.join(BACKENDS)}")
    for module in model.modules():
        if isinstance(module, Attention):
            module.backend = backend
