"""k-nearest-neighbour classification of frozen features (Wu et al. 2018; DINO paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from dinotrain.evaluation.neighbours import Neighbours, nearest

_CHUNK = 4096
"""Queries whose votes are counted at once."""


class Verdict(NamedTuple):
    """What the neighbours of each query say of its class. On the CPU."""

    predicted: Int64[Tensor, "m"]
    rank: Int64[Tensor, "m"]
    """Place of the true class among all classes by votes, from 0. A class without votes is not in the running: it
    has the last place."""

    def within(self, places: int) -> float:
        """Percent of the queries whose class has one of the first places (top-1, top-5)."""
        return 100.0 * float((self.rank < places).double().mean())


@torch.no_grad()
def vote(
    found: Neighbours,
    bank_labels: Int[Tensor, "n"],
    query_labels: Int[Tensor, "m"],
    *,
    k: int,
    temperature: float,
    classes: int,
) -> Verdict:
    """The first k neighbours vote for their class with weight exp(similarity / temperature).

    Classes with equal votes are ranked by number.
    """
    # On the CPU the order of the sums, and so what becomes of ties, is always the same.
    similarity, index = found.similarity[:, :k].cpu(), found.index[:, :k].cpu()
    voted, truth = bank_labels.cpu()[index], query_labels.cpu().long().unsqueeze(1)
    # Against the nearest one, so that no temperature is too low for float32.
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    numbers = torch.arange(classes)
    predicted, rank = [], []
    for part in (slice(start, start + _CHUNK) for start in range(0, len(index), _CHUNK)):
        votes = torch.zeros(len(index[part]), classes).scatter_add_(1, voted[part].long(), weights[part])
        own = votes.gather(1, truth[part])
        before = (votes > own) | ((votes == own) & (numbers < truth[part]))
        predicted.append(votes.argmax(dim=1))
        rank.append(torch.where(own[:, 0] > 0, before.sum(dim=1), classes))
    return Verdict(torch.cat(predicted), torch.cat(rank))


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
    found = nearest(bank, queries, max(k), query_chunk=chunk, check=check)
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    return {
        size: vote(found, bank_labels, query_labels, k=size, temperature=temperature, classes=classes).within(1)
        for size in k
    }
