"""How right the linear classifiers of a sweep are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from dinotrain.distributed.collectives import sum_over_processes
from dinotrain.evaluation.finite import finite
from dinotrain.evaluation.linear.heads import Classifier, LinearHeads
from dinotrain.evaluation.setting import SplitFeatures

_CHUNK = 4096


def chunks(values: Float[Tensor, "n D"], device: torch.device) -> Iterator[tuple[slice, Float[Tensor, "b D"]]]:
    """Rows of features some at a time, in float32 on the device, and where they stand."""
    for start in range(0, len(values), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield part, finite(values[part], device)


def accuracies(
    heads: LinearHeads, found: SplitFeatures, tick: Callable[[], object] = lambda: None
) -> Float64[np.ndarray, "heads 2"]:
    """Top-1 accuracy in percent, and mean cross-entropy, of every head; all processes together.

    Where a head has diverged, no answer counts as right, and the loss is infinite.
    """
    assert found.labels is not None
    totals = torch.zeros(len(heads), 2, dtype=torch.float64, device=heads.device)
    for part, x in chunks(found.values, heads.device):
        tick()
        labels = torch.from_numpy(found.labels[part]).to(heads.device)
        for number, classifier in heads.classifiers():
            logits = classifier.logits(x)
            right = (logits.argmax(dim=1) == labels) & logits.isfinite().all(dim=1)
            totals[number, 0] += right.sum()
            totals[number, 1] += F.cross_entropy(logits, labels, reduction="sum")
    means = sum_over_processes(totals).cpu().numpy() / max(len(found.rows), 1)
    return np.stack([100 * means[:, 0], np.where(np.isfinite(means[:, 1]), means[:, 1], np.inf)], axis=1)


def best(scores: Float64[np.ndarray, "heads 2"]) -> int:
    """The head with the highest first score; of several, the one with the least loss, the second one."""
    return int(np.lexsort((scores[:, 1], -scores[:, 0]))[0])


def ranked(
    classifier: Classifier,
    values: Float[Tensor, "n D"],
    device: torch.device,
    *,
    most: int = 5,
    allowed: Sequence[int] | Int64[np.ndarray, "k"] | None = None,
) -> Int64[np.ndarray, "n r"]:
    """The most likely classes of every row, most likely first.

    Args:
        most: how many; fewer where there are not as many classes.
        allowed: the classes to choose from; None for all.
    """
    choice = torch.arange(classifier.classes) if allowed is None else torch.as_tensor(allowed)
    choice = choice.to(device)
    found = [torch.zeros(0, min(most, len(choice)), dtype=torch.int64, device=device)]
    for _, x in chunks(values, device):
        found.append(choice[classifier.logits(x)[:, choice].topk(min(most, len(choice)), dim=1).indices])
    return torch.cat(found).cpu().numpy()
