"""Building a classifier that is trained."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from spawn import run_processes

from dinotrain.distributed.parallelize import device_mesh
from dinotrain.finetuning.networks import build_classifier, fill
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.classifier_file import ClassifierDescription
from dinotrain.weights.weights import Weights


def scores_and_features(rank: int) -> Any:
    state = dict(tiny.backbone().named_parameters())
    weights = Weights(path="", layout="", architecture=Architecture.of_tensors(state, num_heads=2), backbone=state)
    description = ClassifierDescription(classes=("a", "b"), labels="single", blocks=2, size=16, crop_fraction=1.0)
    classifier = build_classifier(
        weights,
        description,
        trains_backbone=False,
        mesh=device_mesh("cpu", 1, None),
        precision="bf16",
        device=torch.device("cpu"),
    )
    fill(classifier, weights, None, 0)
    with torch.no_grad():
        images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        scores, features = classifier(images), classifier.features(images)
        weight, bias = (value.full_tensor() for value in (classifier.head.weight, classifier.head.bias))  # pyright: ignore
        return scores, features @ weight.T + bias, features.dtype


def test_the_head_is_computed_in_single_precision() -> None:
    """In half precision many images would have the same score."""
    ((scores, expected, dtype),) = run_processes(1, scores_and_features)
    assert scores.dtype == dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
