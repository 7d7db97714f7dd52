"""The file of a classifier: what was written comes back, and anything else is refused with a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinotrain.classifiers.classifier import Classifier
from dinotrain.errors import UserError
from dinotrain.models.init import initialize
from dinotrain.models.vit import VisionTransformer
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.classifier_file import ClassifierDescription, read_classifier, write_classifier
from dinotrain.weights.read import read_weights

DESCRIPTION = ClassifierDescription(
    classes=("cat", "dog", "ä bird"), labels="single", blocks=2, size=24, crop_fraction=0.875, origin={"images": 5}
)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    backbone = VisionTransformer(image_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2)
    initialize(backbone, 0, backbone.initial)
    return Classifier(backbone, DESCRIPTION).eval()


@pytest.fixture
def written(classifier: Classifier, tmp_path: Path) -> Path:
    path = tmp_path / "classifier.safetensors"
    state = dict(classifier.backbone.named_parameters())
    architecture = Architecture.of_tensors(state, num_heads=2)
    write_classifier(path, classifier.weights(architecture))
    return path


def test_what_was_written_answers_the_same(classifier: Classifier, written: Path) -> None:
    images = torch.randn(3, 3, 24, 24)
    read = read_classifier(str(written.parent))
    again = Classifier.of_weights(read)
    assert read.description == DESCRIPTION
    assert torch.equal(again(images), classifier(images))


def test_a_classifier_is_also_a_backbone(classifier: Classifier, written: Path) -> None:
    weights = read_weights(str(written))
    own = dict(classifier.backbone.named_parameters())
    assert weights.backbone.keys() == own.keys()
    assert all(torch.equal(weights.backbone[name], own[name]) for name in own)


def test_features_are_cls_tokens_then_the_mean_patch(classifier: Classifier) -> None:
    images = torch.randn(2, 3, 24, 24)
    before, last = classifier.backbone.intermediate(images, [-2, -1])
    expected = torch.cat([before.cls, last.cls, last.patches.mean(dim=1)], dim=1)
    assert torch.allclose(classifier.features(images), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a", "a", "b")}, "classes: .*names that differ"),
        ({"labels": "several"}, "labels: .*single or multi"),
        ({"blocks": 0}, "blocks: .*above 0"),
        ({"crop_fraction": 0}, "crop_fraction: .*at most 1"),
        ({"std": (1.0, 0.0, 1.0)}, "std: .*above 0"),
        ({"thresholds": (0.5,)}, "thresholds: .*for each class"),
    ],
)
def test_what_no_classifier_has_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(DESCRIPTION, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a", "b")}, "head is not one of 2 classes on 96 channels"),
        ({"blocks": 1}, "head is not one of 3 classes on 64 channels"),
        ({"size": 20}, "size: got 20, expected a multiple of the patch size 8"),
        ({"mean": (0.5,), "std": (0.5,)}, "mean: .*3 numbers"),
    ],
)
def test_files_that_contradict_themselves_are_refused(
    classifier: Classifier, written: Path, changes: dict, message: str
) -> None:
    read = read_classifier(str(written))
    write_classifier(written, replace(read, description=replace(DESCRIPTION, **changes)))
    with pytest.raises(UserError, match=f"^{written}: .*{message}"):
        read_classifier(str(written))


def test_other_files_are_no_classifiers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file or folder, or no classifier.safetensors in it"):
        read_classifier(str(tmp_path))
    (tmp_path / "classifier.safetensors").write_text("nothing")
    with pytest.raises(UserError, match=f"^{tmp_path}"):
        read_classifier(str(tmp_path))
