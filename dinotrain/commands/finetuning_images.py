"""The images that a classifier is trained on, and those that the best is chosen by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64
from omegaconf import DictConfig

from dinotrain.commands.config import compose_config
from dinotrain.commands.evaluation_images import HELD_OUT, fingerprint
from dinotrain.commands.finetuning_options import FinetuneRequest
from dinotrain.commands.recognition import quoted
from dinotrain.commands.sources import build_source
from dinotrain.data.source import Source
from dinotrain.errors import UserError
from dinotrain.evaluation.linear.multi_labels import multi_labels
from dinotrain.evaluation.relabelled import in_classes_of
from dinotrain.evaluation.splits import Split, held_out, random_part, whole
from dinotrain.finetuning.validation import Labels

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Both splits, what they show, and what is said of them."""

    train: Split
    validation: Split
    train_labels: Labels
    validation_labels: Labels
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def labels(self) -> Literal["single", "multi"]:
        """Whether classes exclude each other."""
        return "single" if self.train_labels.ndim == 1 else "multi"

    @property
    def counts(self) -> Int64[np.ndarray, "C"]:
        """Training images of each class."""
        return _counts(self.train_labels, len(self.classes))

    @property
    def fingerprint(self) -> str:
        """Of all images and labels."""
        return f"{fingerprint(self.train)}; {fingerprint(self.validation)}"


def labelled_images(config: DictConfig, request: FinetuneRequest, overrides: Sequence[str]) -> LabelledImages:
    """Build them.

    Args:
        overrides: what was typed, to be composed anew for another root.

    Raises:
        UserError: for what can't be read, empty splits, and labels that are missing or don't agree.
    """
    source = build_source(config)
    kind = _kind(source, request.labels)
    other = source.test() if request.validation_root is None else _at(overrides, request.validation_root)
    what = "data.root: the test images" if request.validation_root is None else "validation_root"
    for key, found in (("data.root", source), (what, other)):
        if found is not None and not len(found):
            raise UserError(f"{key}: no images; expected at least one")
    if kind == "single" and other is not None:
        other = in_classes_of(source, other, what)
    train, validation, note = _splits(source, other, kind, request)
    if kind == "multi":
        train_labels, classes = multi_labels(train)
        validation_labels = _multi_of(validation, classes, what)
    else:
        classes = _names(source)
        train_labels, validation_labels = train.labels, validation.labels
    images = LabelledImages(
        train=train,
        validation=validation,
        train_labels=train_labels,
        validation_labels=validation_labels,
        classes=classes,
        notes=(),
    )
    return _checked(images, note)


def _kind(source: Source, wanted: str) -> Literal["single", "multi"]:
    several = getattr(source, "multi_labels", None) is not None
    if several and wanted == "single":
        raise UserError("labels: single, but these images have any number of classes each; expected labels=multi")
    if several:
        return "multi"
    if source.labels is None:
        raise UserError(
            "data.root: these images have no labels; expected one sub-folder of images per class, a list with labels, "
            "or data=multilabel_csv, coco, voc_labels"
        )
    if wanted == "multi":
        raise UserError(
            "labels: multi, but these images have one class each; expected labels=single, or data=multilabel_csv, "
            "coco, voc_labels"
        )
    if len(np.unique(source.labels)) < 2:
        raise UserError("data.root: these images are all of one class; expected at least two")
    return "single"


def _at(overrides: Sequence[str], root: str) -> Source:
    """The same kind of source at another place."""
    others = [word for word in overrides if not re.match(r"\+*data\.root=", word)]
    try:
        return build_source(compose_config("finetune", [*others, f"data.root={quoted(root)}"]))
    except UserError as error:
        raise UserError(re.sub(r"^data(\.source)?\.root", "validation_root", str(error))) from error


def _splits(
    source: Source, other: Source | None, kind: str, request: FinetuneRequest
) -> tuple[Split, Split, tuple[str, ...]]:
    """Where to learn and where to choose, and what is to be said of that."""
    train, note = whole(source, "training"), ()
    if other is None:
        if kind == "single":
            kept, held = held_out(train.labels, HELD_OUT, request.seed, source.classes)
        else:
            kept, held = random_part(len(train), HELD_OUT, request.seed)
        train, validation = train.part(kept), train.part(held, "validation")
        note = (f"no validation images: {len(held):,} of the {len(source):,} images are held out for that",)
    else:
        validation = whole(other, "validation")
        if request.validation_root is None:
            note = ("the best is chosen by the data's own test images: their numbers are not those of unseen ones",)
    most = request.max_train, request.max_validation
    return train.drawn(most[0], request.seed), validation.drawn(most[1], request.seed), note


def _multi_of(split: Split, classes: tuple[str, ...], what: str) -> Bool[np.ndarray, "n C"]:
    try:
        return multi_labels(split, classes)[0]
    except UserError as error:
        raise UserError(re.sub("^data", what, str(error))) from error


def _names(source: Source) -> tuple[str, ...]:
    assert source.labels is not None
    return source.classes or tuple(str(number) for number in range(int(source.labels.max()) + 1))


def _checked(images: LabelledImages, notes: tuple[str, ...]) -> LabelledImages:
    """With what is to be said of classes with few images or none."""
    counts, known = images.counts, _counts(images.validation_labels, len(images.classes))
    if (counts > 0).sum() < (2 if images.labels == "single" else 1):
        raise UserError("data: the training images are all of one class; expected at least two, or a larger max_train")
    if not known.any():
        raise UserError("data: no validation image has any of the classes; expected other ones, or more of them")
    few = [
        ("without a training image: it can't be learned", counts == 0),
        ("with a single training image", counts == 1),
        ("without a validation image: it counts in no number", known == 0),
    ]
    more = tuple(f"{_listed(images.classes, which)} {words}" for words, which in few if which.any())
    return LabelledImages(**{**vars(images), "notes": (*notes, *more)})


def _counts(labels: Labels, classes: int) -> Int64[np.ndarray, "C"]:
    return np.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(axis=0)


def _listed(classes: tuple[str, ...], which: Bool[np.ndarray, "C"]) -> str:
    names = [classes[number] for number in np.flatnonzero(which)]
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"class{'es' * (len(names) > 1)} {', '.join(names[:SHOWN])}{rest}"
