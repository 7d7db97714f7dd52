"""k-NN classification of features against scikit-learn's brute-force search, in turn, with the same threads.

Ours gives the accuracy for four k (10, 20, 100, 200), scikit-learn that for the largest: features have length 1, where
its fast metric, the Euclidean distance, finds the same neighbours as the cosine.

python benchmarks/evaluation.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinotrain.evaluation.knn import vote
from dinotrain.evaluation.neighbours import Library, nearest

K, TEMPERATURE, CLASSES = (10, 20, 100, 200), 0.07, 100


class Data(NamedTuple):
    """Features of unit length around a centre for each class."""

    bank: Tensor
    bank_labels: Tensor
    queries: Tensor
    query_labels: Tensor


def drawn(rows: int, queries: int, dim: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (rows + queries,), generator=generator)
    centres = torch.randn(CLASSES, dim, generator=generator)
    features = F.normalize(centres[labels] + 4 * torch.randn(rows + queries, dim, generator=generator), dim=1)
    return Data(features[:rows], labels[:rows], features[rows:], labels[rows:])


def ours(data: Data, library: Library) -> dict[int, float]:
    found = nearest(data.bank, data.queries, max(K), library=library)
    options = {"temperature": TEMPERATURE, "classes": CLASSES}
    return {k: vote(found, data.bank_labels, data.query_labels, k=k, **options).within(1) for k in K}


def scikit_learn_search(data: Data) -> dict[int, float]:
    """Its neighbours alone, without a vote."""
    from sklearn.neighbors import NearestNeighbors

    NearestNeighbors(n_neighbors=max(K), algorithm="brute").fit(data.bank.numpy()).kneighbors(data.queries.numpy())
    return {}


def scikit_learn(data: Data) -> dict[int, float]:
    from sklearn.neighbors import KNeighborsClassifier

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp(-(distances**2) / 2 / TEMPERATURE)

    way: Any = weights
    model = KNeighborsClassifier(max(K), algorithm="brute", weights=way)
    model.fit(data.bank.numpy(), data.bank_labels.numpy())
    return {max(K): 100 * float((model.predict(data.queries.numpy()) == data.query_labels.numpy()).mean())}


def main() -> None:
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = drawn(args.rows, args.queries, args.dim)
    ways: dict[str, Callable[[], dict[int, float]]] = {
        "scikit-learn": lambda: scikit_learn(data),
        "its search": lambda: scikit_learn_search(data),
        "ours, torch": lambda: ours(data, "torch"),
    }
    try:
        import faiss  # noqa: F401
    except ImportError:
        print("faiss is not installed: its line is missing")
    else:
        ways["ours, faiss"] = lambda: ours(data, "faiss")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    accuracy: dict[str, dict[int, float]] = {}
    with threadpool_limits(args.threads):
        for _ in range(args.repeats):
            for name, function in ways.items():
                start = time.perf_counter()
                accuracy[name] = function()
                seconds[name].append(time.perf_counter() - start)
    print(f"{args.rows} x {args.queries} x {args.dim}, {args.threads} threads, median of {args.repeats}, in turn")
    base = statistics.median(seconds["scikit-learn"])
    print(f"{'':<14}{'seconds':>9}{'scikit-learn / it':>19}   top-1 in % by k")
    for name, times in seconds.items():
        middle = statistics.median(times)
        found = ", ".join(f"{k}: {value:.2f}" for k, value in accuracy[name].items())
        print(f"{name:<14}{middle:>9.2f}{base / middle:>19.2f}   {found}")


if __name__ == "__main__":
    main()
