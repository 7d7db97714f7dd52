"""Attention on a CPU in half precision: torch's fused kernel against plain products, forward and backward, in turn.

python benchmarks/attention.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPES = ((128, 3, 37, 64), (256, 3, 10, 64), (16, 6, 257, 64), (64, 6, 50, 64))
"""(sequences, heads, tokens, channels per head)"""


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return scores.float().softmax(dim=-1).to(q.dtype) @ v


def milliseconds(function: Callable[[Tensor, Tensor, Tensor], Tensor], qkv: Tensor) -> float:
    x = qkv.clone().requires_grad_(True)
    start = time.perf_counter()
    function(*x.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2).sum().backward()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"median ms, forward and backward, {args.threads} threads, torch {torch.__version__}")
    print(f"{'shape':<22}{'precision':<12}{'fused':>9}{'plain':>9}{'plain / fused':>15}")
    for dtype in (torch.bfloat16, torch.float32):
        for batch, heads, length, channels in SHAPES:
            qkv = torch.randn(batch, length, 3, heads, channels).to(dtype)
            rounds = [
                (milliseconds(F.scaled_dot_product_attention, qkv), milliseconds(plain, qkv))
                for _ in range(args.repeats + 2)
            ][2:]
            fused, products = (statistics.median(times) for times in zip(*rounds))
            name = str(dtype).removeprefix("torch.")
            shape = str((batch, heads, length, channels))
            print(f"{shape:<22}{name:<12}{fused:>9.1f}{products:>9.1f}{products / fused:>15.2f}")


if __name__ == "__main__":
    main()
