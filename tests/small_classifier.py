"""A classifier of a few thousand weights, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from tiny import DIM, backbone

from dinotrain.classifiers.classifier import Classifier
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.classifier_file import CLASSIFIER, ClassifierDescription, write_classifier

CLASSES = ("red", "green", "blue", 'größer, "quoted"')


def small_classifier(labels: Literal["single", "multi"] = "single", thresholds: tuple[float, ...] = ()) -> Classifier:
    """Random weights; images of 16 px with 4 px patches."""
    description = ClassifierDescription(
        classes=CLASSES, labels=labels, blocks=2, size=16, crop_fraction=1.0, thresholds=thresholds
    )
    classifier = Classifier(backbone(0), description)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        classifier.head.weight.normal_(0.0, 0.3, generator=generator)
        classifier.head.bias.zero_()
    return classifier.requires_grad_(False).eval()


def write_small_classifier(folder: Path, classifier: Classifier | None = None) -> Path:
    """The file of one in a folder; returns that."""
    classifier = classifier or small_classifier()
    state = dict(classifier.backbone.named_parameters())
    assert state["cls_token"].shape[-1] == DIM
    folder.mkdir(parents=True, exist_ok=True)
    write_classifier(folder / CLASSIFIER, classifier.weights(Architecture.of_tensors(state, num_heads=2)))
    return folder
