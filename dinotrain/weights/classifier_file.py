"""The file of a classifier: a backbone, a linear head on its tokens, and all that is needed to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.files import Stored, read_file
from dinotrain.weights.mismatch import Mismatch
from dinotrain.weights.safetensors_file import write_safetensors
from dinotrain.weights.shapes import shapes_of
from dinotrain.weights.weights import IMAGENET, Weights, read_normalization

CLASSIFIER = "classifier.safetensors"
FORMAT = "dinotrain classifier"
BACKBONE, HEAD = "backbone.", "head."

Labels = Literal["single", "multi"]


@dataclass(frozen=True, kw_only=True)
class ClassifierDescription:
    """What a classifier file says of its classifier, besides the tensors.

    Args:
        classes: their names, in the order of the head's rows.
        labels: "single" (classes exclude each other: softmax) or "multi" (each for itself: sigmoid).
        blocks: the head takes the CLS tokens of so many last blocks, the last one last, then the mean patch token of
            the last block, all after the final norm.
        size: px of the square input, a multiple of the patch size.
        crop_fraction: images are resized so that their shorter side is size / crop_fraction, and the middle is taken.
        mean, std: of images in 0..1, per channel.
        thresholds: of each class's probability with labels="multi"; empty for 0.5.
        origin: what is known of how it was made, for people: weights, data, numbers.
    """

    classes: tuple[str, ...]
    labels: Labels
    blocks: int
    size: int
    crop_fraction: float
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    thresholds: tuple[float, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no classifier has.

        Raises:
            UserError: naming the field.
        """
        named = self.classes and all(isinstance(name, str) and name for name in self.classes)
        _expect(bool(named), "classes", self.classes, "names of the classes")
        _expect(len(set(self.classes)) == len(self.classes), "classes", self.classes, "names that differ")
        _expect(self.labels in ("single", "multi"), "labels", self.labels, "single or multi")
        _expect(_whole(self.blocks), "blocks", self.blocks, "a whole number above 0")
        _expect(_whole(self.size), "size", self.size, "a whole number above 0")
        fits = isinstance(self.crop_fraction, int | float) and 0 < self.crop_fraction <= 1
        _expect(fits, "crop_fraction", self.crop_fraction, "a number above 0, at most 1")
        read_normalization({"mean": self.mean, "std": self.std}, "mean", "std")
        _expect(
            len(self.thresholds) in (0, len(self.classes))
            and all(isinstance(value, int | float) and 0 <= value <= 1 for value in self.thresholds),
            "thresholds",
            self.thresholds,
            "a number in 0..1 for each class, or none",
        )
        _expect(isinstance(self.origin, Mapping), "origin", self.origin, "a mapping")


@dataclass(frozen=True, kw_only=True)
class ClassifierWeights:
    """A classifier as it was read.

    Args:
        backbone: its weights, as `read_weights` gives them.
        weight: of the head [classes, (blocks + 1) * D].
        bias: of the head [classes].
        description: of the rest.
    """

    backbone: Weights
    weight: Tensor
    bias: Tensor
    description: ClassifierDescription


def write_classifier(path: str | Path, classifier: ClassifierWeights) -> None:
    """Write it as one file, complete or not at all."""
    tensors = {f"{BACKBONE}{name}": value for name, value in classifier.backbone.backbone.items()}
    tensors |= {f"{HEAD}weight": classifier.weight, f"{HEAD}bias": classifier.bias}
    words = {
        "format": FORMAT,
        "architecture": json.dumps(vars(classifier.backbone.architecture)),
        "classifier": json.dumps({**vars(classifier.description), "origin": dict(classifier.description.origin)}),
    }
    write_safetensors(Path(path), tensors, words)


def is_classifier(stored: Stored) -> bool:
    """Whether a file is one of `write_classifier`."""
    return stored.metadata.get("format") == FORMAT


def read_classifier(path: str) -> ClassifierWeights:
    """What `write_classifier` wrote.

    Args:
        path: of the file, or of a folder that holds it as classifier.safetensors, such as a run of finetune.

    Raises:
        UserError: one line that begins with the path.
    """
    try:
        place = Path(path).expanduser()
        if place.is_dir():
            place = place / CLASSIFIER
        if not place.exists():
            raise UserError(f"no such file or folder, or no {CLASSIFIER} in it")
        stored = read_file(place)
        if not is_classifier(stored):
            raise UserError(f"no classifier; expected {CLASSIFIER}, as python -m dinotrain.finetune writes it")
        return classifier_of(place, stored)
    except RuntimeError as error:
        raise UserError(f"{path}: no such user") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def classifier_at(path: str) -> ClassifierWeights | None:
    """The classifier that a path leads to; None if it leads elsewhere, which `read_weights` then reads or refuses.

    Raises:
        UserError: if there is one, but damaged.
    """
    try:
        place = Path(path).expanduser()
        place = place / CLASSIFIER if place.is_dir() else place
        found = place.is_file() and is_classifier(read_file(place))
    except (RuntimeError, UserError):
        return None
    return read_classifier(path) if found else None


def classifier_of(path: Path, stored: Stored) -> ClassifierWeights:
    """The classifier in a file that was read.

    Raises:
        UserError: if the file says of itself what can't be.
    """
    try:
        architecture = Architecture(**json.loads(stored.metadata["architecture"]))
        words = json.loads(stored.metadata["classifier"])
        tuples = {key: tuple(words[key]) for key in ("classes", "mean", "std", "thresholds")}
        description = ClassifierDescription(**{**words, **tuples})
    except (UserError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"its description is damaged, or from a newer version of this trainer ({error})") from error
    tensors = dict(stored.tree)
    _check_head(architecture, description, tensors)
    weight, bias = tensors.pop(f"{HEAD}weight"), tensors.pop(f"{HEAD}bias")
    backbone = Weights(
        path=str(path),
        layout="classifier of this trainer",
        architecture=architecture,
        backbone={name.removeprefix(BACKBONE): value for name, value in tensors.items()},
        normalization=(description.mean, description.std),
        input=(description.size, description.crop_fraction),
    )
    return ClassifierWeights(backbone=backbone, weight=weight, bias=bias, description=description)


def _check_head(architecture: Architecture, description: ClassifierDescription, tensors: Mapping[str, Tensor]) -> None:
    """Refuse heads that do not fit, and sizes and blocks that the backbone does not have."""
    classes, width = len(description.classes), (description.blocks + 1) * architecture.embed_dim
    wanted = {f"{HEAD}weight": (classes, width), f"{HEAD}bias": (classes,)}
    mismatch = Mismatch.between(wanted, shapes_of({n: t for n, t in tensors.items() if n.startswith(HEAD)}))
    if mismatch:
        raise UserError(f"its head is not one of {classes} classes on {width} channels: {mismatch.words()}")
    _expect(description.blocks <= architecture.depth, "blocks", description.blocks, f"at most {architecture.depth}")
    whole = description.size % architecture.patch_size == 0
    _expect(whole, "size", description.size, f"a multiple of the patch size {architecture.patch_size}")
    channels = architecture.channels
    _expect(len(description.mean) == channels, "mean", description.mean, f"{channels} numbers, one per channel")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _expect(fits: bool, name: str, got: object, expected: str) -> None:
    if not fits:
        raise UserError(f"{name}: got {repr(got)[:80]}, expected {expected}")
