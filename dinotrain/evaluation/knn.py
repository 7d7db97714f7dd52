"""k-nearest-neighbour classification of frozen features (Wu et al. 2018; DINO paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@torch.no_grad()
def knn_accuracy(
    bank: Float[Tensor, "n D"],
    bank_labels: Int[Tensor, "n"],
    queries: Float[Tensor, "m D"],
    query_labels: Int[Tensor, "m"],
    *,
    k: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    center: bool = False,
    chunk: int = 1024,
    check: Callable[[], object] = lambda: None,
) -> dict[int, float]:
    """Top-1 accuracy in percent for every k, from one search.

    Cosine similarity; the k nearest vote for their class with weight exp(similarity / temperature). A k beyond the size
    of the bank means the whole bank. `center` takes the bank's mean off first (for pixels).
    `check` is called before each chunk of queries.
    """
    if center:
        mean = bank.mean(dim=0)
        bank, queries = bank - mean, queries - mean
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    largest = min(max(k), bank.shape[0])
    correct = dict.fromkeys(k, 0)
    for part, truth in zip(queries.split(chunk), query_labels.split(chunk)):
        check()
        similarity, index = (part @ bank.T).topk(largest, dim=1)
        weights, voted = (similarity / temperature).exp(), bank_labels[index]
        for size in k:
            votes = torch.zeros(part.shape[0], classes, device=part.device)
            votes.scatter_add_(1, voted[:, :size], weights[:, :size])
            correct[size] += int((votes.argmax(dim=1) == truth).sum())
    return {size: 100.0 * count / queries.shape[0] for size, count in correct.items()}
