"""Classes of further test sets, such as ImageNet-V2, -A, -R and -Sketch, as classes of the training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from dinotrain.data.sources.imagenet_labels import WNID
from dinotrain.errors import UserError
from dinotrain.evaluation.splits import Split


@dataclass(frozen=True)
class ClassMap:
    """What the classes of a test set mean.

    Args:
        labels: number of each image's class in the training set.
        allowed: class numbers that are predicted, those that the test set has; None for all.
        layout: in words, how its classes are named.
    """

    labels: Int64[np.ndarray, "n"]
    allowed: Int64[np.ndarray, "k"] | None
    layout: str


def class_map(split: Split, classes: Sequence[str], name: str) -> ClassMap:
    """Find the training class of every image of a test set.

    Its classes are named as those of the training set, all or some (ImageNet-A, -R, -Sketch; of "n01440764 tench" the
    number alone will do), or by the numbers from 0 of the sorted training classes (ImageNet-V2). Where it lacks some
    classes, only those it has are predicted, as its authors do (Hendrycks et al. 2021).

    Args:
        split: the test set.
        classes: names of the training classes, by number.
        name: of the test set, for messages.

    Raises:
        UserError: it has a class that is none of these.
    """
    own = split.labels
    present = np.unique(own)
    titles = [split.source.classes[number] if split.source.classes else str(number) for number in present]
    numbers = {title: number for number, title in enumerate(classes)}
    numbers |= {title.partition(" ")[0]: number for title, number in numbers.items() if WNID.match(title)}
    layout = "classes named as in training"
    if split.source.classes is None:
        numbers, layout = {str(number): number for number in range(len(classes))}, "class numbers"
    elif not any(title in numbers for title in titles) and all(title.isdecimal() for title in titles):
        # A listing has "10" before "2": what counts is the name of the folder, not its number there.
        titles, by_name = [str(int(title)) for title in titles], np.argsort(np.array(classes), kind="stable")
        numbers = {str(rank): int(number) for rank, number in enumerate(by_name)}
        layout = "numbers of the sorted training classes"
    for title in titles:
        if title not in numbers:
            raise UserError(
                f"extra_tests.{name}: class {title!r} is none of the {len(classes)} training classes; expected folders "
                f"named as these (such as {classes[0]!r}), or by numbers from 0 to {len(classes) - 1}"
            )
    table = np.array([numbers[title] for title in titles], np.int64)
    labels = table[np.searchsorted(present, own)]
    return ClassMap(labels, np.sort(table) if len(table) < len(classes) else None, layout)
