"""From the file of a classifier, or of a backbone, to a model that can be asked."""

from __future__ import annotations

from pathlib import Path

import torch

from dinotrain.classifiers.classifier import Classifier
from dinotrain.commands.pretrain import choose_device
from dinotrain.distributed.parallelize import DTYPES
from dinotrain.errors import UserError
from dinotrain.predicting.model import Model
from dinotrain.weights.classifier_file import ClassifierWeights, read_classifier


def classifier_model(path: str, *, device: str, precision: str) -> Model:
    """The model of a classifier.

    Args:
        precision: "auto" is fp16 on CUDA and fp32 on a CPU.

    Raises:
        UserError: if it can't be read, or there is no such device.
    """
    try:
        return model_of(read_classifier(path), path, device=device, precision=precision)
    except UserError as error:
        raise UserError(f"model: {error}") from error


def model_of(weights: ClassifierWeights, path: str, *, device: str, precision: str) -> Model:
    """The same, once its file is read."""
    chosen = torch.device(choose_device(device, key="device"))
    channels = weights.backbone.architecture.channels
    if channels != 3:
        raise UserError(f"{path}: it sees {channels} channels; expected 3, for RGB images")
    classifier = Classifier.of_weights(weights, chosen)
    return Model.of_classifier(classifier, name=name_of(path), dtype=dtype_of(precision, chosen))


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """The type of matrix products."""
    return DTYPES[("fp16" if device.type == "cuda" else "fp32") if precision == "auto" else precision]


def name_of(path: str) -> str:
    """A name for people who are not to know where the file is: of the file, or the folder it stands for."""
    place = Path(path).expanduser().absolute()
    return place.parent.name if place.name == "classifier.safetensors" else place.stem if place.suffix else place.name
