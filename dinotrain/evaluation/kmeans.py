"""k-means: seeding by k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's iterations on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from dinotrain.distributed.collectives import gather_rows
from dinotrain.distributed.world import World
from dinotrain.evaluation.finite import finite

_CHUNK = 2**14


class Clustering(NamedTuple):
    """A partition of the points."""

    labels: Int64[Tensor, "n"]
    centers: Float[Tensor, "k D"]
    inertia: float
    """Sum of the squared distances of all points to their centre."""


@torch.no_grad()
def kmeans(
    points: Float[Tensor, "n D"],
    k: int,
    *,
    world: World,
    restarts: int = 5,
    iterations: int = 100,
    seed: int = 0,
    check: Callable[[], object] = lambda: None,
) -> Clustering:
    """The partition with the least inertia of several, each from a start of its own.

    The processes share the starts, and all get the best; of equal ones, the first.

    Args:
        points: n >= k of them.
        iterations: at most, for each start.
        seed: of all starts.
        check: called before each start and each iteration, by all processes equally often.
    """
    x = finite(points, world.device)
    rounds = -(-restarts // world.size)
    centers = []
    for restart in range(world.rank * rounds, (world.rank + 1) * rounds):
        check()
        start = _start(x, k, (seed, restart)) if restart < restarts else None
        found = _lloyd(x, start, iterations, check)
        if found is not None:
            centers.append(found)
    empty = torch.empty(0, k, x.shape[1], device=x.device)
    partitions = [_partition(x, candidate) for candidate in gather_rows(torch.stack(centers) if centers else empty)]
    best = min(partitions, key=lambda clustering: clustering.inertia)
    return Clustering(best.labels.cpu(), best.centers.cpu(), best.inertia)


def _start(x: Tensor, k: int, key: tuple[int, int]) -> Float[Tensor, "k D"]:
    from sklearn.cluster import kmeans_plusplus

    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    centers, _ = kmeans_plusplus(x.cpu().numpy(), k, random_state=seed)
    return torch.from_numpy(centers).to(x)


def _lloyd(
    x: Tensor, centers: Float[Tensor, "k D"] | None, iterations: int, check: Callable[[], object]
) -> Float[Tensor, "k D"] | None:
    """Centres after so many iterations, or fewer if no point changes its centre any more.

    Whoever is done, or has no start, goes on checking for as many iterations as the others may take.
    """
    labels, done = None, False
    for _ in range(iterations):
        check()
        if done or centers is None:
            continue
        new, distances = _nearest(x, centers)
        done = labels is not None and torch.equal(new, labels)
        if not done:
            labels, centers = new, _means(x, new, centers, distances)
    return centers


def _partition(x: Tensor, centers: Tensor) -> Clustering:
    labels, distances = _nearest(x, centers)
    return Clustering(labels, centers, float(distances.double().sum()))


def _nearest(x: Tensor, centers: Tensor) -> tuple[Int64[Tensor, "n"], Float[Tensor, "n"]]:
    """Nearest centre of each point, of equally near ones the first, and the squared distance to it."""
    half = centers.square().sum(dim=1) / 2
    closeness, labels = [], []
    for part in x.split(_CHUNK):
        # ||x - c||^2 = ||x||^2 - 2 (x c - ||c||^2 / 2)
        scores = torch.addmm(-half, part, centers.T)
        best = scores.argmax(dim=1)
        labels.append(best)
        closeness.append(scores.gather(1, best.unsqueeze(1))[:, 0])
    distances = (x.square().sum(dim=1) - 2 * torch.cat(closeness)).clamp(min=0)
    return torch.cat(labels), distances


def _means(x: Tensor, labels: Tensor, old: Tensor, distances: Tensor) -> Float[Tensor, "k D"]:
    """Means of the points of each centre; a centre without any moves to one of the points furthest from theirs."""
    k = len(old)
    counts = torch.bincount(labels, minlength=k)
    sums = torch.zeros_like(old)
    for part, own in zip(x.split(_CHUNK), labels.split(_CHUNK)):
        # As a product of matrices: other ways of adding up have no fixed order on a GPU.
        sums += F.one_hot(own, k).to(x).T @ part
    centers = sums / counts.clamp(min=1).unsqueeze(1)
    lost = (counts == 0).nonzero().flatten()
    if len(lost):
        centers[lost] = x[distances.sort(descending=True, stable=True).indices[: len(lost)]]
    return centers
