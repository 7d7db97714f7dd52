"""The labels of images that may have several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from dinotrain.errors import UserError
from dinotrain.evaluation.splits import Split


def multi_labels(split: Split, classes: Sequence[str] | None = None) -> tuple[Bool[np.ndarray, "n C"], tuple[str, ...]]:
    """Which classes each image of a split has, and the names of the classes.

    Args:
        split: of a source with `multi_labels` [images, classes] and `classes`.
        classes: those of the training images, the columns wanted; None for the source's own. No image has one that the
            source lacks.

    Raises:
        UserError: no such source, no label at all, or one that is none of these.
    """
    labels, names = getattr(split.source, "multi_labels", None), split.source.classes
    if labels is None or names is None:
        raise UserError(
            f"data: the {split.name} images have one label each or none, expected a set with several, such as "
            "data=multilabel_csv, data=coco or data=voc_labels"
        )
    own = labels[split.indices]
    if not own.any():
        raise UserError(f"data: none of the {split.name} images has a label")
    if classes is None or tuple(classes) == tuple(names):
        return own, tuple(names)
    table = np.zeros((len(own), len(classes)), bool)
    for name, column in zip(names, own.T):
        if name in classes:
            table[:, classes.index(name)] = column
        elif column.any():
            raise UserError(f"data: class {name!r} of the {split.name} images is none of the training images'")
    return table, tuple(classes)
