"""The objective, held against loops over images and classes."""

from __future__ import annotations

import math

import pytest
import torch

from dinotrain.finetuning.supervised import Supervised

SCORES = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -0.3]])


def test_single_label_loss_with_weights_and_smoothing() -> None:
    weights, smoothing = torch.tensor([0.5, 1.0, 2.0]), 0.2
    objective = Supervised(multi=False, weights=weights, label_smoothing=smoothing)
    targets = torch.tensor([2, 0])
    expected = 0.0
    for scores, target in zip(SCORES.tolist(), targets.tolist()):
        total = sum(math.exp(score) for score in scores)
        shares = [smoothing / 3 + (1 - smoothing) * (number == target) for number in range(3)]
        cross_entropy = -sum(share * math.log(math.exp(score) / total) for share, score in zip(shares, scores))
        expected += weights[target].item() * cross_entropy / 2
    assert objective.loss(SCORES, targets).item() == pytest.approx(expected, rel=1e-5)


def test_multi_label_loss_with_weights_and_smoothing() -> None:
    weights, smoothing = torch.tensor([1.0, 3.0, 2.0]), 0.1
    objective = Supervised(multi=True, weights=weights, label_smoothing=smoothing)
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    expected = 0.0
    for scores, row in zip(SCORES.tolist(), targets.tolist()):
        for score, target, weight in zip(scores, row, weights.tolist()):
            found, target = 1 / (1 + math.exp(-score)), target * (1 - smoothing) + smoothing / 2
            expected -= (weight * target * math.log(found) + (1 - target) * math.log(1 - found)) / 2
    assert objective.loss(SCORES, targets).item() == pytest.approx(expected, rel=1e-5)


def test_weights_are_not_in_checkpoints() -> None:
    assert not Supervised(multi=False, weights=torch.ones(3)).state_dict()


def test_smoothing_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        Supervised(multi=False, label_smoothing=1.0)
