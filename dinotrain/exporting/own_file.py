"""A file of this trainer: safetensors with the architecture in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from dinotrain.exporting.subject import Outputs, Subject
from dinotrain.weights.classifier_file import read_classifier, write_classifier
from dinotrain.weights.read import read_weights
from dinotrain.weights.runs import write_backbone


def write(subject: Subject, path: Path) -> tuple[str, ...]:
    """Write the backbone or the classifier; returns how it is used."""
    if subject.classifier is not None:
        write_classifier(path, subject.classifier)
        return (f"python -m dinotrain.predict model={path.name} IMAGES",)
    write_backbone(path, subject.weights.backbone, subject.architecture, subject.normalization)
    return (f"python -m dinotrain.evaluate weights={path.name} data=folder data.root=PATH",)


def load(subject: Subject, path: Path) -> Callable[[Tensor], Outputs]:
    """What is read from the file."""
    classifier = None if subject.classifier is None else read_classifier(str(path))
    weights = read_weights(str(path)) if classifier is None else classifier.backbone
    return replace(subject, weights=weights, classifier=classifier).outputs
