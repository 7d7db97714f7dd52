"""How labelled images are shown in training, and what is made of classes of different sizes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dinotrain.commands.finetuning_images import LabelledImages
from dinotrain.commands.finetuning_options import FinetuneRequest
from dinotrain.data.order import Order, Shuffled
from dinotrain.finetuning.sampling import Weighted, class_weights, image_weights, positive_weights
from dinotrain.finetuning.supervised import Supervised
from dinotrain.finetuning.views import Views


def objective_of(images: LabelledImages, balance: str, label_smoothing: float) -> Supervised:
    """The loss, with weights of the classes where these are asked for."""
    multi, weights = images.labels == "multi", None
    if balance == "loss":
        found = positive_weights(images.train_labels) if multi else class_weights(images.counts)
        weights = torch.from_numpy(found).float()
    return Supervised(multi=multi, weights=weights, label_smoothing=label_smoothing)


def views_of(images: LabelledImages, request: FinetuneRequest, size: int) -> Views:
    """The random views of the training images, in their order; `size` in px."""
    return Views(
        images.train,
        _order(images, request.balance),
        size=size,
        crop_scale=request.crop_scale,
        flip=request.flip,
        color=request.color,
        seed=request.seed,
    )


def targets_of(images: LabelledImages) -> Tensor:
    """What each training image shows: its class number, or 0 and 1 for each class."""
    labels = images.train_labels
    return torch.from_numpy(labels if labels.ndim == 1 else labels.astype(np.float32))


def _order(images: LabelledImages, balance: str) -> Order:
    train = images.train
    if balance == "sampling":
        labels = images.train_labels
        return Weighted(image_weights(labels), labels if labels.ndim == 1 else None)
    # A source that is read far away has an order that keeps together what lies together.
    return train.source.order() if len(train) == len(train.source) else Shuffled(len(train))
