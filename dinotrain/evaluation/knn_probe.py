"""k-NN on a labelled source while training: which images, how often read, and the two baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinotrain.data.source import Source
from dinotrain.distributed.world import World
from dinotrain.evaluation.features import Preparation, extract, pixel_function
from dinotrain.evaluation.knn import knn_accuracy
from dinotrain.evaluation.splits import Split

HELD_OUT_SHARE = 0.1


class LabelledSplit(NamedTuple):
    """Images with labels to search in, and to classify."""

    train: Split
    test: Split


def labelled_split(
    train: Source, test: Source | None, *, max_train: int | None, max_test: int | None, seed: int = 0
) -> LabelledSplit | None:
    """Draw the images of a k-NN evaluation; None where there are no labels or only one class.

    Without a test source, a tenth of the training images is set apart as queries. The draw depends on `seed` alone.
    """
    if train.labels is None or len(np.unique(train.labels)) < 2 or (test is not None and test.labels is None):
        return None
    order = np.random.default_rng(seed).permutation(len(train))
    if test is not None:
        queries = np.random.default_rng(seed).permutation(len(test))[:max_test]
        return LabelledSplit(Split(train, order[:max_train], "train"), Split(test, queries, "test"))
    held = max(int(len(train) * HELD_OUT_SHARE), 1)
    searched, classified = order[held:][:max_train], order[:held][:max_test]
    return LabelledSplit(Split(train, searched, "train"), Split(train, classified, "test"))


class KnnProbe:
    """Evaluates feature functions by k-NN on one split.

    Args:
        split: the images.
        preparation: how images enter the network.
        k: neighbours; the best is reported as `knn_top1`, all beside it.
        check: called again and again, by all processes equally often; may raise to end an evaluation.
    """

    def __init__(
        self,
        split: LabelledSplit,
        preparation: Preparation,
        world: World,
        *,
        k: Sequence[int],
        temperature: float,
        batch: int,
        threads: int = 2,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self.split, self.preparation, self.world = split, preparation, world
        self.k, self.temperature, self.batch, self.threads = tuple(k), temperature, batch, threads
        self.check = check

    def evaluate(self, function: Callable[[Tensor], Tensor], *, center: bool = False) -> dict[str, float]:
        """`knn_top1` (best k) and `knn_top1_k<k>`, in percent; all processes together."""
        bank, bank_labels = self._features(function, self.split.train)
        queries, query_labels = self._features(function, self.split.test)
        accuracy = knn_accuracy(
            bank,
            bank_labels,
            queries,
            query_labels,
            k=self.k,
            temperature=self.temperature,
            center=center,
            check=self.check,
        )
        return {"knn_top1": max(accuracy.values())} | {f"knn_top1_k{k}": value for k, value in accuracy.items()}

    def pixels(self) -> float:
        """Top-1 accuracy of the raw pixels, centred, in percent."""
        return self.evaluate(pixel_function(), center=True)["knn_top1"]

    def _features(self, function: Callable[[Tensor], Tensor], split: Split) -> tuple[Tensor, Tensor]:
        found = extract(
            function,
            split.source,
            split.indices,
            preparation=self.preparation,
            world=self.world,
            batch=self.batch,
            threads=self.threads,
            check=self.check,
        )
        labels = torch.as_tensor(split.labels, device=found.values.device)
        return found.values[found.readable], labels[found.readable]
