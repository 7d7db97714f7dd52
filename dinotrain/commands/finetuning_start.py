"""What a classifier is begun with: a backbone from anywhere, and a head if the weights have one for these classes."""

from __future__ import annotations

from dataclasses import dataclass

from dinotrain.commands.evaluation_input import input_of
from dinotrain.commands.finetuning_images import LabelledImages
from dinotrain.commands.finetuning_options import FinetuneRequest
from dinotrain.errors import UserError
from dinotrain.weights.classifier_file import ClassifierDescription, ClassifierWeights, classifier_at
from dinotrain.weights.weights import IMAGENET, Weights


@dataclass(frozen=True)
class Start:
    """Weights, and what is made of them."""

    weights: Weights
    digest: str
    head: ClassifierWeights | None
    """Whose head is taken over; None for a new one."""
    description: ClassifierDescription
    notes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """That the head takes."""
        return (self.description.blocks + 1) * self.weights.architecture.embed_dim


def read_start(request: FinetuneRequest, images: LabelledImages) -> Start:
    """Read the weights, and settle what the classifier takes and tells apart.

    Raises:
        UserError: if they can't be read, or see other images than RGB.
    """
    try:
        classifier = classifier_at(request.weights)
    except UserError as error:
        raise UserError(f"weights: {error}") from error
    weights = request.read_weights()
    architecture = weights.architecture
    if architecture.channels != 3:
        raise UserError(f"weights: {weights.path} sees {architecture.channels} channels; expected 3, for RGB images")
    blocks = min(request.kind.blocks, architecture.depth)
    notes = [*weights.notes]
    if blocks < request.kind.blocks:
        notes.append(f"the network has {architecture.depth} blocks, so {blocks} stand for {request.kind.blocks}")
    size = input_of(request, weights)
    mean, std = weights.normalization or IMAGENET
    try:
        description = ClassifierDescription(
            classes=images.classes,
            labels=images.labels,
            blocks=blocks,
            size=size.size,
            crop_fraction=size.crop_fraction,
            mean=tuple(request.mean or mean),
            std=tuple(request.std or std),
        )
    except UserError as error:
        raise UserError(f"data: {error}") from error
    head, words = _head(classifier, description)
    return Start(weights, weights.digest(), head, description, (*notes, *words))


def _head(
    classifier: ClassifierWeights | None, description: ClassifierDescription
) -> tuple[ClassifierWeights | None, tuple[str, ...]]:
    """The classifier whose head can be gone on with, and what is said of that."""
    if classifier is None:
        return None, ()
    own, here = classifier.description, description
    differences = [
        (f"it tells {len(own.classes)} other classes", set(own.classes) != set(here.classes)),
        (f"its labels are {own.labels}, these {here.labels}", own.labels != here.labels),
        (f"it is on {own.blocks} blocks, this one on {here.blocks}", own.blocks != here.blocks),
    ]
    why = [words for words, differs in differences if differs]
    if why:
        return None, (f"a new head: that of the weights does not fit ({'; '.join(why)})",)
    return classifier, ("going on with the head of the weights",)
