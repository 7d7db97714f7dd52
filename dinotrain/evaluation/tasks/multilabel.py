"""Images with several labels: a linear classifier of frozen features per class, mean average precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from dinotrain.distributed.collectives import sum_over_processes
from dinotrain.evaluation.average_precision import average_precision
from dinotrain.evaluation.linear.grid import grid, head_words
from dinotrain.evaluation.linear.heads import Classifier, LinearHeads, Loss
from dinotrain.evaluation.linear.multi_labels import multi_labels
from dinotrain.evaluation.linear.scores import best, chunks
from dinotrain.evaluation.linear.sweep import LinearSweep
from dinotrain.evaluation.outcome import Outcome, PerImage, Table
from dinotrain.evaluation.setting import Setting
from dinotrain.evaluation.splits import random_part


@dataclass(frozen=True, kw_only=True)
class Multilabel(LinearSweep):
    """Mean average precision of the best of many linear classifiers; options: see `LinearSweep`.

    The loss is binary cross-entropy, summed over the classes. Without a validation split the best is chosen on a part
    of the training images, which no head is trained on. Classes without an image count in no mean.
    """

    loss: ClassVar[Loss] = "bce"

    def run(self, setting: Setting) -> Outcome:
        """Train the heads, choose one, and measure it on the test images."""
        labels, classes = multi_labels(setting.train)
        test_labels = multi_labels(setting.test, classes)[0]
        own = setting.validation
        choice_labels = labels if own is None else multi_labels(own, classes)[0]
        device = setting.backbone.device

        def targets(rows: Int64[np.ndarray, "B"]) -> Tensor:
            return torch.from_numpy(labels[rows]).to(device).float()

        fit, held = np.arange(len(setting.train)), np.zeros(0, np.int64)
        if own is None:
            fit, held = random_part(len(setting.train), self.held_out, setting.seed)
        trained = self.train(setting, fit, targets, len(classes))
        validation = self.choosing(setting, held, trained.parts)
        by_choice = mean_precisions(trained.heads, validation.values, choice_labels[validation.rows], setting.tick)
        test = self.testing(setting, trained.parts)
        truth = test_labels[test.rows]
        by_test = mean_precisions(trained.heads, test.values, truth, setting.tick)
        chosen = best(by_choice)
        scores = _logits(trained.heads.classifier(chosen), test.values, device)
        precisions = 100 * average_precision(scores, truth)
        return Outcome(
            numbers={"map": _mean(precisions), "validation_map": float(by_choice[chosen, 0])},
            protocol=self.protocol(setting) | {"chosen": head_words(self, trained, chosen)},
            per_image=PerImage(kind="average_precision", rows=test.rows, arrays={"scores": scores, "labels": truth}),
            notes=trained.notes,
            matrices=(
                grid(self, trained, by_choice[:, 0], "Mean average precision on the validation images", chosen),
                grid(self, trained, by_test[:, 0], "Mean average precision on the test images", chosen),
            ),
            tables=(_per_class(precisions, truth, classes),),
        )


def mean_precisions(
    heads: LinearHeads,
    values: Float[Tensor, "n D"],
    labels: Bool[np.ndarray, "n C"],
    tick: Callable[[], object] = lambda: None,
) -> Float64[np.ndarray, "heads 2"]:
    """Mean average precision in percent, and binary cross-entropy, of every head; all processes together.

    Args:
        tick: called once for every head, also for those of other processes.
    """
    totals = torch.zeros(len(heads), 2, dtype=torch.float64, device=heads.device)
    truth = torch.from_numpy(labels).double()
    own = dict(heads.classifiers())
    for number in range(len(heads)):
        tick()
        if number not in own:
            continue
        logits = _logits(own[number], values, heads.device)
        totals[number, 0] = _mean(100 * average_precision(logits, labels))
        totals[number, 1] = F.binary_cross_entropy_with_logits(torch.from_numpy(logits).double(), truth)
    found = sum_over_processes(totals).cpu().numpy()
    return np.stack([found[:, 0], np.where(np.isfinite(found[:, 1]), found[:, 1], np.inf)], axis=1)


def _logits(classifier: Classifier, values: Float[Tensor, "n D"], device: torch.device) -> Float32[np.ndarray, "n C"]:
    return torch.cat([classifier.logits(x) for _, x in chunks(values, device)]).cpu().numpy()


def _mean(precisions: Float64[np.ndarray, "C"]) -> float:
    """Over the classes that some image has; 0 where there is none."""
    known = precisions[np.isfinite(precisions)]
    return float(known.mean()) if len(known) else 0.0


def _per_class(precisions: Float64[np.ndarray, "C"], labels: Bool[np.ndarray, "m C"], classes: Sequence[str]) -> Table:
    """Best class first, those without an image last."""
    counts = labels.sum(axis=0)
    order = np.argsort(np.where(np.isfinite(precisions), -precisions, np.inf), kind="stable")
    cells = [f"{value:.1f}" if np.isfinite(value) else "-" for value in precisions]
    return Table(
        title="Average precision of each class",
        note=f"On {len(labels)} test images.",
        columns=("class", "images", "AP in %"),
        rows=tuple((str(classes[number]), str(counts[number]), cells[number]) for number in map(int, order)),
    )
